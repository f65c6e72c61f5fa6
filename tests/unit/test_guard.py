"""Loops are found, a few periods after they begin; what is none is left alone."""

from __future__ import annotations

from random import Random

import numpy as np
from fakes import make_sequence
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine.guard import (
    PERIODS,
    WINDOW,
    Guard,
    Watch,
    longest_run,
    monotonous,
    without_loop,
)

SOURCE = np.array([5, 6, 7, 2])


def found_at(tokens: list[int], source: np.ndarray = SOURCE) -> int | None:
    """After how many tokens an output is stopped."""
    watch = Watch(source)
    return next((place for place, token in enumerate(tokens, 1) if watch.step(token)), None)


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
    st.randoms(use_true_random=False),
)
def test_what_is_found_of_an_output_does_not_hang_on_others(
    outputs: list[list[int]], random: Random
) -> None:
    """Whoever is beside it, in whatever rows, and whoever leaves."""
    guard, found = Guard(), dict.fromkeys(range(len(outputs)))
    sequences = [make_sequence(4) for _ in outputs]
    for sequence, _ in zip(sequences, outputs, strict=True):
        sequence.source_ids = SOURCE
        guard.watch(sequence)
    left = [list(output) for output in outputs]
    while any(left):
        rows = [number for number, tokens in enumerate(left) if tokens and random.random() < 0.7]
        random.shuffle(rows)
        tokens = [left[number].pop(0) for number in rows]
        for row in guard.step(tokens, [sequences[number] for number in rows]):
            found[rows[row]] = found[rows[row]] or 60 - len(left[rows[row]])
        for number in rows:
            if not left[number]:
                guard.forget(sequences[number])
    assert list(found.values()) == [found_at(output) for output in outputs]


@settings(deadline=None)
@given(
    st.lists(st.integers(5, 8) | st.integers(5, 5000), max_size=120),
    st.lists(st.integers(5, 8), min_size=1, max_size=60),
)
def test_it_stops_where_the_definition_says(tokens: list[int], source: list[int]) -> None:
    """As slowly as it can be said: all periods, all pairs, anew at every token."""
    source_ids = np.array(source, np.int64)
    more = min(16, longest_run(source_ids))
    patience = WINDOW + (len(source) if monotonous(source_ids) else 0)
    expected = None
    for steps in range(1, len(tokens) + 1):
        ids = tokens[:steps]
        runs = []
        for period in range(1, PERIODS + 1):
            again = [ids[at] == ids[at - period] for at in range(period, steps)]
            runs.append(next((n for n, same in enumerate(reversed(again)) if not same), len(again)))
        looping = any(run >= max(16, 4 * p) + more for p, run in enumerate(runs, 1))
        if steps >= patience and steps % 8 == 0:
            ring = ids[-WINDOW:]
            looping |= len({(ring[at - 1], ring[at]) for at in range(WINDOW)}) <= 13
        if looping:
            expected = steps
            break
    assert found_at(tokens, source_ids) == expected


def test_a_source_of_few_tokens_may_be_translated_so() -> None:
    digits = list(range(10)) * 12
    assert found_at(digits[:90]) is not None
    assert found_at(digits[:90], np.array([*digits[:90], 2])) is None
    assert found_at(digits * 3, np.array([*digits[:90], 2])) is not None
    assert monotonous(np.array([5] * 9))
    assert not monotonous(np.array([5, 6, 7, 2]))


def test_nobody_looks_at_what_is_not_watched() -> None:
    guard, sequences = Guard(), [make_sequence(4), make_sequence(4)]
    assert guard.of(sequences[0]) is None
    assert not any(guard.step([7, 7], sequences) for _ in range(80))
    guard.watch(sequences[1])  # who comes later is watched from its first token on
    found = [guard.step([7, 7], sequences) for _ in range(20)]
    assert found[15] == []
    assert found[16] == found[-1] == [1]
    guard.forget(sequences[1])
    assert not guard.step([7, 7], sequences)
