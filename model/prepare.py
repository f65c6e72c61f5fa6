"""From an experiment to a run folder: corpus read once, tokenizers trained, ids stored."""

from __future__ import annotations

import random
from itertools import chain
from pathlib import Path

import numpy as np

from model.batching import TokenisedPair, WeightedSource
from model.config import ConfigError, CorpusSettings, Experiment
from model.corpus import Pair, read_corpus
from model.evaluate import read_validation
from model.tokenizer import Tokenizer, train_tokenizer
from model.train import TrainingData

SOURCE_TOKENIZER, TARGET_TOKENIZER = "source.model", "target.model"
_TOKENIZER_SENTENCES = 400_000


def prepare(experiment: Experiment, folder: Path) -> TrainingData:
    """Training data of the experiment, from the run folder where it was prepared before.

    Raises:
        ConfigError: a corpus file is missing or malformed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    corpus = folder / "corpus.npz"
    if not corpus.exists():
        _prepare_corpus(experiment, folder, corpus)
    with np.load(corpus) as arrays:
        sources = [
            WeightedSource(_unpack(arrays, name), settings.weight)
            for name, settings in experiment.corpus.sources.items()
        ]
    return TrainingData(
        sources=sources,
        validation={
            name: read_validation(path) for name, path in experiment.corpus.validation.items()
        },
        source_tokenizer=Tokenizer((folder / SOURCE_TOKENIZER).read_bytes()),
        target_tokenizer=Tokenizer((folder / TARGET_TOKENIZER).read_bytes()),
    )


def _prepare_corpus(experiment: Experiment, folder: Path, path: Path) -> None:
    pairs, reports = read_corpus(experiment.corpus)
    source, target = _train_tokenizers(experiment, pairs)
    (folder / SOURCE_TOKENIZER).write_bytes(source.model)
    (folder / TARGET_TOKENIZER).write_bytes(target.model)
    arrays: dict[str, np.ndarray] = {}
    for name, of_source in pairs.items():
        kept = _tokenise(of_source, source, target, experiment.corpus.max_tokens)
        reports[name].dropped["too long"] += len(of_source) - len(kept)
        reports[name].kept = len(kept)
        if not kept:
            msg = f"corpus.sources.{name}: no pair is fit to train on"
            raise ConfigError(msg)
        arrays |= _pack(name, kept)
    table = "\n".join(report.row(name) for name, report in reports.items())
    (folder / "corpus.txt").write_text(table + "\n", encoding="utf-8")
    partial = path.with_suffix(".partial.npz")
    np.savez_compressed(partial, allow_pickle=False, **arrays)
    partial.replace(path)


def _train_tokenizers(
    experiment: Experiment, pairs: dict[str, list[Pair]]
) -> tuple[Tokenizer, Tokenizer]:
    """Tokenizers of a sample in which sources stand as the weights say."""
    settings, sample = experiment.tokenizer, _sample(pairs, experiment.corpus)
    english, chinese = [pair.source for pair in sample], [pair.target for pair in sample]
    coverage = settings.character_coverage
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
