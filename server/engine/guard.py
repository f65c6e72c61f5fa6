"""Stops outputs that go round in circles, a few periods after they begin to.

A token that equals the one p steps before it, again and again, is a loop of period p. Other
outputs stir a handful of tokens without a period ("z  z   z  d   z"): what gives them away is how
few different pairs of neighbours they have. What is found depends on the output's own tokens alone.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from server.engine.request import Sequence

PERIODS = 8
"""The longest loop that is looked for, in tokens."""
_LEAST = 16
_PATIENCE = [max(_LEAST, 4 * period) for period in range(1, PERIODS + 1)]
"""Repeated tokens of each period 1..8 that make a loop; "no, no, no" and 10,000,000 are none."""
_NO_RUNS = [0] * PERIODS
_MORE = 16
"""At most so many more, where the source itself repeats."""

WINDOW = 32
"""Tokens in a row among which pairs of neighbours are counted."""
_FEW_PAIRS = 13
"""So many different pairs in a window, or fewer, are a loop: 3,561 reference translations of
everyday talk, law and news have 20 or more in every one of their windows."""
_EVERY = 8
"""Pairs are counted at every so manieth token."""


class Guard:
    """Watches the outputs of one engine; those of a beam are judged in ``circling.py``."""

    def __init__(self) -> None:
        """Remember nothing of anybody."""
        self._watches: dict[int, Watch] = {}

    def watch(self, sequence: Sequence) -> None:
        """From now on look at its output; its source says how much repetition is in order."""
        self._watches[sequence.number] = Watch(sequence.source_ids)

    def of(self, sequence: Sequence) -> Watch | None:
        """What watches it."""
        return self._watches.get(sequence.number)

    def forget(self, sequence: Sequence) -> None:
        """It has ended."""
        self._watches.pop(sequence.number, None)

    def step(self, tokens: Iterable[int], owners: Iterable[Sequence]) -> list[int]:
        """Take the token of each row in; returns the rows that go round in circles."""
        watches = self._watches
        if not watches:
            return []
        return [
            row
            for row, (token, owner) in enumerate(zip(tokens, owners, strict=True))
            if (watch := watches.get(owner.number)) is not None and watch.step(token)
        ]


class Watch:
    """Watches one output, token by token, in plain Python.

    A dozen calls of numpy for all rows at once cost more, unless there are hundreds: hardly any
    token is one of the last few, and only then there is something to count.
    """

    __slots__ = "_ids", "_limits", "_patience", "_runs", "_source_ids"

    def __init__(self, source_ids: NDArray[np.int64]) -> None:
        """Begin with no token; the source is looked at when it matters, which is seldom."""
        self._source_ids = source_ids
        self._ids: list[int] = []
        self._runs = _NO_RUNS
        """Repeated tokens of each period, so far."""
        self._limits: list[int] | None = None
        self._patience = WINDOW
        """From which step on pairs are counted; the source may put it off when it is reached."""

    def step(self, token: int) -> bool:
        """Take a token in; whether the output goes round in circles."""
        ids, looping = self._ids, False
        if token in ids[-PERIODS:]:
            self._runs = [
                run + 1 if before == token else 0
                for run, before in zip(self._runs, ids[: -PERIODS - 1 : -1], strict=False)
            ]
            self._runs += _NO_RUNS[len(self._runs) :]
            looping = max(self._runs) >= _LEAST and any(
                map(operator.ge, self._runs, self._limits or self._limits_of_source())
            )
        elif self._runs is not _NO_RUNS:
            self._runs = _NO_RUNS
        ids.append(token)
        if looping:
            return True
        steps = len(ids)
        return steps >= self._patience and not steps % _EVERY and self._stirs(steps)

    def _limits_of_source(self) -> list[int]:
        more = min(_MORE, longest_run(self._source_ids))
        self._limits = [least + more for least in _PATIENCE]
        return self._limits

    def _stirs(self, steps: int) -> bool:
        """Whether the last tokens are the same few again and again."""
        if _pairs(self._ids[-WINDOW:]) > _FEW_PAIRS:
            return False
        if monotonous(self._source_ids):
            self._patience = WINDOW + len(self._source_ids)
        return steps >= self._patience


def _pairs(window: list[int]) -> int:
    """How many different pairs of neighbours a ring of tokens has."""
    return len(set(zip(window, [*window[1:], window[0]], strict=True)))


def monotonous(ids: NDArray[np.int64]) -> bool:
    """Whether most pairs of neighbours have come before: a translation may be so too."""
    neighbours = list(itertools.pairwise(ids.tolist()))
    return 2 * len(set(neighbours)) <= len(neighbours)


def longest_run(ids: NDArray[np.int64]) -> int:
    """Most tokens in a row that equal the one p before them, for any period p up to PERIODS."""
    longest, tokens = 0, ids.tolist()
    for period in range(1, min(PERIODS, len(tokens) - 1) + 1):
        again = list(map(operator.eq, tokens[period:], tokens))
        if True in again:
            runs = (sum(1 for _ in run) for equal, run in itertools.groupby(again) if equal)
            longest = max(longest, *runs)
    return longest


def without_loop(ids: list[int]) -> list[int]:
    """The ids without the loop that they end in, if there is one.

    One with a period is cut to its first period, one without where it had begun to repeat itself.
    """
    for period in range(1, PERIODS + 1):
        end = len(ids)
        while end - 1 - period >= 0 and ids[end - 1] == ids[end - 1 - period]:
            end -= 1
        if len(ids) - end >= 2 * period:
            return ids[:end]
    end = len(ids)
    while end >= WINDOW and _pairs(ids[end - WINDOW : end]) <= _FEW_PAIRS:
        end -= 1
    return ids if end == len(ids) else ids[: end + 1 - WINDOW + _FEW_PAIRS]
