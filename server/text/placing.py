"""What a sentence's placeholders and tags become in its translation, by where the model looked.

The cross-attention of a step says which source tokens its target token comes from (Bahdanau et
al. 2015; averaged over heads and layers as in Garg et al. 2019). An element goes around the
stretch of the translation that looks at its words the most, a tag without content to the border
that divides best what comes from before it from what comes from after it. Elements are nested and
kept whole whatever the attention says: it decides where they stand, never whether.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from server.text.form import Form, Hole, Mark
from server.text.request import Outcome

Weights = NDArray[np.float32]

# A target token belongs to an element if this share of its attention does.
_SHARE = 0.4


@dataclass(slots=True)
class Alignment:
    """Where a translation's tokens come from."""

    source: list[tuple[int, int]]
    """Places of the source tokens in the form."""
    target: list[int]
    """[T + 1] where each target token begins in the translation, and where the last one ends."""
    weights: Weights
    """[T, S] of each target token on each source token, the end token left out."""


@dataclass(slots=True)
class _Unit:
    """A stretch of the translation that nothing is put into."""

    text: str
    weights: Weights
    hole: Hole | None = None


@dataclass(slots=True)
class Rendered:
    """A translation with its placeholders and tags."""

    text: str
    outcomes: list[Outcome] = field(default_factory=list)
    """Of each hole."""

    @property
    def whole(self) -> bool:
        """Whether the model wrote each stand-in itself, once."""
        return all(outcome is Outcome.KEPT for outcome in self.outcomes)


def render(form: Form, translation: str, alignment: Alignment | None) -> Rendered:
    """The translation of a sentence, its stand-ins and tags put back.

    Args:
        form: what the model was given.
        translation: what it wrote.
        alignment: where it looked; without it what the model left out goes where it would stand
            if languages had the same order.
    """
    aligned = alignment or _even(form, translation)
    edits, outcomes = _edits(form, translation, aligned)
    units = _units(translation, edits, aligned)
    if form.html:
        for unit in units:
            if unit.hole is None:
                unit.text = html.escape(unit.text, quote=False)
    if form.marks:
        text = _compose(form.marks, units, aligned, 0, len(units), (0, len(form.text)))
    else:
        text = "".join(unit.text for unit in units)
    return Rendered(text, outcomes)


