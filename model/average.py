"""Averages of weights: the moving one that training keeps, and of files afterwards.

Polyak and Juditsky 1992 for the moving average; Vaswani et al. 2017, section 6.1, for the mean of
the last checkpoints; Wortsman et al. 2022 (WiSE-FT) for weights between those before a fine-tuning
and those after.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from model.checkpoint import CheckpointError, load_weights
from model.transformer import Transformer
from model.validation import LOG

KEPT = "weights"
"""Folder of a run that holds weights as they were at validations, not averaged."""

Weights = dict[str, Tensor]


def parameters_of(model: Transformer) -> Weights:
    """A copy of the weights, by name."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def update_average(average: Weights, model: Transformer, decay: float, step: int) -> None:
    """Move the average towards the weights after ``step`` steps; quicker at first."""
    decay = min(decay, (1 + step) / (10 + step))
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        torch._foreach_lerp_(
            list(average.values()), [parameters[name].detach() for name in average], 1.0 - decay
        )


class Swapped:
    """Inside ``with``, the model holds other weights; afterwards its own again."""

    def __init__(self, model: Transformer, weights: Weights) -> None:
        """Say which."""
        self._model, self._weights, self._own = model, weights, Weights()

    def __enter__(self) -> None:
        """Put them in."""
        self._own = parameters_of(self._model)
        self._fill(self._weights)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Put the model's own back."""
        self._fill(self._own)

    def _fill(self, values: Weights) -> None:
        with torch.no_grad():
            for name, parameter in self._model.named_parameters():
                parameter.copy_(values[name])


def kept_weights(run: Path) -> list[Path]:
    """Weights that a run has kept, oldest first."""
    return sorted((run / KEPT).glob("step-*.safetensors"), key=step_of)


def step_of(path: Path) -> int:
    """The step that a kept file is of."""
    return int(path.stem.removeprefix("step-"))


def best_kept(run: Path, count: int, selection: str) -> list[Path]:
    """The kept weights that scored best in the run's log, by chrF on ``selection``.

    Raises:
        CheckpointError: no log, or a line of it is damaged.
    """
    path = run / LOG
    try:
        lines = [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]
        scores = {int(record["step"]): float(record["chrf"][selection]) for record in lines}
    except OSError as error:
        msg = f"{path}: {error.strerror}"
        raise CheckpointError(msg) from error
    except (ValueError, LookupError, TypeError) as error:
        msg = f"{path}: damaged, or has no scores of {selection}"
        raise CheckpointError(msg) from error
    known = [weights for weights in kept_weights(run) if step_of(weights) in scores]
    known.sort(key=lambda weights: scores[step_of(weights)], reverse=True)
    return known[:count]


def mean_of(files: list[Path]) -> tuple[Transformer, dict[str, str]]:
    """A network whose weights are the mean of those of the files, and the last one's metadata.

    Raises:
        CheckpointError: a file cannot be used, or is of a network of another shape.
    """
    assert files
    total: Weights = {}
    model, metadata = load_weights(files[0])
    config = model.config
    for path in files:
        model, metadata = load_weights(path)
        if model.config != config:
            msg = f"{path}: belongs to a network of another shape than {files[0]}"
            raise CheckpointError(msg)
        for name, value in parameters_of(model).items():
            total[name] = total[name] + value if name in total else value
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(total[name] / len(files))
    return model, metadata


def between(tuned: Path, before: Path, share: float) -> tuple[Transformer, dict[str, str]]:
    """A network between two, and the metadata of the first.

    Args:
        tuned: weights after a fine-tuning.
        before: those that it began with.
        share: how much the tuned ones count, 0 to 1.

    Raises:
        CheckpointError: a file cannot be used, or they are of networks of two shapes.
    """
    model, metadata = load_weights(tuned)
    other, _ = load_weights(before)
    if other.config != model.config:
        msg = f"{before}: belongs to a network of another shape than {tuned}"
        raise CheckpointError(msg)
    values = parameters_of(other)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(values[name].lerp(parameter, share))
    return model, metadata
