"""What a container's probe runs: its exit status is all that is looked at."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from running import RunningServer, running_server

from dragoman.cli import main


def test_a_server_that_takes_requests_is_healthy(
    server: RunningServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["health", "--server", server.target]) == 0
    assert capsys.readouterr().out == "SERVING\n"
    service = "dragoman.v1.TranslationService"
    assert main(["health", "--server", server.target, "--service", service]) == 0


def test_a_service_it_does_not_know_is_not(
    server: RunningServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["health", "--server", server.target, "--service", "no.such.Service"]) == 1
    assert capsys.readouterr().err.startswith("dragoman health: ")


def test_nobody_there_is_not_healthy_and_said_in_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{taken.getsockname()[1]}"
        assert main(["health", "--server", target, "--timeout", "1"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 1


@pytest.mark.parametrize("name", ["NOT_SERVING", "UNKNOWN", "SERVICE_UNKNOWN"])
async def test_any_status_but_serving_is_not_healthy(name: str) -> None:
    class Health(health_pb2_grpc.HealthServicer):
        async def Check(self, request, context):  # type: ignore[no-untyped-def]  # noqa: N802
            return health_pb2.HealthCheckResponse(status=name)

    door = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(Health(), door)
    port = door.add_insecure_port("127.0.0.1:0")
    await door.start()
    command = [sys.executable, "-m", "dragoman", "health", "--server", f"127.0.0.1:{port}"]
    probe = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, check=False
    )
    await door.stop(None)
    assert (probe.returncode, probe.stdout) == (1, f"{name}\n")


def health_url(server: RunningServer) -> str:
    return server.metrics_url.replace("/metrics", "/health")


def test_the_metrics_port_tells_too_and_a_server_that_leaves_is_not_healthy(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with running_server("--drain-delay-seconds", "3") as server:
        assert main(["health", "--url", health_url(server)]) == 0
        assert capsys.readouterr().out == "SERVING\n"
        with urllib.request.urlopen(server.metrics_url) as metrics:
            assert b"dragoman_ready 1.0" in metrics.read()
        server.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 20
        while main(["health", "--url", health_url(server)]) == 0:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert capsys.readouterr().out.endswith("NOT_SERVING\n")
        assert server.process.wait(30) == 0


def test_a_probe_goes_through_no_proxy(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy"):
        for known in (name, name.upper()):
            monkeypatch.setenv(known, "http://127.0.0.1:9")  # where nobody listens
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert main(["health", "--url", health_url(server), "--timeout", "5"]) == 0
    assert main(["health", "--server", server.target, "--timeout", "5"]) == 0
    assert capsys.readouterr().out == "SERVING\nSERVING\n"


@pytest.mark.parametrize(
    "url", ["127.0.0.1:9464/health", "file:///etc/passwd", "http://[", "http://127.0.0.1:9/"]
)
def test_an_address_that_tells_nothing_is_one_line(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["health", "--url", url, "--timeout", "2"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("dragoman health: ")
