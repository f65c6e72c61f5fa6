"""Our training loop beside that of transformers, small: the real command, both contenders."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers", reason="it comes with the extra 'bench-training'")
pytest.importorskip("accelerate", reason="it comes with the extra 'bench-training'")


def test_both_loops_run_and_are_compared() -> None:
    command = [sys.executable, "-m", "loadtest.peers.training", "--rounds", "1", "--steps", "1",
               "--batch-tokens", "200", "--threads", "1"]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=300,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = {row.split("|")[1].strip(): row for row in done.stdout.splitlines()[2:]}
    assert set(rows) == {"dragoman", "transformers", "transformers, memory kept"}
    assert "1.00 x" in rows["dragoman"]
    assert all("MiB" in row for row in rows.values())
