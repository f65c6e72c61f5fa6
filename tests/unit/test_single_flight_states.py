"""Flights that land when the test says so: any order of boarding, leaving and landing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from fakes import make_sequence
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    precondition,
    rule,
)

from server.engine.request import FinishReason, Flow, Sequence
from server.metrics import Metrics
from server.text.sentence_cache import Key, SentenceCache
from server.text.single_flight import SingleFlight

MEGABYTE = 1 << 20


@dataclass
class ByHand:
    """An engine whose sequences end when the test says so."""

    groups: list[list[Sequence]] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def refuse_if_late(self, deadline: float | None, flow: Flow, cost: int) -> None:
        """It never does."""

    def seconds(self, sequences: list[Sequence]) -> float | None:
        """It does not know."""

    async def generate(self, sequences: list[Sequence]) -> AsyncGenerator[None, None]:
        self.groups.append(sequences)
        try:
            while any(one.finish_reason is None for one in sequences):
                await self.changed.wait()
                await asyncio.sleep(0)
                for one in sequences:
                    if one.abandoned and one.finish_reason is None:
                        one.finish(FinishReason.CANCELLED, time.monotonic())
                yield
        finally:
            self.groups.remove(sequences)

    @property
    def wanted(self) -> list[Sequence]:
        """What it would go on with."""
        return [
            one
            for group in self.groups
            for one in group
            if one.finish_reason is None and not one.abandoned
        ]


@dataclass(eq=False)
class Caller:
    sequences: list[Sequence]
    task: asyncio.Task[None] | None = None


class Flights(RuleBasedStateMachine):
    """Every wanted sentence is run exactly once, and everyone gets what it ends in."""

    callers = Bundle("callers")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.runner.run(self.set_up())

    async def set_up(self) -> None:
        metrics = Metrics()
        self.engine = ByHand()
        self.cache = SentenceCache(MEGABYTE, metrics)
        self.front = SingleFlight(self.engine, self.cache, metrics, digest="d")
        self.waiting: list[Caller] = []

    def settle(self) -> None:
        async def breathe() -> None:
            self.engine.changed.set()
            for _ in range(8):
                await asyncio.sleep(0)
            self.engine.changed.clear()

        self.runner.run(breathe())
        for caller in [one for one in self.waiting if one.task and one.task.done()]:
            assert caller.task
            caller.task.result()
            assert all(one.finish_reason for one in caller.sequences)
            self.waiting.remove(caller)

    @rule(target=callers, lengths=st.lists(st.integers(2, 5), min_size=1, max_size=4))
    def call(self, lengths: list[int]) -> Caller:
        caller = Caller([make_sequence(length) for length in lengths])

        async def run() -> None:
            async for _ in self.front.generate(caller.sequences):
                pass

        async def begin() -> None:
            caller.task = asyncio.create_task(run())

        self.runner.run(begin())
        self.waiting.append(caller)
        self.settle()
        return caller

    @rule(caller=consumes(callers))
    def leave(self, caller: Caller) -> None:
        if caller in self.waiting and caller.task:
            self.waiting.remove(caller)
            caller.task.cancel()
            self.settle()

    @precondition(lambda self: self.engine.wanted)
    @rule(data=st.data(), failed=st.booleans())
    def end(self, data: st.DataObject, failed: bool) -> None:
        sequence = data.draw(st.sampled_from(self.engine.wanted))
        sequence.target_ids.append(sequence.source_length)
        reason = FinishReason.ERROR if failed else FinishReason.EOS
        sequence.finish(reason, time.monotonic())
        self.settle()

    @invariant()
    def what_is_wanted_is_run_once(self) -> None:
        wanted = {
            one.source_length
            for caller in self.waiting
            for one in caller.sequences
            if one.finish_reason is None
        }
        assert sorted(one.source_length for one in self.engine.wanted) == sorted(wanted)
        assert set(self.front._flights) == {Key("d", one) for one in self.engine.wanted}

    @invariant()
    def nobody_gets_anothers(self) -> None:
        for caller in self.waiting:
            for one in caller.sequences:
                if one.finish_reason is FinishReason.EOS:
                    assert one.target_ids == [one.source_length]

    def teardown(self) -> None:
        for caller in self.waiting:
            if caller.task:
                caller.task.cancel()
        self.waiting.clear()
        self.settle()
        assert not self.engine.groups
        assert not self.front._flights
        assert not self.front._tasks
        self.runner.close()


TestFlights = Flights.TestCase
TestFlights.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
