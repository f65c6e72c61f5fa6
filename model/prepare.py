"""From an experiment to what a run reads: shards, tokenizers, validation sets."""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from pathlib import Path

import numpy as np

from model.batching import TokenisedPair, WeightedSource
from model.checkpoint import CheckpointError
from model.config import Experiment
from model.evaluate import read_validation
from model.sharding import (
    REPORT,
    REPORT_MARKDOWN,
    SOURCE_TOKENIZER,
    TARGET_TOKENIZER,
    Tokenizers,
    build_shards,
    read_tokenizers,
)
from model.shards import MANIFEST, open_shards, read_counts
from model.train import TrainingData

SHARDS = "shards"
PACKED = "corpus.npz"
"""What runs were prepared as before there were shards; such a run goes on."""
COUNTS = "corpus.json"
"""Pairs of each source, in a release or an average: there are no shards."""
_TOKENIZERS = SOURCE_TOKENIZER, TARGET_TOKENIZER


def prepare(
    experiment: Experiment,
    folder: Path,
    start: Path | None = None,
    shards: Path | None = None,
) -> TrainingData:
    """Training data of the experiment, from the run folder where it was prepared before.

    Args:
        experiment: what to train on.
        folder: the run folder; made if missing.
        start: run or release whose tokenizers are taken; None trains new ones.
        shards: folder that ``dragoman corpus`` made; None makes shards in the run folder.

    Raises:
        ConfigError: a corpus file is missing, malformed or leaves nothing to train on.
        CheckpointError: what was prepared before is damaged, or of other sources.
    """
    folder.mkdir(parents=True, exist_ok=True)
    corpus = experiment.corpus
    validation = {
        name: read_validation(path, swapped=corpus.swapped)
        for name, path in corpus.validation.items()
    }
    if not is_prepared(folder):
        _take_shards(experiment, folder, start, shards)
    tokenizers = read_tokenizers(folder)
    if (folder / PACKED).exists():
        sources = _packed_sources(experiment, folder / PACKED)
    else:
        sources = _sharded_sources(experiment, folder / SHARDS, tokenizers)
    return TrainingData(sources, validation, *tokenizers)


def is_prepared(folder: Path) -> bool:
    """Whether the run folder has its training pairs, which are then taken as they are."""
    return (folder / PACKED).exists() or (folder / SHARDS / MANIFEST).exists()


def report_of(folder: Path) -> str:
    """The account of the cleaning, for the terminal.

    Raises:
        OSError: it is not there.
    """
    return (folder / SHARDS / REPORT).read_text(encoding="utf-8").rstrip()


def account_of(folder: Path) -> str:
    """The account of the cleaning as Markdown, of a run or release; empty where there is none."""
    places = folder / REPORT_MARKDOWN, folder / SHARDS / REPORT_MARKDOWN
    found = next((path for path in places if path.exists()), None)
    return found.read_text(encoding="utf-8") if found else ""


def pair_counts(folder: Path) -> dict[str, int]:
    """Training pairs of each source of a run or release.

    Raises:
        CheckpointError: the run has no usable account of them.
    """
    if (folder / COUNTS).exists():
        return _written_counts(folder / COUNTS)
    path = folder / PACKED
    if not path.exists():
        return read_counts(folder / SHARDS)
    suffix = "/target_ends"
    try:
        with np.load(path) as arrays:
            names = [name.removesuffix(suffix) for name in arrays.files if name.endswith(suffix)]
            return {name: int(arrays[name + suffix].size) for name in names}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        msg = f"{path}: damaged, cannot tell how many pairs were trained on"
        raise CheckpointError(msg) from error


def _written_counts(path: Path) -> dict[str, int]:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        msg = f"{path}: damaged, cannot tell how many pairs were trained on"
        raise CheckpointError(msg) from error
    if not isinstance(table, dict) or not all(type(count) is int for count in table.values()):
        msg = f"{path}: damaged, cannot tell how many pairs were trained on"
        raise CheckpointError(msg)
    return table


def _take_shards(
    experiment: Experiment, folder: Path, start: Path | None, shards: Path | None
) -> None:
    """Shards made in the run folder, or a link to those that are there, and both tokenizers."""
    place = folder / SHARDS
    if shards is None:
        build_shards(experiment, place, start)
    else:
        found = open_shards(shards)
        wanted = experiment.source_language, experiment.target_language
        if found.languages != wanted:
            msg = f"{shards}: {' to '.join(found.languages)}, and not {' to '.join(wanted)}"
            raise CheckpointError(msg)
        if start is not None and _models(start) != _models(shards):
            msg = (
                f"{shards}: made with other tokenizers than those of {start}; "
                "make the shards with dragoman corpus --from"
            )
            raise CheckpointError(msg)
        place.unlink(missing_ok=True)
        place.symlink_to(os.path.relpath(shards.resolve(), folder.resolve()))
    for name, model in zip(_TOKENIZERS, _models(place), strict=True):
        (folder / name).write_bytes(model)


def _models(folder: Path) -> list[bytes]:
    return [tokenizer.model for tokenizer in read_tokenizers(folder)]


def _sharded_sources(
    experiment: Experiment, folder: Path, tokenizers: Tokenizers
) -> list[WeightedSource]:
    found = open_shards(folder)
    if _models(folder) != [tokenizer.model for tokenizer in tokenizers]:
        msg = f"{folder}: made with other tokenizers than the run's; start a new run folder"
        raise CheckpointError(msg)
    if experiment.alignment.weight and not found.aligned:
        msg = f"{folder}: made without alignment.weight; make the shards again with it"
        raise CheckpointError(msg)
    sources = []
    for name, settings in experiment.corpus.sources.items():
        if name not in found.sources:
            raise _without(folder, name)
        try:
            tag = tokenizers[0].tag_id(settings.tag) if settings.tag else None
        except ValueError as error:
            msg = f"{folder}: corpus.sources.{name}.tag: {error}; make the shards again"
            raise CheckpointError(msg) from error
        sources.append(WeightedSource(found.sources[name], settings.weight, tag))
    return sources


def _without(path: Path, name: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: prepared without corpus.sources.{name}; start a new run folder"
    )


def _packed_sources(experiment: Experiment, path: Path) -> list[WeightedSource]:
    settings = experiment.corpus.sources
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            prepared = {key.partition("/")[0] for key in arrays.files}
            stored = {name: _unpack(arrays, name) for name in settings if name in prepared}
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        msg = f"{path}: damaged ({error})"
        raise CheckpointError(msg) from error
    for name in settings.keys() - stored.keys():
        raise _without(path, name)
    return [WeightedSource(stored[name], source.weight) for name, source in settings.items()]


def _unpack(arrays: np.lib.npyio.NpzFile, name: str) -> list[TokenisedPair]:
    sides = [
        np.split(arrays[f"{name}/{side}"], arrays[f"{name}/{side}_ends"][:-1])
        for side in ("source", "target")
    ]
    return [TokenisedPair(source, target) for source, target in zip(*sides, strict=True)]
