"""Nobody is told what this server does: ONNX Runtime would, unless it is told not to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from running import running_server


def test_no_telemetry_of_onnx_runtime_is_kept_or_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It keeps what it is about to send, and a number for the machine, in the user's cache. It does
    # neither where it finds that it is tested.
    for name in ("ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS", "CI", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    with running_server(HOME=str(tmp_path)) as server:
        environment = Path(f"/proc/{server.process.pid}/environ").read_bytes()
        assert os.fsencode(f"HOME={tmp_path}") in environment
        assert b"ORT_DISABLE_TELEMETRY" not in environment
    assert list(tmp_path.rglob("*")) == []
