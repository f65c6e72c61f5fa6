"""The files a corpus may be in, cut into parts that are read, translated and written alone.

A part of text or JSON Lines is the lines that begin within a range of bytes, so that it can be
found without reading what is before it; a part of a Parquet file is a range of row groups.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from server.errors import CorpusFault

TEXT, JSON_LINES, PARQUET = "text", "jsonl", "parquet"
_BY_SUFFIX = {".txt": TEXT, ".jsonl": JSON_LINES, ".ndjson": JSON_LINES, ".parquet": PARQUET}
_COMPRESSED = {".gz", ".xz", ".zst", ".bz2", ".zip"}


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of the input: the rows that begin in [start, end), bytes or row groups."""

    number: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Fields:
    """Where rows that have fields keep their text, and where its translation goes."""

    source: str = "text"
    target: str = "translation"


class Rows(Protocol):
    """The rows of one part, and their texts."""

    @property
    def texts(self) -> list[str]:
        """One a row."""

    def write(self, path: Path, translations: list[str]) -> None:
        """A file of the rows with their translations, in order."""


class Format(Protocol):
    """How a kind of file is cut, read and put together again."""

    def parts(self, path: Path, part_bytes: int) -> list[Part]:
        """The file in parts of about this many bytes; every row is in one of them.

        Raises:
            CorpusFault: not such a file.
        """

    def read(self, path: Path, part: Part) -> Rows:
        """The rows of a part.

        Raises:
            CorpusFault: a row is malformed; the message says where.
        """

    def join(self, paths: Iterator[Path], output: Path) -> None:
        """Put written parts together, in order."""


def format_of(path: Path, fields: Fields) -> Format:
    """How to read a file, by its name; a name that says nothing is text.

    Raises:
        CorpusFault: it is compressed, or needs a package that is not installed.
    """
    if path.suffix in _COMPRESSED:
        msg = f"{path}: compressed; parts are found by their position, so unpack it first"
        raise CorpusFault(msg)
    kind = _BY_SUFFIX.get(path.suffix, TEXT)
    if kind == PARQUET:
        try:
            from server.bulk.parquet import Parquet  # noqa: PLC0415  an extra, not everybody's
        except ModuleNotFoundError as error:
            msg = f"{path}: Parquet needs pyarrow; pip install 'dragoman[bulk]'"
            raise CorpusFault(msg) from error
        return Parquet(fields)
    return JsonLines(fields) if kind == JSON_LINES else Text()


class Text:
    """One text a line, LF between them; its translation is a line too."""

    def parts(self, path: Path, part_bytes: int) -> list[Part]:
        """As the protocol says."""
        size = path.stat().st_size
        starts = range(0, size, part_bytes)
        return [
            Part(number, start, min(start + part_bytes, size))
            for number, start in enumerate(starts)
        ]

    def read(self, path: Path, part: Part) -> Rows:
        """As the protocol says; bytes that are no UTF-8 become U+FFFD, and stop nothing."""
        # Universal newlines would take a lone CR for the end of a line.
        lines = [line.decode("utf-8", "replace").rstrip("\n") for line in _lines(path, part)]
        return _TextRows(lines)

    def join(self, paths: Iterator[Path], output: Path) -> None:
        """As the protocol says."""
        with output.open("wb") as whole:
            for path in paths:
                with path.open("rb") as piece:
                    shutil.copyfileobj(piece, whole, 1 << 20)


@dataclass(frozen=True, slots=True)
class _TextRows:
    texts: list[str]

    def write(self, path: Path, translations: list[str]) -> None:
        lines = "".join(line.replace("\n", " ") + "\n" for line in translations)
        path.write_text(lines, encoding="utf-8", newline="")


class JsonLines(Text):
    """One object a line; its translation becomes a field of it."""

    def __init__(self, fields: Fields) -> None:
        """Set the names of the fields."""
        self._fields = fields

    def read(self, path: Path, part: Part) -> Rows:
        """As the protocol says."""
        rows: list[dict[str, Any]] = []
        for number, line in enumerate(_lines(path, part), start=1):
            where = f"{path}: line {number} after byte {part.start}"
            try:
                row = json.loads(line) if line.strip() else {}
            except ValueError as error:
                msg = f"{where}: not JSON ({error})"
                raise CorpusFault(msg) from error
            if not isinstance(row, dict):
                msg = f"{where}: not an object"
                raise CorpusFault(msg)
            if line.strip() and not isinstance(row.get(self._fields.source), str):
                msg = f"{where}: no text in '{self._fields.source}'"
                raise CorpusFault(msg)
            rows.append(row)
        return _JsonRows(rows, self._fields, [row.get(self._fields.source, "") for row in rows])


@dataclass(frozen=True, slots=True)
class _JsonRows:
    rows: list[dict[str, Any]]
    fields: Fields
    texts: list[str]

    def write(self, path: Path, translations: list[str]) -> None:
        with path.open("w", encoding="utf-8", newline="") as lines:
            for row, translation in zip(self.rows, translations, strict=True):
                # An empty line stays one.
                full = row | {self.fields.target: translation} if row else None
                lines.write((json.dumps(full, ensure_ascii=False) if full else "") + "\n")


def _lines(path: Path, part: Part) -> Iterator[bytes]:
    """The lines that begin within the part; the last one may end behind it."""
    with path.open("rb") as file:
        position = part.start
        if part.start:  # the line that began before belongs to the part before
            file.seek(part.start - 1)
            position += len(file.readline()) - 1
        while position < part.end and (line := file.readline()):
            position += len(line)
            yield line
