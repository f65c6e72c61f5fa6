"""Lines and bytes of files, whatever they are compressed with."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

import zstandard

from model.config import ConfigError

_FAULTS = (OSError, EOFError, lzma.LZMAError, zlib.error, zstandard.ZstdError, zipfile.BadZipFile)
_MAGIC = {"gzip": b"\x1f\x8b", "xz": b"\xfd7zXZ\x00", "zstd": b"\x28\xb5\x2f\xfd", "bzip2": b"BZh"}


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Inside ``with``, whatever a damaged or missing file raises is one line.

    Raises:
        ConfigError: the file and the reason.
    """
    try:
        yield
    except _FAULTS as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        msg = f"{path}: {reason}"
        raise ConfigError(msg) from error


@contextlib.contextmanager
def open_bytes(path: Path) -> Iterator[IO[bytes]]:
    """The file's bytes, decompressed; its form is told by its first bytes, not by its name.

    Raises:
        ConfigError: missing, unreadable, cut short or damaged.
    """
    with reading(path), path.open("rb") as raw:
        start = raw.read(6)
        raw.seek(0)
        form = next((name for name, magic in _MAGIC.items() if start.startswith(magic)), None)
        with _decompressed(raw, form) as stream:
            yield stream


def _decompressed(raw: IO[bytes], form: str | None) -> contextlib.AbstractContextManager[IO[bytes]]:
    if form == "gzip":
        return cast("IO[bytes]", gzip.open(raw))
    if form == "xz":
        return lzma.open(raw)
    if form == "bzip2":
        return bz2.open(raw)
    if form == "zstd":
        reader = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True)
        return io.BufferedReader(cast("io.RawIOBase", reader))
    return contextlib.nullcontext(raw)


def text_lines(stream: IO[bytes], name: str) -> Iterator[str]:
    """The lines of a UTF-8 stream without their ends; only LF and CR LF end a line.

    Raises:
        ConfigError: a line is not UTF-8; the message names it.
    """
    for number, line in enumerate(stream, start=1):
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            msg = f"{name}:{number}: not UTF-8"
            raise ConfigError(msg) from error
        yield text.removeprefix("\ufeff").rstrip("\r\n")
