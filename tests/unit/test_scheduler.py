from __future__ import annotations

import pytest
from fakes import EOS, FakeRunner, make_engine, make_sequence
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine.engine import Engine
from server.engine.request import DecodingParameters, FinishReason, Sequence, SequenceStatus


def run_to_end(engine: Engine, limit: int = 10_000) -> list[Sequence]:
    finished: list[Sequence] = []
    for _ in range(limit):
        if not engine.has_unfinished:
            return finished
        finished += engine.step().finished
        engine.scheduler.check_integrity()
    raise AssertionError("somebody never ends")


def test_a_request_that_arrives_while_others_decode_starts_at_the_next_step() -> None:
    engine, runner = make_engine(slots=4)
    trace = []
    early = [make_sequence(10), make_sequence(6)]
    for sequence in early:
        engine.add(sequence)
    engine.step()
    engine.step()
    late = make_sequence(3)
    engine.add(late)
    for _ in range(8):
        engine.step()
        trace.append([sequence.steps for sequence in (*early, late)])
    # Rows step by step: the late one runs from the very next step and nobody waits for it.
    assert runner.decoded == [2, 2, 3, 3, 3, 2, 1, 1, 1, 1]
    assert trace[0] == [3, 3, 1]
    assert [sequence.steps for sequence in (*early, late)] == [10, 6, 3]
    assert late.finish_reason is FinishReason.EOS


def test_every_sequence_copies_its_own_source_whatever_its_neighbours_do() -> None:
    engine, _ = make_engine(slots=3)
    sequences = [make_sequence(length) for length in (5, 2, 9, 3, 12, 2, 7)]
    for sequence in sequences:
        engine.add(sequence)
    run_to_end(engine)
    for sequence in sequences:
        assert [*sequence.target_ids, EOS] == sequence.source_ids.tolist()


def test_a_cancelled_sequence_frees_its_slot_at_the_next_step() -> None:
    engine, _ = make_engine(slots=2)
    staying, leaving, waiting = make_sequence(20), make_sequence(20), make_sequence(5)
    for sequence in (leaving, staying, waiting):
        engine.add(sequence)
    engine.step()
    assert waiting.slot is None
    leaving.cancelled = True
    output = engine.step()
    assert leaving.finish_reason is FinishReason.CANCELLED
    assert leaving in output.finished
    status: SequenceStatus = waiting.status
    assert status is SequenceStatus.RUNNING  # it has the slot already
    assert staying.slot == 0
    engine.scheduler.check_integrity()


def test_a_sequence_whose_deadline_passed_is_dropped_before_anything_is_computed() -> None:
    engine, runner = make_engine()
    late = make_sequence(5, deadline=-1.0)
    engine.add(late)
    engine.step()
    assert late.finish_reason is FinishReason.DEADLINE
    assert runner.encoded == []
    assert runner.decoded == []


def test_the_padded_cost_of_an_encoder_batch_stays_within_the_budget() -> None:
    engine, runner = make_engine(slots=16, budget=30)
    for length in (10, 10, 10, 10, 3, 3, 3, 3, 3, 3):
        engine.add(make_sequence(length))
    run_to_end(engine)
    assert runner.encoded[0] == [10, 10, 10]
    for batch in runner.encoded:
        assert len(batch) * max(batch) <= 30


def test_a_sentence_longer_than_the_budget_is_encoded_alone() -> None:
    engine, runner = make_engine(slots=4, budget=8)
    for length in (20, 2, 2):
        engine.add(make_sequence(length))
    run_to_end(engine)
    assert runner.encoded[0] == [20]


def test_batches_gather_like_lengths_around_the_first_in_line() -> None:
    engine, runner = make_engine(slots=3, budget=60)
    for length in (4, 30, 5, 31, 4):
        engine.add(make_sequence(length))
    engine.step()
    assert sorted(runner.encoded[0]) == [4, 4, 5]


def test_the_first_in_line_is_never_overtaken_for_long() -> None:
    """However many short ones keep coming, a long one is in the very next batch."""
    engine, _ = make_engine(slots=2, budget=12, window=8)
    long = make_sequence(30)
    for _ in range(4):
        engine.add(make_sequence(3))
    engine.add(long)
    for _ in range(200):
        engine.add(make_sequence(3))
        engine.step()
        if long.finish_reason is not None:
            break
    assert long.finish_reason is FinishReason.EOS


