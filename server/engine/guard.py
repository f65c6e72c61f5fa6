"""Stops outputs that go round in circles, a few periods after they begin to.

A token that equals the one p steps before it, again and again, is a loop of period p. Other
outputs stir a handful of tokens without a period ("z  z   z  d   z"): what gives them away is how
few different pairs of neighbours they have. What is remembered of each row moves with it, and all
rows are looked at in one stroke; what is found depends on the row's own tokens alone.
"""

from __future__ import annotations

import itertools
import operator

import numpy as np
from numpy.typing import NDArray

from server.engine.kv_cache import KVCachePool

PERIODS = 8
"""The longest loop that is looked for, in tokens."""
_PATIENCE = np.maximum(16, 4 * np.arange(1, PERIODS + 1))
"""Repeated tokens of each period 1..8 that make a loop; "no, no, no" and 10,000,000 are none."""
_MORE = 16
"""At most so many more, where the source itself repeats."""
_NEVER = 1 << 30

WINDOW = 32
"""Tokens in a row among which pairs of neighbours are counted."""
_FEW_PAIRS = 13
"""So many different pairs in a window, or fewer, are a loop: 3,561 reference translations of
everyday talk, law and news have 20 or more in every one of their windows."""
_EVERY = 8
"""Pairs are counted at every so manieth token of a row."""


class Guard:
    """Watches the rows of one pool."""

    def __init__(self, pool: KVCachePool) -> None:
        """Remember nothing of any row."""
        self._last = pool.column(np.int32, PERIODS, fill=-1)
        """The newest first."""
        self._window = pool.column(np.int32, WINDOW)
        """A ring."""
        self._runs = pool.column(np.int32, PERIODS)
        self._limits = pool.column(np.int32, PERIODS, fill=_NEVER)
        self._steps = pool.column(np.int32)
        self._patience = pool.column(np.int32, fill=_NEVER)
        """From which step on pairs are counted."""

    def watch(self, slot: int, source_ids: NDArray[np.int64]) -> None:
        """From now on look at this row; its source says how much repetition is in order."""
        self._limits[slot] = _PATIENCE + min(_MORE, longest_run(source_ids))
        self._patience[slot] = WINDOW + (len(source_ids) if monotonous(source_ids) else 0)

    def step(self, tokens: NDArray[np.int64]) -> list[int]:
        """Take the tokens [B] of rows 0..B-1 in; returns the rows that go round in circles."""
        rows = len(tokens)
        if (self._patience[:rows] == _NEVER).all():  # nobody is watched
            return []
        last, runs = self._last[:rows], self._runs[:rows]
        again = last == tokens[:, None]
        runs += 1
        runs *= again
        last[:, 1:] = last[:, :-1]
        last[:, 0] = tokens
        looping = runs >= self._limits[:rows]
        found = set(np.flatnonzero(looping.any(axis=1)).tolist()) if looping.any() else set()
        return sorted(found | self._few_pairs(tokens))

    def alone(self) -> Follower | None:
        """What watches row 0 while there is no other; much quicker than :meth:`step`."""
        if self._patience[0] == _NEVER:
            return None
        return Follower(self._last[0], self._window[0], self._runs[0], self._limits[0],
            self._steps[:1], int(self._patience[0]))  # fmt: skip

    def _few_pairs(self, tokens: NDArray[np.int64]) -> set[int]:
        """Take the tokens [B] in; returns the rows that have stirred the same few for long."""
        rows = len(tokens)
        steps = self._steps[:rows]
        self._window[np.arange(rows), steps % WINDOW] = tokens
        steps += 1
        due = np.flatnonzero((steps >= self._patience[:rows]) & (steps % _EVERY == 0))
        if not due.size:
            return set()
        return set(due[_pairs(self._window[due]) <= _FEW_PAIRS].tolist())


class Follower:
    """Watches one row, token by token, as :meth:`Guard.step` would, in plain Python.

    A dozen calls of numpy cost more than the tenth part of a step of one row.
    """

    def __init__(
        self,
        last: NDArray[np.int32],
        window: NDArray[np.int32],
        runs: NDArray[np.int32],
        limits: NDArray[np.int32],
        steps: NDArray[np.int32],
        patience: int,
    ) -> None:
        """Read what is remembered of the row; the arrays are the guard's own."""
        self._arrays = last, runs, steps
        self._window = window
        self._last: list[int] = last.tolist()
        self._runs: list[int] = runs.tolist()
        self._limits: list[int] = limits.tolist()
        self._steps = int(steps[0])
        self._patience = patience

    def step(self, token: int) -> bool:
        """Take a token in; whether the row goes round in circles."""
        if token in self._last:
            self._runs = [
                run + 1 if before == token else 0
                for run, before in zip(self._runs, self._last, strict=True)
            ]
            looping = any(map(operator.ge, self._runs, self._limits))
        else:
            self._runs, looping = [0] * PERIODS, False
        self._last = [token, *self._last[:-1]]
        self._window[self._steps % WINDOW] = token
        self._steps += 1
        if looping:
            return True
        due = self._steps >= self._patience and self._steps % _EVERY == 0
        return due and int(_pairs(self._window[None])[0]) <= _FEW_PAIRS

    def close(self) -> None:
        """Leave the guard what it has to remember."""
        last, runs, steps = self._arrays
        last[:], runs[:], steps[0] = self._last, self._runs, self._steps


def _pairs(windows: NDArray[np.int32]) -> NDArray[np.int64]:
    """How many different pairs of neighbours each ring [B, WINDOW] has; int64 [B]."""
    pairs = (windows.astype(np.int64) << 32) | np.roll(windows, 1, axis=1)
    pairs.sort(axis=1)
    count: NDArray[np.int64] = 1 + np.count_nonzero(pairs[:, 1:] != pairs[:, :-1], axis=1)
    return count


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
    while end >= WINDOW and _pairs(np.array([ids[end - WINDOW : end]], np.int32))[0] <= _FEW_PAIRS:
        end -= 1
    return ids if end == len(ids) else ids[: end + 1 - WINDOW + _FEW_PAIRS]
