"""Whether calls stand in a queue that nobody sees, in gRPC's core, before a handler begins.

The core hands over one call at a time, and each takes several rounds of the event loop. Where more
come than that, they grow old there: of a deadline of one second most was over when a handler
began, and a refusal came as late. As in CoDel (Nichols and Jacobson 2012, "Controlling Queue
Delay") what counts is not that there is a queue but that it does not go away: a burst empties it
soon. Calls that have a deadline are then refused in the cheapest way there is, until it has been
empty once.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable

_PRESSED_SECONDS = 1.0
"""For so long after a request was refused for want of room or time there is an overload."""
_STANDING_SECONDS, _FEW = 0.02, 8
"""For so long, and for more calls than so many, a queue may go without being empty."""
_PAUSE_SECONDS = 0.003
_ROUNDS = 8
"""Of the event loop, after a pause: the core needs five to hand over a call that waits."""
_MEMORY_SECONDS = 1.0


class StandingQueue:
    """What is known of the queue before the handlers. Used in one event loop."""

    def __init__(self) -> None:
        """No overload."""
        self._pressed_until = self._came_last = self._empty_last = 0.0
        self._came = self._came_when_empty = 0
        self._looking = False
        self._shares = _Shares()

    def refused(self) -> None:
        """A request was refused because there is too much to do."""
        now = time.monotonic()
        if now >= self._pressed_until:
            self._empty(now)
        self._pressed_until = now + _PRESSED_SECONDS
        if not self._looking:
            self._looking = True
            self._look_later()

    def sheds(self, tenant: Callable[[], str]) -> bool:
        """Note a call that has come out of the queue; whether to refuse it at once.

        Args:
            tenant: says whose it is; asked under overload alone. Who sends less than the mean is
                not refused for the flood of another.
        """
        self._came += 1
        self._came_last = now = time.monotonic()
        if now >= self._pressed_until:
            return False
        many = self._shares.add(tenant(), now)
        stands = now - self._empty_last > _STANDING_SECONDS
        return stands and many and self._came - self._came_when_empty > _FEW

    def _empty(self, now: float) -> None:
        self._empty_last, self._came_when_empty = now, self._came

    def _look_later(self) -> None:
        asyncio.get_running_loop().call_later(_PAUSE_SECONDS, self._look)

    def _look(self) -> None:
        """See whether nobody has come for a while, and watch the next rounds if so."""
        now = time.monotonic()
        if now >= self._pressed_until:
            self._looking = False
        elif now - self._came_last < _PAUSE_SECONDS:
            self._look_later()
        else:
            self._round(_ROUNDS, self._came)

    def _round(self, left: int, came: int) -> None:
        """One of the rounds in which a call would have come if one had waited."""
        if left and came == self._came:
            asyncio.get_running_loop().call_soon(self._round, left - 1, came)
            return
        if came == self._came:
            self._empty(time.monotonic())
        self._look_later()


class _Shares:
    """Who has sent how much of late. Tenants are as many as callers are told apart."""

    def __init__(self) -> None:
        self._calls: Counter[str] = Counter()
        self._total = 0
        self._fades = 0.0

    def add(self, tenant: str, now: float) -> bool:
        """Count a call; whether its tenant has sent as much as the mean, or more."""
        if now >= self._fades:
            faded = {whose: calls // 2 for whose, calls in self._calls.items() if calls > 1}
            self._calls, self._total = Counter(faded), sum(faded.values())
            self._fades = now + _MEMORY_SECONDS
        self._calls[tenant] += 1
        self._total += 1
        return self._calls[tenant] * len(self._calls) >= self._total
