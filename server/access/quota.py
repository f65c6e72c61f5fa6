"""How much a caller may use: token buckets (RFC 2697's kind), and requests side by side."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Literal

from server.errors import QuotaExceeded

Unit = Literal["requests", "characters", "tokens"]
PERIODS = {"minute": 60.0, "day": 86_400.0}
# A caller at its limit of requests side by side may ask again soon: one of them will end.
_CONCURRENT_RETRY_SECONDS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one caller may use; None = as much as there is."""

    requests_per_minute: int | None = None
    characters_per_minute: int | None = None
    """Of source text, counted before anything is computed."""
    characters_per_day: int | None = None
    tokens_per_minute: int | None = None
    """Read and written, known when an answer is done: it may go over, and the next waits."""
    tokens_per_day: int | None = None
    concurrent_requests: int | None = None

    def rates(self) -> Iterator[tuple[Unit, str, int]]:
        """What is counted, in which period, and how much of it."""
        for one in fields(self):
            unit, _, period = one.name.partition("_per_")
            limit = getattr(self, one.name)
            if period and limit is not None:
                yield unit, period, limit  # type: ignore[misc]


@dataclass(slots=True)
class Bucket:
    """So many units a period: full at first, refilled evenly, never above full."""

    size: float
    period_seconds: float
    updated: float
    """Monotonic seconds."""
    level: float = field(init=False)
    """Below zero where more was used than there was."""

    def __post_init__(self) -> None:
        """Fill it."""
        self.level = self.size

    def refill(self, now: float) -> None:
        """Add what has come since the last time."""
        gained = (now - self.updated) * self.size / self.period_seconds
        self.level = min(self.size, self.level + gained)
        self.updated = now

    def wait_seconds(self, amount: float) -> float:
        """Until ``amount`` can be taken; 0 if it can be now."""
        return max(0.0, amount - self.level) * self.period_seconds / self.size


class Quota:
    """What one caller has used. For one thread: the event loop's."""

    def __init__(self, name: str, limits: Limits, now: float) -> None:
        """Begin with full buckets."""
        self._name = name
        self.limits = limits
        self._running = 0
        self._characters = 0
        self._buckets: list[tuple[Unit, str, Bucket]] = [
            (unit, period, Bucket(float(limit), PERIODS[period], now))
            for unit, period, limit in limits.rates()
        ]

    def begin(self, now: float) -> None:
        """Count a request.

        Raises:
            QuotaExceeded: as many run as may, or too many came, or tokens are owed.
        """
        limit = self.limits.concurrent_requests
        if limit is not None and self._running >= limit:
            message = f"{limit} requests of '{self._name}' are in flight, as many as may be"
            raise QuotaExceeded(message, self._name, _CONCURRENT_RETRY_SECONDS)
        # Of tokens nobody knows beforehand how many it will be: one must be left.
        self._check({"requests": 1, "tokens": 1}, now)
        self.use(1, "requests")
        self._running += 1

    def end(self) -> None:
        """A request has ended."""
        self._running -= 1

    def take_characters(self, count: int, now: float) -> None:
        """Count source text.

        Raises:
            QuotaExceeded: it is more than is left; nothing was counted.
        """
        self._check({"characters": count}, now)
        self.use(count, "characters")

    def use(self, count: int, unit: Unit) -> None:
        """Count what has been used already; a negative number gives it back."""
        if unit == "characters":
            self._characters += count
        for of, _, bucket in self._buckets:
            if of == unit:
                bucket.level = min(bucket.size, bucket.level - count)

    def characters(self, now: float) -> tuple[int, int | None]:
        """Characters used of a day's, and how many those are; with no such limit all, and None."""
        for unit, period, bucket in self._buckets:
            if unit == "characters" and period == "day":
                bucket.refill(now)
                return math.ceil(bucket.size - bucket.level), int(bucket.size)
        return self._characters, None

    def _check(self, amounts: dict[Unit, int], now: float) -> None:
        """Refuse unless every bucket holds its amount."""
        for unit, period, bucket in self._buckets:
            amount = amounts.get(unit)
            if amount is None:
                continue
            bucket.refill(now)
            share = f"{bucket.size:.0f} {unit} a {period}"
            if amount > bucket.size:
                message = f"{amount} {unit} at once are more than '{self._name}' may use: {share}"
                raise QuotaExceeded(message, self._name)
            wait = bucket.wait_seconds(amount)
            if wait:
                message = f"'{self._name}' has used its {share}"
                raise QuotaExceeded(message, self._name, wait)
