"""One engine: a scheduler, a network and a search, run step by step by one thread."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass

from server.engine.circling import judge
from server.engine.guard import Guard
from server.engine.looking import Looking
from server.engine.model_runner import ModelRunner
from server.engine.request import FinishReason, Sequence
from server.engine.scheduler import Scheduler
from server.engine.search import Search
from server.metrics import Metrics

_STEPS_ALONE = 8
"""Unless somebody comes meanwhile."""


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What a step changed that somebody waits for."""

    finished: list[Sequence]
    progressed: list[Sequence]
    """Streamed sequences that got a token and go on."""


class Engine:
    """In-flight batching: at every step sequences join and leave."""

    def __init__(
        self,
        name: str,
        scheduler: Scheduler,
        runner: ModelRunner,
        search: Search,
        metrics: Metrics,
        *,
        checked: bool = False,
    ) -> None:
        """Put the parts together.

        Args:
            name: tells its thread from others.
            scheduler: says who runs.
            runner: runs them.
            search: chooses their tokens.
            metrics: where steps and sequences are counted.
            checked: assert after every step that slots and sequences are one to one.
        """
        self.name = name
        self.scheduler = scheduler
        self._runner = runner
        self._search = search
        self._metrics = metrics
        self._checked = checked
        self._guard = Guard()
        self._looking = Looking(runner)
        self._slots = scheduler.pool.shape.slots
        self.called = False
        """Somebody has come to the line since it was last there; set by any thread."""

    @property
    def has_unfinished(self) -> bool:
        """Whether a step would do anything."""
        return self.scheduler.has_unfinished

    @property
    def load(self) -> int:
        """Rows that it runs and sequences that wait in it; may be asked in any thread."""
        return len(self.scheduler.running) + len(self.scheduler.waiting)

    @property
    def enough(self) -> int:
        """Rows from which on more make a step hardly cheaper a row."""
        return max(1, self._slots // 4)

    @property
    def room(self) -> int:
        """How many more sequences it can use now: free slots, and as many to choose from."""
        return max(0, self.scheduler.pool.free + self._slots - len(self.scheduler.waiting))

    @property
    def room_for_urgent(self) -> bool:
        """Whether an interactive sequence would not wait long behind others such."""
        return len(self.scheduler.waiting) < 2 * self._slots

    def add(self, sequence: Sequence) -> None:
        """Take a sequence; it joins the batch as soon as there is a slot."""
        self.scheduler.add(sequence)

    def step(self) -> StepOutput:
        """Schedule, execute, update.

        Raises:
            ModelFailure: the network failed; call :meth:`fail`.
        """
        plan = self.scheduler.schedule(time.monotonic())
        if plan.encode:
            self._encode(plan.encode)
        finished: list[Sequence] = []
        if self.scheduler.alone is not None:
            finished = self._decode_alone(self.scheduler.alone)
        elif plan.decode:
            finished = self._decode(plan.decode)
        if self._checked:
            self.scheduler.check_integrity()
        ended = plan.dropped + finished
        for sequence in ended:
            self._end(sequence)
        progressed = [
            sequence
            for sequence in plan.decode
            if sequence.streamed and sequence.finish_reason is None
        ]  # who branches is not streamed: what is likeliest may change to the end
        return StepOutput(ended, progressed)

    def fail(self, reason: FinishReason) -> list[Sequence]:
        """End everything it holds and start clean; returns who ended."""
        ended = self.scheduler.fail(time.monotonic(), reason)
        self.scheduler.check_integrity()
        for sequence in ended:
            self._end(sequence)
        return ended

    def _encode(self, sequences: list[Sequence]) -> None:
        start = time.monotonic()
        self._runner.encode(sequences)
        for sequence in sequences:
            self._search.start(sequence)
            self._looking.start(sequence)
            if sequence.guarded and sequence.parameters.strategy != "beam":
                self._guard.watch(sequence)
        seconds = time.monotonic() - start
        for sequence in sequences:
            sequence.encode_seconds = seconds
        self._metrics.encoder_step_duration.observe(seconds)
        self._metrics.source_tokens.inc(sum(sequence.source_length for sequence in sequences))

    def _decode(self, sequences: list[Sequence]) -> list[Sequence]:
        start = time.monotonic()
        logits = self._runner.decode(len(sequences))
        self._looking.step(sequences, self._search.beams)
        tokens = self._search.choose(logits, sequences)
        looping = self._guard.step(tokens, sequences)
        if self._search.beams:
            judge(self._search.beams.values(), len(sequences))
        now = time.monotonic()
        finished = self.scheduler.update(
            tokens, self._search.beams, now, looping, at_end=self._looking.finish
        )
        self._metrics.decoder_step_duration.observe(now - start)
        self._metrics.batch_rows.observe(len(sequences))
        self._metrics.batch_occupancy.observe(len(sequences) / self._slots)
        self._metrics.target_tokens.inc(len(sequences))
        return finished

    def _decode_alone(self, sequence: Sequence) -> list[Sequence]:
        """Take a few steps with the only sentence there is: for one row all else costs a third."""
        watch = self._guard.of(sequence)
        times = [time.monotonic()]
        going = True
        while going and len(times) <= _STEPS_ALONE and not (sequence.cancelled or self.called):
            token = self._search.choose_alone(self._runner.decode(1))
            looping = watch is not None and watch.step(token)
            times.append(time.monotonic())
            going = self.scheduler.update_alone(token, times[-1], looping=looping)
        for start, end in itertools.pairwise(times):
            self._metrics.decoder_step_duration.observe(end - start)
            self._metrics.batch_rows.observe(1)
            self._metrics.batch_occupancy.observe(1 / self._slots)
        self._metrics.target_tokens.inc(len(times) - 1)
        return [] if going else [sequence]

    def _end(self, sequence: Sequence) -> None:
        """Drop what is remembered of a sequence that ended, and count it."""
        self._search.forget(sequence)
        self._guard.forget(sequence)
        self._looking.forget(sequence)
        self._observe(sequence)

    def _observe(self, sequence: Sequence) -> None:
        """Count a sequence that ended, once."""
        reason = sequence.finish_reason
        assert reason is not None
        metrics = self._metrics
        metrics.sequences.labels(reason.value).inc()
        if reason in {FinishReason.CANCELLED, FinishReason.DEADLINE}:
            metrics.cancellations.labels(reason.value).inc()
        if sequence.admitted is not None:
            metrics.queue_duration.observe(sequence.admitted - sequence.arrived)
        if sequence.first_token is not None:
            metrics.time_to_first_token.observe(sequence.first_token - sequence.arrived)
            if sequence.steps > 1 and sequence.finished is not None:
                span = sequence.finished - sequence.first_token
                metrics.inter_token_latency.observe(span / (sequence.steps - 1))
