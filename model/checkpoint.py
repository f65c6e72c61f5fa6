"""What a run leaves on disk: its state to go on from, and weights to use.

Files are written whole beside their place and then moved there, so a run killed at any
moment, or a machine that loses power, leaves the last good file.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from model.config import TransformerConfig
from model.transformer import Transformer

RELEASED, BEST = "weights.safetensors", "best.safetensors"
"""Names of the weights to use, in a release and in a run folder."""
ALIGNMENT_HEAD = "alignment_head"
"""Metadata of weights trained with guided alignment: ``{"layer": 0, "head": 0}`` as JSON."""

EXPERIMENT = "experiment"
"""The text of the experiment's TOML, in a training state and in the metadata of weights."""


class CheckpointError(ValueError):
    """The file cannot be used; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Position:
    """How far a run has come: optimiser steps done, epoch, batches of that epoch used."""

    step: int = 0
    epoch: int = 0
    batch: int = 0


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a training state that :func:`load_state` reads."""
    partial = _beside(path)
    torch.save(state, partial)
    _move(partial, path)


def load_state(path: Path) -> dict[str, Any]:
    """A training state; nothing in the file is executed.

    Raises:
        CheckpointError: missing, cut short, damaged or something else.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, LookupError, ValueError,
            TypeError, AttributeError) as error:  # fmt: skip  # whatever damaged bytes spell
        msg = f"{path}: not a usable checkpoint ({_reason(error)})"
        raise CheckpointError(msg) from error
    if not isinstance(state, dict):
        msg = f"{path}: not a usable checkpoint (holds no training state)"
        raise CheckpointError(msg)
    return state


def save_weights(path: Path, weights: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write weights as safetensors; tied matrices are stored once."""
    stored: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in weights.items():
        if tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            stored[name] = tensor.detach().contiguous()
    partial = _beside(path)
    safetensors.torch.save_file(stored, partial, metadata)
    _move(partial, path)


def weights_of(folder: Path) -> Path:
    """The weights file of a run folder or a release.

    Raises:
        CheckpointError: it has none.
    """
    found = next((folder / name for name in (BEST, RELEASED) if (folder / name).exists()), None)
    if found is None:
        msg = f"{folder}: not a run folder or release, holds neither {BEST} nor {RELEASED}"
        raise CheckpointError(msg)
    return found


def load_weights(path: Path) -> tuple[Transformer, dict[str, str]]:
    """The network of a weights file, float32, in eval mode, and the file's metadata.

    Raises:
        CheckpointError: missing, damaged, or not of the shape its metadata says.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
        config = TransformerConfig(**json.loads(metadata["model"]))
        model = Transformer(config)
        missing, unexpected = model.load_state_dict(tensors, strict=False)
    except (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        msg = f"{path}: not a usable weights file ({_reason(error)})"
        raise CheckpointError(msg) from error
    except RuntimeError as error:
        msg = f"{path}: weights do not fit the model ({_reason(error)})"
        raise CheckpointError(msg) from error
    tied = {name for name, _ in model.named_parameters(remove_duplicate=False)} - {
        name for name, _ in model.named_parameters()
    }
    if unexpected or set(missing) - tied - {"projection.weight"}:
        msg = f"{path}: weights do not fit the model (missing {missing}, unexpected {unexpected})"
        raise CheckpointError(msg)
    return model.eval(), metadata


def model_metadata(config: TransformerConfig) -> str:
    """The shape of the network as it is stored beside the weights."""
    return json.dumps(dataclasses.asdict(config), sort_keys=True)


def _beside(path: Path) -> Path:
    return path.with_suffix(path.suffix + ".partial")


def _move(partial: Path, path: Path) -> None:
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)


def _reason(error: Exception) -> str:
    """An exception in a few words of one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, KeyError):
        return f"{error} is missing"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
