#!/usr/bin/env bash
# A real Docker Engine with Compose v2 for the stack's test, on a Debian machine, as root, with no
# image registry: base images are made from Debian's own packages, under the tags that ours name.
#   container_engine.sh up               installs what is missing, starts an engine of its own
#   container_engine.sh base TAG SUITE   stand-in for python:TAG
#   container_engine.sh monitoring DIR   Prometheus, promtool, Alertmanager, amtool, put into DIR
#   container_engine.sh down             stops that engine
# State lies in $STATE. An engine that runs already is left alone: stand-ins are not for it.
set -euo pipefail
: "${STATE:?a directory for the engine}"
mkdir -p "$STATE"/{config/cli-plugins,run,apt/lists/partial,apt/cache/archives/partial}
socket="$STATE/run/docker.sock"
export DOCKER_HOST="unix://$socket" DOCKER_CONFIG="$STATE/config" DEBIAN_FRONTEND=noninteractive

missing() { ! command -v "$1" >/dev/null; }

fresh_lists() { [ -e "$STATE/updated" ] || { apt-get update -qq && touch "$STATE/updated"; }; }

install_engine() {
  if missing dockerd || missing docker || missing mmdebstrap; then
    fresh_lists
    apt-get install -y -qq --no-install-recommends docker.io mmdebstrap >/dev/null
  fi
}

install_compose() {
  docker compose version >/dev/null 2>&1 && docker buildx version >/dev/null 2>&1 && return
  # Debian 12 has Compose 1 alone. Version 2 of the next release is a program without dependencies.
  sed 's/bookworm/trixie/g' /etc/apt/sources.list.d/debian.sources >"$STATE/apt/trixie.sources"
  local options=(
    -o "Dir::Etc::sourcelist=$STATE/apt/trixie.sources" -o Dir::Etc::sourceparts=-
    -o "Dir::State::lists=$STATE/apt/lists" -o "Dir::Cache=$STATE/apt/cache"
    -o APT::Sandbox::User=root
  )
  apt-get "${options[@]}" update -qq
  (
    cd "$STATE/apt"
    apt-get "${options[@]}" download -qq docker-compose docker-buildx
    for package in *.deb; do dpkg-deb -x "$package" root; done
  )
  cp "$STATE"/apt/root/usr/libexec/docker/cli-plugins/docker-{compose,buildx} \
    "$STATE/config/cli-plugins/"
  rm -rf "$STATE"/apt/root "$STATE"/apt/*.deb
}

start_engine() {
  docker info >/dev/null 2>&1 && return
  # Neither NAT nor forwarding: containers reach each other and published loopback ports.
  setsid dockerd --data-root "$STATE/data" --exec-root "$STATE/run/exec" \
    -p "$STATE/run/docker.pid" -H "$DOCKER_HOST" --bridge none --iptables=false \
    --containerd-namespace dragoman-test --containerd-plugins-namespace dragoman-test-plugins \
    --ip6tables=false --ip-forward=false --ip-masq=false \
    --default-address-pool base=10.203.0.0/16,size=24 --storage-driver overlay2 \
    --log-level warn </dev/null >"$STATE/dockerd.log" 2>&1 &
  for _ in $(seq 150); do
    docker info >/dev/null 2>&1 && return
    sleep 0.1
  done
  tail -20 "$STATE/dockerd.log" >&2
  return 1
}

# shellcheck disable=SC2016  # mmdebstrap expands $1
base() {
  local tag=$1 suite=$2 certificates=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}
  docker image inspect "$tag" >/dev/null 2>&1 && return
  mmdebstrap --quiet --variant=minbase --include=ca-certificates,python3,python3-venv,python3-pip \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --customize-hook='for name in python python3; do ln -sf /usr/bin/python3 "$1/usr/local/bin/$name"; done' \
    --customize-hook='ln -sf /usr/bin/pip3 "$1/usr/local/bin/pip"' \
    --customize-hook="cp '$certificates' \"\$1/etc/ssl/certs/ca-certificates.crt\"" \
    "$suite" - |
    docker import --change 'ENV LANG=C.UTF-8' --change 'CMD ["python3"]' --change \
      'ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin' - "$tag" >/dev/null
}

monitoring() {  # taken out of the packages: installed, they would start services of the machine
  [ -x "$1/usr/bin/promtool" ] && [ -x "$1/usr/bin/amtool" ] && return
  mkdir -p "$1"
  fresh_lists
  (
    cd "$1"
    apt-get -o APT::Sandbox::User=root download -qq prometheus prometheus-alertmanager
    for package in *.deb; do dpkg-deb -x "$package" .; done
    rm -f -- *.deb
  )
}

down() {
  [ -s "$STATE/run/docker.pid" ] || return 0
  local pid
  pid=$(cat "$STATE/run/docker.pid")
  kill "$pid" 2>/dev/null || true
  for _ in $(seq 150); do
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.1
  done
  rm -f "$socket"
}

case ${1:?} in
up)
  install_engine
  install_compose
  start_engine
  ;;
base) base "$2" "$3" ;;
monitoring) monitoring "$2" ;;
down) down ;;
*) exit 2 ;;
esac