@pytest.mark.parametrize("company", [False, True])
def test_a_forced_prefix_is_decoded_as_the_model_would_have_begun(company: bool) -> None:
    """And who is alone takes many steps at a time once it has written it."""
    engine, runner = make_engine()
    plain = make_sequence(20)
    prefix = tuple(plain.source_ids[:3].tolist())
    begun = make_sequence(20, parameters=DecodingParameters(prefix_ids=prefix, min_tokens=2))
    engine.add(begun)
    if company:
        engine.add(plain)
    steps = []
    while engine.has_unfinished:
        engine.step()
        steps.append(begun.steps)
        engine.scheduler.check_integrity()
    assert [*begun.target_ids, EOS] == begun.source_ids.tolist()
    assert steps == (list(range(1, 21)) if company else [1, 2, 3, 11, 19, 20])
    assert sum(runner.decoded) == 20 * (1 + company)


def test_max_tokens_ends_a_sequence_with_length() -> None:
    engine, _ = make_engine()
    sequence = make_sequence(10, max_tokens=4)
    engine.add(sequence)
    run_to_end(engine)
    assert sequence.finish_reason is FinishReason.LENGTH
    assert len(sequence.target_ids) == 4


def test_failure_ends_everyone_and_leaves_a_clean_pool() -> None:
    engine, _ = make_engine(slots=2)
    sequences = [make_sequence(5) for _ in range(4)]
    for sequence in sequences:
        engine.add(sequence)
    engine.step()
    ended = engine.fail(FinishReason.ERROR)
    assert sorted(s.number for s in ended) == sorted(s.number for s in sequences)
    assert all(s.finish_reason is FinishReason.ERROR for s in sequences)
    assert engine.scheduler.pool.used == 0
    again = make_sequence(3)
    engine.add(again)
    run_to_end(engine)
    assert again.finish_reason is FinishReason.EOS


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["add", "add bulk"]), st.integers(2, 30), st.integers(1, 30)),
        st.tuples(st.just("step"), st.integers(1, 5), st.just(0)),
        st.tuples(st.just("cancel"), st.integers(0, 100), st.just(0)),
    ),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(ACTIONS, st.integers(1, 6), st.integers(8, 80), st.integers(1, 10), st.integers(1, 4))
def test_under_any_arrivals_and_cancellations_everyone_ends_once_and_rightly(
    actions: list[tuple[str, int, int]], slots: int, budget: int, window: int, few: int
) -> None:
    engine, runner = make_engine(slots=slots, budget=budget, window=window, min_encode_rows=few)
    everyone: list[Sequence] = []
    finished: list[Sequence] = []
    for action, value, limit in actions:
        if action.startswith("add"):
            bulk = action == "add bulk"
            everyone.append(make_sequence(value, max_tokens=limit, bulk=bulk))
            engine.add(everyone[-1])
        elif action == "cancel" and everyone:
            everyone[value % len(everyone)].cancelled = True
        elif action == "step":
            for _ in range(value):
                finished += engine.step().finished
                engine.scheduler.check_integrity()
    finished += run_to_end(engine)
    assert sorted(s.number for s in finished) == sorted(s.number for s in everyone)
    assert all(len(batch) * max(batch) <= budget or len(batch) == 1 for batch in runner.encoded)
    assert all(rows <= slots for rows in runner.decoded)
    for sequence in everyone:
        output, source = sequence.target_ids, sequence.source_ids.tolist()
        assert output == source[: len(output)]
        if sequence.finish_reason is FinishReason.EOS:
            assert [*output, EOS] == source
        elif sequence.finish_reason is FinishReason.LENGTH:
            assert len(output) == sequence.max_tokens
        else:
            assert sequence.cancelled


def with_bulk() -> tuple[Engine, FakeRunner, list[Sequence]]:
    """An engine in which bulk work runs."""
    engine, runner = make_engine(slots=7)
    bulk = [make_sequence(38, bulk=True) for _ in range(5)]
    for sequence in bulk:
        engine.add(sequence)
    for _ in range(6):  # the encoder takes one of these a step
        engine.step()
    runner.decoded.clear()
    return engine, runner, bulk


