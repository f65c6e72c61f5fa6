"""The weights as they are kept: what a bundle of any precision can be exported from again."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from model.checkpoint import load_weights
from model.config import ConfigError, Experiment, read_experiment
from model.prepare import SOURCE_TOKENIZER, TARGET_TOKENIZER
from model.tokenizer import Tokenizer
from model.transformer import Transformer

RELEASED, BEST = "weights.safetensors", "best.safetensors"
EXPERIMENT, LOG, CORPUS = "experiment.toml", "log.jsonl", "corpus.json"


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A trained network with all that belongs to it."""

    model: Transformer
    metadata: dict[str, str]
    tokenizers: tuple[Tokenizer, Tokenizer]
    experiment: Experiment
    pairs: dict[str, int]
    """Training pairs of each source."""


def read_trained(folder: Path, corpora: Path | None = None) -> TrainedModel:
    """The model of a run folder or of a release.

    Weights are rounded to float16 in both cases, so a bundle made from the run equals one made
    from its release.

    Raises:
        ConfigError: a file is missing or malformed.
        CheckpointError: the weights cannot be used.
    """
    weights = folder / (BEST if (folder / BEST).exists() else RELEASED)
    model, metadata = load_weights(weights)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.half().float())
    try:
        tokenizers = (
            Tokenizer((folder / SOURCE_TOKENIZER).read_bytes()),
            Tokenizer((folder / TARGET_TOKENIZER).read_bytes()),
        )
        pairs = _pairs(folder)
    except (OSError, ValueError, KeyError) as error:
        msg = f"{folder}: not a run folder ({error})"
        raise ConfigError(msg) from error
    experiment = read_experiment(folder / EXPERIMENT, corpora)
    return TrainedModel(model, metadata, tokenizers, experiment, pairs)


def save_release(run: Path, folder: Path) -> None:
    """Write the run's best weights as float16, and what is needed to export or train on."""
    trained = read_trained(run)
    folder.mkdir(parents=True, exist_ok=True)
    with safetensors.safe_open(run / BEST, framework="pt") as file:
        halves = {name: file.get_tensor(name).half() for name in file.keys()}  # noqa: SIM118
    safetensors.torch.save_file(halves, folder / RELEASED, trained.metadata)
    for name in (SOURCE_TOKENIZER, TARGET_TOKENIZER, EXPERIMENT, LOG):
        shutil.copyfile(run / name, folder / name)
    text = json.dumps(trained.pairs, indent=1)
    (folder / CORPUS).write_text(text + "\n", encoding="utf-8")


def _pairs(folder: Path) -> dict[str, int]:
    if (folder / CORPUS).exists():
        table: dict[str, int] = json.loads((folder / CORPUS).read_text(encoding="utf-8"))
        return table
    with np.load(folder / "corpus.npz") as arrays:
        suffix = "/target_ends"
        names = [name.removesuffix(suffix) for name in arrays.files if name.endswith(suffix)]
        return {name: int(arrays[name + suffix].size) for name in names}
