"""Translations of late, kept to be given again: the least recently used go first.

What is kept is ids, not text. A key holds everything that an output depends on, and whose work
it was: no tenant learns, by a faster answer, what another has translated.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from server.engine.request import FinishReason, FloatArray, Hypothesis, Sequence
from server.metrics import Metrics

KEPT = frozenset({FinishReason.EOS, FinishReason.LENGTH, FinishReason.DEGENERATE})
"""Ends that are the model's own: the next time it would end so again."""

# What an entry's objects take in CPython, measured: key, arrays and the dictionary's share; and
# the same for each hypothesis of a beam, which is kept as it is.
_ENTRY_BYTES, _HYPOTHESIS_BYTES = 700, 400
# A token id or log-probability in a list of a hypothesis; a row of weights in one.
_LISTED_BYTES, _ROW_BYTES = 36, 120


class Key:
    """What makes two sentences one: all that the output depends on, and whose they are."""

    __slots__ = ("_hash", "_parts", "digest")

    def __init__(self, digest: str, sequence: Sequence) -> None:
        """Of a sequence and its model's digest; hashed once, for it is looked up often."""
        self.digest = digest
        self._parts = (
            sequence.source_ids.tobytes(),
            sequence.tenant,
            sequence.max_tokens,
            sequence.guarded,
            sequence.parameters,
        )
        self._hash = hash((digest, self._parts))

    def __hash__(self) -> int:
        """As computed at first."""
        return self._hash

    def __eq__(self, other: object) -> bool:
        """Whether all parts are the same."""
        if not isinstance(other, Key):
            return NotImplemented
        return self.digest == other.digest and self._parts == other._parts


@dataclass(frozen=True, slots=True)
class _Result:
    finish_reason: FinishReason
    target_ids: array[int]
    token_log_probs: array[float]
    hypotheses: tuple[Hypothesis, ...]
    attention: FloatArray | None
    """[steps, S]; None where there is none, or the first hypothesis has it."""
    nbytes: int

    def attention_rows(self) -> list[FloatArray]:
        """[S] a step."""
        if self.attention is not None:
            return list(self.attention)
        return list(self.hypotheses[0].attention) if self.hypotheses else []


class SentenceCache:
    """Results of sentences within a bound of bytes; one for all models, used in one event loop."""

    def __init__(self, max_bytes: int, metrics: Metrics) -> None:
        """Start empty; with 0 bytes nothing is kept, and :attr:`enabled` is false."""
        self.enabled = max_bytes > 0
        self._max_bytes = max_bytes
        self._metrics = metrics
        self._results: OrderedDict[Key, _Result] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        """Results that are kept."""
        return len(self._results)

    @property
    def nbytes(self) -> int:
        """Memory they take, about."""
        return self._bytes

    def answer(self, key: Key, sequence: Sequence) -> bool:
        """Finish the sequence with the result that is kept, if one is; whether it was."""
        result = self._results.get(key)
        if result is None:
            return False
        self._results.move_to_end(key)
        sequence.target_ids = result.target_ids.tolist()
        sequence.token_log_probs = result.token_log_probs.tolist()
        sequence.hypotheses = list(result.hypotheses)
        sequence.attention = result.attention_rows()
        sequence.cached = True
        sequence.finish(result.finish_reason, sequence.arrived)
        return True

    def keep(self, key: Key, sequence: Sequence) -> None:
        """Keep what a sequence came to, and let go of the oldest beyond the bound.

        What is larger than the bound is not kept: all others would go for it.
        """
        assert sequence.finish_reason in KEPT
        alone = bool(sequence.attention) and not sequence.hypotheses
        result = _Result(
            sequence.finish_reason,
            array("i", sequence.target_ids),
            array("d", sequence.token_log_probs),
            tuple(sequence.hypotheses),
            np.stack(sequence.attention) if alone else None,
            _size(sequence),
        )
        if result.nbytes > self._max_bytes:
            return
        self._remove(key)
        self._results[key] = result
        self._bytes += result.nbytes
        while self._bytes > self._max_bytes:
            self._remove(next(iter(self._results)))
            self._metrics.sentence_cache_evictions.inc()
        self._metrics.sentence_cache_bytes.set(self._bytes)

    def forget(self, digest: str) -> None:
        """Let go of a model's results: it is no longer live."""
        for key in [key for key in self._results if key.digest == digest]:
            self._remove(key)
        self._metrics.sentence_cache_bytes.set(self._bytes)

    def _remove(self, key: Key) -> None:
        result = self._results.pop(key, None)
        if result is not None:
            self._bytes -= result.nbytes


def _size(sequence: Sequence) -> int:
    listed = sum(len(one.ids) + len(one.token_log_probs) for one in sequence.hypotheses)
    rows = [row for one in sequence.hypotheses for row in one.attention]
    weights = sum(row.nbytes for row in rows or sequence.attention)
    return (
        _ENTRY_BYTES
        + sequence.source_ids.nbytes
        + 4 * len(sequence.target_ids)
        + 8 * len(sequence.token_log_probs)
        + _HYPOTHESIS_BYTES * len(sequence.hypotheses)
        + _LISTED_BYTES * listed
        + _ROW_BYTES * (len(rows) or bool(sequence.attention))
        + weights
    )
