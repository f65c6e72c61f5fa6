"""Long work in the event loop, in slices: who waits for a single sentence gets turns between."""

from __future__ import annotations

import asyncio
import time

_SLICE_SECONDS = 0.002


class Pace:
    """The pace of one long piece of work."""

    def __init__(self) -> None:
        """Begin the first slice."""
        self._until = time.monotonic() + _SLICE_SECONDS

    async def pause(self) -> None:
        """Let others have a turn if the slice is over."""
        if time.monotonic() >= self._until:
            await asyncio.sleep(0)
            self._until = time.monotonic() + _SLICE_SECONDS
