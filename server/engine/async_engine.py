"""Engines on threads of their own, and the bounded line in front of them.

The event loop's side submits groups of sequences and awaits their progress; each engine's
thread takes from the line what it has room for, steps, and posts what changed. A sequence's
own lists are the buffer between both sides, so a caller that reads slowly, or never, makes
nothing grow.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
import time
from collections.abc import AsyncGenerator, Callable
from typing import NoReturn

from server.engine.admission import Admission
from server.engine.engine import Engine, StepOutput
from server.engine.line import Line
from server.engine.request import FinishReason, Flow, Sequence, second_attempts
from server.errors import Overloaded, ShuttingDown
from server.metrics import Metrics, ModelLoad

logger = logging.getLogger(__name__)

_FAILURES_TO_UNHEALTHY = 2
_RETRY_SECONDS = (0.05, 10.0)
_PAUSE_SECONDS = 0.02
_WELL = {FinishReason.EOS, FinishReason.LENGTH}


class _Group:
    """Sequences submitted together, and the signal that something about them changed."""

    def __init__(self, sequences: list[Sequence]) -> None:
        self.sequences = sequences
        self.unfinished = len(sequences)
        self.submitted = 0.0
        self.estimate = 0.0
        self.changed = asyncio.Event()


class AsyncEngine:
    """The engines of one model behind one line. Started and used in one event loop."""

    def __init__(
        self,
        engines: list[Engine],
        metrics: Metrics,
        *,
        max_waiting: int,
        on_unhealthy: Callable[[], object] = lambda: None,
    ) -> None:
        """Set the parts.

        Args:
            engines: one a thread.
            metrics: where refusals and sequences are counted.
            max_waiting: sequences that may wait; a group that finds nobody waiting is taken
                whatever its size.
            on_unhealthy: called, in the event loop, after two steps in a row have failed.
        """
        self._engines = engines
        self._gathered = max(engine.enough for engine in engines)
        self._metrics = metrics
        self._max_waiting = max_waiting
        self._on_unhealthy = on_unhealthy
        self._line = Line()
        self._admission = Admission()
        self._condition = threading.Condition()
        self._pausing = 0
        self._resting = 0
        self._stopping = False
        self._draining = False
        self._groups: dict[int, _Group] = {}
        self._idle = asyncio.Event()
        self._threads: list[threading.Thread] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Start one thread an engine; call it in the event loop."""
        self._loop = asyncio.get_running_loop()
        for engine in self._engines:
            thread = threading.Thread(
                target=self._work, args=(engine,), name=f"engine-{engine.name}", daemon=True
            )
            thread.start()
            self._threads.append(thread)

    @property
    def waiting(self) -> int:
        """Sequences in the line; those an engine has taken do not count."""
        return len(self._line)

    def load(self) -> ModelLoad:
        """What it holds now; may be asked in any thread."""
        schedulers = [engine.scheduler for engine in self._engines]
        pools = [scheduler.pool for scheduler in schedulers]
        with self._condition:
            tokens_waiting = self._line.cost(bulk=False) + self._line.cost(bulk=True)
        return ModelLoad(
            running=[len(scheduler.running) for scheduler in schedulers],
            slots_used=[pool.used for pool in pools],
            slots=[pool.shape.slots for pool in pools],
            waiting=len(self._line),
            tokens_waiting=tokens_waiting,
            kv_cache_bytes=sum(pool.shape.nbytes for pool in pools),
        )

    async def generate(self, sequences: list[Sequence]) -> AsyncGenerator[None, None]:
        """Run the sequences; yields whenever one has ended or a streamed one has grown.

        Ends when all have ended; what they are is read from themselves. Closing the iterator
        early cancels those that are left.

        Raises:
            Overloaded: the line is full, or the deadline would pass first; nothing was taken.
            ShuttingDown: the server drains; nothing was taken.
        """
        group = _Group(sequences)
        self._submit(group)
        try:
            while group.unfinished:
                await group.changed.wait()
                group.changed.clear()
                yield
        finally:
            if group.unfinished:
                self._cancel(group)

    def refuse_if_late(self, deadline: float | None, flow: Flow, cost: int) -> None:
        """Refuse what would be late, before anything is done for it.

        Args:
            deadline: monotonic seconds.
            flow: whose work it is.
            cost: tokens it will take, about; 0 where nobody knows.

        Raises:
            Overloaded: it would.
        """
        if deadline is None:
            return
        with self._condition:
            ahead = self._cost_ahead(flow)
        if self._admission.late_behind(ahead + cost, deadline, time.monotonic(), bulk=flow.bulk):
            self._refuse_as_late(ahead)

    def seconds(self, sequences: list[Sequence]) -> float | None:
        """How long these would take if they came now, about; None while nothing is known."""
        if not sequences:
            return 0.0
        with self._condition:
            ahead = self._cost_ahead(sequences[0].flow)
        return self._admission.seconds(sequences, ahead) or None

    async def drain(self, grace_seconds: float) -> None:
        """Take nothing new, let what runs finish, then end what is left; threads stop.

        The engines' memory goes, though a caller that never reads may hold on to us.
        """
        self._draining = True
        if self._groups:
            self._idle.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), grace_seconds)
        with self._condition:
            self._stopping = True
            self._condition.notify_all()
        for thread in self._threads:
            await asyncio.to_thread(thread.join)
        await asyncio.sleep(0)  # what the threads posted last is delivered before we return
        self._engines = []

    def _submit(self, group: _Group) -> None:
        if self._draining or self._stopping:
            self._metrics.rejections.labels("shutting_down").inc()
            msg = "the server is shutting down"
            raise ShuttingDown(msg, retry_after_seconds=1.0)
        with self._condition:
            waiting = len(self._line)
            full = waiting and waiting + len(group.sequences) > self._max_waiting
            if full and not second_attempts(group.sequences):
                self._metrics.rejections.labels("queue_full").inc()
                msg = f"the queue is full: {waiting} sentences wait, {self._max_waiting} may"
                cost = self._line.cost(bulk=False) + self._line.cost(bulk=True)
                raise Overloaded(msg, retry_after_seconds=self._retry_after(cost))
            now = time.monotonic()
            ahead = self._cost_ahead(group.sequences[0].flow)
            if self._admission.late(group.sequences, ahead, now):
                self._refuse_as_late(ahead)
            group.submitted, group.estimate = now, self._admission.seconds(group.sequences, ahead)
            for sequence in group.sequences:
                self._groups[sequence.number] = group
            self._line.add(group.sequences, self._served())
            for engine in self._engines:
                engine.called = True
            if any(not one.load and self._takes(one) for one in self._engines):
                self._condition.notify(len(group.sequences))

    def _refuse_as_late(self, ahead: int) -> NoReturn:
        self._metrics.rejections.labels("deadline").inc()
        msg = "the deadline would pass before this could be done"
        raise Overloaded(msg, retry_after_seconds=self._retry_after(ahead))

    def _cost_ahead(self, flow: Flow) -> int:
        """Tokens that will be done before new work of a tenant and class, about."""
        tag = self._line.tag(flow, self._served())
        taken = (engine.scheduler.cost_ahead(tag, bulk=flow.bulk) for engine in self._engines)
        return sum(taken) + self._line.cost_ahead(flow)

    def _served(self) -> float | None:
        """The tag that the engines have come to."""
        tags = [engine.scheduler.next_tag for engine in self._engines]
        return min((tag for tag in tags if tag is not None), default=None)

    def _cancel(self, group: _Group) -> None:
        """The caller left: those in the line go at once, those that run at the next step."""
        with self._condition:
            for sequence in group.sequences:
                sequence.cancelled = True
                self._forget(sequence)
            left = self._line.take_cancelled(group.sequences)
        now = time.monotonic()
        deadline = group.sequences[0].deadline
        if deadline is not None and now >= deadline:  # it left because it was late
            self._learn(group)
        for sequence in left:
            sequence.finish(FinishReason.CANCELLED, now)
            self._metrics.sequences.labels(FinishReason.CANCELLED.value).inc()
            self._metrics.cancellations.labels(FinishReason.CANCELLED.value).inc()

    def _learn(self, group: _Group) -> None:
        """Compare how long a request took with what was thought."""
        seconds = time.monotonic() - group.submitted
        self._admission.took(seconds, group.estimate, bulk=group.sequences[0].bulk)

    def _retry_after(self, cost: int) -> float:
        """About how long until so many tokens are done."""
        low, high = _RETRY_SECONDS
        seconds = self._admission.wait_seconds(cost)
        return min(high, max(low, seconds)) if seconds else 1.0

    def _work(self, engine: Engine) -> None:
        """An engine's thread: take what there is room for, step, post."""
        failures = 0
        while self._feed(engine):
            try:
                output = engine.step()
                failures = 0
            except Exception:
                failures += 1
                logger.exception("a step failed; every sentence in the batch gets an error")
                output = StepOutput(engine.fail(FinishReason.ERROR), [])
                if failures == _FAILURES_TO_UNHEALTHY:
                    self._call(self._on_unhealthy)
            if output.finished or output.progressed:
                self._call(self._deliver, output)
        ended = engine.fail(FinishReason.SHUTDOWN)
        if ended:
            self._call(self._deliver, StepOutput(ended, []))

    def _feed(self, engine: Engine) -> bool:
        """Wait until the engine has work and give it its share; False when it must stop."""
        with self._condition:
            while not (self._stopping or engine.has_unfinished or self._takes(engine)):
                self._resting += 1
                self._condition.wait()
                self._resting -= 1
            self._make_way(engine)
            if self._stopping:
                while len(self._line):
                    engine.add(self._line.pop())
                return False
            if self._takes(engine):
                self._take(engine)
            engine.called = False
        return True

    def _takes(self, engine: Engine) -> bool:
        """Whether what waits in the line is for this engine.

        A step of few rows costs nearly as much as one of twice as many: a few gather in the engine
        that has most before another begins. The fullest is never refused: it comes after its step.
        """
        head = self._line.head
        return head is not None and not any(
            engine.load < other.load < self._gathered and (head.bulk or other.scheduler.urgent)
            for other in self._engines
        )

    def _take(self, engine: Engine) -> None:
        """Give an engine its share of the line."""
        # A share each, so that they do not all go to the thread that woke first.
        share = math.ceil(len(self._line) / len(self._engines))
        share = min(max(share, self._gathered - engine.load), engine.room, len(self._line))
        for _ in range(share):
            engine.add(self._line.pop())
        if self._resting:  # what is left is for who has nothing to do
            self._condition.notify(min(1, len(self._line)))
            return
        while (head := self._line.head) is not None and not head.bulk and engine.room_for_urgent:
            engine.add(self._line.pop())

    def _make_way(self, engine: Engine) -> None:
        """Leave a core to those who wait for a single sentence, but not for long.

        There is an engine a core, and the event loop and the rest of the machine need some too.
        For each engine with interactive work one that has only bulk work pauses, and wakes when
        that work is done.
        """
        urgent = sum(one.scheduler.urgent for one in self._engines)
        head = self._line.head
        if engine.scheduler.urgent or urgent <= self._pausing or (head and not head.bulk):
            if urgent < self._pausing:
                self._condition.notify_all()
            return
        self._pausing += 1
        self._condition.wait(_PAUSE_SECONDS)
        self._pausing -= 1

    def _call(self, function: Callable[..., object], *arguments: object) -> None:
        """Run a function in the event loop, if there still is one."""
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:  # the loop closed while the last threads were stopping
            logger.debug("the event loop is gone")

    def _deliver(self, output: StepOutput) -> None:
        """In the event loop: wake the groups whose sequences changed."""
        for sequence in output.finished:
            group = self._forget(sequence)
            if group is not None:
                group.unfinished -= 1
                if not group.unfinished:
                    self._learn(group)
                if sequence.streamed or not group.unfinished:
                    group.changed.set()
        for sequence in output.progressed:
            group = self._groups.get(sequence.number)
            if group is not None:
                group.changed.set()
        well = [sequence for sequence in output.finished if sequence.finish_reason in _WELL]
        self._admission.finished(well, time.monotonic(), backlog=len(self._line) > 0)

    def _forget(self, sequence: Sequence) -> _Group | None:
        """Take a sequence out of its group, which is returned; the last one ends a drain."""
        group = self._groups.pop(sequence.number, None)
        if not self._groups:
            self._idle.set()
        return group
