"""From an experiment to a shard folder, in two passes whose memory does not grow with the text.

First the sources are cleaned into text files beside the shards; then tokenizers are trained on a
sample in which sources stand as their weights say, and the text becomes ids.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

import numpy as np

from model.alignment import align
from model.batching import Ids, TokenisedPair
from model.checkpoint import CheckpointError
from model.config import ConfigError, Experiment
from model.corpus import Corpus
from model.shards import MANIFEST, ShardWriter, shard_sides, write_links, write_manifest
from model.text.account import SourceAccount, as_markdown, as_text
from model.text.languages import language_of
from model.text.pair import Pair
from model.tokenizer import Tokenizer, train_tokenizer

SOURCE_TOKENIZER, TARGET_TOKENIZER = "source.model", "target.model"
REPORT, REPORT_MARKDOWN = "corpus.txt", "CORPUS.md"
_TEXT = "text.partial"
_TOKENIZER_SENTENCES = 400_000
_CHUNK = 10_000

Tokenizers = tuple[Tokenizer, Tokenizer]


def build_shards(experiment: Experiment, folder: Path, start: Path | None = None) -> None:
    """Fill a folder with the shards of an experiment; what was there of a broken try goes.

    Args:
        experiment: its corpus, tokenizer and alignment settings count.
        folder: made if missing.
        start: run, release or shard folder whose tokenizers are taken; None trains new ones.

    Raises:
        ConfigError: a source cannot be read or leaves nothing, or a tokenizer cannot be made.
        CheckpointError: ``start`` has no usable tokenizers.
        OSError: the folder cannot be written.
    """
    given = None if start is None else read_tokenizers(start)  # a wrong folder is told at once
    folder.mkdir(parents=True, exist_ok=True)
    for stale in [*folder.glob("*.npy"), folder / MANIFEST]:
        stale.unlink(missing_ok=True)
    text = folder / _TEXT
    shutil.rmtree(text, ignore_errors=True)
    text.mkdir()
    accounts = _clean(experiment, text)
    tokenizers = given or _train_tokenizers(experiment, text, accounts)
    (folder / SOURCE_TOKENIZER).write_bytes(tokenizers[0].model)
    (folder / TARGET_TOKENIZER).write_bytes(tokenizers[1].model)
    shards = {
        name: _write_source(experiment, folder, name, tokenizers, account)
        for name, account in accounts.items()
    }
    shutil.rmtree(text)
    aligned = experiment.alignment.weight > 0
    if aligned:
        _align(folder, list(chain.from_iterable(shards.values())), experiment.alignment.iterations)
    sources = experiment.corpus.sources
    (folder / REPORT).write_text(as_text(accounts) + "\n", encoding="utf-8")
    (folder / REPORT_MARKDOWN).write_text(as_markdown(accounts, sources), encoding="utf-8")
    write_manifest(
        folder,
        languages=(experiment.source_language, experiment.target_language),
        shards=shards,
        accounts=accounts,
        described={
            name: {"licence": of.licence, "origin": of.origin, "tag": of.tag}
            for name, of in sources.items()
        },
        aligned=aligned,
    )


def read_tokenizers(folder: Path) -> Tokenizers:
    """Both tokenizers of a run, release or shard folder.

    Raises:
        CheckpointError: one is missing or damaged; the message names the file.
    """
    return _read_tokenizer(folder / SOURCE_TOKENIZER), _read_tokenizer(folder / TARGET_TOKENIZER)


def _read_tokenizer(path: Path) -> Tokenizer:
    try:
        return Tokenizer(path.read_bytes())
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        msg = f"{path}: {reason}"
        raise CheckpointError(msg) from error


def _clean(experiment: Experiment, folder: Path) -> dict[str, SourceAccount]:
    """Clean text of every source, a line a pair; a source that leaves none is an error."""
    corpus = Corpus(experiment)
    for name in experiment.corpus.sources:
        with (folder / name).open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(f"{source}\t{target}\n" for source, target in corpus.pairs(name))
        if not corpus.accounts[name].kept:
            raise _nothing_left(name)
    return corpus.accounts


def _nothing_left(name: str) -> ConfigError:
    return ConfigError(f"corpus.sources.{name}: no pair is fit to train on")


def _cleaned(path: Path) -> Iterator[Pair]:
    with path.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            source, _, target = line.rstrip("\n").partition("\t")
            yield Pair(source, target)


def _train_tokenizers(
    experiment: Experiment, text: Path, accounts: dict[str, SourceAccount]
) -> Tokenizers:
    settings, sample = experiment.tokenizer, _sample(experiment, text, accounts)
    ours, theirs = [pair.source for pair in sample], [pair.target for pair in sample]
    coverage = settings.character_coverage
    tags = {source.tag for source in experiment.corpus.sources.values() if source.tag}
    spaced = language_of(experiment.target_language).spaced
    try:
        if settings.shared:
            both = train_tokenizer(
                chain(ours, theirs),
                settings.source_vocab_size,
                character_coverage=coverage,
                normalise=False,
                spaced=spaced,
                tags=tags,
            )
            return Tokenizer(both), Tokenizer(both)
        source = train_tokenizer(
            ours,
            settings.source_vocab_size,
            character_coverage=coverage,
            spaced=language_of(experiment.source_language).spaced,
            tags=tags,
        )
        target = train_tokenizer(
            theirs,
            settings.target_vocab_size,
            character_coverage=coverage,
            normalise=False,
            spaced=spaced,
        )
    except ValueError as error:
        msg = f"tokenizer: {error}"
        raise ConfigError(msg) from error
    return Tokenizer(source), Tokenizer(target)


def _sample(experiment: Experiment, text: Path, accounts: dict[str, SourceAccount]) -> list[Pair]:
    """Pairs for the tokenizers, each source as often as its weight says."""
    generator = random.Random(0)  # noqa: S311  a reproducible sample, no secret
    wanted = {}
    for name, source in experiment.corpus.sources.items():
        count = accounts[name].kept
        wanted[name] = min(count, round(count * source.weight)), max(1, round(source.weight))
    most = sum(count * times for count, times in wanted.values())
    scale = min(1.0, _TOKENIZER_SENTENCES / max(1, most))
    sample: list[Pair] = []
    for name, (count, times) in wanted.items():
        chosen = set(generator.sample(range(accounts[name].kept), round(count * scale)))
        pairs = _cleaned(text / name)
        sample += [pair for place, pair in enumerate(pairs) if place in chosen] * times
    generator.shuffle(sample)
    return sample


def _write_source(
    experiment: Experiment,
    folder: Path,
    name: str,
    tokenizers: Tokenizers,
    account: SourceAccount,
) -> list[str]:
    """Names of the shards of a source; what has too many tokens is dropped and counted."""
    longest = experiment.corpus.max_tokens
    writer = ShardWriter(folder, name, experiment.corpus.shard_pairs)
    pairs = _cleaned(folder / _TEXT / name)
    while chunk := list(islice(pairs, _CHUNK)):
        sources = tokenizers[0].encode([pair.source for pair in chunk])
        targets = tokenizers[1].encode([pair.target for pair in chunk])
        for source, target in zip(sources, targets, strict=True):
            if 0 < len(source) < longest and 0 < len(target) < longest:
                writer.add(TokenisedPair(np.array(source, np.uint16), np.array(target, np.uint16)))
    writer.finish()
    if too_long := account.kept - writer.count:
        account.dropped["too many tokens"] = too_long
    account.kept = writer.count
    if not writer.count:
        raise _nothing_left(name)
    return writer.names


def _align(folder: Path, shards: list[str], iterations: float) -> None:
    """Write the links of every shard, aligned as one text."""

    def sides() -> Iterator[tuple[Ids, Ids]]:
        for shard in shards:
            yield from shard_sides(folder, shard)

    links = align(sides(), iterations)
    for shard in shards:
        count = sum(1 for _ in shard_sides(folder, shard))
        write_links(folder, shard, list(islice(links, count)))
