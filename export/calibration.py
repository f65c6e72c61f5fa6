"""What numbers flow through a network: the ranges that 8-bit integers have to cover.

Measured once, on real sentences, while PyTorch translates them. A scale that is fixed at export
makes a row's result independent of the rows beside it, and saves the nodes that would look for
the largest value at every step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from export.network import Matrix
from model.decoding import greedy
from model.tokenizer import EOS_ID
from model.transformer import Transformer
from server.engine.request import default_max_tokens

Floats = NDArray[np.float32]

_KEPT_VALUES = 200_000
"""Of each matrix' inputs: enough to see where clipping a few costs less than covering all."""
_CLIPPINGS = np.linspace(0.3, 1.0, 36)
_LEVELS = 255
_ROWS_AT_ONCE = 512
_SMALLEST = 1e-6


@dataclass(frozen=True, slots=True)
class Range:
    """The values an activation takes: from ``-high`` or, if it is never negative, from 0."""

    high: float
    signed: bool


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was seen, by the layer that saw it."""

    inputs: dict[Matrix, Range]
    """What each linear layer reads."""
    read: dict[Matrix, Floats]
    """The largest absolute value of each input channel [K]."""
    wrote: dict[Matrix, Floats]
    """The largest absolute value of each output channel [N]."""
    moments: dict[Matrix, Floats]
    """Mean of x x^T [K, K] over the inputs x: which errors of a weight add up and which do not."""

    @classmethod
    def nothing(cls) -> Calibration:
        """For what needs none."""
        return cls({}, {}, {}, {})


@torch.inference_mode()
def calibrate(model: Transformer, sources: list[list[int]], max_tokens: int) -> Calibration:
    """Translate sentences one by one, so that no padding is counted, and watch.

    Args:
        model: in eval mode.
        sources: ids without the end token, each within the model's positions.
        max_tokens: most target tokens of a sentence.
    """
    layers = [part for part in model.modules() if isinstance(part, nn.Linear)]
    seen = {layer: _Seen(layer) for layer in layers}
    with _watching(seen):
        for ids in sources:
            limit = min(max_tokens, default_max_tokens(len(ids)))
            greedy(model, torch.tensor([[*ids, EOS_ID]]), limit)
    return Calibration(
        inputs={layer: one.range() for layer, one in seen.items()},
        read={layer: one.read for layer, one in seen.items()},
        wrote={layer: one.wrote for layer, one in seen.items()},
        moments={layer: one.moment for layer, one in seen.items()},
    )


class _Seen:
    """What one linear layer was given and gave."""

    def __init__(self, layer: nn.Linear) -> None:
        self.read: Floats = np.full(layer.in_features, _SMALLEST, np.float32)
        self.wrote: Floats = np.full(layer.out_features, _SMALLEST, np.float32)
        self._products = torch.zeros(layer.in_features, layer.in_features)
        self._rows = 0
        self._waiting: list[Tensor] = []  # for one product of many rows, not many of one
        self._kept: list[Floats] = []
        self._random = np.random.default_rng(0)
        self._extremes: list[float] = []

    def add(self, read: Tensor, wrote: Tensor) -> None:
        self.read = np.maximum(self.read, _largest(read))
        self.wrote = np.maximum(self.wrote, _largest(wrote))
        rows = read.detach().flatten(0, -2)
        self._waiting.append(rows)
        if sum(map(len, self._waiting)) >= _ROWS_AT_ONCE:
            self._multiply()
        values = rows.flatten().numpy()
        self._extremes += [float(values.min()), float(values.max())]
        few = min(values.size, 512)
        self._kept.append(self._random.choice(values, few, replace=False))

    @property
    def moment(self) -> Floats:
        """Mean of x x^T."""
        self._multiply()
        mean: Floats = (self._products / max(1, self._rows)).numpy()
        return mean

    def _multiply(self) -> None:
        if self._waiting:
            rows = torch.cat(self._waiting)
            self._products += rows.T @ rows
            self._rows += len(rows)
            self._waiting.clear()

    def range(self) -> Range:
        """The range whose rounding and clipping err least, in the mean square."""
        if not self._extremes:
            return Range(1.0, signed=True)
        signed = min(self._extremes) < 0
        highest = max(map(abs, self._extremes))
        values = np.concatenate([*self._kept, np.array(self._extremes, np.float32)])[-_KEPT_VALUES:]
        errors = [_squared_error(values, highest * share, signed=signed) for share in _CLIPPINGS]
        best = float(highest * _CLIPPINGS[int(np.argmin(errors))])
        return Range(max(best, _SMALLEST), signed)


def _largest(values: Tensor) -> Floats:
    largest: Floats = values.detach().abs().flatten(0, -2).amax(dim=0).numpy()
    return largest


def _squared_error(values: Floats, high: float, *, signed: bool) -> float:
    scale = (2 * high if signed else high) / _LEVELS
    rounded = np.round(values / scale) * scale
    return float(np.mean((rounded.clip(-high if signed else 0.0, high) - values) ** 2))


@contextmanager
def _watching(seen: dict[nn.Linear, _Seen]) -> Iterator[None]:
    def hook_of(one: _Seen) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        return lambda _layer, inputs, output: one.add(inputs[0], output)

    hooks = [layer.register_forward_hook(hook_of(one)) for layer, one in seen.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
