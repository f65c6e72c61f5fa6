"""How much is in flight between a request's arrival and its answer, and how fast that is done.

The engines know their own line. Where the event loop is the narrower place (small calls, quick
models) the line is short and says nothing: requests wait for their turn to be split, and answers
to be put together. What is counted here is all of it, from the first look to the result; what would
be late at that rate is refused before anything is done for it. Used in one event loop.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator

from server.engine.admission import Rate, Stretch
from server.errors import Overloaded

_BUSY = 8
"""While so many requests are in flight it is the server that sets the pace, not the callers."""
_LAST_SECONDS = 0.05
"""What comes after the result: the message, the way back, the caller's own."""
_RETRY_SECONDS = (0.05, 10.0)


class Pressure:
    """The interactive requests of one model; bulk work has the engines' own line."""

    def __init__(self) -> None:
        """Know nothing: until something is measured nothing is refused."""
        self._costs: Counter[str] = Counter()
        """Characters in flight, by tenant."""
        self._requests = 0
        self._rate = Rate()
        self._stretch = Stretch()

    @property
    def busy(self) -> bool:
        """Whether any request is in flight."""
        return self._requests > 0

    def check(self, cost: int, tenant: str, deadline: float | None) -> float:
        """How long a request will take, about; 0 while nothing is known.

        Args:
            cost: its characters.
            tenant: whose it is; others' work is counted up to as much as the tenant has itself.
            deadline: monotonic seconds.

        Raises:
            Overloaded: that would be too long.
        """
        own = self._costs[tenant] + cost
        others = (min(own, theirs) for whose, theirs in self._costs.items() if whose != tenant)
        seconds = self._rate.seconds(own + sum(others))
        late = time.monotonic() + self._stretch.value * seconds + _LAST_SECONDS
        if deadline is not None and seconds and late > deadline:
            low, high = _RETRY_SECONDS
            msg = "the deadline would pass before this could be done"
            raise Overloaded(msg, retry_after_seconds=min(high, max(low, seconds)))
        return seconds

    @contextlib.contextmanager
    def flight(self, cost: int, tenant: str, estimate: float) -> Iterator[None]:
        """Count a request in until it is done.

        Args:
            cost: its characters.
            tenant: whose it is.
            estimate: what :meth:`check` said of it.
        """
        start, done = time.monotonic(), 0
        self._costs[tenant] += cost
        self._requests += 1
        try:
            yield
            done = cost
        finally:
            now = time.monotonic()
            self._rate.add(done, now, busy=self._requests >= _BUSY)
            self._stretch.took(now - start, estimate)
            self._requests -= 1
            self._costs[tenant] -= cost
            if not self._costs[tenant]:
                del self._costs[tenant]
