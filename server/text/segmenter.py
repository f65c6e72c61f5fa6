"""Sentences of a text, and the text put together again around their translations.

Only what the model translates is a sentence. Everything between sentences, that is line
breaks, indentation, rules and numbers standing alone, is layout and passes through as it is.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

import sentencex

# Languages written without spaces between sentences.
_UNSPACED = frozenset({"zh", "ja", "yue"})
# A list marker at the start of a line is layout: "- ", "* ", "3. ", "(a) ".
_MARKER = re.compile(r"\s*(?:[*+\-\u2022\u2013>#]+|\d{1,3}[.)]|\([a-z0-9]{1,3}\))\s+")
# Emoji, skin tones, what joins and varies them; a small model has never seen any.
_EMOJI = frozenset({"So", "Sk", "Cf", "Co"})
_JOINERS = "\ufe0e\ufe0f\u20e3"
_LINE = re.compile(r"[^\n\r\v\f\x1c-\x1e\x85\u2028\u2029]+")
# Where a sentence that is too long is best cut, best first.
_CUTS = (re.compile(r"[;:；：]\s+|——?\s*|[。！？]"), re.compile(r"[,，、]\s*"), re.compile(r"\s+"))


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a text, in code points."""

    start: int
    end: int

    def of(self, text: str) -> str:
        """What stands there."""
        return text[self.start : self.end]


def segment(text: str, language: str) -> list[Span]:
    """The sentences of a text, in order, each without white space or emoji at its ends.

    A line break ends a sentence. Stretches without any letter are left out.

    Args:
        text: whatever a caller sent.
        language: BCP-47 code; the rules for abbreviations depend on it.
    """
    spans = []
    for line in _LINE.finditer(text):
        marker = _MARKER.match(line.group())
        start = line.start() + (marker.end() if marker else 0)
        # Lengths of the pieces, not the library's own offsets: those have counted bytes before.
        for piece in sentencex.segment(_primary(language), text[start : line.end()]):
            span = _strip(text, start, start + len(piece))
            start += len(piece)
            if any(character.isalpha() for character in span.of(text)):
                spans.append(span)
    return spans


def rejoin(text: str, spans: list[Span], translations: list[str], target_language: str) -> str:
    """The text with each sentence replaced by its translation, layout kept.

    A single space between two sentences goes away where the target language has none.
    """
    return "".join(pieces(text, spans, translations, target_language))


def pieces(
    text: str, spans: list[Span], translations: list[str], target_language: str
) -> list[str]:
    """As :func:`rejoin`, in pieces: gap, translation, gap, translation, ..., gap."""
    result = []
    for index, translation in enumerate(translations):
        result += [gap(text, spans, index, target_language), translation]
    return [*result, gap(text, spans, len(spans), target_language)]


def gap(text: str, spans: list[Span], index: int, target_language: str) -> str:
    """The layout before sentence ``index``; that after the last one for ``len(spans)``."""
    start = spans[index - 1].end if index else 0
    end = spans[index].start if index < len(spans) else len(text)
    between = text[start:end]
    inner = 0 < index < len(spans)
    if inner and between == " " and _primary(target_language) in _UNSPACED:
        return ""
    return between


def cut(text: str, span: Span) -> list[Span]:
    """A sentence in two, at the clause border, comma or space nearest its middle.

    Where there is none of these, it is cut at the middle. The span holds two characters or
    more: no single one is too long for a model.
    """
    assert span.end - span.start > 1
    middle = (span.start + span.end) // 2
    length = span.end - span.start
    for pattern in _CUTS:
        places = [match.end() for match in pattern.finditer(text, span.start + 1, span.end - 1)]
        near = [place for place in places if abs(place - middle) <= length // 4]
        if near:
            middle = min(near, key=lambda place: abs(place - middle))
            break
    halves = [_strip(text, span.start, middle), _strip(text, middle, span.end)]
    return [half for half in halves if half.start < half.end]


def _strip(text: str, start: int, end: int) -> Span:
    """The stretch without white space and emoji at its ends: these are layout too."""
    while start < end and _is_edge(text[start]):
        start += 1
    while end > start and _is_edge(text[end - 1]):
        end -= 1
    return Span(start, end)


def _is_edge(character: str) -> bool:
    if character.isascii():
        return character.isspace()
    return character.isspace() or unicodedata.category(character) in _EMOJI or character in _JOINERS


def _primary(language: str) -> str:
    return language.split("-", 1)[0].lower()
