"""The scores of the next tokens, and the quick questions that a search asks of them.

Most steps want the largest few of thousands. The largest of each block of tokens, which the graph
gives along, say which blocks to look into.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from server.engine.branching import Branching, Step, branch
from server.engine.log_sums import log_sums
from server.engine.request import FloatArray

BLOCK = 64
"""Tokens of a block; the exporter gives the graph as many logits as fill whole blocks."""


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
        for token in tokens:  # two calls on columns are quicker than one on a list of them
            self.values[:, token] = -np.inf
        for block in {token // BLOCK for token in tokens}:
            self._blocks[:, block].max(axis=1, out=self._maxima[:, block])

    def changed(self, row: int) -> None:
        """A row of ``values`` has been written to."""
        self._maxima[row] = self._blocks[row].max(axis=1)

    def argmax(self) -> NDArray[np.int64]:
        """The likeliest token of each row; of equals the first."""
        best = self._maxima.argmax(axis=1)
        inside = self._blocks[np.arange(len(best)), best].argmax(axis=1)
        tokens: NDArray[np.int64] = best * BLOCK + inside
        return tokens

    def best(self) -> int:
        """The likeliest token of the only row: one look at all is quicker than two at few."""
        return int(self.values.argmax())

    def log_sums(self, rows: list[int]) -> FloatArray:
        """log(sum(exp(logits))) of each of these rows [R]."""
        chosen = _together(rows)
        return log_sums(self.values[chosen], self._maxima[chosen])

    def branch(self, step: Step, end: int) -> Branching:
        """Extend the hypotheses of beams."""
        return branch(self.values, self._maxima, step, end)


def _together(rows: list[int]) -> list[int] | slice:
    """Rows side by side as a slice, which copies nothing."""
    first, last = rows[0], rows[-1]
    return slice(first, last + 1) if rows == list(range(first, last + 1)) else rows
