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
_LEAST = float(np.finfo(np.float32).min)


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

    def best(
        self, rows: NDArray[np.int64], offsets: NDArray[np.float64], count: int
    ) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
        """The ``count`` largest of each group of rows, an offset added to all logits of a row.

        Exact: the count-th largest of a group's maxima is never above its count-th largest value,
        so that only the blocks of those maxima are looked into.

        Args:
            rows: [G, K], the rows of each group; a row whose offset is -inf has no part in it.
            offsets: [G, K].
            count: of each group; fewer are found where fewer are finite.

        Returns:
            Value, place in the group, token; each [G, count], best first, equal ones by place and
            token. What is missing is -inf.
        """
        maxima = self._maxima[rows] + offsets[:, :, None]
        flat = maxima.reshape(len(rows), -1)
        limits = np.full(len(rows), _LEAST)
        if flat.shape[1] > count:
            place = flat.shape[1] - count
            limits = np.maximum(limits, np.partition(flat, place, axis=1)[:, place])
        groups, places, blocks = np.nonzero(maxima >= limits[:, None, None])
        values = self._blocks[rows[groups, places], blocks] + offsets[groups, places, None]
        which, inside = np.nonzero(values >= limits[groups, None])
        groups, places = groups[which], places[which]
        tokens, scores = blocks[which] * BLOCK + inside, values[which, inside]
        # Found by group, place and token: a stable sort leaves equal ones in that order.
        order = np.argsort(-scores, kind="stable")
        order = order[np.argsort(groups[order], kind="stable")]
        starts = np.searchsorted(groups, np.arange(len(rows)))
        rank = np.arange(len(order)) - starts[groups]
        kept = rank < count
        order, at = order[kept], (groups[kept], rank[kept])
        best = np.full((len(rows), count), -np.inf)
        best[at] = scores[order]
        found = np.zeros((2, len(rows), count), np.int64)
        found[0][at], found[1][at] = places[order], tokens[order]
        return best, found[0], found[1]

    def log_sum_exp(self, rows: list[int]) -> NDArray[np.float64]:
        """log(sum(exp(row))) of each of these rows, without overflow."""
        highest = self._maxima[rows].max(axis=1)
        sums = np.empty(len(rows), np.float64)
        room = np.empty((_ROWS, self.values.shape[1]), np.float32)
        for start in range(0, len(rows), _ROWS):  # few enough at once to stay in the cache
            chosen = rows[start : start + _ROWS]
            values = room[: len(chosen)]
            np.subtract(
                self.values[_together(chosen)], highest[start : start + _ROWS, None], out=values
            )
            np.exp(values, out=values)
            sums[start : start + _ROWS] = values.sum(axis=1)
        total: NDArray[np.float64] = np.log(sums) + highest
        return total


def _together(rows: list[int]) -> list[int] | slice:
    """Rows side by side as a slice, which copies nothing."""
    first, last = rows[0], rows[-1]
    return slice(first, last + 1) if rows == list(range(first, last + 1)) else rows
