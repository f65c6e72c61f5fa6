"""Loops are found, a few periods after they begin; what is none is left alone."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine.guard import (
    PERIODS,
    WINDOW,
    Guard,
    longest_run,
    monotonous,
    without_loop,
)
from server.engine.kv_cache import CacheShape, KVCachePool

SOURCE = np.array([5, 6, 7, 2])


def watched(slots: int = 3) -> tuple[KVCachePool, Guard]:
    pool = KVCachePool(
        CacheShape(
            layers=1, slots=slots, heads=1, head_size=1, target_positions=8, source_positions=8
        )
    )
    guard = Guard(pool)
    for _ in range(slots):
        slot = pool.allocate()
        pool.start(slot, 4, 1)
        guard.watch(slot, SOURCE)
    return pool, guard


def found_at(tokens: list[int], source: np.ndarray = SOURCE) -> int | None:
    """After how many tokens a row is stopped."""
    _, guard = watched(1)
    guard.watch(0, source)
    for step, token in enumerate(tokens):
        if guard.step(np.array([token])):
            return step + 1
    return None


@settings(deadline=None)
@given(st.integers(1, PERIODS), st.lists(st.integers(10, 10_000), max_size=30, unique=True))
def test_every_loop_is_found_within_a_few_periods(period: int, before: list[int]) -> None:
    loop = list(range(20_000, 20_000 + period))
    found = found_at(before + loop * 100)
    assert found is not None
    assert found - len(before) <= max(16, 4 * period) + period


@settings(deadline=None)
@given(st.lists(st.integers(0, 8000), max_size=200, unique=True))
def test_what_does_not_repeat_is_left_alone(tokens: list[int]) -> None:
    assert found_at(tokens) is None


def test_short_repeats_are_left_alone() -> None:
    assert found_at([7] * 12 + list(range(50, 70)) + [8, 9] * 8 + list(range(100, 140))) is None


def test_a_source_that_repeats_may_be_repeated_longer() -> None:
    plain = found_at([7] * 100)
    patient = found_at([7] * 100, np.array([9] * 60))
    assert plain is not None
    assert patient is not None
    assert plain < patient <= 40


def test_what_is_known_of_a_row_moves_with_it_and_ends_with_it() -> None:
    pool, guard = watched(3)
    for step in range(16):
        assert not guard.step(np.array([step, step + 100, 7]))
    pool.move(2, 0)
    pool.release()
    assert guard.step(np.array([7, 200])) == [0]
    pool.start(0, 4, 1)
    assert not guard.step(np.array([7, 300]))  # nobody watches it, nothing is remembered
    guard.watch(0, SOURCE)
    assert not any(guard.step(np.array([7, 400 + step])) for step in range(14))


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), max_size=40))
def test_the_longest_run_is_that_of_a_slow_count(ids: list[int]) -> None:
    slow = 0
    for period in range(1, PERIODS + 1):
        run = 0
        for place in range(period, len(ids)):
            run = run + 1 if ids[place] == ids[place - period] else 0
            slow = max(slow, run)
    assert longest_run(np.array(ids, np.int64)) == slow


def test_a_loop_is_cut_to_its_first_period() -> None:
    assert without_loop([1, 2, 3, 4, 3, 4, 3, 4, 3]) == [1, 2, 3, 4]
    assert without_loop([5] * 20) == [5]
    assert without_loop([1, 2, 3]) == [1, 2, 3]
    assert without_loop([]) == []


@settings(deadline=None)
@given(st.data())
def test_a_handful_of_tokens_stirred_without_a_period_is_found(data: st.DataObject) -> None:
    before = data.draw(st.lists(st.integers(10, 10_000), max_size=30, unique=True))
    stirred = data.draw(st.lists(st.integers(20_000, 20_002), min_size=200, max_size=200))
    found = found_at(before + stirred)
    assert found is not None
    assert found - len(before) <= WINDOW + 8
    kept = without_loop((before + stirred)[:found])
    assert kept[: len(before)] == before[: len(kept)]
    assert len(kept) < found


@settings(deadline=None)
@given(
    st.lists(
        st.lists(st.integers(0, 3) | st.integers(0, 10_000), min_size=60, max_size=60),
        min_size=1,
        max_size=4,
    ),
    st.lists(st.integers(0, 20), min_size=4, max_size=4),
)
def test_what_is_found_of_a_row_does_not_hang_on_others(
    rows: list[list[int]], delays: list[int]
) -> None:
    pool, guard = watched(len(rows))
    alone = [found_at(row) for row in rows]
    found: list[int | None] = [None] * len(rows)
    for step in range(80):
        for slot, delay in enumerate(delays[: len(rows)]):
            if step == delay:
                pool.start(slot, 4, 1)
                guard.watch(slot, SOURCE)
        places = [step - delay for delay in delays[: len(rows)]]
        tokens = [
            row[place] if 0 <= place < len(row) else 50_000 + step
            for row, place in zip(rows, places, strict=True)
        ]
        for slot in guard.step(np.array(tokens)):
            if 0 <= places[slot] < 60 and found[slot] is None:
                found[slot] = places[slot] + 1
    assert found == alone


def test_a_source_of_few_tokens_may_be_translated_so() -> None:
    digits = list(range(10)) * 12
    assert found_at(digits[:90]) is not None
    assert found_at(digits[:90], np.array([*digits[:90], 2])) is None
    assert found_at(digits * 3, np.array([*digits[:90], 2])) is not None
    assert monotonous(np.array([5] * 9))
    assert not monotonous(np.array([5, 6, 7, 2]))


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 8), st.booleans()), max_size=12),
    st.lists(st.integers(5, 12), min_size=60, max_size=160),
)
def test_who_is_watched_alone_is_watched_no_differently(
    turns: list[tuple[int, bool]], tokens: list[int]
) -> None:
    _, plain = watched(1)
    _, other = watched(1)
    left = list(tokens)
    for count, alone in [*turns, (len(tokens), True)]:
        taken, left = left[:count], left[count:]
        expected = [bool(plain.step(np.array([token]))) for token in taken]
        if alone:
            follower = other.alone()
            assert follower is not None
            assert [follower.step(token) for token in taken] == expected
            follower.close()
        else:
            assert [bool(other.step(np.array([token]))) for token in taken] == expected


def test_nobody_looks_at_rows_that_are_not_watched() -> None:
    pool, guard = watched(2)
    for slot in range(2):
        pool.start(slot, 3, 1)
    assert guard.alone() is None
    assert not any(guard.step(np.array([7, 7])) for _ in range(80))
    guard.watch(1, np.array([4, 5, 2]))  # who comes later is watched from its first token on
    found = [guard.step(np.array([7, 7])) for _ in range(20)]
    assert found[-1] == [1]
    assert guard.alone() is None
