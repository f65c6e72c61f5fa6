from __future__ import annotations

import mmap

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine.kv_cache import CacheShape, KVCachePool

SHAPE = CacheShape(layers=2, slots=4, heads=2, head_size=3, target_positions=6, source_positions=5)


def fill(pool: KVCachePool, slot: int, mark: float, written: int) -> None:
    """Write a tenant's mark where it may write."""
    pool.positions[slot] = written
    pool.self_kv[:, slot, :, :written] = mark
    pool.cross_kv[:, slot, :, : pool.source_lengths[slot]] = mark


def test_the_memory_is_known_before_the_first_request() -> None:
    pool = KVCachePool(SHAPE)
    assert pool.self_kv.nbytes + pool.cross_kv.nbytes == SHAPE.nbytes
    assert SHAPE.nbytes == 2 * 2 * 4 * 2 * 3 * (6 + 5) * 4


def take(pool: KVCachePool, length: int, token: int) -> int:
    slot = pool.allocate()
    pool.start(slot, length, token)
    return slot


def test_slots_in_use_are_always_a_prefix() -> None:
    pool = KVCachePool(SHAPE)
    assert [take(pool, 3, 1) for _ in range(4)] == [0, 1, 2, 3]
    assert pool.free == 0
    pool.release()
    assert pool.used == 3


def test_a_full_pool_and_a_slot_not_in_use_are_our_own_mistakes() -> None:
    pool = KVCachePool(SHAPE)
    with pytest.raises(AssertionError):
        pool.release()
    with pytest.raises(AssertionError):
        take(pool, 6, 1)
    with pytest.raises(AssertionError):
        pool.move(0, 1)
    for _ in range(3):
        take(pool, 1, 1)
    with pytest.raises(AssertionError):
        take(pool, 1, 1)


def test_target_caches_change_places_all_at_once() -> None:
    pool = KVCachePool(SHAPE)
    for mark in range(4):
        fill(pool, take(pool, 2, 1), mark, written=3)
    pool.copy_target(np.array([1, 0, 2]), np.array([0, 1, 3]))
    assert pool.self_kv[0, :, 0, 0, 0].tolist() == [1, 0, 2, 2]
    assert pool.cross_kv[0, :, 0, 0, 0].tolist() == [0, 1, 2, 3]


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9), st.integers(1, 5)), max_size=40))
def test_no_tenant_ever_loses_or_sees_anothers_keys(
    actions: list[tuple[bool, int, int]],
) -> None:
    pool, mark = KVCachePool(SHAPE), 0.0
    tenants: list[tuple[float, int]] = []
    for leaves, choice, length in actions:
        if leaves and tenants:
            slot = choice % len(tenants)
            pool.move(len(tenants) - 1, slot)
            pool.release()
            tenants[slot] = tenants[-1]
            tenants.pop()
        elif pool.free:
            mark += 1.0
            slot = take(pool, length, int(mark))
            fill(pool, slot, mark, written=length)
            tenants.append((mark, length))
        pool.check_integrity()
        assert pool.used == len(tenants)
        for slot, (own, size) in enumerate(tenants):
            assert (pool.self_kv[:, slot, :, :size] == own).all()
            assert (pool.cross_kv[:, slot, :, :size] == own).all()
            assert pool.tokens[slot] == int(own)
            assert pool.positions[slot] == pool.source_lengths[slot] == size


def test_reset_takes_every_slot_back() -> None:
    pool = KVCachePool(SHAPE)
    take(pool, 2, 1)
    pool.reset()
    assert pool.free == SHAPE.slots
    assert pool.self_kv.dtype == np.float32


@pytest.mark.skipif(not hasattr(mmap, "MADV_NOHUGEPAGE"), reason="Linux alone has huge pages")
def test_only_what_sentences_have_filled_takes_memory() -> None:
    process = psutil.Process()
    shape = CacheShape(
        layers=6, slots=16, heads=8, head_size=64, target_positions=256, source_positions=256
    )
    before = process.memory_info().rss
    pool = KVCachePool(shape)
    pool.self_kv[:, :, :, :8] = 1.0
    pool.cross_kv[:, :, :, :8] = 1.0
    grown = process.memory_info().rss - before
    assert shape.nbytes > 200e6
    assert grown < shape.nbytes / 8  # 8 of 256 positions, a page of 16; with huge pages all of it
