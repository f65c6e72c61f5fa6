"""The benchmark beside peers, small: the real command, the shipped weights, all contenders."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

# Without it the command itself does not start.
pytest.importorskip("ctranslate2", reason="the peers come with the extra 'bench'")

from loadtest.peers.calibration import Choice
from loadtest.peers.compare import Plan, compare_outputs, lineup, run_rounds
from loadtest.peers.contender import Batching
from loadtest.peers.workload import Sentence, tokenised
from server.bundle import open_bundle

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


@pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")
def test_an_imported_marian_model_is_the_same_for_all(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="a peer, and what a checkpoint is written by")
    from loadtest.peers.marian import marian_models  # noqa: PLC0415  wants transformers

    texts = (ROOT / "loadtest" / "sentences.txt").read_text(encoding="utf-8").splitlines()
    models = marian_models(
        texts, tmp_path, vocab_size=3_001, d_model=64, encoder_layers=2, decoder_layers=2,
        encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=96,
        decoder_ffn_dim=96,
    )  # fmt: skip
    found = [Sentence("some", text, []) for text in texts[:12]]
    workload = tokenised(found, open_bundle(models.bundle), 12, forced_lengths=True)
    choice = Choice(models.setup("ctranslate2", "int8", 1, 1), Batching(8))
    rows = lineup(models, {"queue": choice, "callers": choice}, 1)
    rows = [row for row in rows if row.scenario == "queue" and row.choice.batching.sort]
    run_rounds(rows, workload, Plan(("queue",), rounds=1))
    compare_outputs(rows, models, workload, Plan(("queue",), rounds=1))
    alike = {row.choice.setup.name: row.agreement for row in rows}
    exact = {name for name, agreement in alike.items() if agreement == 1}
    assert {"dragoman float32", "ctranslate2 float32", "transformers float32"} <= exact
    assert {"dragoman int8", "ctranslate2 int8"} <= alike.keys()
    assert {len(output) for output in rows[0].runs[0].outputs} <= set(workload.limits)
    assert all(len(row.runs[0].outputs) == 12 for row in rows)
