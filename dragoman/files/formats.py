"""Which format a file has, by its name; each is imported when a file needs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dragoman.files.document import Document, FileFault

SUFFIXES = {
    ".txt": "text",
    ".text": "text",
    ".md": "markdown",
    ".markdown": "markdown",
    ".html": "html",
    ".htm": "html",
    ".srt": "srt",
    ".po": "po",
    ".pot": "po",
    ".json": "json",
}
NAMES = sorted(set(SUFFIXES.values()))

_BOM = "\ufeff"


@dataclass(frozen=True, slots=True)
class Reading:
    """How files are read."""

    target_language: str
    format: str | None = None
    """One of NAMES; None = by the name of the file."""
    keys: Sequence[str] = ()
    """Patterns of paths in JSON; none = all."""
    anew: bool = False
    """Whether messages of a catalogue that have a translation get another."""


def read(path: Path, reading: Reading) -> tuple[str, Document]:
    """What precedes the document (a byte order mark, or nothing), and the document.

    Raises:
        FileFault: the file is of no known format, no UTF-8, or not what its name says.
        ModuleNotFoundError: the format's library is not installed.
        OSError: it cannot be read.
    """
    name = reading.format or SUFFIXES.get(path.suffix.lower())
    if name is None:
        known = " ".join(SUFFIXES)
        msg = f"{path}: no known format ({known}); name one with --format"
        raise FileFault(msg)
    try:
        text = path.read_bytes().decode()
    except UnicodeDecodeError as error:
        msg = f"{path}: is not UTF-8 (byte {error.start})"
        raise FileFault(msg) from error
    mark = _BOM if text.startswith(_BOM) else ""
    try:
        return mark, _document(name, text.removeprefix(_BOM), reading)
    except FileFault as error:
        msg = f"{path}: {error}"
        raise FileFault(msg) from error


def _document(name: str, text: str, reading: Reading) -> Document:
    match name:
        case "markdown":
            from dragoman.files import markdown  # noqa: PLC0415  comes with an extra

            return markdown.read(text)
        case "srt":
            from dragoman.files import subtitles  # noqa: PLC0415  comes with an extra

            return subtitles.read(text)
        case "po":
            from dragoman.files import catalogue  # noqa: PLC0415  comes with an extra

            return catalogue.read(text, reading.target_language, anew=reading.anew)
        case "html":
            from dragoman.files import web_page  # noqa: PLC0415  one of several

            return web_page.read(text)
        case "json":
            from dragoman.files import json_strings  # noqa: PLC0415  one of several

            return json_strings.read(text, reading.keys)
        case _:
            from dragoman.files import plain_text  # noqa: PLC0415  one of several

            return plain_text.read(text)