@pytest.mark.parametrize(("length", "turns"), [(15, 0), (38, 1)])
def test_bulk_work_is_paused_where_it_is_while_interactive_work_runs(
    length: int, turns: int
) -> None:
    engine, runner, bulk = with_bulk()
    urgent = make_sequence(length)
    engine.add(urgent)
    while urgent.finish_reason is None:
        engine.step()
        engine.scheduler.check_integrity()
    # A short sentence is not held up by bulk work at all, whenever it came.
    assert runner.decoded.count(1) == length - turns
    assert runner.decoded.count(6) == turns
    run_to_end(engine)
    for sequence in [*bulk, urgent]:
        assert [*sequence.target_ids, EOS] == sequence.source_ids.tolist()


def test_bulk_work_has_its_turn_though_interactive_work_never_ends() -> None:
    engine, _, bulk = with_bulk()
    before = [sequence.steps for sequence in bulk]
    urgent = [make_sequence(12), make_sequence(12)]
    for sequence in urgent:
        engine.add(sequence)
    for _ in range(100):
        engine.step()
        engine.scheduler.check_integrity()
        for place, sequence in enumerate(urgent):
            if sequence.finish_reason is not None:
                urgent[place] = make_sequence(12)
                engine.add(urgent[place])
    took = [sequence.steps - was for sequence, was in zip(bulk, before, strict=True)]
    assert all(4 <= steps <= 6 for steps in took), took


def test_the_encoder_waits_for_company_but_not_alone() -> None:
    engine, runner = make_engine(slots=4, min_encode_rows=3)
    for length in (6, 9, 12, 15):
        engine.add(make_sequence(length))
    engine.step()
    late = [make_sequence(4) for _ in range(5)]
    for sequence in late:
        engine.add(sequence)
    run_to_end(engine)
    assert list(map(len, runner.encoded)) == [4, 3, 2]


def test_who_joins_few_rows_comes_in_at_once() -> None:
    engine, _ = make_engine(slots=16, budget=400, min_encode_rows=4)
    for _ in range(3):
        engine.add(make_sequence(20))
    engine.step()
    late = make_sequence(4)
    engine.add(late)
    engine.step()
    assert late.steps == 1


def test_among_many_rows_newcomers_are_encoded_together() -> None:
    engine, runner = make_engine(slots=16, budget=400, min_encode_rows=4)
    for _ in range(8):
        engine.add(make_sequence(30))
    engine.step()
    for _ in range(4):  # as many as are worth a batch: one a step
        assert len(runner.encoded) == 1
        engine.add(make_sequence(5))
        engine.step()
    assert list(map(len, runner.encoded)) == [8, 4]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(2, 30), st.integers(0, 3)), min_size=1, max_size=60),
    st.integers(2, 24),
    st.integers(1, 8),
    st.integers(0, 6),
)
def test_nobody_waits_for_company_longer_than_so_many_steps(
    arrivals: list[tuple[int, int]], slots: int, few: int, patience: int
) -> None:
    """Whoever is first in line while there is room for as many as are worth a batch."""
    engine, _ = make_engine(slots=slots, budget=80, min_encode_rows=few, patience=patience)
    scheduler, todo, held, first = engine.scheduler, list(arrivals), 0, None
    while todo or engine.has_unfinished:
        if todo:
            length, together = todo.pop(0)
            engine.add(make_sequence(length))
            if together:  # the next one comes in the same step
                continue
        if scheduler.waiting and scheduler.waiting[0] is not first:
            held, first = 0, scheduler.waiting[0]
        room = scheduler.pool.free >= min(len(scheduler.waiting), few)
        engine.step()
        assert first is None or first.steps or not room or held < patience
        held += room
        if first is not None and first.status is not SequenceStatus.WAITING:
            held, first = 0, None


def test_an_engine_that_checks_itself_finds_a_slot_out_of_place() -> None:
    engine, _ = make_engine(slots=4)
    engine._checked = True
    engine.add(make_sequence(10))
    engine.add(make_sequence(12))
    engine.step()
    engine.scheduler.pool.positions[1] = 7
    with pytest.raises(AssertionError):
        engine.step()
