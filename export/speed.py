"""How fast a precision is beside float32: the other half of what it is chosen by."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

_TURNS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """The same sentences by one engine of one thread, greedily, in both precisions."""

    sentences: int
    seconds: float
    seconds_float32: float

    def __str__(self) -> str:
        """A line for tables and cards."""
        return (
            f"{self.seconds_float32 / self.seconds:.2f} times as fast as float32 "
            f"({self.sentences} sentences in {self.seconds:.3g} s and {self.seconds_float32:.3g} s)"
        )


def speed_in_turns(
    sentences: int, ours: Callable[[], object], float32: Callable[[], object]
) -> Speed:
    """The shortest time of each, taken in turns, so that what else the machine does hits both."""
    taken = [(_seconds(ours), _seconds(float32)) for _ in range(_TURNS)]
    best, exact = (min(times) for times in zip(*taken, strict=True))
    return Speed(sentences=sentences, seconds=best, seconds_float32=exact)


def _seconds(translate: Callable[[], object]) -> float:
    start = time.perf_counter()
    translate()
    return time.perf_counter() - start
