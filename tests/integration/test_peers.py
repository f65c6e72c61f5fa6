"""The benchmark beside peers, small: the real command, the shipped weights, all contenders."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ctranslate2", reason="the peers come with the extra 'bench'")

ROOT = Path(__file__).parents[2]


def peers(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "loadtest.peers", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, timeout=300, check=False
    )


def test_all_contenders_translate_alike_in_float32_and_are_compared(tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    done = peers(
        "--sentences", "12", "--rounds", "2", "--singles", "2", "--calibration", "4",
        "--callers", "6", "--json", str(found),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads(found.read_text())["rows"]
    assert {row["scenario"] for row in rows} == {"queue", "callers", "beam", "single"}
    assert not any(row["failure"] for row in rows)
    exact = [row for row in rows if "float32" in row["contender"]]
    assert {row["contender"].split()[0] for row in exact} == {
        "ctranslate2", "onnxruntime", "pytorch",
    }  # fmt: skip
    assert all(row["agreement"] == 1 for row in exact if row["scenario"] != "beam")
    for row in rows:
        for run in row["runs"]:
            assert run["tokens"] > 0
            assert run["cpu_seconds"] > 0
            assert run["peak_megabytes"] > 50
    ours = next(row for row in rows if row["contender"] == "dragoman int8")
    assert len(ours["runs"]) == 2
    assert ours["speed_ratio"] > 0
    assert "peak memory:" in done.stdout


def test_a_missing_folder_is_one_clear_line() -> None:
    done = peers("--dev", "/nowhere")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("loadtest.peers: ")
    assert "/nowhere" in done.stderr
