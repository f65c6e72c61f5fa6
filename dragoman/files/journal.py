"""What has been translated of a file, so that a command killed at any moment goes on.

Beside OUT stands ``OUT.parts.jsonl``: a line a segment, by the hash of the segment and of all
that its translation depends on. Lines are appended in groups, each forced to disk. Other options
find nothing of theirs in it and lose nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from dragoman.files.document import FileFault, Outcome

_GROUP_LINES = 32
_GROUP_SECONDS = 1.0


def key_of(text: str, options: str) -> str:
    """A segment's name: the same for the same text under the same options."""
    return hashlib.sha256(json.dumps([text, options]).encode()).hexdigest()


class Journal:
    """The lines of one output; open it with :func:`opened`."""

    def __init__(self, file: BinaryIO) -> None:
        """Read what is there; a line that a crash cut short goes."""
        self._file = file
        self._waiting: list[str] = []
        self._written = time.monotonic()
        self.outcomes: dict[str, Outcome] = {}
        whole = 0
        for line in file:
            if not line.endswith(b"\n"):
                break
            whole += len(line)
            with contextlib.suppress(ValueError, LookupError, TypeError):
                entry = json.loads(line)
                remarks = tuple(map(str, entry["remarks"]))
                outcome = Outcome(str(entry["text"]), bool(entry["doubtful"]), remarks)
                self.outcomes[str(entry["key"])] = outcome
        file.truncate(whole)
        file.seek(whole)

    def add(self, key: str, outcome: Outcome) -> None:
        """Keep an outcome; it is on disk a second later, or with those after it."""
        self.outcomes[key] = outcome
        entry = {"key": key, **dataclasses.asdict(outcome)}
        self._waiting.append(json.dumps(entry, ensure_ascii=False) + "\n")
        late = time.monotonic() - self._written > _GROUP_SECONDS
        if late or len(self._waiting) >= _GROUP_LINES:
            self.flush()

    def flush(self) -> None:
        """Force what is waiting to disk."""
        if self._waiting:
            self._file.write("".join(self._waiting).encode())
            self._file.flush()
            os.fsync(self._file.fileno())
            self._waiting.clear()
        self._written = time.monotonic()


def path_of(output: Path) -> Path:
    """Where the journal of an output is."""
    return output.with_name(output.name + ".parts.jsonl")


@contextlib.contextmanager
def opened(output: Path) -> Iterator[Journal]:
    """The journal of an output, which nobody else writes meanwhile.

    Raises:
        FileFault: somebody does.
        OSError: it cannot be written.
    """
    with path_of(output).open("a+b") as file:
        _lock(file, output)
        file.seek(0)
        journal = Journal(file)
        try:
            yield journal
        finally:
            journal.flush()
            if file.tell() == 0:  # nothing to go on from
                path_of(output).unlink(missing_ok=True)


def _lock(file: BinaryIO, output: Path) -> None:
    try:
        import fcntl  # noqa: PLC0415  not on Windows, where two at once are not kept apart
    except ImportError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        msg = f"{output}: another process is at work on it"
        raise FileFault(msg) from error
