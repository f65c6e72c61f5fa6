"""From an experiment to a run folder: corpus read once, tokenizers trained, ids stored."""

from __future__ import annotations

import random
import zipfile
import zlib
from collections.abc import Sized
from itertools import chain
from pathlib import Path

import numpy as np

from model.batching import TokenisedPair, WeightedSource
from model.checkpoint import CheckpointError
from model.config import ConfigError, CorpusSettings, Experiment
from model.corpus import Pair, read_corpus
from model.evaluate import read_validation
from model.tokenizer import Tokenizer, train_tokenizer
from model.train import TrainingData

SOURCE_TOKENIZER, TARGET_TOKENIZER = "source.model", "target.model"
_TOKENIZERS = SOURCE_TOKENIZER, TARGET_TOKENIZER
CORPUS, REPORT = "corpus.npz", "corpus.txt"
_TOKENIZER_SENTENCES = 400_000


def prepare(experiment: Experiment, folder: Path, start: Path | None = None) -> TrainingData:
    """Training data of the experiment, from the run folder where it was prepared before.

    Args:
        experiment: what to train on.
        folder: the run folder; made if missing.
        start: run or release whose tokenizers are taken; None trains new ones.

    Raises:
        ConfigError: a corpus file is missing, malformed or leaves nothing to train on.
        CheckpointError: what was prepared before is damaged, or of other sources.
    """
    folder.mkdir(parents=True, exist_ok=True)
    validation = {
        name: read_validation(path) for name, path in experiment.corpus.validation.items()
    }
    if not is_prepared(folder):
        _prepare_corpus(experiment, folder, start)
    return TrainingData(
        sources=_load_sources(experiment.corpus, folder / CORPUS),
        validation=validation,
        source_tokenizer=_load_tokenizer(folder / SOURCE_TOKENIZER),
        target_tokenizer=_load_tokenizer(folder / TARGET_TOKENIZER),
    )


def is_prepared(folder: Path) -> bool:
    """Whether the run folder holds a corpus, which is then taken as it is."""
    return (folder / CORPUS).exists()


def _load_sources(settings: CorpusSettings, path: Path) -> list[WeightedSource]:
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            prepared = {key.partition("/")[0] for key in arrays.files}
            stored = {name: _unpack(arrays, name) for name in settings.sources if name in prepared}
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        msg = f"{path}: damaged, remove it and it is made again ({error})"
        raise CheckpointError(msg) from error
    for name in settings.sources.keys() - stored.keys():
        msg = f"{path}: prepared without corpus.sources.{name}; start a new run folder"
        raise CheckpointError(msg)
    return [
        WeightedSource(stored[name], source.weight) for name, source in settings.sources.items()
    ]


def _load_tokenizer(path: Path) -> Tokenizer:
    try:
        return Tokenizer(path.read_bytes())
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        msg = f"{path}: {reason}"
        raise CheckpointError(msg) from error


def _prepare_corpus(experiment: Experiment, folder: Path, start: Path | None) -> None:
    if start is not None:  # before the corpus: a wrong folder is told at once
        source, target = (_load_tokenizer(start / name) for name in _TOKENIZERS)
    pairs, reports = read_corpus(experiment.corpus)
    for name, of_source in pairs.items():
        _check_any(name, of_source)
    if start is None:
        source, target = _train_tokenizers(experiment, pairs)
    (folder / SOURCE_TOKENIZER).write_bytes(source.model)
    (folder / TARGET_TOKENIZER).write_bytes(target.model)
    arrays: dict[str, np.ndarray] = {}
    for name, of_source in pairs.items():
        kept = _tokenise(of_source, source, target, experiment.corpus.max_tokens)
        _check_any(name, kept)
        if too_long := len(of_source) - len(kept):
            reports[name].dropped["too long"] = too_long
        reports[name].kept = len(kept)
        arrays |= _pack(name, kept)
    table = "\n".join(report.row(name) for name, report in reports.items())
    (folder / REPORT).write_text(table + "\n", encoding="utf-8")
    partial = folder / "corpus.partial.npz"
    np.savez_compressed(partial, allow_pickle=False, **arrays)
    partial.replace(folder / CORPUS)  # last: a folder that has it has the tokenizers too


def _check_any(name: str, kept: Sized) -> None:
    if not len(kept):
        msg = f"corpus.sources.{name}: no pair is fit to train on"
        raise ConfigError(msg)


def _train_tokenizers(
    experiment: Experiment, pairs: dict[str, list[Pair]]
) -> tuple[Tokenizer, Tokenizer]:
    """Tokenizers of a sample in which sources stand as the weights say."""
    settings, sample = experiment.tokenizer, _sample(pairs, experiment.corpus)
    english, chinese = [pair.source for pair in sample], [pair.target for pair in sample]
    coverage = settings.character_coverage
    try:
        if settings.shared:
            both = train_tokenizer(
                chain(english, chinese),
                settings.source_vocab_size,
                character_coverage=coverage,
                normalise=False,
            )
            return Tokenizer(both), Tokenizer(both)
        source = train_tokenizer(english, settings.source_vocab_size)
        target = train_tokenizer(
            chinese, settings.target_vocab_size, character_coverage=coverage, normalise=False
        )
    except ValueError as error:
        msg = f"tokenizer: {error}"
        raise ConfigError(msg) from error
    return Tokenizer(source), Tokenizer(target)


def _sample(pairs: dict[str, list[Pair]], settings: CorpusSettings) -> list[Pair]:
    generator = random.Random(0)  # noqa: S311  a reproducible sample, no secret
    sample: list[Pair] = []
    for name, of_source in pairs.items():
        weight = settings.sources[name].weight
        count = min(len(of_source), round(len(of_source) * weight))
        sample += generator.sample(of_source, count) * max(1, round(weight))
    generator.shuffle(sample)
    return sample[:_TOKENIZER_SENTENCES]


def _tokenise(
    pairs: list[Pair], source: Tokenizer, target: Tokenizer, max_tokens: int
) -> list[TokenisedPair]:
    sources = source.encode([pair.source for pair in pairs])
    targets = target.encode([pair.target for pair in pairs])
    return [
        TokenisedPair(np.array(one, np.uint16), np.array(other, np.uint16))
        for one, other in zip(sources, targets, strict=True)
        if 0 < len(one) < max_tokens and 0 < len(other) < max_tokens
    ]


def _pack(name: str, pairs: list[TokenisedPair]) -> dict[str, np.ndarray]:
    packed = {}
    for side, rows in (
        ("source", [pair.source for pair in pairs]),
        ("target", [pair.target for pair in pairs]),
    ):
        packed[f"{name}/{side}"] = np.concatenate(rows)
        packed[f"{name}/{side}_ends"] = np.cumsum([row.size for row in rows])
    return packed


def _unpack(arrays: np.lib.npyio.NpzFile, name: str) -> list[TokenisedPair]:
    sides = [
        np.split(arrays[f"{name}/{side}"], arrays[f"{name}/{side}_ends"][:-1])
        for side in ("source", "target")
    ]
    return [TokenisedPair(source, target) for source, target in zip(*sides, strict=True)]
