"""The training loop: find the weights, keep them safe, go on where it stopped.

A run lives in one folder: ``experiment.toml``, the tokenizers, the prepared corpus,
``checkpoint.pt`` (everything needed to go on), ``best.safetensors`` (the weights to
export) and ``log.jsonl`` (one line a validation).
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
from torch import Tensor

from model import checkpoint, evaluate
from model.batching import Batch, TokenisedPair, WeightedSource, collate, plan_epoch
from model.checkpoint import Position
from model.config import ConfigError, Experiment, TrainingSettings
from model.loss import label_smoothed_loss
from model.progress import Progress
from model.schedule import learning_rate
from model.tokenizer import PAD_ID, Tokenizer
from model.transformer import Transformer, padding_mask

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True, slots=True)
class TrainingData:
    """What the loop reads: weighted training pairs, validation sets, both tokenizers."""

    sources: list[WeightedSource]
    validation: dict[str, evaluate.ValidationSet]
    source_tokenizer: Tokenizer
    target_tokenizer: Tokenizer


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
    ) -> None:
        """Build the network and, where the folder holds a checkpoint, take it up.

        Raises:
            CheckpointError: there is one that cannot be taken up.
        """
        self.experiment = experiment
        self.settings: TrainingSettings = experiment.training
        self.data = data
        self.folder = folder
        self.device = device or torch.device("cpu")
        torch.manual_seed(self.settings.seed)
        self.config = experiment.model.build(len(data.source_tokenizer), len(data.target_tokenizer))
        self.model = Transformer(self.config).to(self.device)
        # Vaswani et al. 2017, section 5.3.
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), lr=0.0, betas=(0.9, 0.98), eps=1e-9
        )
        self.average = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        self.position = Position()
        self.best_score = -1.0
        self.validations_since_best = 0
        self.interrupted = False
        self._plan: tuple[int, list[list[TokenisedPair]]] | None = None
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
        self.average = {name: p.detach().clone() for name, p in self.model.named_parameters()}

    def run(self, until_step: int | None = None) -> None:
        """Train to ``until_step`` (default: the experiment's end, or until patience runs out)."""
        wanted = self.settings.max_steps if until_step is None else until_step
        last = min(wanted, self.settings.max_steps)
        saved_at = time.monotonic()
        with Progress(self.position.step, last) as progress:
            while self.position.step < last and not self.interrupted and not self.out_of_patience:
                loss, tokens = self.train_step()
                progress.advance(self.position.epoch, loss, tokens)
                if self.position.step % self.settings.validate_every_steps == 0:
                    progress.say(_line(self.validate()))
                    progress.restart_clock()
                if time.monotonic() - saved_at > self.settings.checkpoint_every_seconds:
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
        """One optimiser step over ``accumulate`` batches; mean loss and target tokens.

        Raises:
            DivergenceError: loss or gradient is no number; the weights are those before the step.
            ConfigError: an epoch has no pair.
        """
        batches = [self._next_batch() for _ in range(self.settings.accumulate)]
        total_tokens = sum(int((batch.target_out != PAD_ID).sum()) for batch in batches)
        step = self.position.step + 1
        rate = learning_rate(
            step,
            self.config.d_model,
            self.settings.warmup_steps,
            self.settings.learning_rate_factor,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        loss_sum = 0.0
        for batch in batches:
            loss = self._loss(batch)
            (loss / total_tokens).backward()  # type: ignore[no-untyped-call]
            loss_sum += float(loss.detach())
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip_norm)
        if not math.isfinite(loss_sum + float(norm)):
            msg = (
                f"step {step}: loss {loss_sum / total_tokens:g}, gradient norm {float(norm):g}; "
                "try a lower training.learning_rate_factor or more training.warmup_steps"
            )
            raise DivergenceError(msg)
        self.optimizer.step()
        self._update_average()
        self.position = dataclasses.replace(self.position, step=step)
        return loss_sum / total_tokens, total_tokens

    def validate(self) -> dict[str, Any]:
        """Score the averaged weights, keep them if they are the best, and log a line."""
        scores, losses = {}, {}
        with self._averaged():
            for name, full in self.data.validation.items():
                subset = full.head(self.settings.validation_sentences)
                tokenizers = self.data.source_tokenizer, self.data.target_tokenizer
                batches = evaluate.validation_batches(
                    subset, *tokenizers, rows=50, max_positions=self.config.max_positions
                )
                losses[name] = evaluate.mean_loss(
                    self.model, batches, self.settings.label_smoothing
                )[1]
                output = evaluate.translate(self.model, *tokenizers, subset.sources)
                scores[name] = evaluate.score(
                    output, subset.references, self.experiment.target_language
                )
            selection = self.settings.selection or next(iter(scores))
            self._keep_if_best(scores[selection])
        record: dict[str, Any] = {
            "step": self.position.step,
            "epoch": self.position.epoch,
            "best": self.validations_since_best == 0,
            "nll": {name: round(value, 4) for name, value in losses.items()},
            "bleu": {name: round(value.bleu, 2) for name, value in scores.items()},
            "chrf": {name: round(value.chrf, 2) for name, value in scores.items()},
            "sentences": self.settings.validation_sentences,
            "signature": scores[selection].bleu_signature,
        }
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(record, ensure_ascii=False) + "\n")
        return record

    def save(self) -> None:
        """Write the checkpoint: weights, average, optimiser, position, generator."""
        state = {
            "model": self.model.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "position": dataclasses.asdict(self.position),
            "best_score": self.best_score,
            "validations_since_best": self.validations_since_best,
            "random": torch.get_rng_state(),
            "config": checkpoint.model_metadata(self.config),
        }
        if self.device.type == "cuda":  # where dropout draws from there
            state["random_cuda"] = torch.cuda.get_rng_state(self.device)
        checkpoint.save_state(self._checkpoint, state)

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
        torch.set_rng_state(state["random"])
        if self.device.type == "cuda" and "random_cuda" in state:
            torch.cuda.set_rng_state(state["random_cuda"], self.device)

    def _loss(self, batch: Batch) -> Tensor:
        """Summed smoothed loss of a batch."""
        batch = batch.to(self.device)
        bf16 = self.settings.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            mask = padding_mask(batch.source, PAD_ID)
            logits = self.model(batch.source, batch.target_in, mask)
        labels = batch.target_out.flatten()
        return label_smoothed_loss(
            logits.flatten(0, 1), labels, PAD_ID, self.settings.label_smoothing
        ).smoothed

    def _next_batch(self) -> Batch:
        """The batch at the position, which moves on by one."""
        batches = self._plan_epoch(self.position.epoch)
        if self.position.batch >= len(batches):
            self.position = dataclasses.replace(
                self.position, epoch=self.position.epoch + 1, batch=0
            )
            batches = self._plan_epoch(self.position.epoch)
        index = self.position.batch
        self.position = dataclasses.replace(self.position, batch=index + 1)
        return collate(batches[index])

    def _plan_epoch(self, epoch: int) -> list[list[TokenisedPair]]:
        """The epoch's batches, planned once."""
        if self._plan is None or self._plan[0] != epoch:
            settings = self.settings
            batches = plan_epoch(self.data.sources, settings.batch_tokens, settings.seed, epoch)
            if not batches:
                msg = "corpus.sources: with these weights an epoch has no pair"
                raise ConfigError(msg)
            self._plan = epoch, batches
        return self._plan[1]

    def _update_average(self) -> None:
        """Exponential moving average of the weights (Polyak averaging), quick at first."""
        step = self.position.step + 1
        decay = min(self.settings.average_decay, (1 + step) / (10 + step))
        parameters = dict(self.model.named_parameters())
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.average.values()),
                [parameters[name].detach() for name in self.average],
                1.0 - decay,
            )

    def _averaged(self) -> _SwappedWeights:
        return _SwappedWeights(self.model, self.average)

    def _keep_if_best(self, scores: evaluate.Scores) -> None:
        """Write the weights now in the model if their chrF is the best so far."""
        if scores.chrf <= self.best_score:
            self.validations_since_best += 1
            return
        self.best_score, self.validations_since_best = scores.chrf, 0
        metadata = {
            "model": checkpoint.model_metadata(self.config),
            "step": str(self.position.step),
            "chrf": f"{scores.chrf:.2f}",
            "bleu": f"{scores.bleu:.2f}",
        }
        weights = dict(self.model.state_dict())
        checkpoint.save_weights(self.folder / "best.safetensors", weights, metadata)


def _line(record: dict[str, Any]) -> str:
    """A validation's record for people."""
    sets = "; ".join(
        f"{name} BLEU {record['bleu'][name]:.1f}, chrF {chrf:.1f}, nll {record['nll'][name]:.3f}"
        for name, chrf in record["chrf"].items()
    )
    return f"step {record['step']:,}: {sets}{' (best)' if record['best'] else ''}"


class _SwappedWeights:
    """Inside ``with``, the model holds other weights; afterwards its own again."""

    def __init__(self, model: Transformer, weights: dict[str, Tensor]) -> None:
        self.parameters = dict(model.named_parameters())
        self.weights = weights

    def __enter__(self) -> None:
        self.own = {name: p.detach().clone() for name, p in self.parameters.items()}
        self._fill(self.weights)

    def __exit__(self, *_: object) -> None:
        self._fill(self.own)

    def _fill(self, values: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(values[name])
