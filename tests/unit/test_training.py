from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from toy import toy_experiment

from model import evaluate
from model.batching import Batch
from model.checkpoint import CheckpointError, Position, load_state, load_weights
from model.config import ModelSettings
from model.train import Trainer, TrainingData

DROPOUT = ModelSettings(preset="tiny", overrides={"dropout": 0.2})


def run_of(
    folder: Path, toy: TrainingData, model: ModelSettings = DROPOUT, **training: object
) -> Trainer:
    folder.mkdir(exist_ok=True)
    return Trainer(dataclasses.replace(toy_experiment(**training), model=model), toy, folder)


def test_a_tiny_model_learns_to_say_letters_backwards(
    toy_trainer: Trainer, toy: TrainingData
) -> None:
    model, _ = load_weights(toy_trainer.folder / "best.safetensors")
    held_out = toy.validation["toy"]
    outputs = evaluate.translate(
        model, toy.source_tokenizer, toy.target_tokenizer, held_out.sources
    )
    right = [out == row[0] for out, row in zip(outputs, held_out.references, strict=True)]
    assert sum(right) / len(right) >= 0.95


def test_a_run_that_stops_and_goes_on_equals_one_that_did_not(
    tmp_path: Path, toy: TrainingData
) -> None:
    # Batches are large, so that the twelve steps cross the border of an epoch.
    straight = run_of(tmp_path / "straight", toy, batch_tokens=6000)
    losses = [straight.train_step() for _ in range(12)]
    assert straight.position.epoch >= 1
    first = run_of(tmp_path / "parts", toy, batch_tokens=6000)
    parts = [first.train_step() for _ in range(7)]
    first.save()
    del first
    torch.manual_seed(12345)  # a new process starts with any generator state
    second = run_of(tmp_path / "parts", toy, batch_tokens=6000)
    assert second.position.step == 7
    parts += [second.train_step() for _ in range(5)]
    assert parts == losses
    assert second.position == straight.position
    for name, value in straight.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name
    for name, value in straight.average.items():
        assert torch.equal(value, second.average[name]), name


def test_run_stops_where_it_is_told_and_goes_on_from_there(
    tmp_path: Path, toy: TrainingData
) -> None:
    run_of(tmp_path, toy).run(until_step=3)
    trainer = run_of(tmp_path, toy)
    assert trainer.position.step == 3
    trainer.run(until_step=5)
    assert run_of(tmp_path, toy).position.step == 5


def test_an_interrupt_leaves_a_checkpoint(tmp_path: Path, toy: TrainingData) -> None:
    trainer = run_of(tmp_path, toy)
    trainer.interrupted = True
    trainer.run()
    assert (tmp_path / "checkpoint.pt").exists()


class Given:
    """A stream of these batches alone."""

    def __init__(self, batches: list[Batch]) -> None:
        self._batches = batches

    def take(self, position: Position, count: int, share: slice) -> tuple[Position, list[Batch]]:
        return position, self._batches[:count][share]


def test_two_half_batches_make_the_step_of_a_whole_one(tmp_path: Path, toy: TrainingData) -> None:
    plain = ModelSettings(preset="tiny")
    whole = run_of(tmp_path / "a", toy, model=plain)
    halves = run_of(tmp_path / "b", toy, model=plain, accumulate=2)
    _, (batch,) = whole._stream.take(Position(), 1)
    cut = len(batch.source) // 2
    parts = [
        type(batch)(batch.source[rows], batch.target_in[rows], batch.target_out[rows])
        for rows in (slice(cut), slice(cut, None))
    ]
    whole._stream = Given([batch])  # type: ignore[assignment]
    halves._stream = Given(parts)  # type: ignore[assignment]
    assert whole.train_step() == pytest.approx(halves.train_step(), rel=1e-5)
    # Not the weights: Adam's first step is the gradient's sign, noise where that is near zero.
    for one, other in zip(whole.model.parameters(), halves.model.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-6, rtol=1e-3)


def test_bf16_on_a_cpu_learns(tmp_path: Path, toy: TrainingData) -> None:
    trainer = run_of(tmp_path, toy, precision="bf16", warmup_steps=20)
    losses = [trainer.train_step()[0] for _ in range(60)]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    assert next(trainer.model.parameters()).dtype is torch.float32


def test_gradients_are_clipped(tmp_path: Path, toy: TrainingData) -> None:
    trainer = run_of(tmp_path, toy, clip_norm=0.01)
    trainer.train_step()
    norms = [p.grad.norm() for p in trainer.model.parameters() if p.grad is not None]
    assert torch.stack(norms).norm().item() == pytest.approx(0.01, rel=1e-3)


def test_a_validation_is_logged_and_the_best_weights_are_kept(
    tmp_path: Path, toy: TrainingData
) -> None:
    trainer = run_of(tmp_path, toy)
    before = {name: p.clone() for name, p in trainer.model.named_parameters()}
    record = trainer.validate()
    assert json.loads((tmp_path / "log.jsonl").read_text()) == record
    model, metadata = load_weights(tmp_path / "best.safetensors")
    assert metadata["step"] == "0"
    assert record["chrf_signature"].startswith("nrefs:1|case:mixed|eff:yes|nc:6")
    assert record["signature"] != record["chrf_signature"]
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, trainer.average[name])
    for name, parameter in trainer.model.named_parameters():  # the run's own weights are back
        assert torch.equal(parameter, before[name])


@pytest.mark.parametrize("damage", ["cut short", "garbage", "empty"])
def test_a_damaged_checkpoint_is_refused_in_one_line(
    tmp_path: Path, toy: TrainingData, damage: str
) -> None:
    trainer = run_of(tmp_path, toy)
    trainer.train_step()
    trainer.save()
    path = tmp_path / "checkpoint.pt"
    whole = path.read_bytes()
    path.write_bytes(
        {"cut short": whole[: len(whole) // 2], "garbage": b"x" * 99, "empty": b""}[damage]
    )
    with pytest.raises(CheckpointError) as caught:
        run_of(tmp_path, toy)
    assert "checkpoint.pt" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_half_written_checkpoint_does_no_harm(tmp_path: Path, toy: TrainingData) -> None:
    trainer = run_of(tmp_path, toy)
    trainer.train_step()
    trainer.save()
    (tmp_path / "checkpoint.pt.partial").write_bytes(b"killed while writing")
    assert run_of(tmp_path, toy).position.step == 1


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path, toy: TrainingData) -> None:
    run_of(tmp_path, toy).save()
    other = ModelSettings(preset="tiny", overrides={"d_ff": 256})
    with pytest.raises(CheckpointError, match="another shape"):
        run_of(tmp_path, toy, model=other)


def test_damaged_weights_are_refused_in_one_line(tmp_path: Path, toy: TrainingData) -> None:
    trainer = run_of(tmp_path, toy)
    trainer.validate()
    path = tmp_path / "best.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError) as caught:
        load_weights(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError):
        load_weights(tmp_path / "nothing.safetensors")
    with pytest.raises(CheckpointError):
        load_state(tmp_path / "nothing.pt")
