"""The locustfile with the real Locust, in an environment of its own: it is no part of ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from running import ROOT, running_server


def run(*command: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


def test_locust_asks_and_is_answered(tmp_path: Path) -> None:
    environment = tmp_path / "venv"
    run(sys.executable, "-m", "venv", str(environment))
    python = str(environment / "bin" / "python")
    installed = run(python, "-m", "pip", "install", "--quiet", "locust", str(ROOT))
    if installed.returncode:
        pytest.fail(f"Locust cannot be installed: {installed.stderr[-500:]}")
    with running_server() as server:
        done = run(
            python, "-m", "locust", "-f", str(ROOT / "loadtest" / "locustfile.py"), "--host",
            server.target, "--headless", "-u", "4", "-r", "4", "-t", "15s", "--only-summary",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        answered = server.sample("dragoman_requests_total", method="Translate", code="OK")
        assert answered > 0
        failed = server.sample("dragoman_requests_total") - server.sample(
            "dragoman_requests_total", code="OK"
        )
        assert failed <= 4  # those that were cut off at the end
