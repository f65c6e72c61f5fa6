"""Preallocated keys and values, one slot a running sequence.

Slots in use are always ``0 .. used - 1``: the decoder runs over that prefix of the arrays,
which are bound once and never grow. A sequence that joins takes the next slot and nobody else
is touched. When one leaves, the last slot's valid prefix moves into its place: one row, not
the batch.

Shapes: ``L`` decoder layers, ``N`` slots, ``H`` heads, ``T`` target positions, ``S`` source
positions, ``D`` head size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheShape:
    """Sizes that fix the memory of a pool before its first request."""

    layers: int
    slots: int
    heads: int
    head_size: int
    target_positions: int
    source_positions: int

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values."""
        positions = self.target_positions + self.source_positions
        return 2 * self.layers * self.slots * self.heads * positions * self.head_size * 4


class KVCachePool:
    """The slots and, slot by slot, what the decoder step reads and extends."""

    def __init__(self, shape: CacheShape) -> None:
        """Reserve everything."""
        self.shape = shape
        heads = (2 * shape.layers, shape.slots, shape.heads)
        self.self_kv = np.zeros((*heads, shape.target_positions, shape.head_size), np.float32)
        """[2L, N, H, T, D], keys of layer l at 2l, values at 2l + 1."""
        self.cross_kv = np.zeros((*heads, shape.source_positions, shape.head_size), np.float32)
        """[2L, N, H, S, D], likewise."""
        self.tokens = np.zeros(shape.slots, np.int64)
        """[N], the token each slot feeds to the next step."""
        self.positions = np.zeros(shape.slots, np.int32)
        """[N], target positions already in the cache."""
        self.source_lengths = np.zeros(shape.slots, np.int32)
        """[N], source tokens in the cache."""
        self.used = 0

    @property
    def free(self) -> int:
        """Slots nobody holds."""
        return self.shape.slots - self.used

    def allocate(self, source_length: int, first_token: int) -> int:
        """A slot for a sequence with this many source tokens, at position 0."""
        assert self.free > 0, "the scheduler admits no more than there are slots"
        assert 0 < source_length <= self.shape.source_positions
        slot = self.used
        self.used += 1
        self.tokens[slot] = first_token
        self.positions[slot] = 0
        self.source_lengths[slot] = source_length
        return slot

    def release(self, slot: int) -> int | None:
        """Free a slot; returns the slot whose sequence now lives in it, if one moved there."""
        assert 0 <= slot < self.used, "only a slot in use is released"
        last = self.used - 1
        self.used = last
        if slot == last:
            return None
        target, source = int(self.positions[last]), int(self.source_lengths[last])
        self.self_kv[:, slot, :, :target] = self.self_kv[:, last, :, :target]
        self.cross_kv[:, slot, :, :source] = self.cross_kv[:, last, :, :source]
        for column in (self.tokens, self.positions, self.source_lengths):
            column[slot] = column[last]
        return last

    def reset(self) -> None:
        """Take every slot back, after a failure."""
        self.used = 0

    def check_integrity(self) -> None:
        """Assert what must hold between steps; for tests and after failures."""
        assert 0 <= self.used <= self.shape.slots
        assert (self.positions[: self.used] >= 0).all()
        assert (self.positions[: self.used] <= self.shape.target_positions).all()
        assert (self.source_lengths[: self.used] >= 1).all()
        assert (self.source_lengths[: self.used] <= self.shape.source_positions).all()
