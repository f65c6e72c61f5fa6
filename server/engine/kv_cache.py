"""Preallocated keys and values, one slot a running sequence.

Slots in use are always ``0 .. used - 1``: the decoder runs over that prefix of the arrays,
which are bound once and never grow. A sequence that joins takes the next slot and nobody else
is touched. When one leaves, the last slot's valid prefix moves into its place: one row, not
the batch.

Shapes: ``L`` decoder layers, ``N`` slots, ``H`` heads, ``T`` target positions, ``S`` source
positions, ``D`` head size.
"""

from __future__ import annotations

import contextlib
import math
import mmap
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheShape:
    """Sizes that fix the memory of a pool before its first request."""

    layers: int
    slots: int
    heads: int
    head_size: int
    target_positions: int
    source_positions: int
    kind: Literal["float32", "int8", "float16"] = "float32"
    """What a key or value is stored as."""

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values."""
        positions = self.target_positions + self.source_positions
        values = 2 * self.layers * self.slots * self.heads * positions * self.head_size
        return values * np.dtype(self.kind).itemsize


def _reserved(shape: tuple[int, ...], kind: str) -> NDArray[Any]:
    """Zeros, of which only what is touched takes memory, in the system's smallest pages.

    NumPy asks for huge pages (2 MB), of which a short sentence fills a few KB: the memory of a
    model with 256 positions is then all taken by the first sentences, and each page is cleared.
    """
    if not hasattr(mmap, "MADV_NOHUGEPAGE"):  # not Linux
        return np.zeros(shape, kind)
    count = math.prod(shape) * np.dtype(kind).itemsize
    memory = mmap.mmap(-1, max(1, count), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without huge pages
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, kind, math.prod(shape)).reshape(shape)


class KVCachePool:
    """The slots and, slot by slot, what the decoder step reads and extends."""

    def __init__(self, shape: CacheShape) -> None:
        """Reserve everything."""
        self.shape = shape
        self._reserve()
        self._columns: list[tuple[NDArray[Any], int]] = []
        self.tokens = self.column(np.int64)
        """[N], the token each slot feeds to the next step."""
        self.positions = self.column(np.int32)
        """[N], target positions already in the cache."""
        self.source_lengths = self.column(np.int32)
        """[N], source tokens in the cache."""
        self.used = 0

    def _reserve(self) -> None:
        """Reserve the keys and values: on the host."""
        shape = self.shape
        heads = (2 * shape.layers, shape.slots, shape.heads)
        self.self_kv = _reserved((*heads, shape.target_positions, shape.head_size), shape.kind)
        """[2L, N, H, T, D], keys of layer l at 2l, values at 2l + 1."""
        self.cross_kv = _reserved((*heads, shape.source_positions, shape.head_size), shape.kind)
        """[2L, N, H, S, D], likewise."""

    def column(self, kind: type[np.generic], *shape: int, fill: int = 0) -> NDArray[Any]:
        """An array [N, *shape] whose rows belong to the slots: set to fill, moved along."""
        array: NDArray[Any] = np.full((self.shape.slots, *shape), fill, kind)
        self._columns.append((array, fill))
        return array

    @property
    def free(self) -> int:
        """Slots nobody holds."""
        return self.shape.slots - self.used

    def allocate(self) -> int:
        """The next slot; what is in it is :meth:`start`'s or :meth:`move`'s business."""
        assert self.free > 0, "the scheduler admits no more than there are slots"
        self.used += 1
        return self.used - 1

    def start(self, slot: int, source_length: int, first_token: int) -> None:
        """Make a slot that of a sequence with this many source tokens, at position 0."""
        assert 0 <= slot < self.used
        assert 0 < source_length <= self.shape.source_positions
        for column, fill in self._columns:
            column[slot] = fill
        self.tokens[slot] = first_token
        self.source_lengths[slot] = source_length

    def move(self, slot: int, to: int) -> None:
        """Copy what is valid of a slot to another: one row, not the batch."""
        assert max(slot, to) < self.used, "only a slot in use is moved"
        self._copy(slot, to)
        for column, _ in self._columns:
            column[to] = column[slot]

    def _copy(self, slot: int, to: int) -> None:
        """Copy a slot's keys and values."""
        target, source = int(self.positions[slot]), int(self.source_lengths[slot])
        self.self_kv[:, to, :, :target] = self.self_kv[:, slot, :, :target]
        self.cross_kv[:, to, :, :source] = self.cross_kv[:, slot, :, :source]

    def release(self) -> None:
        """Free the last slot; who leaves another one has moved it there."""
        assert self.used > 0, "only a slot in use is released"
        self.used -= 1

    def copy_target(self, sources: NDArray[np.int64], slots: NDArray[np.int64]) -> None:
        """Give each slot the target side of another, all at once: what beam search reorders."""
        length = int(self.positions[sources].max()) + 1
        self.self_kv[:, slots, :, :length] = self.self_kv[:, sources, :, :length]

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
