"""``dragoman train`` and ``dragoman schedule`` as one who calls them sees them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from model_fixtures import write_corpus

from model import commands, looking
from model.checkpoint import load_state, load_weights


@pytest.fixture(autouse=True)
def untouched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Signals and the allocator of the test run stay as they are."""
    monkeypatch.setattr(commands, "keep_freed_memory", lambda: None)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def call(folder: Path, *more: str) -> int:
    return commands.train(
        [str(folder / "x.toml"), "--corpora", str(folder), "--out", str(folder / "run"),
         "--device", "cpu", *more]
    )  # fmt: skip


def edit(folder: Path, old: str, new: str) -> None:
    path = folder / "x.toml"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_a_run_tells_what_it_does_stops_where_told_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_corpus(tmp_path)
    assert call(tmp_path, "--until-step", "2") == 0
    told = capsys.readouterr().err
    assert "preparing the corpus" in told
    assert "kept" in told
    assert "starting: 0.2 million parameters on cpu" in told
    assert "loss" in told
    assert "target tokens/s" in told
    assert "stopped at step 2 as told" in told
    assert call(tmp_path) == 0
    told = capsys.readouterr().err
    assert "preparing" not in told
    assert "going on from step 2" in told
    assert "step 4: dev BLEU" in told
    assert "done at step 6" in told
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "best.safetensors", "checkpoint.pt", "experiment.toml",
        "log.jsonl", "shards", "source.model", "target.model",
    ]  # fmt: skip
    (line,) = (tmp_path / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["step"] == 4
    assert call(tmp_path) == 0  # and once more there is nothing to do
    assert "done at step 6" in capsys.readouterr().err


def test_what_has_changed_since_the_last_start_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_corpus(tmp_path, pairs=100)
    call(tmp_path, "--until-step", "1")
    edit(tmp_path, "max_steps = 6", "max_steps = 7")
    edit(tmp_path, "max_length_ratio = 9.0", "max_length_ratio = 8.0")
    capsys.readouterr()
    assert call(tmp_path, "--until-step", "2") == 0
    told = capsys.readouterr().err
    assert "changed since the last start: training.max_steps: 6 -> 7\n" in told
    assert "corpus.max_length_ratio: 9.0 -> 8.0 (no effect on the corpus already prepared)" in told
    assert call(tmp_path, "--until-step", "2") == 0
    assert "changed" not in capsys.readouterr().err


def test_a_refused_experiment_leaves_the_runs_own_in_its_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_corpus(tmp_path, pairs=100)
    call(tmp_path, "--until-step", "1")
    edit(tmp_path, 'preset = "tiny"', 'preset = "tiny"\noverrides.d_ff = 77')
    capsys.readouterr()
    assert call(tmp_path) == 2
    assert "belongs to a network of another shape" in capsys.readouterr().err
    assert "d_ff" not in (tmp_path / "run" / "experiment.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("max_steps", "max_step", "training.max_step: unknown key"),
        ('path = "a.tsv"', 'path = "b.tsv"', "b.tsv: No such file"),
        ('dev = "dev.tsv"', 'dev = "b.tsv"', "b.tsv: No such file"),
        ("source_vocab_size = 300", "source_vocab_size = 262", "tokenizer: no tokenizer of 262"),
        ("max_steps = 6", "max_steps = 6\nlearning_rate_factor = 1e36", "step 2: loss nan"),
    ],
)
def test_a_fault_is_one_line_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, told: str
) -> None:
    write_corpus(tmp_path, pairs=100)
    edit(tmp_path, old, new)
    assert call(tmp_path) == 2
    (line,) = [
        line for line in capsys.readouterr().err.splitlines() if line.startswith("dragoman train: ")
    ]
    assert told in line


def test_a_run_folder_that_cannot_be_made_is_a_fault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_corpus(tmp_path, pairs=100)
    (tmp_path / "run").write_text("a file", encoding="utf-8")
    assert call(tmp_path) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("dragoman train: ")


