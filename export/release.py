"""The weights as they are kept: what a bundle of any precision can be exported from again."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from model.checkpoint import RELEASED, CheckpointError, load_weights, save_weights, weights_of
from model.config import ConfigError, Experiment, read_experiment
from model.prepare import COUNTS, account_of, pair_counts
from model.sharding import REPORT_MARKDOWN, SOURCE_TOKENIZER, TARGET_TOKENIZER
from model.tokenizer import Tokenizer
from model.transformer import Transformer

EXPERIMENT, LOG = "experiment.toml", "log.jsonl"


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A trained network with all that belongs to it."""

    model: Transformer
    metadata: dict[str, str]
    tokenizers: tuple[Tokenizer, Tokenizer]
    experiment: Experiment
    pairs: dict[str, int]
    """Training pairs of each source."""
    account: str = ""
    """What was kept of the corpora and why the rest was not, as Markdown; runs of old have none."""


def read_trained(folder: Path, corpora: Path | None = None) -> TrainedModel:
    """The model of a run folder or of a release.

    Weights are rounded to float16 in both cases, so a bundle made from the run equals one made
    from its release.

    Raises:
        ConfigError: a file is missing or malformed, or belongs to another model.
        CheckpointError: the weights cannot be used.
    """
    weights = weights_of(folder)
    model, metadata = load_weights(weights)
    _round(model, weights)
    source = _tokenizer(folder / SOURCE_TOKENIZER, model.config.source_vocab_size)
    target = _tokenizer(folder / TARGET_TOKENIZER, model.config.target_vocab_size)
    experiment = read_experiment(folder / EXPERIMENT, corpora)
    pairs = pair_counts(folder)
    for name in experiment.corpus.sources:
        if name not in pairs:  # the manifest would say that none was used
            msg = f"{folder}: does not say how many pairs of corpus.sources.{name} were trained on"
            raise ConfigError(msg)
    return TrainedModel(model, metadata, (source, target), experiment, pairs, account_of(folder))


def save_release(run: Path, folder: Path) -> None:
    """Write the run's best weights as float16, and what is needed to export them again.

    Raises:
        ConfigError: a file of the run is missing or malformed.
        CheckpointError: its weights cannot be used.
        OSError: ``folder`` cannot be written.
    """
    trained = read_trained(run)
    if not (run / LOG).exists():
        msg = f"{run / LOG}: missing, and a release says how its weights came to be"
        raise ConfigError(msg)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (SOURCE_TOKENIZER, TARGET_TOKENIZER, EXPERIMENT, LOG):
        shutil.copyfile(run / name, folder / name)
    text = json.dumps(trained.pairs, indent=1)
    (folder / COUNTS).write_text(text + "\n", encoding="utf-8")
    if trained.account:
        (folder / REPORT_MARKDOWN).write_text(trained.account, encoding="utf-8")
    halves = {name: value.detach().half() for name, value in trained.model.named_parameters()}
    save_weights(folder / RELEASED, halves, trained.metadata)


def _round(model: Transformer, path: Path) -> None:
    """Leave in the model what float16 keeps of it."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(parameter.half().float())
            if not parameter.isfinite().all():
                msg = f"{path}: {name} is not a number, or too large for float16"
                raise CheckpointError(msg)


def _tokenizer(path: Path, vocabulary: int) -> Tokenizer:
    try:
        tokenizer = Tokenizer(path.read_bytes())
    except OSError as error:
        msg = f"{path}: {error.strerror or error}"
        raise ConfigError(msg) from error
    except ValueError as error:
        msg = f"{path}: {error}"
        raise ConfigError(msg) from error
    if len(tokenizer) != vocabulary:
        msg = f"{path}: has {len(tokenizer)} pieces, the network was trained with {vocabulary}"
        raise ConfigError(msg)
    return tokenizer