def _even(form: Form, translation: str) -> Alignment:
    """An alignment without a model: the same order, evenly spread over characters."""
    length = max(1, len(form.text))
    count = max(1, len(translation))
    source = [(place, place + 1) for place in range(length)]
    target = [min(place, len(translation)) for place in range(count + 1)]
    weights = np.zeros((count, length), np.float32)
    for place in range(count):
        weights[place, place * length // count] = 1.0
    return Alignment(source, target, weights)


Edit = tuple[int, int, Hole | None]
"""What of the translation a hole takes the place of; None = it is taken out."""


def _edits(form: Form, translation: str, alignment: Alignment) -> tuple[list[Edit], list[Outcome]]:
    edits: list[Edit] = []
    outcomes: list[Outcome] = []
    names = "".join(hole.stand_in for hole in form.holes)
    for hole in form.holes:
        places = [match.start() for match in re.finditer(re.escape(hole.stand_in), translation)]
        alone = [place for place in places if _alone(translation, place, hole.stand_in, names)]
        if len(places) == 1 and alone:
            edits.append((places[0], places[0] + len(hole.stand_in), hole))
            outcomes.append(Outcome.KEPT)
            continue
        outcomes.append(Outcome.PLACED)
        if places:
            # Written twice, or run together with something: one of them it is.
            best = max(alone or places, key=lambda at: _looks(alignment, at, hole))
            edits += [(at, at + len(hole.stand_in), hole if at == best else None) for at in places]
        else:
            at = _border(alignment, hole)
            edits.append((at, at, hole))
    return sorted(edits, key=lambda edit: edit[:2]), outcomes


def _alone(translation: str, place: int, name: str, names: str) -> bool:
    """Whether a stand-in is no part of a longer number or word."""
    around = translation[max(0, place - 1) : place] + translation[place + len(name) :][:1]
    return not any(
        character.isascii() and character.isalnum() and character not in names
        for character in around
    )


def _looks(alignment: Alignment, at: int, hole: Hole) -> float:
    token = max(0, int(np.searchsorted(alignment.target, at, side="right")) - 1)
    token = min(token, len(alignment.weights) - 1)
    return float(_mass(alignment, hole.start, hole.end)[token]) if token >= 0 else 0.0


def _mass(alignment: Alignment, start: int, end: int) -> Weights:
    """[T] how much each target token looks at a stretch of the form."""
    columns = [
        index for index, (low, high) in enumerate(alignment.source) if low < end and high > start
    ]
    mass: Weights = alignment.weights[:, columns].sum(axis=1)
    return mass


def _border(alignment: Alignment, hole: Hole) -> int:
    """Where to put what the model left out: beside the token that looked at it most."""
    mass = _mass(alignment, hole.start, hole.end)
    if not mass.size:
        return 0
    token = int(mass.argmax())
    before = _mass(alignment, 0, hole.start)[token]
    after = _mass(alignment, hole.end, alignment.source[-1][1])[token]
    return alignment.target[token + 1] if before > after else alignment.target[token]


def _units(translation: str, edits: Sequence[Edit], alignment: Alignment) -> list[_Unit]:
    """The translation in stretches, each with where it comes from."""
    units: list[_Unit] = []
    place = 0

    def plain(until: int) -> None:
        nonlocal place
        while place < until:
            token = max(0, int(np.searchsorted(alignment.target, place, side="right")) - 1)
            token = min(token, len(alignment.weights) - 1)
            end = min(until, max(place + 1, alignment.target[token + 1]))
            units.append(_Unit(translation[place:end], alignment.weights[token]))
            place = end

    for start, end, hole in edits:
        plain(start)
        if hole is not None:
            weights = np.zeros(len(alignment.source), np.float32)
            for index, (low, high) in enumerate(alignment.source):
                weights[index] = float(low < hole.end and high > hole.start)
            units.append(_Unit(hole.value, weights / max(1.0, weights.sum()), hole))
        place = max(place, end)
    plain(len(translation))
    return units


def _compose(
    marks: Sequence[Mark],
    units: Sequence[_Unit],
    alignment: Alignment,
    low: int,
    high: int,
    outer: tuple[int, int],
) -> str:
    """The units ``low`` to ``high`` with these marks around and between them."""
    placed: list[tuple[int, int, int, str]] = []  # start, end, order, text
    elements = [(order, mark) for order, mark in enumerate(marks) if mark.end > mark.start]
    taken = np.zeros(high - low, bool)
    cursor = low
    for order, mark in elements:
        start, end = _interval(mark, units, alignment, low, high, taken)
        if start == end:
            start = end = cursor
        taken[start - low : end - low] = True
        cursor = end
        inner = (
            _compose(mark.children, units, alignment, start, end, (mark.start, mark.end))
            if mark.children
            else "".join(unit.text for unit in units[start:end])
        )
        placed.append((start, end, order, mark.opening + inner + mark.closing))
    floor = low
    for order, mark in enumerate(marks):
        if mark.end > mark.start:
            continue
        at = _division(mark, units, alignment, (low, high), outer)
        at = max(floor, _free(at, placed))
        at = _free(at, placed)
        floor = at
        inner = _compose(mark.children, units, alignment, at, at, (mark.start, mark.end))
        placed.append((at, at, order, mark.opening + inner + mark.closing))
    parts, place = [], low
    # At one place: what ends there comes before what begins there; points in their own order.
    for start, end, _, text in sorted(placed, key=lambda one: (one[0], one[1] > one[0], one[2])):
        parts += [unit.text for unit in units[place:start]]
        parts.append(text)
        place = max(place, end)
    parts += [unit.text for unit in units[place:high]]
    return "".join(parts)


def _interval(
    mark: Mark,
    units: Sequence[_Unit],
    alignment: Alignment,
    low: int,
    high: int,
    taken: NDArray[np.bool_],
) -> tuple[int, int]:
    """The free stretch of units that looks at an element's words the most (Bentley 1984)."""
    scores = _shares(units[low:high], alignment, mark.start, mark.end) - _SHARE
    best, best_sum = (low, low), -np.inf
    start, total = 0, 0.0
    for place, score in enumerate(scores):
        if taken[place]:
            start, total = place + 1, 0.0
            continue
        if total <= 0.0:
            start, total = place, 0.0
        total += float(score)
        if total > best_sum:
            best, best_sum = (low + start, low + place + 1), total
    return best


def _shares(
    units: Sequence[_Unit], alignment: Alignment, start: int, end: int
) -> NDArray[np.float64]:
    """Of each unit, the share of its attention that is on a stretch of the form."""
    columns = [a < end and b > start for a, b in alignment.source]
    shares = []
    for unit in units:
        total = float(unit.weights.sum())
        shares.append(float(unit.weights[columns].sum()) / total if total > 0 else 0.0)
    return np.array(shares)


def _division(
    mark: Mark,
    units: Sequence[_Unit],
    alignment: Alignment,
    inside: tuple[int, int],
    outer: tuple[int, int],
) -> int:
    """The border of units that divides best what comes from before a point and from after it."""
    low, high = inside
    left = _shares(units[low:high], alignment, outer[0], mark.start)
    right = _shares(units[low:high], alignment, mark.start, outer[1])
    lean = np.concatenate([[0.0], np.cumsum(left - right)])
    return low + int(np.argmax(2 * lean - lean[-1]))


def _free(at: int, placed: Sequence[tuple[int, int, int, str]]) -> int:
    """A border that is not inside an element: the end of the one it would be in."""
    for start, end, _, _ in placed:
        if start < at < end:
            return end
    return at
