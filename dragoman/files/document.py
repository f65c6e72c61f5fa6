"""A file as what is translated of it, and everything else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol


class FileFault(Exception):
    """The file, or what is asked of it, is no good; the message says where."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a file that is translated as one text."""

    text: str
    """As the server gets it."""
    place: str
    """For people: "line 12"."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a segment."""

    text: str
    doubtful: bool = False
    """Whether something is missing from it, so that a person should look."""
    remarks: tuple[str, ...] = ()
    """What the server said of it."""


class Document(Protocol):
    """What a format makes of a file."""

    segments: list[Segment]
    mime_type: str
    """Of the segments."""
    notes: list[str]
    """What people should know of the file, each with its place; rendering may add some."""

    def render(self, outcomes: Sequence[Outcome]) -> str:
        """The file with an outcome for each segment, in their order."""
        ...


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a segment stands in the text of a file, and how its translation is written there."""

    start: int
    end: int
    segment: Segment
    write: Callable[[str], str] = str


class Spliced:
    """A document of which everything but the slots stays byte for byte."""

    def __init__(
        self,
        text: str,
        slots: Sequence[Slot],
        mime_type: str = "text/plain",
        notes: Sequence[str] = (),
    ) -> None:
        """Set the text and its slots, which are in order and do not overlap."""
        self._text = text
        self._slots = slots
        self.segments = [slot.segment for slot in slots]
        self.mime_type = mime_type
        self.notes = list(notes)

    def render(self, outcomes: Sequence[Outcome]) -> str:
        """The text with the translations; a segment that came back as it went is untouched."""
        pieces, position = [], 0
        for slot, outcome in zip(self._slots, outcomes, strict=True):
            pieces.append(self._text[position : slot.start])
            same = outcome.text == slot.segment.text
            source = self._text[slot.start : slot.end]
            pieces.append(source if same else slot.write(outcome.text))
            position = slot.end
        pieces.append(self._text[position:])
        return "".join(pieces)


def has_words(text: str) -> bool:
    """Whether there is anything to translate."""
    return any(character.isalpha() for character in text)
