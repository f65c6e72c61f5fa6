"""The loop where things go wrong, and what it leaves behind."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from toy import toy_experiment

from model.batching import WeightedSource
from model.checkpoint import CheckpointError, load_state, load_weights, save_state, save_weights
from model.config import ConfigError, ModelSettings
from model.train import DivergenceError, Trainer, TrainingData

DROPOUT = ModelSettings(preset="tiny", overrides={"dropout": 0.2})


@pytest.fixture(scope="module")
def small(toy: TrainingData) -> TrainingData:
    """Of the toy task so little that an epoch has five batches."""
    pairs = toy.sources[0].pairs[:150]
    return dataclasses.replace(toy, sources=[WeightedSource(pairs, 1.5)])


@pytest.fixture
def signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    # Libraries may have put theirs in the way, and background jobs of a shell ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def run_of(folder: Path, data: TrainingData, **training: object) -> Trainer:
    folder.mkdir(exist_ok=True)
    experiment = toy_experiment(**({"validation_sentences": 3} | training))
    return Trainer(dataclasses.replace(experiment, model=DROPOUT), data, folder)


def assert_same(one: Trainer, other: Trainer) -> None:
    assert one.position == other.position
    assert (one.best_score, one.validations_since_best) == (
        other.best_score, other.validations_since_best,
    )  # fmt: skip
    for name, value in one.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[name]), name
        if name in one.average:
            assert torch.equal(one.average[name], other.average[name]), name
    states = one.optimizer.state_dict()["state"], other.optimizer.state_dict()["state"]
    for index, moments in states[0].items():
        for key, value in moments.items():
            assert torch.equal(value, states[1][index][key])
    assert torch.equal(torch.load(one.folder / "checkpoint.pt")["random"],
                       torch.load(other.folder / "checkpoint.pt")["random"])  # fmt: skip


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_stopping_anywhere_changes_nothing_though_validations_come_between(
    tmp_path: Path, small: TrainingData, precision: str
) -> None:
    training = {"batch_tokens": 400, "accumulate": 2, "validate_every_steps": 4,
                "precision": precision}  # fmt: skip
    straight = run_of(tmp_path / "straight", small, **training)
    straight.run(until_step=12)
    assert straight.position.epoch >= 2
    for until in (1, 4, 7, 12):
        torch.manual_seed(until)  # a new process starts with any generator state
        parts = run_of(tmp_path / "parts", small, **training)
        parts.run(until_step=until)
        assert parts.position.step == until
    assert_same(straight, parts)
    logs = [(run.folder / "log.jsonl").read_text() for run in (straight, parts)]
    assert logs[0] == logs[1]
    weights = [load_weights(run.folder / "best.safetensors")[0] for run in (straight, parts)]
    for one, other in zip(*(model.parameters() for model in weights), strict=True):
        assert torch.equal(one, other)


def test_a_run_out_of_patience_stays_ended(tmp_path: Path, small: TrainingData) -> None:
    training = {"validate_every_steps": 1, "patience": 2}
    trainer = run_of(tmp_path, small, **training)
    trainer.best_score = 1000.0  # nothing will be better
    trainer.run()
    assert trainer.out_of_patience
    assert trainer.position.step == 2
    again = run_of(tmp_path, small, **training)
    again.run()
    assert again.position.step == 2
    more = run_of(tmp_path, small, **training | {"patience": 3})
    more.run()
    assert more.position.step == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.usefixtures("signals")
def test_a_signal_ends_the_run_after_the_step_with_a_checkpoint(
    tmp_path: Path,
    small: TrainingData,
    number: signal.Signals,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    trainer = run_of(tmp_path, small)
    trainer.stop_on_signals()
    step = trainer.train_step

    def step_and_signal() -> tuple[float, int]:
        if trainer.position.step == 2:
            os.kill(os.getpid(), number)
        return step()

    monkeypatch.setattr(trainer, "train_step", step_and_signal)
    trainer.run()
    assert trainer.interrupted
    assert run_of(tmp_path, small).position.step == 3
    assert "stopping after this step" in capfd.readouterr().err


@pytest.mark.usefixtures("signals")
def test_a_second_ctrl_c_ends_the_run_at_once_and_leaves_the_last_checkpoint(
    tmp_path: Path, small: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_of(tmp_path, small).run(until_step=2)
    trainer = run_of(tmp_path, small)
    trainer.stop_on_signals()

    def twice() -> tuple[float, int]:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)  # whatever thread was given it, the main one hears of it now
        raise AssertionError

    monkeypatch.setattr(trainer, "train_step", twice)
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert run_of(tmp_path, small).position.step == 2


def test_a_loss_that_is_no_number_ends_the_run_before_it_spoils_the_weights(
    tmp_path: Path, small: TrainingData
) -> None:
    trainer = run_of(tmp_path, small)
    trainer.train_step()
    with torch.no_grad():
        trainer.model.projection.bias[5] = torch.nan
    weight = trainer.model.get_parameter("encoder_norm.weight")
    before = weight.detach().clone()
    with pytest.raises(DivergenceError, match=r"^step 2: .*learning_rate_factor") as caught:
        trainer.train_step()
    assert "\n" not in str(caught.value)
    assert torch.equal(before, weight)


def test_weights_that_leave_no_pair_are_told(tmp_path: Path, toy: TrainingData) -> None:
    few = WeightedSource(toy.sources[0].pairs[:3], 0.1)
    with pytest.raises(ConfigError, match=r"corpus\.sources: .* no pair"):
        run_of(tmp_path, dataclasses.replace(toy, sources=[few])).train_step()


def test_the_average_is_the_weights_at_first_and_lags_behind_later(
    tmp_path: Path, small: TrainingData
) -> None:
    trainer = run_of(tmp_path, small, average_decay=0.5)
    name = "encoder.0.feed_forward.inner.weight"
    weight = trainer.model.get_parameter(name)
    expected = weight.detach().clone()
    for step in range(1, 9):
        trainer.train_step()
        decay = min(0.5, (1 + step) / (10 + step))  # 2/11, 3/12, ...
        expected = decay * expected + (1 - decay) * weight.detach()
    torch.testing.assert_close(trainer.average[name], expected, atol=1e-6, rtol=1e-5)


def test_the_learning_rate_of_a_step_is_the_schedules(tmp_path: Path, small: TrainingData) -> None:
    trainer = run_of(tmp_path, small, warmup_steps=100, learning_rate_factor=2.0)
    for step in range(1, 4):
        trainer.train_step()
        # d_model 64: 64^-0.5 = 1/8; 100^-1.5 = 1/1000
        assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(2 * step / 8000)
    group = trainer.optimizer.param_groups[0]
    assert (group["betas"], group["eps"]) == ((0.9, 0.98), 1e-9)


def test_no_damage_to_a_checkpoint_is_a_traceback(tmp_path: Path, small: TrainingData) -> None:
    trainer = run_of(tmp_path, small)
    trainer.train_step()
    trainer.save()
    path, generator = tmp_path / "checkpoint.pt", random.Random(2)
    whole = path.read_bytes()
    refused = 0
    for _ in range(150):
        damaged = bytearray(
            whole[: generator.choice([len(whole), generator.randrange(len(whole))])]
        )
        for _ in range(generator.choice([0, 1, 40]) if damaged else 0):
            # the pickle, the headers and the directory, where damage is not just other numbers
            place = generator.choice([generator.randrange(9000), -generator.randrange(1, 9000)])
            damaged[place % len(damaged)] = generator.randrange(256)
        path.write_bytes(damaged)
        with contextlib.suppress(CheckpointError):  # some damage is just other numbers
            run_of(tmp_path, small)
            continue
        with pytest.raises(CheckpointError, match=r"^[^\n]*checkpoint\.pt[^\n]*$"):
            run_of(tmp_path, small)
        refused += 1
    assert refused > 50


@pytest.mark.parametrize("change", ["no model", "a tensor", "other names", "no random"])
def test_a_file_that_is_no_state_of_this_run_is_refused(
    tmp_path: Path, small: TrainingData, change: str
) -> None:
    trainer = run_of(tmp_path, small)
    trainer.train_step()
    trainer.save()
    path = tmp_path / "checkpoint.pt"
    state = load_state(path)
    if change == "a tensor":
        torch.save(torch.ones(3), path)
    else:
        changed = {
            "no model": {key: value for key, value in state.items() if key != "model"},
            "other names": state | {"average": {"x": torch.ones(1)}},
            "no random": {key: value for key, value in state.items() if key != "random"},
        }[change]
        save_state(path, changed)
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt: ") as caught:
        run_of(tmp_path, small)
    assert "\n" not in str(caught.value)


def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path}/executed",)

    torch.save({"model": Evil()}, tmp_path / "checkpoint.pt")
    with pytest.raises(CheckpointError):
        load_state(tmp_path / "checkpoint.pt")
    assert not (tmp_path / "executed").exists()


def test_a_file_that_cannot_be_moved_into_place_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint.pt"
    save_state(path, {"step": 1})

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        save_state(path, {"step": 2})
    assert load_state(path) == {"step": 1}


def test_weights_of_another_shape_are_refused_in_one_line(
    tmp_path: Path, small: TrainingData
) -> None:
    trainer = run_of(tmp_path, small)
    weights = dict(trainer.model.state_dict())
    path = tmp_path / "w.safetensors"
    for metadata in (
        {},
        {"model": "no json"},
        {"model": json.dumps({"d_model": 64})},
        {"model": json.dumps(dataclasses.asdict(trainer.config) | {"d_ff": 100})},
        {"model": json.dumps(dataclasses.asdict(trainer.config) | {"encoder_layers": 3})},
        {"model": json.dumps(dataclasses.asdict(trainer.config) | {"n_heads": 0})},
    ):
        save_weights(path, weights, metadata)
        with pytest.raises(CheckpointError, match=r"w\.safetensors: ") as caught:
            load_weights(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("tying", ["none", "target", "all"])
def test_saved_weights_come_back_tied_as_they_were(
    tmp_path: Path, small: TrainingData, tying: str
) -> None:
    experiment = toy_experiment()
    model = ModelSettings(preset="tiny", overrides={"tying": tying})
    trainer = Trainer(dataclasses.replace(experiment, model=model), small, tmp_path)
    trainer.validate()
    loaded, metadata = load_weights(tmp_path / "best.safetensors")
    assert not loaded.training
    assert metadata["step"] == "0"
    table = loaded.target_embedding.tokens.weight
    assert (loaded.projection.weight is table) == (tying != "none")
    assert (loaded.source_embedding.tokens.weight is table) == (tying == "all")
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name
