"""SIGTERM ends a measurement as Ctrl-C does: what it started goes with it."""

from __future__ import annotations

import multiprocessing
import signal
import sys
from types import FrameType


def end_on_sigterm() -> None:
    """From now on SIGTERM unwinds the main thread, so that servers are stopped; exit status 143."""
    signal.signal(signal.SIGTERM, _end)


def _end(number: int, frame: FrameType | None) -> None:
    del frame
    signal.signal(number, signal.SIG_IGN)  # once is enough; the way out may take a moment
    # Their pools would wait until the load has ended.
    for child in multiprocessing.active_children():
        child.terminate()
    sys.exit(128 + number)
