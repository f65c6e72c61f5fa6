"""Plain text: a line is a segment, as it is for the server, which ends sentences there."""

from __future__ import annotations

import re

from dragoman.files.document import Document, Segment, Slot, Spliced, has_words

_LINE = re.compile(r"[^\r\n]+")


def read(text: str) -> Document:
    """The lines; blank ones and those without a letter are layout."""
    slots, number, position = [], 1, 0
    for line in _LINE.finditer(text):
        number += len(re.findall(r"\r\n?|\n", text[position : line.start()]))
        position = line.end()
        if has_words(line.group()):
            segment = Segment(line.group(), f"line {number}")
            slots.append(Slot(line.start(), line.end(), segment))
    return Spliced(text, slots)
