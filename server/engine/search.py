"""From logits to tokens: greedy, sampling and forced tokens, row by row in one batch."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from server.engine.request import Choice, Sequence

FloatArray = NDArray[np.float32]


class Search:
    """Chooses the next token of every row; holds the random state of those that sample."""

    def __init__(self, *, eos_id: int, never: Collection[int]) -> None:
        """Set the end token and the tokens that no text has."""
        self._eos_id = eos_id
        self._never = sorted(never)
        self._generators: dict[int, np.random.Generator] = {}

    def choose(self, logits: FloatArray, sequences: list[Sequence]) -> list[Choice]:
        """One choice a row.

        Log-probabilities are those of the model itself, before any filter.

        Args:
            logits: float32 [B, V]; overwritten.
            sequences: the rows' sequences, before this step's token.
        """
        scored = [row for row, sequence in enumerate(sequences) if sequence.parameters.log_probs]
        normalisers = dict(zip(scored, log_sum_exp(logits[scored]), strict=True))
        raw = {row: logits[row].copy() for row in scored}
        logits[:, self._never] = -np.inf
        for row, sequence in enumerate(sequences):
            if sequence.steps < sequence.parameters.min_tokens:
                logits[row, self._eos_id] = -np.inf
        tokens = logits.argmax(axis=1).tolist()
        for row, sequence in enumerate(sequences):
            forced = sequence.parameters.prefix_ids
            if sequence.steps < len(forced):
                tokens[row] = forced[sequence.steps]
            elif sequence.parameters.strategy == "sample":
                tokens[row] = self._sample(logits[row], sequence)
        return [
            Choice(token, float(raw[row][token] - normalisers[row]) if row in raw else None)
            for row, token in enumerate(tokens)
        ]

    def forget(self, sequence: Sequence) -> None:
        """Drop the random state of a sequence that has ended."""
        self._generators.pop(sequence.number, None)

    def _sample(self, logits: FloatArray, sequence: Sequence) -> int:
        """Draw from the row's distribution after temperature, top-k and top-p."""
        parameters = sequence.parameters
        generator = self._generators.get(sequence.number)
        if generator is None:
            generator = np.random.default_rng(parameters.seed)
            self._generators[sequence.number] = generator
        scaled = logits.astype(np.float64) / parameters.temperature
        order = np.argsort(-scaled, kind="stable")
        if parameters.top_k:
            order = order[: parameters.top_k]
        weights = np.exp(scaled[order] - scaled[order[0]])
        weights /= weights.sum()
        cumulative = weights.cumsum()
        # The fewest tokens that reach top_p: all before the sum gets there, and the one that does.
        kept = int(np.searchsorted(cumulative, parameters.top_p - 1e-12)) + 1
        cumulative = cumulative[:kept]
        drawn = np.searchsorted(cumulative, generator.random() * cumulative[-1], side="right")
        return int(order[min(int(drawn), cumulative.size - 1)])


def log_sum_exp(logits: FloatArray) -> NDArray[np.float64]:
    """log(sum(exp(row))) of each row [B, V], without overflow; float64 [B]."""
    if not len(logits):
        return np.zeros(0)
    highest = logits.max(axis=1, keepdims=True)
    sums = np.exp((logits - highest).astype(np.float64)).sum(axis=1)
    total: NDArray[np.float64] = np.log(sums) + highest[:, 0]
    return total
