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
from collections import deque
from collections.abc import AsyncGenerator, Callable

from server.engine.engine import Engine, StepOutput
from server.engine.request import FinishReason, Sequence
from server.errors import Overloaded, ShuttingDown
from server.metrics import Metrics

logger = logging.getLogger(__name__)

_FAILURES_TO_UNHEALTHY = 2
_RETRY_SECONDS = (0.05, 10.0)
_RATE_SMOOTHING = 0.9


class _Group:
    """Sequences submitted together, and the signal that something about them changed."""

    def __init__(self, sequences: list[Sequence]) -> None:
        self.sequences = sequences
        self.unfinished = len(sequences)
        self.changed = asyncio.Event()


class AsyncEngine:
    """The engines of one model behind one line. Made, started and used in one event loop."""

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
            metrics: where the line's length and refusals are counted.
            max_waiting: sequences that may wait; a group that finds nobody waiting is taken
                whatever its size.
            on_unhealthy: called, in the event loop, after two steps in a row have failed.
        """
        self._engines = engines
        self._metrics = metrics
        self._max_waiting = max_waiting
        self._on_unhealthy = on_unhealthy
        self._line: deque[Sequence] = deque()
        self._condition = threading.Condition()
        self._stopping = False
        self._draining = False
        self._groups: dict[int, _Group] = {}
        self._idle = asyncio.Event()
        self._threads: list[threading.Thread] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._rate = 0.0
        self._rate_time = time.monotonic()

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

    async def generate(self, sequences: list[Sequence]) -> AsyncGenerator[None, None]:
        """Run the sequences; yields whenever one has ended or a streamed one has grown.

        Ends when all have ended; what they are is read from themselves. Closing the iterator
        early cancels those that are left.

        Raises:
            Overloaded: the line is full; nothing was taken.
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

    async def drain(self, grace_seconds: float) -> None:
        """Take nothing new, let what runs finish, then end what is left; threads stop."""
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

    def _submit(self, group: _Group) -> None:
        if self._draining or self._stopping:
            self._metrics.rejections.labels("shutting_down").inc()
            msg = "the server is shutting down"
            raise ShuttingDown(msg, retry_after_seconds=1.0)
        with self._condition:
            waiting = len(self._line)
            if waiting and waiting + len(group.sequences) > self._max_waiting:
                self._metrics.rejections.labels("queue_full").inc()
                msg = f"the queue is full: {waiting} sentences wait, {self._max_waiting} may"
                raise Overloaded(msg, retry_after_seconds=self._retry_after(waiting))
            for sequence in group.sequences:
                self._groups[sequence.number] = group
            self._line.extend(group.sequences)
            self._metrics.sequences_waiting.set(len(self._line))
            self._condition.notify(len(group.sequences))

    def _cancel(self, group: _Group) -> None:
        """The caller left: those in the line go at once, those that run at the next step."""
        with self._condition:
            for sequence in group.sequences:
                sequence.cancelled = True
                self._forget(sequence)
            left = [sequence for sequence in self._line if sequence.cancelled]
            self._line = deque(sequence for sequence in self._line if not sequence.cancelled)
            self._metrics.sequences_waiting.set(len(self._line))
        now = time.monotonic()
        for sequence in left:
            sequence.finish(FinishReason.CANCELLED, now)
            self._metrics.sequences.labels(FinishReason.CANCELLED.value).inc()
            self._metrics.cancellations.labels(FinishReason.CANCELLED.value).inc()

    def _retry_after(self, waiting: int) -> float:
        """About how long until the line is gone at the rate seen last."""
        low, high = _RETRY_SECONDS
        return min(high, max(low, waiting / self._rate)) if self._rate > 0 else 1.0

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
            while not (self._stopping or self._line or engine.has_unfinished):
                self._condition.wait()
            if self._stopping:
                while self._line:
                    engine.add(self._line.popleft())
                return False
            # A share each, so that a few sentences do not all go to the thread that woke first.
            share = math.ceil(len(self._line) / len(self._engines))
            for _ in range(min(share, engine.room)):
                engine.add(self._line.popleft())
            self._metrics.sequences_waiting.set(len(self._line))
        return True

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
                if sequence.streamed or not group.unfinished:
                    group.changed.set()
        for sequence in output.progressed:
            group = self._groups.get(sequence.number)
            if group is not None:
                group.changed.set()
        now = time.monotonic()
        rate = len(output.finished) / max(now - self._rate_time, 1e-3)
        self._rate_time = now
        self._rate = _RATE_SMOOTHING * self._rate + (1 - _RATE_SMOOTHING) * rate

    def _forget(self, sequence: Sequence) -> _Group | None:
        """Take a sequence out of its group, which is returned; the last one ends a drain."""
        group = self._groups.pop(sequence.number, None)
        if not self._groups:
            self._idle.set()
        return group
