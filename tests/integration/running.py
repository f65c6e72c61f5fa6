"""A real server in a process of its own, on free ports of the loopback."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
BUNDLE = ROOT / "bundles" / "en-zh-TW"
_READY = re.compile(
    r"READY in ([\d.]+) s: .* on 127\.0\.0\.1:(\d+), metrics on 127\.0\.0\.1:(\d+)"
    r"(?: and HTTP on 127\.0\.0\.1:(\d+))?"
)


@dataclass
class RunningServer:
    process: subprocess.Popen[str]
    target: str = ""
    metrics_url: str = ""
    http_url: str = ""
    ready_seconds: float = 0.0
    log: list[str] = field(default_factory=list)

    def metrics(self) -> str:
        with urllib.request.urlopen(self.metrics_url, timeout=5) as response:
            text: str = response.read().decode()
        return text

    def sample(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples with these labels."""
        total = 0.0
        for line in self.metrics().splitlines():
            found = re.fullmatch(rf"{name}(?:\{{(.*)\}})? (\S+)", line)
            if found and all(
                f'{key}="{value}"' in (found[1] or "") for key, value in labels.items()
            ):
                total += float(found[2])
        return total

    def settle(self, seconds: float = 20.0) -> None:
        """Wait until nothing of what was asked is left in it."""
        names = ["requests_in_flight", "sequences_running", "sequences_waiting"]
        deadline = time.monotonic() + seconds
        while any(self.sample(f"dragoman_{name}") for name in names):
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def wait_for_log(self, words: str, seconds: float = 10.0) -> None:
        """Wait until it has written a line with them."""
        deadline = time.monotonic() + seconds
        while words not in "".join(self.log):
            assert time.monotonic() < deadline, "".join(self.log)
            time.sleep(0.1)

    def resident_megabytes(self) -> float:
        return float(psutil.Process(self.process.pid).memory_info().rss) / 1e6

    def stop(self, number: int = signal.SIGTERM, timeout: float = 30.0) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout)


@contextlib.contextmanager
def running_server(
    *flags: str, bundle: Path = BUNDLE, **environment: str
) -> Iterator[RunningServer]:
    """A server that is READY; stopped at the end if it still runs."""
    command = [
        sys.executable, "-m", "server", "--bundle", str(bundle), "--port", "0",
        "--metrics-port", "0", "--http-port", "0", *flags,
    ]  # fmt: skip
    clean = {key: value for key, value in os.environ.items() if not key.startswith("DRAGOMAN_")}
    process = subprocess.Popen(
        command, cwd=ROOT, env=clean | environment, stderr=subprocess.PIPE, text=True
    )
    server = RunningServer(process)
    reader = threading.Thread(target=_read_log, args=(server,), daemon=True)
    reader.start()
    deadline = time.monotonic() + 60
    while not server.target and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    try:
        if not server.target:
            raise AssertionError("the server did not become ready:\n" + "".join(server.log))
        yield server
    finally:
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
        if process.poll() is None:
            process.kill()
            process.wait()
        reader.join(5)


def wait_for(act: Callable[[], object], error: type[Exception], seconds: float = 10.0) -> None:
    """Act again until it raises this error no more."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            act()
        except error:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        else:
            return


def _read_log(server: RunningServer) -> None:
    assert server.process.stderr is not None
    with server.process.stderr as lines:
        for line in lines:
            server.log.append(line)
            found = _READY.search(line)
            if found:
                server.ready_seconds = float(found[1])
                server.metrics_url = f"http://127.0.0.1:{found[3]}/metrics"
                server.http_url = f"http://127.0.0.1:{found[4]}" if found[4] else ""
                server.target = f"127.0.0.1:{found[2]}"
