"""An equal network that is kinder to 8-bit integers.

Multiplying the rows of one matrix and dividing those of another leaves what the network computes
as it is, but changes the numbers in between.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn

from export.calibration import Calibration
from model.transformer import DecoderLayer, EncoderLayer, MultiHeadAttention, Transformer

_LARGEST = 127
# Sentences unlike those that calibration saw may reach further.
_MARGIN = 1.1
_SMALLEST = 1e-5


Twins = dict[nn.Module, nn.Module]
"""From each part of a network to that part of its copy."""


@torch.no_grad()
def folded(
    model: Transformer, calibration: Calibration, *, balance: bool, cache_steps: bool
) -> Transformer:
    """A copy that computes the same.

    Args:
        model: the network; it stays as it is.
        calibration: of this network.
        balance: make the channels of an activation as large as each other, or nearer to it.
        cache_steps: have keys and values in whole steps, so that each channel fills -127 .. 127.
    """
    copied = copy.deepcopy(model)
    # No longer tied to the embedding: integers do not share it, and it may be scaled alone.
    copied.projection.weight = nn.Parameter(copied.projection.weight.clone())
    twins: Twins = dict(zip(model.modules(), copied.modules(), strict=True))
    if balance:
        _balance(model, twins, calibration)
    if cache_steps:
        _in_cache_steps(model, twins, calibration)
    return copied.eval()


def _balance(model: Transformer, twins: Twins, calibration: Calibration) -> None:
    """Divide channels by the root of their size over that of their weights.

    One scale has to do for all channels of an activation, while weights have a scale an output:
    what the large channels lose, the weights that read them take on (SmoothQuant, Xiao et al.
    2023, equation 4, migration strength 1/2), where a normalisation or a ReLU before them lets it.
    """
    for before, readers in _free_to_scale(model):
        sizes = torch.from_numpy(calibration.read[readers[0]])
        weights = torch.stack([reader.weight.abs().amax(dim=0) for reader in readers]).amax(dim=0)
        scales = (sizes.clamp_min(_SMALLEST) / weights.clamp_min(_SMALLEST)).sqrt()
        _multiply_outputs(twins[before], 1 / scales)
        for reader in readers:
            _multiply_inputs(twins[reader], scales)


def _free_to_scale(model: Transformer) -> list[tuple[nn.Module, list[nn.Linear]]]:
    """Parts whose output linear layers alone read, with these."""
    found: list[tuple[nn.Module, list[nn.Linear]]] = []
    for layer in [*model.encoder, *model.decoder]:
        assert isinstance(layer, EncoderLayer | DecoderLayer)
        inner, outer = layer.feed_forward.inner, layer.feed_forward.outer
        found.append((inner, [outer]))
        if not layer.attention_residual.pre:  # the residual reads the normalised values too
            continue
        attention = layer.attention
        readers = [attention.query, attention.key, attention.value]
        found.append((layer.attention_residual.norm, readers))
        found.append((layer.feed_forward_residual.norm, [inner]))
        if isinstance(layer, DecoderLayer):
            found.append((layer.cross_residual.norm, [layer.cross.query]))
    if isinstance(model.encoder_norm, nn.LayerNorm):
        crosses = [layer.cross for layer in model.decoder if isinstance(layer, DecoderLayer)]
        memory = [part for cross in crosses for part in (cross.key, cross.value)]
        found.append((model.encoder_norm, memory))
        found.append((model.decoder_norm, [model.projection]))
    return found


def _in_cache_steps(model: Transformer, twins: Twins, calibration: Calibration) -> None:
    """Let one scale, 1, do for all channels of an int8 cache.

    Queries are multiplied by what keys are divided by, and the output projection takes back what
    values are divided by.
    """
    for part in model.modules():
        if not isinstance(part, MultiHeadAttention):
            continue
        keys, values = (
            torch.from_numpy(calibration.wrote[layer] * np.float32(_MARGIN / _LARGEST))
            for layer in (part.key, part.value)
        )
        _multiply_outputs(twins[part.key], 1 / keys)
        _multiply_outputs(twins[part.query], keys)
        _multiply_outputs(twins[part.value], 1 / values)
        _multiply_inputs(twins[part.output], values)


def _multiply_outputs(part: nn.Module, factors: Tensor) -> None:
    assert isinstance(part, nn.Linear | nn.LayerNorm)
    part.weight.mul_(factors[:, None] if isinstance(part, nn.Linear) else factors)
    part.bias.mul_(factors)


def _multiply_inputs(part: nn.Module, factors: Tensor) -> None:
    assert isinstance(part, nn.Linear)
    part.weight.mul_(factors)
