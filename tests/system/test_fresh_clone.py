"""What a newcomer does: clone, ``make serve``, translate a line, stop it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_READY = re.compile(r"READY in .* on 127\.0\.0\.1:(\d+), metrics on 127\.0\.0\.1:(\d+)")


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clone") / "dragoman"
    subprocess.run(["git", "clone", "-q", "--depth=1", ROOT.as_uri(), str(folder)], check=True)
    return folder


def environment() -> dict[str, str]:
    """As in a new shell: none of our settings, no virtual environment."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("DRAGOMAN_")}
    clean.pop("VIRTUAL_ENV", None)
    return clean


@contextlib.contextmanager
def make_serve(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    command = ["make", "serve", "ARGS=--port 0 --metrics-port 0 --http-port 0"]
    process = subprocess.Popen(
        command, cwd=folder, env=environment(), text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout is not None
    printed = []
    try:
        for line in process.stdout:
            printed.append(line)
            if found := _READY.search(line):
                yield process, f"127.0.0.1:{found[1]}", f"http://127.0.0.1:{found[2]}/metrics"
                break
        else:
            raise AssertionError("".join(printed))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.stdout.read()
        process.stdout.close()
        process.wait(30)


def test_make_serve_then_one_line_translates(clone: Path) -> None:
    started = time.monotonic()
    with make_serve(clone) as (process, target, metrics):
        print(f"make serve was ready after {time.monotonic() - started:.0f} s")
        command = [
            str(clone / ".venv/bin/dragoman"),
            "translate",
            "--server",
            target,
            "--to",
            "zh-TW",
        ]
        done = subprocess.run(
            [*command, "I love you"], capture_output=True, text=True, timeout=60, check=True
        )
        assert done.stdout.strip().rstrip("。") == "我愛你"
        streamed = subprocess.run(
            [*command, "--stream", "I have a dog. I love you."],
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        assert "我愛你" in streamed.stdout
        with urllib.request.urlopen(metrics, timeout=5) as response:
            text = response.read().decode()
        assert 'dragoman_requests_total{code="OK",method="Translate"} 1.0' in text
        assert 'dragoman_requests_total{code="OK",method="TranslateStream"} 1.0' in text
        probe = "import importlib.util as u; print(u.find_spec('torch'))"
        python = str(clone / ".venv/bin/python")
        found = subprocess.run([python, "-c", probe], capture_output=True, text=True, check=True)
        assert found.stdout.strip() == "None", "serving must not install torch"
        assert process.poll() is None


def test_the_client_alone_pulls_grpcio_and_protobuf_and_nothing_else(
    clone: Path, tmp_path: Path
) -> None:
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = str(tmp_path / "venv/bin/python")
    pip = [python, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", str(clone)], check=True, env=environment())
    listed = subprocess.run(
        [*pip, "list", "--format=freeze"], check=True, capture_output=True, text=True
    ).stdout
    names = {line.split("==")[0].split(" @")[0].lower() for line in listed.splitlines() if line}
    assert names - {"pip", "setuptools", "wheel"} == {
        "dragoman", "grpcio", "protobuf", "typing-extensions", "typing_extensions",
    } & names  # fmt: skip
    assert {"dragoman", "grpcio", "protobuf"} <= names
    told = subprocess.run(
        [str(tmp_path / "venv/bin/dragoman"), "serve"], capture_output=True, text=True, check=False
    )
    assert told.returncode == 2
    assert "dragoman[serve]" in told.stderr
