"""The sentences of a benchmark: source ids in a random order of arrival, limits, references."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from pathlib import Path

from server.bundle import Bundle
from server.text.tokenizer import tokenizers_of

Ids = list[list[int]]
_SEED = 1
_LENGTH_STEP = 8


@dataclass(frozen=True, slots=True)
class Sentence:
    """A source text, the set it is of, and its references, if it has any."""

    dataset: str
    source: str
    references: list[str]


@dataclass(frozen=True, slots=True)
class Workload:
    """Sentences in order of arrival, tokenised; what each may cost at most."""

    sentences: list[Sentence]
    sources: Ids
    """Source ids, each ending in EOS."""
    limits: list[int]
    """Most target tokens of each, the end token counted."""
    left_out: int
    """Sentences that the model has no room for."""

    @property
    def datasets(self) -> dict[str, list[int]]:
        """The indices of the sentences with references, by the set they are of."""
        found: dict[str, list[int]] = {}
        for index, sentence in enumerate(self.sentences):
            if sentence.references:
                found.setdefault(sentence.dataset, []).append(index)
        return found


def read_sentences(place: Path) -> list[Sentence]:
    """The sentences of a folder of TSV files or of one file: sentence TAB reference [TAB ...].

    Raises:
        OSError: nothing can be read there.
    """
    files = sorted(place.glob("*.tsv")) if place.is_dir() else [place]
    rows = [
        (file, line.split("\t"))
        for file in files
        for line in file.read_text(encoding="utf-8").splitlines()
    ]
    found = [
        Sentence(file.name.partition(".")[0], source, references)
        for file, (source, *references) in rows
        if source.strip()
    ]
    if not found:
        msg = f"{place}: holds no sentences"
        raise FileNotFoundError(msg)
    return found


def tokenised(
    found: list[Sentence], bundle: Bundle, count: int, *, forced_lengths: bool = False
) -> Workload:
    """At most ``count`` of the sentences, in a random order.

    Args:
        found: the sentences.
        bundle: whose tokenizer and limits count.
        count: how many sentences.
        forced_lengths: for weights that never end by themselves: each translation gets as many
            tokens as its source has, rounded up so that like lengths share a limit and engines
            with one limit a batch waste no steps. Otherwise all have the bundle's own limit.
    """
    shape, tokens = bundle.manifest.shape, bundle.manifest.tokens
    tokenizer, _ = tokenizers_of(bundle)
    arriving = random.Random(_SEED).sample(found, len(found))  # noqa: S311  any order will do
    sentences: list[Sentence] = []
    sources: Ids = []
    left_out = 0
    for sentence in arriving:
        if len(sources) == count:
            break
        ids = [*tokenizer.encode(sentence.source), tokens.eos]
        if len(ids) > shape.max_source_tokens:
            left_out += 1
            continue
        sentences.append(sentence)
        sources.append(ids)
    longest = shape.max_target_tokens
    limits = [longest] * len(sources)
    if forced_lengths:
        limits = [
            min(math.ceil(len(ids) / _LENGTH_STEP) * _LENGTH_STEP, longest) for ids in sources
        ]
    return Workload(sentences, sources, limits, left_out)
