#!/usr/bin/env bash
# Replaces the servers one at a time by what docker-compose.yml, its .env and deploy/dragoman.env
# say now: each one drains (NOT_SERVING, finish, exit 0), and its successor is healthy before the
# next one goes. Upgrade and rollback: set SERVER_IMAGE, then run this.
#   deploy/rolling-update.sh [service]
set -euo pipefail
cd "$(dirname "$0")/.."
service=${1:-dragoman}
mapfile -t containers < <(docker compose ps --quiet "$service")
for container in "${containers[@]}"; do
  docker stop "$container" >/dev/null
  docker rm "$container" >/dev/null
  docker compose up --detach --no-deps --no-recreate --wait --scale "$service=${#containers[@]}" "$service"
done
