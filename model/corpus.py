"""From bilingual files to clean training pairs in the right script.

Each source is read, cleaned, converted to Chinese as written in Taiwan where it is not,
and counted: what was kept, what was dropped and why.
"""

from __future__ import annotations

import lzma
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from model.config import ConfigError, CorpusSettings, SourceSettings

if TYPE_CHECKING:
    import opencc

_HAN = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]")
_LATIN = re.compile(r"[A-Za-z]")
_SPACE = re.compile(r"\s+")
_BETWEEN_HAN = re.compile(
    r"(?<=[\u3000-\u30ff\u3400-\u9fff\uff00-\uffef]) (?=[\u3000-\u30ff\u3400-\u9fff\uff00-\uffef])"
)
_HALF_WIDTH = re.compile(
    r"(?<=[\u3400-\u9fff」』）》])([,?!:;])(?=\s|$|[\u3400-\u9fff「『（《])\s*"
)
_FULL_WIDTH = {",": "，", "?": "？", "!": "！", ":": "：", ";": "；"}
_QUOTES = str.maketrans({"“": "「", "”": "」", "‘": "『"})


@dataclass(frozen=True, slots=True)
class Pair:
    """One sentence and its translation."""

    source: str
    target: str


@dataclass(slots=True)
class CleaningReport:
    """What became of the pairs of one source."""

    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def row(self, name: str) -> str:
        """One line of the table that a run prints and stores."""
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in self.dropped.most_common())
        return f"{name:24} kept {self.kept:>8,}   dropped: {reasons or 'none'}"


def read_tsv(path: Path) -> Iterator[list[str]]:
    """The columns of each line of a UTF-8 TSV file, plain or xz.

    Raises:
        ConfigError: unreadable, or a line that is not UTF-8 or has no tab; the message names it.
    """
    opener = lzma.open if path.suffix == ".xz" else open
    try:
        with opener(path, "rb") as lines:
            for number, line in enumerate(lines, start=1):
                yield _columns(line, f"{path}:{number}")
    except (OSError, EOFError, lzma.LZMAError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        msg = f"{path}: {reason}"
        raise ConfigError(msg) from error


def _columns(line: bytes, where: str) -> list[str]:
    try:
        text = line.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        msg = f"{where}: not UTF-8"
        raise ConfigError(msg) from error
    columns = text.rstrip("\r\n").split("\t")
    if len(columns) < 2:  # noqa: PLR2004  sentence and translation
        msg = f"{where}: expected two columns parted by a tab"
        raise ConfigError(msg)
    return columns


def to_taiwan(texts: Iterable[str]) -> Iterator[str]:
    """Chinese of either script to Traditional with Taiwan's words (OpenCC ``s2twp``)."""
    import opencc  # noqa: PLC0415  needed only where a corpus is converted

    converter: opencc.OpenCC = opencc.OpenCC("s2twp")
    for text in texts:
        yield converter.convert(text)


def normalise_chinese(text: str) -> str:
    """Punctuation as printed in Taiwan: full width after Han, corner brackets as quotes."""
    text = _SPACE.sub(" ", unicodedata.normalize("NFC", text)).strip().translate(_QUOTES)
    text = re.sub(r"(?<=[\u3400-\u9fff，。？！])’", "』", text)
    text = _BETWEEN_HAN.sub("", text)
    return _HALF_WIDTH.sub(lambda match: _FULL_WIDTH[match[1]], text)


def normalise_english(text: str) -> str:
    """White space folded; the tokenizer's own rules do the rest, in serving too."""
    return _SPACE.sub(" ", text).strip()


def fault(pair: Pair, max_ratio: float) -> str | None:
    """Why a pair is no translation to learn from, or None if it is one."""
    if not pair.source or not pair.target:
        return "empty"
    if not _HAN.search(pair.target):
        return "no Han in target"
    if not _LATIN.search(pair.source) or _HAN.search(pair.source):
        return "source not English"
    if len(_HAN.findall(pair.target)) < 0.3 * len(pair.target.replace(" ", "")):
        return "mostly not Han"
    words, characters = len(pair.source.split()) + 2, len(pair.target) + 2
    ratio = characters / words  # about 1.7 characters a word in plain text
    if not 1.7 / max_ratio <= ratio <= 1.7 * max_ratio:
        return "length ratio"
    return None


def validation_sources(files: Iterable[Path]) -> set[str]:
    """Keys of every sentence that must not be trained on."""
    return {_key(columns[0]) for path in files for columns in read_tsv(path)}


def _key(text: str) -> str:
    """Letters and digits only, lower case: near-copies of a test sentence count as it."""
    return "".join(character for character in text.lower() if character.isalnum())


def read_source(
    settings: SourceSettings, held_out: set[str], max_ratio: float
) -> tuple[list[Pair], CleaningReport]:
    """The pairs of one source that are fit to train on, and the account of the others."""
    report, seen = CleaningReport(), set()
    rows = [columns[:2] for columns in read_tsv(settings.path)]
    targets: Iterable[str] = (target for _, target in rows)
    if settings.script == "convert":
        targets = to_taiwan(targets)
    kept = []
    for (source, _), target in zip(rows, targets, strict=True):
        pair = Pair(normalise_english(source), normalise_chinese(target))
        reason = fault(pair, max_ratio)
        if reason is None and _key(pair.source) in held_out:
            reason = "in a validation set"
        if reason is None and pair in seen:
            reason = "duplicate"
        if reason is not None:
            report.dropped[reason] += 1
            continue
        seen.add(pair)
        kept.append(pair)
    report.kept = len(kept)
    return kept, report


def read_corpus(
    settings: CorpusSettings,
) -> tuple[dict[str, list[Pair]], dict[str, CleaningReport]]:
    """Every source of the experiment, cleaned; validation sentences taken out."""
    held_out = validation_sources(settings.validation.values())
    pairs, reports = {}, {}
    for name, source in settings.sources.items():
        pairs[name], reports[name] = read_source(source, held_out, settings.max_length_ratio)
    return pairs, reports
