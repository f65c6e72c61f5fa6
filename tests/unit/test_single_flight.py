"""Who waits for whom: over the network of fifteen lines, and over an engine moved by hand."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import numpy as np
import pytest
from fakes import EOS, make_engine, make_sequence
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine.async_engine import AsyncEngine
from server.engine.request import DecodingParameters, FinishReason, Sequence
from server.errors import Overloaded
from server.metrics import Metrics
from server.text.sentence_cache import SentenceCache
from server.text.single_flight import SingleFlight

MEGABYTE = 1 << 20


class Rig:
    """Real threads; the network copies its source."""

    def __init__(self, slots: int = 4, max_bytes: int = MEGABYTE, max_waiting: int = 1000) -> None:
        self.inner, self.runner = make_engine(slots=slots)
        self.runner.pause_seconds = 0.001
        self.metrics = Metrics()
        self.engine = AsyncEngine([self.inner], self.metrics, max_waiting=max_waiting)
        self.cache = SentenceCache(max_bytes, self.metrics)
        self.front = SingleFlight(self.engine, self.cache, self.metrics, digest="d")
        self.engine.start()

    async def run(self, *sequences: Sequence) -> tuple[Sequence, ...]:
        async with contextlib.aclosing(self.front.generate(list(sequences))) as progress:
            async for _ in progress:
                pass
        return sequences

    @property
    def encoded(self) -> int:
        return sum(map(len, self.runner.encoded))

    def count(self, outcome: str) -> float | None:
        return self.metrics.registry.get_sample_value(
            "dragoman_sentence_cache_requests_total", {"outcome": outcome}
        )

    async def check_idle(self) -> None:
        async with asyncio.timeout(10):
            while self.front._tasks or self.engine._groups or self.inner.scheduler.pool.used:
                await asyncio.sleep(0.001)
        assert self.front._flights == {}
        self.inner.scheduler.check_integrity()


@contextlib.asynccontextmanager
async def rig(**shape: int) -> AsyncIterator[Rig]:
    made = Rig(**shape)
    yield made
    await made.check_idle()
    await made.engine.drain(grace_seconds=0.0)


async def started(made: Rig, sequence: Sequence) -> asyncio.Task[tuple[Sequence, ...]]:
    """A call whose sequence is being decoded."""
    task = asyncio.create_task(made.run(sequence))
    while not made.inner.scheduler.running:
        await asyncio.sleep(0)
    return task


def right(sequence: Sequence) -> bool:
    return (
        sequence.finish_reason is FinishReason.EOS
        and [*sequence.target_ids, EOS] == sequence.source_ids.tolist()
    )


async def test_a_finished_sentence_is_given_again() -> None:
    async with rig() as made:
        (first,) = await made.run(make_sequence(9))
        (again,) = await made.run(make_sequence(9))
        assert right(first)
        assert right(again)
        assert (first.cached, again.cached) == (False, True)
        assert (first.steps, again.steps) == (9, 0)
        assert made.encoded == 1
        assert (made.count("miss"), made.count("hit"), made.count("join")) == (1, 1, 0)


async def test_alike_in_one_call_and_in_others_run_once() -> None:
    async with rig() as made:
        calls = [made.run(*(make_sequence(20) for _ in range(3))) for _ in range(4)]
        found = [one for call in await asyncio.gather(*calls) for one in call]
        assert all(map(right, found))
        assert made.encoded == 1
        assert [one.cached for one in found].count(False) == 1
        assert made.count("join") == 11


async def test_who_began_it_may_leave_and_it_goes_on() -> None:
    async with rig() as made:
        leader = await started(made, make_sequence(38))
        follower = asyncio.create_task(made.run(make_sequence(38)))
        await asyncio.sleep(0.005)
        leader.cancel()
        (found,) = await asyncio.wait_for(follower, 10)
        assert right(found)
        assert made.encoded == 1


async def test_a_deadline_holds_for_its_own_caller_only() -> None:
    async with rig() as made:
        made.runner.pause_seconds = 0.005
        now = time.monotonic()
        short = make_sequence(38, deadline=now + 0.05)
        leader = await started(made, short)
        (long,) = await made.run(make_sequence(38))
        assert right(long)
        await leader
        assert short.finish_reason is FinishReason.DEADLINE
        assert short.finished is not None
        assert long.finished is not None
        assert now + 0.05 <= short.finished < long.finished
        assert made.encoded == 1


async def test_a_follower_may_leave_or_run_out_of_time_alone() -> None:
    async with rig() as made:
        made.runner.pause_seconds = 0.005
        leader = await started(made, make_sequence(38))
        hasty = make_sequence(38, deadline=time.monotonic() + 0.03)
        leaver = asyncio.create_task(made.run(make_sequence(38)))
        await asyncio.sleep(0.01)
        leaver.cancel()
        await made.run(hasty)
        assert hasty.finish_reason is FinishReason.DEADLINE
        assert right((await leader)[0])
        assert made.encoded == 1


async def test_a_small_call_does_not_wait_for_the_large_one_it_joins() -> None:
    async with rig(slots=1) as made:
        crowd = [make_sequence(length) for length in range(5, 39)]
        large = asyncio.create_task(made.run(*crowd))
        while not made.inner.scheduler.running:
            await asyncio.sleep(0)
        (found,) = await made.run(make_sequence(6))
        assert right(found)
        assert sum(one.finish_reason is None for one in crowd) > 20
        await large
        assert made.encoded == len(crowd)


async def test_of_a_large_call_that_leaves_only_what_others_want_is_run() -> None:
    async with rig(slots=1) as made:
        crowd = [make_sequence(length) for length in range(5, 39)]
        large = asyncio.create_task(made.run(*crowd))
        while not made.inner.scheduler.running:
            await asyncio.sleep(0)
        last = asyncio.create_task(made.run(make_sequence(38)))
        await asyncio.sleep(0.002)
        large.cancel()
        assert right((await last)[0])
        assert made.encoded < 5


async def test_nobody_waits_in_bulks_place() -> None:
    async with rig(slots=1) as made:
        bulk = asyncio.create_task(made.run(make_sequence(38, bulk=True)))
        while not made.inner.scheduler.running:
            await asyncio.sleep(0)
        await made.run(make_sequence(38))
        assert made.encoded == 2
        await bulk
        await made.run(make_sequence(38, bulk=True))
        assert made.encoded == 2


async def test_a_stream_shows_the_progress_of_the_flight_it_joins() -> None:
    async with rig() as made:
        made.runner.pause_seconds = 0.003
        leader = await started(made, make_sequence(38))
        joined = make_sequence(38, streamed=True)
        seen = [len(joined.target_ids) async for _ in made.front.generate([joined])]
        assert right(joined)
        assert seen == sorted(seen)
        assert len(set(seen)) > 5
        assert right((await leader)[0])
        assert made.encoded == 1


async def test_a_stream_is_answered_from_memory_at_once() -> None:
    async with rig() as made:
        await made.run(make_sequence(9))
        again = make_sequence(9, streamed=True)
        assert [right(again) async for _ in made.front.generate([again])] == [True]


@pytest.mark.parametrize(
    "change",
    [
        {"tenant": "other"},
        {"max_tokens": 39},
        {"guarded": True},
        {"parameters": DecodingParameters(min_tokens=1)},
        {"parameters": DecodingParameters(strategy="sample", seed=(1, 0))},
        {"parameters": DecodingParameters(log_probs=True)},
    ],
)
async def test_what_may_come_out_differently_is_not_shared(change: dict[str, object]) -> None:
    async with rig() as made:
        other = make_sequence(9)
        for name, value in change.items():
            setattr(other, name, value)
        await asyncio.gather(made.run(make_sequence(9)), made.run(other))
        assert made.encoded == 2


@pytest.mark.parametrize(
    "parameters",
    [
        DecodingParameters(strategy="sample"),
        DecodingParameters(attention=True, head_attention=True),
    ],
)
async def test_draws_and_weights_of_heads_are_made_anew(parameters: DecodingParameters) -> None:
    async with rig() as made:
        for _ in range(2):
            calls = [made.run(make_sequence(9, parameters=parameters)) for _ in range(2)]
            await asyncio.gather(*calls)
        assert made.encoded == 4
        assert len(made.cache) == 0


@pytest.mark.parametrize(
    "parameters",
    [
        DecodingParameters(attention=True),
        DecodingParameters(attention=True, strategy="beam", beams=1),
    ],
)
async def test_attention_is_shared_and_kept(parameters: DecodingParameters) -> None:
    async with rig() as made:
        calls = [made.run(make_sequence(9, parameters=parameters)) for _ in range(3)]
        found = [one for call in await asyncio.gather(*calls) for one in call]
        found += await made.run(make_sequence(9, parameters=parameters))
        assert made.encoded == 1
        assert (made.count("miss"), made.count("join"), made.count("hit")) == (1, 2, 1)
        for one in found:
            assert np.array_equal(one.attention, np.eye(9))
        found[0].attention.clear()  # whoever gets it may do with it as he likes
        (again,) = await made.run(make_sequence(9, parameters=parameters))
        assert np.array_equal(again.attention, np.eye(9))
        (plain,) = await made.run(make_sequence(9))
        assert plain.attention == []


async def test_the_memory_may_be_passed_by() -> None:
    async with rig() as made:
        for _ in range(2):
            sequence = make_sequence(9)
            sequence.bypass_cache = True
            await made.run(sequence)
        assert made.encoded == 2
        assert len(made.cache) == 0


async def test_a_failure_is_everybodys_and_not_kept() -> None:
    async with rig() as made:
        made.runner.fail = True
        found = await asyncio.gather(*(made.run(make_sequence(9)) for _ in range(3)))
        assert {one.finish_reason for (one,) in found} == {FinishReason.ERROR}
        made.runner.fail = False
        assert right((await made.run(make_sequence(9)))[0])


async def test_a_refusal_is_raised_and_what_was_joined_goes_on() -> None:
    async with rig(slots=1, max_waiting=3) as made:
        leader = await started(made, make_sequence(38))
        others = asyncio.create_task(made.run(*(make_sequence(n) for n in range(5, 15))))
        while made.engine.waiting < 5:
            await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await made.run(make_sequence(38), *(make_sequence(n) for n in range(20, 30)))
        assert right((await leader)[0])
        assert all(map(right, await others))


@dataclass(frozen=True)
class Plan:
    """One caller: what, when, and how long."""

    lengths: list[int]
    start: float
    deadline: float | None
    leave: float | None
    streamed: bool
    bulk: bool


plans = st.builds(
    Plan,
    lengths=st.lists(st.sampled_from([3, 9, 20, 38]), min_size=1, max_size=6),
    start=st.floats(0, 0.03),
    deadline=st.none() | st.floats(0.001, 0.08),
    leave=st.none() | st.floats(0, 0.06),
    streamed=st.booleans(),
    bulk=st.booleans(),
)


async def carry_out(made: Rig, plan: Plan) -> None:
    await asyncio.sleep(plan.start)
    now = time.monotonic()
    deadline = None if plan.deadline is None else now + plan.deadline
    sequences = [
        make_sequence(length, deadline=deadline, streamed=plan.streamed, bulk=plan.bulk)
        for length in plan.lengths
    ]
    try:
        async with asyncio.timeout(plan.leave):
            await made.run(*sequences)
    except TimeoutError:
        assert plan.leave is not None
        assert time.monotonic() >= now + plan.leave
        return
    except Overloaded:
        assert deadline is not None  # admission saw that it would be late
        return
    for sequence in sequences:
        if sequence.finish_reason is FinishReason.DEADLINE:
            assert deadline is not None
            assert time.monotonic() >= deadline
        else:
            assert right(sequence)


@settings(max_examples=40, deadline=None)
@given(st.lists(plans, min_size=1, max_size=12), st.sampled_from([2000, MEGABYTE]))
def test_whatever_others_do_everybody_gets_their_own(crowd: list[Plan], max_bytes: int) -> None:
    async def simulate() -> None:
        async with rig(slots=2, max_bytes=max_bytes) as made:
            async with asyncio.timeout(20):
                await asyncio.gather(*(carry_out(made, plan) for plan in crowd))
            assert made.cache.nbytes <= max_bytes

    asyncio.run(simulate())
