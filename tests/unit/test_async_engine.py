"""Threads, the bounded line, failures and drain, over the network of fifteen lines."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from random import Random

import pytest
from fakes import FakeRunner, make_engine, make_sequence

from server.engine.async_engine import AsyncEngine
from server.engine.request import FinishReason, Sequence
from server.errors import Overloaded, ShuttingDown
from server.metrics import Metrics


class Rig:
    def __init__(self, engines: int = 1, slots: int = 4, max_waiting: int = 100) -> None:
        pairs = [make_engine(slots=slots) for _ in range(engines)]
        self.engines = [engine for engine, _ in pairs]
        self.runners: list[FakeRunner] = [runner for _, runner in pairs]
        self.unhealthy = 0
        self.front = AsyncEngine(
            self.engines, Metrics(), max_waiting=max_waiting, on_unhealthy=self.mark
        )
        self.front.start()

    def mark(self) -> None:
        self.unhealthy += 1

    async def run(self, sequences: list[Sequence]) -> list[Sequence]:
        async for _ in self.front.generate(sequences):
            pass
        return sequences


@contextlib.asynccontextmanager
async def rig(**shape: int) -> AsyncIterator[Rig]:
    made = Rig(**shape)
    yield made
    await made.front.drain(grace_seconds=0.0)


async def test_everyone_ends_and_every_engine_works() -> None:
    async with rig(engines=2) as made:
        sequences = [make_sequence(2 + index % 9) for index in range(60)]
        await asyncio.wait_for(made.run(sequences), 20)
        assert all(s.finish_reason is FinishReason.EOS for s in sequences)
        assert all(runner.decoded for runner in made.runners)
        assert made.front._groups == {}


async def test_a_streamed_sequence_is_seen_to_grow() -> None:
    async with rig() as made:
        sequence = make_sequence(30, streamed=True)
        made.runners[0].pause_seconds = 0.002
        progress = made.front.generate([sequence])
        seen = [len(sequence.target_ids) async for _ in progress]
        assert seen == sorted(seen)
        assert seen[-1] == 29
        assert len(seen) > 1


async def test_a_full_line_refuses_a_group_whole_and_says_when_to_come_back() -> None:
    async with rig(slots=1, max_waiting=5) as made:
        made.runners[0].pause_seconds = 0.002
        blocker = asyncio.gather(made.run([make_sequence(38) for _ in range(12)]))
        while not made.front.waiting:
            await asyncio.sleep(0)
        refused = [make_sequence(3) for _ in range(6)]
        with pytest.raises(Overloaded) as caught:
            await made.run(refused)
        assert 0 < caught.value.retry_after_seconds <= 10
        assert all(s.finish_reason is None and s.slot is None for s in refused)
        seconds = [make_sequence(3) for _ in range(6)]
        for sequence in seconds:
            sequence.again = True  # second attempts at what was let in are let in too
        await asyncio.wait_for(made.run(seconds), 20)
        assert all(s.finish_reason is not None for s in seconds)
        await asyncio.wait_for(blocker, 20)
        await asyncio.wait_for(made.run(refused), 20)  # and later there is room


async def test_a_caller_who_leaves_takes_its_sequences_along() -> None:
    async with rig(slots=2) as made:
        mine = [make_sequence(39, max_tokens=39) for _ in range(20)]
        task = asyncio.ensure_future(made.run(mine))
        while not any(s.steps for s in mine):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        other = await asyncio.wait_for(made.run([make_sequence(3)]), 20)
        assert other[0].finish_reason is FinishReason.EOS
        for _ in range(200):
            if all(s.finish_reason for s in mine):
                break
            await asyncio.sleep(0.01)
        reasons = {s.finish_reason for s in mine}
        assert FinishReason.CANCELLED in reasons
        assert reasons <= {FinishReason.CANCELLED, FinishReason.EOS}
        assert made.engines[0].scheduler.pool.used == 0


async def test_a_failed_step_is_an_error_for_its_batch_and_the_engine_goes_on() -> None:
    async with rig() as made:
        made.runners[0].fail = True
        failed = await asyncio.wait_for(made.run([make_sequence(5) for _ in range(3)]), 20)
        assert all(s.finish_reason is FinishReason.ERROR for s in failed)
        assert made.unhealthy == 0
        made.runners[0].fail = False
        fine = await asyncio.wait_for(made.run([make_sequence(5)]), 20)
        assert fine[0].finish_reason is FinishReason.EOS
        made.engines[0].scheduler.check_integrity()


async def test_two_failures_in_a_row_are_unhealthy() -> None:
    async with rig() as made:
        made.runners[0].fail = True
        for _ in range(2):
            await asyncio.wait_for(made.run([make_sequence(5)]), 20)
        await asyncio.sleep(0.05)
        assert made.unhealthy == 1


async def test_a_drain_finishes_what_it_has_and_takes_nothing_new() -> None:
    async with rig(slots=1) as made:
        sequences = [make_sequence(30) for _ in range(5)]
        running = asyncio.ensure_future(made.run(sequences))
        await asyncio.sleep(0)
        draining = asyncio.ensure_future(made.front.drain(grace_seconds=20))
        await asyncio.sleep(0)
        with pytest.raises(ShuttingDown):
            await made.run([make_sequence(3)])
        await asyncio.wait_for(asyncio.gather(running, draining), 20)
        assert all(s.finish_reason is FinishReason.EOS for s in sequences)


async def test_a_drain_without_grace_ends_the_rest_with_a_reason() -> None:
    async with rig(slots=1) as made:
        sequences = [make_sequence(39, max_tokens=39) for _ in range(200)]
        running = asyncio.ensure_future(made.run(sequences))
        await asyncio.sleep(0)
        await made.front.drain(grace_seconds=0.0)
        await asyncio.wait_for(running, 20)
        assert {s.finish_reason for s in sequences} <= {FinishReason.SHUTDOWN, FinishReason.EOS}
        assert FinishReason.SHUTDOWN in {s.finish_reason for s in sequences}


async def test_an_engine_with_bulk_work_alone_makes_way_and_both_end() -> None:
    async with rig(engines=2, slots=4) as made:
        for runner in made.runners:
            runner.pause_seconds = 0.002
        bulk = [make_sequence(30, bulk=True) for _ in range(60)]
        rest = asyncio.ensure_future(made.run(bulk))
        while not all(engine.scheduler.running for engine in made.engines):
            await asyncio.sleep(0)
        before = [len(runner.decoded) for runner in made.runners]
        one = await asyncio.wait_for(made.run([make_sequence(30)]), 20)
        steps = [
            len(runner.decoded) - count for runner, count in zip(made.runners, before, strict=True)
        ]
        assert one[0].finish_reason is FinishReason.EOS
        assert min(steps) < max(steps) / 2
        await asyncio.wait_for(rest, 20)
        assert all(s.finish_reason is FinishReason.EOS for s in bulk)
        assert made.front._pausing == 0


async def test_a_few_sentences_gather_in_one_engine() -> None:
    async with rig(engines=2, slots=16) as made:  # four rows are enough for an engine
        for runner in made.runners:
            runner.pause_seconds = 0.002
        running = [asyncio.ensure_future(made.run([make_sequence(38)]))]
        while not any(runner.decoded for runner in made.runners):
            await asyncio.sleep(0.001)
        for _ in range(3):
            running.append(asyncio.ensure_future(made.run([make_sequence(10)])))
            await asyncio.sleep(0.004)
        await asyncio.wait_for(asyncio.gather(*running), 20)
        assert sorted(bool(runner.decoded) for runner in made.runners) == [False, True]
        assert max(max(runner.decoded, default=0) for runner in made.runners) >= 3


async def test_beyond_a_few_another_engine_begins() -> None:
    async with rig(engines=2, slots=16) as made:
        for runner in made.runners:
            runner.pause_seconds = 0.002
        calls = [asyncio.ensure_future(made.run([make_sequence(30)])) for _ in range(12)]
        await asyncio.wait_for(asyncio.gather(*calls), 20)
        assert all(runner.decoded for runner in made.runners)


async def test_who_comes_to_a_sentence_alone_waits_for_one_step_of_it() -> None:
    async with rig(engines=2, slots=16) as made:
        for runner in made.runners:
            runner.pause_seconds = 0.01
        first, late = make_sequence(38), make_sequence(5)
        running = asyncio.ensure_future(made.run([first]))
        while not first.steps:
            await asyncio.sleep(0.001)
        before = first.steps
        await asyncio.wait_for(made.run([late]), 20)
        assert first.steps - before <= late.steps + 2  # eight steps at a time it takes alone
        await asyncio.wait_for(running, 20)


@pytest.mark.parametrize("seed", range(3))
async def test_whoever_comes_when_it_likes_is_served(seed: int) -> None:
    """Singly and in groups, bulk or not: no engine waits for another that waits for it."""
    random = Random(seed)
    async with rig(engines=3, slots=8, max_waiting=1000) as made:
        calls = []
        for _ in range(60):
            bulk = random.random() < 0.3
            count = random.choice((1, 1, 1, 2, 9))
            sequences = [make_sequence(random.randrange(2, 30), bulk=bulk) for _ in range(count)]
            calls.append(asyncio.ensure_future(made.run(sequences)))
            await asyncio.sleep(random.choice((0, 0, 0.001, 0.003)))
        done = await asyncio.wait_for(asyncio.gather(*calls), 20)
        assert {one.finish_reason for group in done for one in group} == {FinishReason.EOS}
        assert made.front._resting <= 3
