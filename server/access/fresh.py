"""What was read from files, read again when they change; a faulty change is logged, not taken."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from server.errors import SettingsFault

logger = logging.getLogger(__name__)

_Read = TypeVar("_Read")
Stamp = tuple[tuple[int, int, int] | None, ...]


class Fresh(Generic[_Read]):
    """A value that follows its files, looked at no more often than every so many seconds."""

    def __init__(
        self, paths: list[Path], read: Callable[[], _Read], *, look_seconds: float = 1.0
    ) -> None:
        """Read it.

        Raises:
            SettingsFault: the files cannot be used.
        """
        self._paths = paths
        self._read = read
        self._look_seconds = look_seconds
        self._stamp = self._now()
        self._value = read()
        self._looked = time.monotonic()

    def get(self) -> _Read:
        """The value, of the files as they were at most ``look_seconds`` ago."""
        now = time.monotonic()
        if now - self._looked >= self._look_seconds:
            self._looked = now
            self.look()
        return self._value

    def look(self) -> bool:
        """Read the files again if they have changed; whether the value is another now.

        Of a change in several steps, as certificate and key are written one after the other, what
        does not fit together is not taken, and looked at again.
        """
        stamp = self._now()
        if stamp == self._stamp:
            return False
        try:
            self._value = self._read()
        except SettingsFault as error:
            logger.error("%s; what was read before stays in force", error)  # noqa: TRY400
            self._stamp = stamp
            return False
        self._stamp = stamp
        logger.info("%s: read again", ", ".join(path.name for path in self._paths))
        return True

    def _now(self) -> Stamp:
        return tuple(_stamp(path) for path in self._paths)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
