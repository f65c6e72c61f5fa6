"""When requests arrive: an open loop, where nobody waits for an answer to ask the next thing."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Literal

Arrivals = Literal["poisson", "bursty", "even"]

# A tenth of the time four times as much arrives; the rest makes up for it.
_BURST_SHARE, _BURST_FACTOR, _BURST_SECONDS = 0.1, 4.0, 0.25
_QUIET_FACTOR = (1 - _BURST_SHARE * _BURST_FACTOR) / (1 - _BURST_SHARE)


def arrival_times(kind: Arrivals, rate: float, seconds: float, seed: int) -> list[float]:
    """Seconds from the start at which requests arrive.

    Args:
        kind: ``poisson``: at random, independent of each other; ``bursty``: the same, at a rate
            that is four times as high in bursts of a quarter of a second (a two-state
            Markov-modulated Poisson process); ``even``: at equal distances.
        rate: requests a second on average.
        seconds: how long.
        seed: the same seed gives the same times.
    """
    draw = random.Random(seed)  # noqa: S311  the same arrivals each time
    return list(_UNTIL[kind](rate, seconds, draw))


def _poisson(rate: float, seconds: float, draw: random.Random) -> Iterator[float]:
    now = draw.expovariate(rate)
    while now < seconds:
        yield now
        now += draw.expovariate(rate)


def _bursty(rate: float, seconds: float, draw: random.Random) -> Iterator[float]:
    start, burst = 0.0, False
    while start < seconds:
        share = _BURST_SHARE if burst else 1 - _BURST_SHARE
        length = draw.expovariate(_BURST_SHARE / (_BURST_SECONDS * share))
        factor = _BURST_FACTOR if burst else _QUIET_FACTOR
        end = min(seconds, start + length)
        for offset in _poisson(rate * factor, end - start, draw):
            yield start + offset
        start, burst = end, not burst


def _even(rate: float, seconds: float, draw: random.Random) -> Iterator[float]:
    del draw
    return (number / rate for number in range(int(rate * seconds)))


_UNTIL: dict[Arrivals, Callable[[float, float, random.Random], Iterator[float]]] = {
    "poisson": _poisson,
    "bursty": _bursty,
    "even": _even,
}
