"""How far a file is: a bar where tqdm is installed, else a counter; on a terminal only."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Protocol, Self


class Progress(Protocol):
    """What counts."""

    def update(self, n: int = 1) -> object:
        """Count more."""

    def __enter__(self) -> Self:
        """Begin."""
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> object:
        """End the line."""


class Counter:
    """A line on standard error: 12/340 segments."""

    def __init__(self, total: int, done: int) -> None:
        """Set how many there are, and are done."""
        self._total, self._done = total, done
        self._shown = sys.stderr is not None and sys.stderr.isatty()

    def update(self, n: int = 1) -> None:
        """Count more."""
        self._done += n
        if self._shown:
            print(f"\r{self._done}/{self._total} segments", end="", file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        """Show where it begins."""
        self.update(0)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the line."""
        if self._shown:
            print(file=sys.stderr)


def progress(total: int, done: int) -> Progress:
    """A bar that begins with what was done before."""
    try:
        from tqdm import tqdm  # noqa: PLC0415  may not be installed
    except ModuleNotFoundError:
        return Counter(total, done)
    bar: Progress = tqdm(total=total, initial=done, unit="segment", disable=None)
    return bar