@pytest.mark.parametrize(
    "option",
    [["--device", "nothing"], ["--device", "meta"], ["--threads", "0"], ["--until-step", "-3"]],
)
def test_a_faulty_option_is_a_usage_error(tmp_path: Path, option: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        call(tmp_path, *option)
    assert caught.value.code == 2


def test_ctrl_c_leaves_a_checkpoint_and_status_130(tmp_path: Path) -> None:
    write_corpus(tmp_path, pairs=100)
    edit(tmp_path, "max_steps = 6", "max_steps = 100000")
    edit(tmp_path, "validate_every_steps = 4", "validate_every_steps = 100000")
    process = subprocess.Popen(
        [sys.executable, "-c", "import sys, model.commands as c; sys.exit(c.train(sys.argv[1:]))",
         str(tmp_path / "x.toml"), "--corpora", str(tmp_path), "--out", str(tmp_path / "run"),
         "--threads", "1"],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    with process:
        assert process.stderr is not None
        told = ""
        while "target tokens/s" not in told:  # the first step is done
            character = process.stderr.read(1)
            assert character, told
            told += character
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        told += process.stderr.read()
    assert process.returncode == 130
    assert "the checkpoint is written; the same command goes on" in told
    assert "Traceback" not in told
    assert load_state(tmp_path / "run" / "checkpoint.pt")["position"]["step"] >= 1


def test_the_schedule_is_drawn_as_a_png(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rate.png"
    assert looking.schedule(["--out", str(path), "--steps", "500", "--warmup", "100"]) == 0
    assert path.read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out == f"{path}\n"


@pytest.mark.parametrize("out", ["nothing/rate.png", "rate.foo"])
def test_a_schedule_that_cannot_be_written_is_a_fault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], out: str
) -> None:
    assert looking.schedule(["--out", str(tmp_path / out), "--steps", "9"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("dragoman schedule: ")


def test_a_run_may_begin_with_the_weights_of_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_corpus(tmp_path, pairs=100)
    assert call(tmp_path) == 0
    first, second = tmp_path / "run", tmp_path / "second"
    again = ["--out", str(second), "--from", str(first)]
    assert call(tmp_path, *again, "--until-step", "1") == 0
    assert (second / "source.model").read_bytes() == (first / "source.model").read_bytes()
    begun, _ = load_weights(first / "best.safetensors")
    state = load_state(second / "checkpoint.pt")
    assert state["position"]["step"] == 1
    moved = {
        name: float((state["model"][name] - weight.detach()).abs().max())
        for name, weight in begun.named_parameters()
    }
    assert 0 < max(moved.values()) < 0.01  # one small step away, not drawn anew
    (second / "best.safetensors").write_bytes(b"")  # goes on from its own checkpoint now
    assert call(tmp_path, *again, "--until-step", "2") == 0
    assert "going on from step 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("", "", "holds neither best.safetensors nor weights.safetensors"),
        ('preset = "tiny"', 'preset = "tiny"\noverrides.d_ff = 77', "network of another shape"),
    ],
)
def test_weights_that_cannot_be_begun_with_are_a_fault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, told: str
) -> None:
    write_corpus(tmp_path, pairs=100)
    assert call(tmp_path, "--until-step", "4") == 0
    first = tmp_path / "run"
    if not old:
        (first / "best.safetensors").unlink()
    edit(tmp_path, old, new)
    assert call(tmp_path, "--out", str(tmp_path / "second"), "--from", str(first)) == 2
    assert told in capsys.readouterr().err.splitlines()[-1]


def test_weights_may_lie_between_those_before_and_after(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_corpus(tmp_path, pairs=100)
    assert call(tmp_path) == 0
    first, second, mixed = (tmp_path / name for name in ("run", "second", "mixed"))
    assert call(tmp_path, "--out", str(second), "--from", str(first)) == 0
    asked = [str(second), "--with", str(first), "--out", str(mixed)]
    assert commands.average([*asked, "--share", "0.75"]) == 0
    assert "0.75 between" in capsys.readouterr().out
    found = [load_weights(folder / "best.safetensors")[0] for folder in (first, second, mixed)]
    for before, after, between in zip(*(dict(one.named_parameters()).values() for one in found),
                                      strict=True):  # fmt: skip
        expected = 0.25 * before.detach() + 0.75 * after.detach()
        assert torch.allclose(between.detach(), expected, atol=1e-6)
    with pytest.raises(SystemExit):
        commands.average([*asked, "--share", "1.5"])
