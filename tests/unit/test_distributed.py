"""Two processes train as one does; a killed run goes on; averages, boards, guided alignment."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from model_fixtures import write_corpus

from model import commands
from model.average import kept_weights
from model.checkpoint import load_state, load_weights
from model.config import read_experiment
from model.prepare import prepare
from model.train import Trainer

ROOT = Path(__file__).parents[2]


def edit(path: Path, **changes: str) -> None:
    """Replace lines of the experiment that begin with these names, or add them to [training]."""
    lines = path.read_text(encoding="utf-8").splitlines()
    for name, value in changes.items():
        kept = [line for line in lines if not line.startswith(f"{name} =")]
        kept.insert(kept.index("[training]") + 1, f"{name} = {value}")
        lines = kept
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def environment() -> dict[str, str]:
    return os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


def train(folder: Path, *more: str, processes: int = 1) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone",
                     f"--nproc-per-node={processes}"]  # fmt: skip
    return subprocess.run(
        [*launcher, "-m", "model", str(folder / "x.toml"), "--corpora", str(folder),
         "--device", "cpu", "--threads", "1", *more],
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def losses(run: Path) -> list[float]:
    log = (run / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["loss"] for line in log]


def test_two_processes_have_the_losses_of_one_with_the_doubled_batch(tmp_path: Path) -> None:
    path = write_corpus(tmp_path)
    edit(path, validate_every_steps="2", precision='"fp32"', accumulate="2")
    one = train(tmp_path, "--out", str(tmp_path / "one"))
    assert one.returncode == 0, one.stderr
    edit(path, accumulate="1")
    two = train(tmp_path, "--out", str(tmp_path / "two"), processes=2)
    assert two.returncode == 0, two.stderr
    assert ", 2 processes" in two.stderr
    assert two.stderr.count("done at step 6") == 1
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-4)
    states = [load_state(tmp_path / name / "checkpoint.pt") for name in ("one", "two")]
    assert states[0]["position"] == states[1]["position"]
    assert len(states[1]["random_others"]) == 1
    for name, value in states[0]["model"].items():
        torch.testing.assert_close(states[1]["model"][name], value, atol=1e-4, rtol=0)
    # A run of two goes on as one, and the other way round.
    edit(path, max_steps="8", accumulate="2")
    more = train(tmp_path, "--out", str(tmp_path / "two"))
    assert more.returncode == 0, more.stderr
    assert "going on from step 6" in more.stderr
    edit(path, max_steps="10", accumulate="1")
    more = train(tmp_path, "--out", str(tmp_path / "two"), processes=2)
    assert more.returncode == 0, more.stderr
    assert "going on from step 8" in more.stderr
    state = load_state(tmp_path / "two" / "checkpoint.pt")
    assert (state["position"]["step"], len(state["random_others"])) == (10, 1)


def test_a_fault_in_a_world_of_two_ends_both(tmp_path: Path) -> None:
    write_corpus(tmp_path, pairs=60)
    (tmp_path / "a.tsv").unlink()
    found = train(tmp_path, "--out", str(tmp_path / "run"), processes=2)
    assert found.returncode != 0
    assert "a.tsv: No such file or directory" in found.stderr


def test_a_run_killed_at_any_moment_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    path = write_corpus(tmp_path, pairs=150)
    edit(path, max_steps="100000", validate_every_steps="1000", checkpoint_every_seconds="0.0",
         precision='"fp32"')  # fmt: skip
    experiment = read_experiment(path, tmp_path)
    experiment = dataclasses.replace(
        experiment, model=dataclasses.replace(experiment.model, overrides={"dropout": 0.2})
    )
    with path.open("a", encoding="utf-8") as file:
        file.write("[model.overrides]\ndropout = 0.2\n")
    run = tmp_path / "run"
    generator = random.Random(5)
    for _ in range(2):
        with subprocess.Popen(
            [sys.executable, "-m", "model", str(path), "--corpora", str(tmp_path),
             "--out", str(run), "--threads", "1", "--device", "cpu"],
            cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True,
        ) as process:  # fmt: skip
            assert process.stderr is not None
            told = ""
            while "target tokens/s" not in told:
                character = process.stderr.read(1)
                assert character, told
                told += character
            time.sleep(generator.uniform(0.05, 0.6))
            process.send_signal(signal.SIGKILL)
        data = prepare(experiment, run)
        step = load_state(run / "checkpoint.pt")["position"]["step"]
        assert step >= 1
    whole = Trainer(experiment, data, tmp_path)
    for _ in range(step + 3):
        expected = whole.train_step()
    resumed = Trainer(experiment, data, run)  # now: dropout's generator is the process' own
    for _ in range(3):
        found = resumed.train_step()
    assert found == expected
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)
    for name, value in whole.average.items():
        assert torch.equal(value, resumed.average[name])


def call(folder: Path, *more: str) -> int:
    return commands.train(
        [str(folder / "x.toml"), "--corpora", str(folder), "--out", str(folder / "run"),
         "--device", "cpu", *more]
    )  # fmt: skip


def test_the_mean_of_kept_weights_is_a_run_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_corpus(tmp_path)
    edit(path, validate_every_steps="1", keep_weights="4")
    assert call(tmp_path) == 0
    run, out = tmp_path / "run", tmp_path / "mean"
    assert [kept.name for kept in kept_weights(run)] == [
        f"step-{step}.safetensors" for step in (3, 4, 5, 6)
    ]
    assert commands.average([str(run), "--out", str(out), "--last", "2"]) == 0
    mean, _ = load_weights(out / "best.safetensors")
    parts = [load_weights(kept)[0] for kept in kept_weights(run)[-2:]]
    for name, value in mean.named_parameters():
        expected = sum(part.get_parameter(name) for part in parts) / 2
        torch.testing.assert_close(value, expected)
    assert commands.average([str(run), "--out", str(out), "--best", "1"]) == 0
    assert "mean of step-" in capsys.readouterr().out
    assert commands.average([str(run), "--out", str(run)]) == 2
    assert "is the run itself" in capsys.readouterr().err
    assert commands.average([str(out), "--out", str(tmp_path / "x")]) == 2
    assert "training.keep_weights" in capsys.readouterr().err


def test_tensorboard_gets_events(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra 'tensorboard' is not installed")
    path = write_corpus(tmp_path, pairs=100)
    edit(path, max_steps="20", validate_every_steps="10")
    found = train(tmp_path, "--out", str(tmp_path / "run"), "--tensorboard")
    assert found.returncode == 0, found.stderr
    (events,) = (tmp_path / "run" / "tensorboard").iterdir()
    written = events.read_bytes()
    for name in (b"train/loss", b"train/learning_rate", b"chrf/dev", b"nll/dev"):
        assert name in written


def test_without_tensorboard_the_option_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_corpus(tmp_path, pairs=100)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert call(tmp_path, "--tensorboard") == 2
    assert "dragoman[tensorboard]" in capsys.readouterr().err.splitlines()[-1]
