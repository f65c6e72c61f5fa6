"""Paragraphs cut into sentences, where both sides cut alike.

The server translates sentence by sentence, so that is what a model should see. Both sides go
through the splitter that the server uses; only equal numbers of sentences whose lengths fit each
other are taken apart, everything else stays whole.
"""

from __future__ import annotations

import math

import sentencex

from model.text.languages import Language
from model.text.pair import Pair

_SMOOTHING = 6.0  # characters: the ratio of short sentences says little
_LARGEST = math.log(2.0)  # between a sentence's ratio and its paragraph's


def split_pair(pair: Pair, source: Language, target: Language) -> list[Pair]:
    """The pair's sentences with their translations, or the pair itself if they do not match."""
    sources, targets = _sentences(pair.source, source), _sentences(pair.target, target)
    if len(sources) != len(targets) or len(sources) < 2:  # noqa: PLR2004  nothing to split
        return [pair]
    parts = [Pair(one, other) for one, other in zip(sources, targets, strict=True)]
    whole = _log_ratio(pair, source, target)
    if all(abs(_log_ratio(part, source, target) - whole) <= _LARGEST for part in parts):
        return parts
    return [pair]


def _sentences(text: str, language: Language) -> list[str]:
    pieces = (piece.strip() for piece in sentencex.segment(language.primary, text))
    return [piece for piece in pieces if piece]


def _log_ratio(pair: Pair, source: Language, target: Language) -> float:
    """How long the target is for its source, both counted as English."""
    return math.log(
        (len(pair.target) / target.density + _SMOOTHING)
        / (len(pair.source) / source.density + _SMOOTHING)
    )
