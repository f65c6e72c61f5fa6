"""A sentence as the model is given it: words that it copies in place of what it must not touch.

A stand-in is a single token that translation models tend to copy, a digit or a letter. What the
model writes around it is a translation of the sentence; then what it stood for is put back.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape

from server.text.protect import Protected

# Tried in order, letters first; loadtest/survival.py measures what a model copies best.
_DIGITS = "5386294"
_LETTERS = "XYZKWQVJ"
# Between two placeholders that are given to the model as one: no word, nothing to translate.
_GLUE = re.compile(r"[^\w\n]{0,3}")
MOST_HOLES = 12
"""A sentence of more is translated in parts."""


@dataclass(frozen=True, slots=True)
class Hole:
    """Where a stand-in is in a sentence, and what it stands for."""

    start: int
    """In the sentence's form."""
    end: int
    stand_in: str
    value: str
    members: tuple[Protected, ...]


@dataclass(slots=True)
class Mark:
    """An element, or a tag without content, inside a sentence."""

    start: int
    end: int
    """In the sentence's form; the same as ``start`` for a tag without content."""
    opening: str
    closing: str = ""
    children: list[Mark] = field(default_factory=list)


@dataclass(slots=True)
class Form:
    """What the model is given for a sentence, and how its output becomes the translation."""

    text: str
    holes: list[Hole] = field(default_factory=list)
    worded: list[Protected] = field(default_factory=list)
    """Numbers that the model is let write itself, and that are verified."""
    marks: list[Mark] = field(default_factory=list)
    html: bool = False
    base: str = ""
    """The sentence before anything was taken out."""
    found: list[Protected] = field(default_factory=list)
    """What is protected, by its place in ``base``."""
    base_marks: list[Mark] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Whether the output can only be made when all of it is there."""
        return bool(self.holes or self.marks)

    def again(self) -> Form:
        """Another form of the same sentence: other stand-ins, and one for each number."""
        return form(
            self.base, self.found, self.base_marks, html=self.html, digits_first=True, strict=True
        )


def form(
    sentence: str,
    found: Sequence[Protected],
    marks: Sequence[Mark] = (),
    *,
    html: bool = False,
    digits_first: bool = False,
    strict: bool = False,
) -> Form:
    """The form of a sentence.

    Args:
        sentence: its text.
        found: what is protected in it, by place in it.
        marks: its elements, by place in it.
        html: whether its translation has to be escaped.
        digits_first: whether digits are tried before letters.
        strict: whether numbers that the model could write get a stand-in too.
    """
    worded = [] if strict else [one for one in found if one.worded]
    hard = [one for one in found if strict or not one.worded]
    # What stands between two placeholders must not be lost in the one that they become.
    apart = [one.start for one in worded] + _edges(marks)
    groups = list(_groups(sentence, hard, apart))
    names = _names(sentence, groups, digits_first=digits_first)
    parts: list[str] = []
    holes: list[Hole] = []
    moves: list[tuple[int, int]] = []  # place in the sentence after a hole, shift from there on
    place, length = 0, 0
    for group, name in zip(groups, names, strict=True):
        before = sentence[place : group[0].start]
        length += len(before)
        holes.append(
            Hole(length, length + len(name), name, _value(sentence, group, html=html), tuple(group))
        )
        parts += [before, name]
        length += len(name)
        place = group[-1].end
        moves.append((place, length - place))
    parts.append(sentence[place:])
    moved = [_moved(mark, groups, holes, moves) for mark in marks]
    return Form("".join(parts), holes, worded, moved, html, sentence, list(found), list(marks))


def _groups(
    sentence: str, hard: Sequence[Protected], apart: Sequence[int]
) -> Iterable[list[Protected]]:
    """Placeholders that stand together, with nothing at the places ``apart`` between them."""
    group: list[Protected] = []
    for one in hard:
        gap = sentence[group[-1].end : one.start] if group else ""
        if (
            group
            and _GLUE.fullmatch(gap)
            and not any(group[-1].end <= place <= one.start for place in apart)
        ):
            group.append(one)
            continue
        if group:
            yield group
        group = [one]
    if group:
        yield group


def _edges(marks: Sequence[Mark]) -> list[int]:
    """Where marks begin and end."""
    edges = []
    for mark in marks:
        edges += [mark.start, mark.end, *_edges(mark.children)]
    return edges


def _value(sentence: str, group: Sequence[Protected], *, html: bool) -> str:
    parts, place = [], group[0].start
    for one in group:
        glue = sentence[place : one.start]
        parts += [escape(glue, quote=False) if html else glue, one.value]
        place = one.end
    return "".join(parts)


def _names(
    sentence: str, groups: Sequence[Sequence[Protected]], *, digits_first: bool
) -> list[str]:
    """A stand-in for each group that is not in the sentence, nor another's."""
    used = set(sentence)
    digits = [name for name in _DIGITS if name not in used]
    letters = [name for name in _LETTERS if not re.search(rf"\b{name}\b", sentence, re.IGNORECASE)]
    pool = digits + letters if digits_first else letters + digits
    return [pool[index] if index < len(pool) else f"X{index}" for index in range(len(groups))]


def _moved(
    mark: Mark,
    groups: Sequence[Sequence[Protected]],
    holes: Sequence[Hole],
    moves: Sequence[tuple[int, int]],
) -> Mark:
    """A mark by its place in the form; an edge inside a group goes to the group's edge."""

    def place(at: int, *, end: bool) -> int:
        shift = 0
        for group, hole, (after, moved) in zip(groups, holes, moves, strict=True):
            if at <= group[0].start:
                break
            if at < after:
                return hole.end if end else hole.start
            shift = moved
        return at + shift

    return Mark(
        place(mark.start, end=False),
        place(mark.end, end=mark.end > mark.start),
        mark.opening,
        mark.closing,
        [_moved(child, groups, holes, moves) for child in mark.children],
    )
