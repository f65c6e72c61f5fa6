"""The training loop: find the weights, keep them safe, go on where it stopped.

A run lives in one folder: ``experiment.toml``, the tokenizers, the shards, ``checkpoint.pt``
(everything needed to go on), ``best.safetensors`` (the weights to export) and ``log.jsonl`` (one
line a validation). Of several processes (``model/distributed.py``) the first one writes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from model import checkpoint, evaluate, validation
from model.average import KEPT, Swapped, Weights, kept_weights, parameters_of, update_average
from model.batches import BatchStream
from model.batching import Batch, WeightedSource
from model.board import Board
from model.checkpoint import Position
from model.config import Experiment, TrainingSettings
from model.distributed import World, without_exchange
from model.objective import Objective
from model.progress import Progress
from model.schedule import learning_rate
from model.tokenizer import PAD_ID, Tokenizer
from model.transformer import Transformer

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True, slots=True)
class TrainingData:
    """What the loop reads: weighted training pairs, validation sets, both tokenizers."""

    sources: list[WeightedSource]
    validation: dict[str, evaluate.ValidationSet]
    source_tokenizer: Tokenizer
    target_tokenizer: Tokenizer

    @property
    def tokenizers(self) -> tuple[Tokenizer, Tokenizer]:
        """Both."""
        return self.source_tokenizer, self.target_tokenizer


class DivergenceError(ValueError):
    """The weights have gone where there is no way back; the message says when."""


class Trainer:
    """One run. ``run()`` trains until done or interrupted; calling it again goes on."""

    def __init__(
        self,
        experiment: Experiment,
        data: TrainingData,
        folder: Path,
        device: torch.device | None = None,
        world: World | None = None,
        toml: str = "",
    ) -> None:
        """Build the network and, where the folder holds a checkpoint, take it up.

        ``toml`` is the experiment as it was written, kept with the weights; without it the text
        of the checkpoint stays.

        Raises:
            CheckpointError: there is one that cannot be taken up.
        """
        self.experiment = experiment
        self.settings: TrainingSettings = experiment.training
        self.toml = toml
        self.data = data
        self.folder = folder
        self.world = world or World(device=device or torch.device("cpu"))
        self.device = self.world.device
        torch.manual_seed(self.settings.seed)
        self.config = experiment.model.build(len(data.source_tokenizer), len(data.target_tokenizer))
        self.model = Transformer(self.config).to(self.device)
        # Vaswani et al. 2017, section 5.3. One kernel: 31 to 7 ms a step of `small` on a core.
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), lr=0.0, betas=(0.9, 0.98), eps=1e-9, fused=True
        )
        self.average: Weights = parameters_of(self.model)
        self.position = Position()
        self.best_score = -1.0
        self.validations_since_best = 0
        self.interrupted = False
        self.board: Board | None = None
        self._loss_since, self._tokens_since = 0.0, 0
        self._stream = BatchStream(
            data.sources, self.settings, data.tokenizers, self.config.max_positions
        )
        objective = Objective(self.model, self.settings.label_smoothing, experiment.alignment)
        self._objective = self.world.joined(objective)
        if self.world.rank:  # the same weights, but dropout of its own
            torch.manual_seed(self.settings.seed + self.world.rank)
        self._checkpoint = folder / "checkpoint.pt"
        if self._checkpoint.exists():
            self.restore()

    def start_from(self, weights: Path) -> None:
        """Begin with the weights of another run or release; optimiser and position are new.

        Raises:
            CheckpointError: not a usable weights file, or of a network of another shape.
        """
        model, _ = checkpoint.load_weights(weights)
        if model.config != self.config:
            msg = f"{weights}: belongs to a network of another shape"
            raise checkpoint.CheckpointError(msg)
        self.model.load_state_dict(model.state_dict())
        self.average = parameters_of(self.model)

    def run(self, until_step: int | None = None) -> None:
        """Train to ``until_step`` (default: the experiment's end, or until patience runs out)."""
        wanted = self.settings.max_steps if until_step is None else until_step
        last = min(wanted, self.settings.max_steps)
        saved_at = time.monotonic()
        with Progress(self.position.step, last, shown=self.world.leads) as progress:
            while self.position.step < last and not self.interrupted and not self.out_of_patience:
                loss, tokens = self.train_step()
                progress.advance(self.position.epoch, loss, tokens)
                if self.board is not None:
                    self.board.step(self.position.step, loss, self._rate(), progress.speed)
                if self.position.step % self.settings.validate_every_steps == 0:
                    progress.say(validation.line(self.validate()))
                    progress.restart_clock()
                late = time.monotonic() - saved_at > self.settings.checkpoint_every_seconds
                stop, save = self.world.total(self.interrupted, late and self.world.leads)
                self.interrupted = stop > 0  # if one process is to stop, all do
                if save:
                    self.save()
                    saved_at = time.monotonic()
        self.save()

    @property
    def out_of_patience(self) -> bool:
        """Whether the last ``patience`` validations were all no better than the best."""
        return self.validations_since_best >= self.settings.patience

    def stop_on_signals(self) -> None:
        """From now on SIGINT and SIGTERM end the run after the step, with a checkpoint.

        A second one ends it where it is; the last checkpoint stays.
        """

        def interrupt(number: int, _frame: FrameType | None) -> None:
            self.interrupted = True
            with contextlib.suppress(OSError):  # not print: it may be what was interrupted
                os.write(2, b"\nstopping after this step; once more to stop at once\n")
            signal.signal(number, before[signal.Signals(number)] or signal.SIG_DFL)

        before = {number: signal.signal(number, interrupt) for number in _STOP_SIGNALS}

    def train_step(self) -> tuple[float, int]:
        """One optimiser step over ``accumulate`` batches of each process; mean loss, target tokens.

        Raises:
            DivergenceError: loss or gradient is no number; the weights are those before the step.
            ConfigError: an epoch has no pair.
        """
        world = self.world
        position, batches = self._stream.take(
            self.position,
            self.settings.accumulate * world.size,
            slice(world.rank, None, world.size),
        )
        own = sum(int((batch.target_out != PAD_ID).sum()) for batch in batches)
        total_tokens = int(world.total(own)[0])
        step = position.step + 1
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(step)
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        loss_sum = world.total(self._backward(batches, world.size / total_tokens))[0]
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip_norm)
        self.position = position
        if not math.isfinite(loss_sum + float(norm)):
            msg = (
                f"step {step}: loss {loss_sum / total_tokens:g}, gradient norm {float(norm):g}; "
                "try a lower training.learning_rate_factor or more training.warmup_steps"
            )
            raise DivergenceError(msg)
        self.optimizer.step()
        update_average(self.average, self.model, self.settings.average_decay, step)
        self.position = dataclasses.replace(position, step=step)
        self._loss_since += loss_sum
        self._tokens_since += total_tokens
        return loss_sum / total_tokens, total_tokens

    def _backward(self, batches: list[Batch], scale: float) -> float:
        """Add the gradients of the batches; the sum of their smoothed losses of translation."""
        loss_sum, weight = 0.0, self.experiment.alignment.weight
        for number, batch in enumerate(batches, start=1):
            bf16 = self.settings.precision == "bf16"
            with without_exchange(self._objective, last=number == len(batches)):
                with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
                    translation, alignment = self._objective(batch.to(self.device))
                ((translation + weight * alignment) * scale).backward()
            loss_sum += float(translation.detach())
        return loss_sum

    def _rate(self, step: int | None = None) -> float:
        """The learning rate of a step, by default of the last one."""
        settings = self.settings
        return learning_rate(
            max(1, self.position.step if step is None else step),
            self.config.d_model,
            settings.warmup_steps,
            settings.learning_rate_factor,
        )

    def validate(self) -> dict[str, Any]:
        """Score the averaged weights, keep them if they are the best, and log a line."""
        record: dict[str, Any] | None = self._validated() if self.world.leads else None
        record, self.best_score, self.validations_since_best = self.world.told(
            (record, self.best_score, self.validations_since_best)
        )
        self._loss_since, self._tokens_since = 0.0, 0
        assert record is not None
        return record

    def _validated(self) -> dict[str, Any]:
        with Swapped(self.model, self.average):
            found = validation.validate(
                self.model, self.data.tokenizers, self.data.validation, self.experiment
            )
            self._keep_if_best(found.chosen)
        self._keep_weights(found.chosen)
        record: dict[str, Any] = {
            "step": self.position.step,
            "epoch": self.position.epoch,
            "best": self.validations_since_best == 0,
            "loss": round(self._loss_since / max(1, self._tokens_since), 4),
            "learning_rate": self._rate(),
            **found.record(),
            "sentences": self.settings.validation_sentences,
        }
        validation.append_to_log(self.folder, record)
        if self.board is not None:
            self.board.validation(record)
        return record

    def save(self) -> None:
        """Write the checkpoint: weights, average, optimiser, position, generators."""
        randoms = self.world.gathered(self._random())
        if not self.world.leads:
            return
        state = {
            "model": self.model.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "position": dataclasses.asdict(self.position),
            "best_score": self.best_score,
            "validations_since_best": self.validations_since_best,
            "loss_since": [self._loss_since, self._tokens_since],
            "config": checkpoint.model_metadata(self.config),
            checkpoint.EXPERIMENT: self.toml,
            "random_others": randoms[1:],
            **randoms[0],
        }
        checkpoint.save_state(self._checkpoint, state)

    def _random(self) -> dict[str, Any]:
        """The state of this process' generators."""
        state = {"random": torch.get_rng_state()}
        if self.device.type == "cuda":  # where dropout draws from there
            state["random_cuda"] = torch.cuda.get_rng_state(self.device)
        return state

    def restore(self) -> None:
        """Take up the checkpoint, to the bit.

        Raises:
            CheckpointError: damaged, or of another network.
        """
        state = checkpoint.load_state(self._checkpoint)
        if state.get("config") != checkpoint.model_metadata(self.config):
            msg = f"{self._checkpoint}: belongs to a network of another shape"
            raise checkpoint.CheckpointError(msg)
        try:
            self._take_up(state)
        except (LookupError, TypeError, ValueError, RuntimeError) as error:
            msg = f"{self._checkpoint}: holds no state of such a run ({type(error).__name__})"
            raise checkpoint.CheckpointError(msg) from error

    def _take_up(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.average = {name: state["average"][name].to(self.device) for name in self.average}
        self.optimizer.load_state_dict(state["optimizer"])
        self.position = Position(**state["position"])
        self.best_score = state["best_score"]
        self.validations_since_best = state["validations_since_best"]
        self._loss_since, self._tokens_since = state.get("loss_since", (0.0, 0))
        self.toml = self.toml or state.get(checkpoint.EXPERIMENT, "")
        own = [state, *state.get("random_others", [])]
        if self.world.rank < len(own):  # a process more than before draws anew
            random = own[self.world.rank]
            torch.set_rng_state(random["random"])
            if self.device.type == "cuda" and "random_cuda" in random:
                torch.cuda.set_rng_state(random["random_cuda"], self.device)

    def _keep_if_best(self, scores: evaluate.Scores) -> None:
        """Write the weights now in the model if their chrF is the best so far."""
        if scores.chrf <= self.best_score:
            self.validations_since_best += 1
            return
        self.best_score, self.validations_since_best = scores.chrf, 0
        self._write_weights(self.folder / checkpoint.BEST, scores)

    def _keep_weights(self, scores: evaluate.Scores) -> None:
        """Write the weights as they are, and remove those that are too many."""
        if not self.settings.keep_weights:
            return
        (self.folder / KEPT).mkdir(exist_ok=True)
        path = self.folder / KEPT / f"step-{self.position.step}.safetensors"
        self._write_weights(path, scores)
        for old in kept_weights(self.folder)[: -self.settings.keep_weights]:
            old.unlink()

    def _write_weights(self, path: Path, scores: evaluate.Scores) -> None:
        metadata = {
            "model": checkpoint.model_metadata(self.config),
            "step": str(self.position.step),
            "chrf": f"{scores.chrf:.2f}",
            "bleu": f"{scores.bleu:.2f}",
            checkpoint.EXPERIMENT: self.toml,
        }
        guided = self.experiment.alignment
        if guided.weight:
            layer = guided.layer % self.config.decoder_layers
            metadata[checkpoint.ALIGNMENT_HEAD] = json.dumps({"layer": layer, "head": guided.head})
        checkpoint.save_weights(path, dict(self.model.state_dict()), metadata)
