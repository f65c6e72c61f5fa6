"""How well a head's attention says whose word is whose, against alignments made by hand.

Alignment error rate of Och and Ney 2003: 1 - (|A and S| + |A and P|) / (|A| + |S|), with the
alignment A, the links that are sure S, and those that are possible P (the sure ones too).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from model.attention import attention_weights
from model.batching import TokenisedPair
from model.config import ConfigError
from model.text.languages import language_of
from model.text.readers import read_tsv
from model.tokenizer import Tokenizer
from model.transformer import Transformer

Links = set[tuple[int, int]]
_COLUMNS = 3


@dataclass(frozen=True, slots=True)
class AlignedPair:
    """A sentence pair whose words, and whose links between them, a person has marked."""

    source: list[str]
    target: list[str]
    sure: Links
    possible: Links
    """The sure links and those that one may or may not draw."""


def read_aligned(path: Path) -> list[AlignedPair]:
    """Words of the source TAB words of the target TAB links: ``0-0`` sure, ``1?2`` possible.

    Raises:
        ConfigError: unreadable or malformed; the message names the line.
    """
    pairs = []
    for number, columns in enumerate(read_tsv(path), start=1):
        try:
            pairs.append(_parse(columns))
        except ValueError as error:
            msg = f"{path}:{number}: {error}"
            raise ConfigError(msg) from error
    if not pairs:
        msg = f"{path}: no sentences"
        raise ConfigError(msg)
    return pairs


def _parse(columns: list[str]) -> AlignedPair:
    if len(columns) != _COLUMNS:
        msg = "expected source, target and links"
        raise ValueError(msg)
    source, target = columns[0].split(), columns[1].split()
    sure: Links = set()
    possible: Links = set()
    for item in columns[2].split():
        mark = "-" if "-" in item else "?"
        ours, _, theirs = item.partition(mark)
        if not (ours.isdecimal() and theirs.isdecimal()):
            msg = f"'{item}' is no link"
            raise ValueError(msg)
        link = int(ours), int(theirs)
        if link[0] >= len(source) or link[1] >= len(target):
            msg = f"link {item} is outside of {len(source)} and {len(target)} words"
            raise ValueError(msg)
        possible.add(link)
        if mark == "-":
            sure.add(link)
    if not sure:
        msg = "no sure link"
        raise ValueError(msg)
    return AlignedPair(source, target, sure, possible)


def error_rate(found: list[Links], pairs: list[AlignedPair]) -> float:
    """Alignment error rate over all sentences, 0 (right) to 1."""
    agreed = total = 0
    for links, pair in zip(found, pairs, strict=True):
        agreed += len(links & pair.sure) + len(links & pair.possible)
        total += len(links) + len(pair.sure)
    return 1.0 - agreed / total


def head_error_rates(
    model: Transformer,
    tokenizers: tuple[Tokenizer, Tokenizer],
    languages: tuple[str, str],
    pairs: list[AlignedPair],
) -> dict[tuple[int, int] | None, float]:
    """Error rate of each cross-attention head (layer, head), and of the mean of all (None).

    Each target word looks where its pieces look most.
    """
    found: dict[tuple[int, int] | None, list[Links]] = {}
    heads = range(model.config.n_heads)
    for pair in pairs:
        source = _pieces(tokenizers[0], pair.source, languages[0])
        target = _pieces(tokenizers[1], pair.target, languages[1])
        ids = TokenisedPair(
            tokenizers[0].as_array([token for token, _ in source]),
            tokenizers[1].as_array([token for token, _ in target]),
        )
        cross = attention_weights(model, [ids])[2][:, 0, :, : len(target), : len(source)]
        maps = {(layer, head): cross[layer, head] for layer in range(len(cross)) for head in heads}
        for name, weights in [*maps.items(), (None, cross.mean(dim=(0, 1)))]:
            links = {
                (source[place][1], word)
                for (_, word), place in zip(target, weights.argmax(dim=-1).tolist(), strict=True)
            }
            found.setdefault(name, []).append(links)
    return {name: error_rate(links, pairs) for name, links in found.items()}


def _pieces(tokenizer: Tokenizer, words: list[str], language: str) -> list[tuple[int, int]]:
    """Ids of the text that the words make, each with the number of its word."""
    text, owners = "", []
    for number, word in enumerate(words):
        glue = " " if text and language_of(language).spaced and any(map(str.isalnum, word)) else ""
        owners += [number] * len(glue + word)
        text += glue + word
    return [
        (token, owners[min(max(begin, end - 1), len(owners) - 1)])
        for token, begin, end in tokenizer.spans(text)
    ]
