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
    points: list[Point] = field(default_factory=list)

    def next_rate(self) -> float | None:
        """The next rate to try; None when it is known well enough."""
        if not self.points:
            return self.rate
        missed = [one.rate for one in self.points if not one.holds]
        if not missed:
            last = self.points[-1].rate
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
        ordered = sorted(self.points, key=lambda one: one.rate)
        held = [one for one in ordered if one.holds]
        missed = [one.rate for one in ordered if not one.holds]
        sure = [one for one in held if not missed or one.rate < min(missed)]
        return sure[-1] if sure else None

    @property
    def best_rate(self) -> float:
        """Its rate; 0 if none holds."""
        return self.best.rate if self.best else 0.0

    def _refined(self) -> int:
        """Points measured since one had held and one had missed."""
        for number in range(len(self.points)):
            if len({one.holds for one in self.points[: number + 1]}) > 1:
                return len(self.points) - number - 1
        return 0
