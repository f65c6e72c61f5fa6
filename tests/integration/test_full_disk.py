"""Logs that cannot be written are lost; translations are not."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import grpc
import pytest
from running import BUNDLE, ROOT

import dragoman
from dragoman.health_command import check


def free_ports() -> list[int]:
    with socket.socket() as first, socket.socket() as second:
        for one in (first, second):
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in (first, second)]


def test_a_server_whose_log_has_no_room_serves_and_drains() -> None:
    port, metrics_port = free_ports()
    command = [
        sys.executable, "-m", "server", "--bundle", str(BUNDLE), "--port", str(port),
        "--metrics-port", str(metrics_port), "--http-port", "0", "--log-level", "debug",
    ]  # fmt: skip
    clean = {key: value for key, value in os.environ.items() if not key.startswith("DRAGOMAN_")}
    with Path("/dev/full").open("w") as full:
        process = subprocess.Popen(command, cwd=ROOT, env=clean, stdout=full, stderr=full)
    target = f"127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        status = ""
        while status != "SERVING" and time.monotonic() < deadline:
            assert process.poll() is None
            with contextlib.suppress(grpc.RpcError):
                status = check(target, "", timeout_seconds=1)
            time.sleep(0.05)
        with dragoman.Client(target) as client:
            assert client.translate("I love you", target_language="zh-TW").text
            with pytest.raises(dragoman.InvalidRequestError):
                client.translate("", target_language="zh-TW")
            assert client.translate("Good morning.", target_language="zh-TW").text
    finally:
        process.terminate()
    assert process.wait(30) == 0
