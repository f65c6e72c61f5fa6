"""Looks for the highest rate at which the objective holds: up in steps, then in between."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from loadtest.point import Point

_MOST_DOWN = 12


@dataclass(slots=True)
class Sweep:
    """One system's search; ask :meth:`next_rate`, measure, :meth:`add`, until there is none.

    It is asked from outside so that several systems can take turns.
    """

    rate: float
    """Where to begin, requests a second."""
    factor: float = 1.5
    refinements: int = 3
    highest: float = math.inf
    expected: float = 0.0
    """What surely holds on a quiet machine: a rate below it that misses is tried once more."""
    points: list[Point] = field(default_factory=list)

    def next_rate(self) -> float | None:
        """The next rate to try; None when it is known well enough."""
        if not self.points:
            return self.rate
        last = self.points[-1].rate
        if not self._held[last] and last < self.expected and self._times(last) == 1:
            return last
        missed = self._missed
        if not missed:
            return None if last >= self.highest else min(last * self.factor, self.highest)
        if not self.best_rate:
            return None if len(self.points) > _MOST_DOWN else min(missed) / self.factor
        if self._refined() >= self.refinements:
            return None
        # The geometric mean halves the ratio that is left.
        return math.sqrt(self.best_rate * min(missed))

    def add(self, point: Point) -> None:
        """Take what was measured at the rate asked for."""
        self.points.append(point)

    @property
    def best(self) -> Point | None:
        """The point of the highest rate that holds, no lower one having missed."""
        missed = self._missed
        sure = [
            one for one in self.points if one.holds and one.rate < min(missed, default=math.inf)
        ]
        return max(sure, key=lambda one: one.rate, default=None)

    @property
    def best_rate(self) -> float:
        """Its rate; 0 if none holds."""
        return self.best.rate if self.best else 0.0

    @property
    def _held(self) -> dict[float, bool]:
        """By rate, in the order in which they were tried first: whether it ever held."""
        found: dict[float, bool] = {}
        for one in self.points:
            found[one.rate] = found.get(one.rate, False) or one.holds
        return found

    @property
    def _missed(self) -> list[float]:
        return [rate for rate, held in self._held.items() if not held]

    def _times(self, rate: float) -> int:
        return sum(one.rate == rate for one in self.points)

    def _refined(self) -> int:
        """Rates tried since one had held and one had missed."""
        outcomes = list(self._held.values())
        for number in range(len(outcomes)):
            if len(set(outcomes[: number + 1])) > 1:
                return len(outcomes) - number - 1
        return 0
