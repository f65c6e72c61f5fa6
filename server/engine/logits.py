"""The scores of the next tokens, and the quick questions that a search asks of them.

Most steps want the largest few of thousands. The largest of each block of tokens, which the graph
gives along, say which blocks to look into.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from server.engine.request import FloatArray

BLOCK = 64
"""Tokens of a block; the exporter gives the graph as many logits as fill whole blocks."""


_ROWS = 8


class Logits:
    """One step's logits of every row, which filters may change in place."""

    def __init__(self, values: FloatArray, maxima: FloatArray) -> None:
        """Take them over.

        Args:
            values: [B, V], where V is a multiple of BLOCK.
            maxima: [B, V / BLOCK], the largest of each block.
        """
        self.values = values
        self._maxima = maxima
        self._blocks = values.reshape(len(values), -1, BLOCK)

    @classmethod
    def of(cls, values: FloatArray) -> Logits:
        """Of [B, V] for any V; what fills the last block can never be chosen."""
        missing = -values.shape[1] % BLOCK
        padded = np.pad(values, ((0, 0), (0, missing)), constant_values=-np.inf)
        return cls(padded, padded.reshape(len(values), -1, BLOCK).max(axis=2))

    def __len__(self) -> int:
        """Rows."""
        return len(self.values)

    def forbid(self, tokens: list[int]) -> None:
        """Take tokens out, in every row."""
        self.values[:, tokens] = -np.inf
        for block in {token // BLOCK for token in tokens}:
            self._maxima[:, block] = self._blocks[:, block].max(axis=1)

    def changed(self, row: int) -> None:
        """A row of ``values`` has been written to."""
        self._maxima[row] = self._blocks[row].max(axis=1)

    def argmax(self) -> NDArray[np.int64]:
        """The likeliest token of each row; of equals the first."""
        best = self._maxima.argmax(axis=1)
        inside = self._blocks[np.arange(len(best)), best].argmax(axis=1)
        tokens: NDArray[np.int64] = best * BLOCK + inside
        return tokens

    def largest(
        self, rows: list[int], count: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], FloatArray]:
        """The ``count`` largest finite logits of each of these rows, and a few more.

        Exact: the count-th largest of the maxima is never above the count-th largest value.

        Returns:
            Index into ``rows``, ascending; token; value; each [number found].
        """
        maxima = self._maxima[rows]
        if maxima.shape[1] > count:
            place = maxima.shape[1] - count
            limits = np.partition(maxima, place, axis=1)[:, place]
        else:
            limits = np.full(len(rows), -np.inf, np.float32)
        limits = np.maximum(limits, np.finfo(np.float32).min)
        at, blocks = np.nonzero(maxima >= limits[:, None])
        values = self._blocks[np.asarray(rows)[at], blocks]
        which, inside = np.nonzero(values >= limits[at, None])
        return at[which], blocks[which] * BLOCK + inside, values[which, inside]

    def log_sum_exp(self, rows: list[int]) -> NDArray[np.float64]:
        """log(sum(exp(row))) of each of these rows, without overflow."""
        highest = self._maxima[rows].max(axis=1)
        sums = np.empty(len(rows), np.float64)
        for start in range(0, len(rows), _ROWS):  # few enough at once to stay in the cache
            chosen = rows[start : start + _ROWS]
            values = self.values[chosen]
            values -= highest[start : start + _ROWS, None]
            np.exp(values, out=values)
            sums[start : start + _ROWS] = values.sum(axis=1)
        total: NDArray[np.float64] = np.log(sums) + highest
        return total
