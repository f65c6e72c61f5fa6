"""What a run leaves on disk: its state to go on from, and weights to use.

Files are written whole beside their place and then moved there, so a run killed at any
moment leaves the last good file.
"""

from __future__ import annotations

import dataclasses
import json
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
    partial = path.with_suffix(path.suffix + ".partial")
    torch.save(state, partial)
    partial.replace(path)


def load_state(path: Path) -> dict[str, Any]:
    """A training state; nothing in the file is executed.

    Raises:
        CheckpointError: missing, cut short or damaged.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        msg = f"{path}: not a usable checkpoint ({reason})"
        raise CheckpointError(msg) from error
    return state


def save_weights(path: Path, weights: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write weights as safetensors; tied matrices are stored once."""
    stored: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in weights.items():
        if tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            stored[name] = tensor.detach().contiguous()
    partial = path.with_suffix(path.suffix + ".partial")
    safetensors.torch.save_file(stored, partial, metadata)
    partial.replace(path)


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
        msg = f"{path}: not a usable weights file ({error})"
        raise CheckpointError(msg) from error
    except RuntimeError as error:
        msg = f"{path}: weights do not fit the model ({str(error).splitlines()[0]})"
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
