"""Long work in the event loop, in slices: who waits for a single sentence gets turns between."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

_SLICE_SECONDS = 0.0005
"""A request takes about ten rounds of the event loop, and each may be as long as a slice."""
_REST_SECONDS = 0.001
"""Without work in the event loop, an engine's thread gets the interpreter at once."""


class Pace:
    """The pace of one long piece of work."""

    def __init__(self, pressed: Callable[[], bool] = lambda: False) -> None:
        """Begin the first slice.

        Args:
            pressed: whether somebody who goes first is there; then pauses are rests.
        """
        self._pressed = pressed
        self._until = time.monotonic() + _SLICE_SECONDS

    async def pause(self) -> None:
        """Let others have a turn if the slice is over."""
        if time.monotonic() >= self._until:
            await asyncio.sleep(_REST_SECONDS if self._pressed() else 0)
            self._until = time.monotonic() + _SLICE_SECONDS


class Turns:
    """At most one piece of work in each round of the event loop; the others wait in a line.

    gRPC takes in one request a round: the longer a round, the longer a request waits before
    anybody can refuse it.
    """

    def __init__(self) -> None:
        """Nobody waits. Used in one event loop."""
        self._line: deque[asyncio.Future[None]] = deque()
        self._taken = False

    async def take(self) -> None:
        """Wait for a turn, which is used up by what is done until the next pause."""
        if not self._taken:
            self._taken = True
            asyncio.get_running_loop().call_soon(self._next)
            return
        turn = asyncio.get_running_loop().create_future()
        self._line.append(turn)
        await turn

    def _next(self) -> None:
        """A round is over: whose turn is it."""
        while self._line:
            turn = self._line.popleft()
            if not turn.done():  # who left while waiting takes no turn
                turn.set_result(None)
                asyncio.get_running_loop().call_soon(self._next)
                return
        self._taken = False
