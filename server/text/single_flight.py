"""Identical sentences that are wanted at the same time are decoded once.

What the engine runs is a flight: a sequence of its own, in which those of the callers have
seats. A flight belongs to nobody, so who began it may leave: it goes on for the others, up to
the latest of their deadlines, and is dropped when its last seat is empty. Each caller's own
deadline and departure hold for that caller alone. A finished flight goes into the cache.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Protocol

from server.engine.request import FinishReason, Flow, Sequence
from server.metrics import Metrics
from server.text.sentence_cache import KEPT, Key, SentenceCache


class Runner(Protocol):
    """What runs sequences: an engine, or what stands in front of it."""

    def refuse_if_late(self, deadline: float | None, flow: Flow, cost: int) -> None:
        """Raise Overloaded if new work of about this cost would be late."""

    def seconds(self, sequences: list[Sequence]) -> float | None:
        """How long they would take if they came now, about; None while nothing is known."""

    def generate(self, sequences: list[Sequence]) -> AsyncGenerator[None, None]:
        """Run them; yields whenever one has ended or a streamed one has grown."""


class _Call:
    """The sequences that one caller waits for, and the signal that something about them changed."""

    def __init__(self, sequences: list[Sequence]) -> None:
        self.sequences = sequences
        self.unfinished = len(sequences)
        self.changed = asyncio.Event()
        self.flights: dict[_Flight, None] = {}  # an ordered set
        self.error: Exception | None = None
        self.alarm: asyncio.TimerHandle | None = None

    def finished(self, sequence: Sequence) -> None:
        """One of its sequences has ended."""
        self.unfinished -= 1
        if sequence.streamed or not self.unfinished:
            self.changed.set()


@dataclass(frozen=True, slots=True)
class _Seat:
    """A caller's sequence in a flight."""

    call: _Call
    sequence: Sequence


@dataclass(slots=True, eq=False)
class _Flight:
    """A sequence that the engine runs, and who waits for it."""

    key: Key | None
    """None: nobody else may join it."""
    sequence: Sequence
    seats: list[_Seat] = field(default_factory=list)
    carrier: _Carrier | None = None
    landed: bool = False

    def extend(self) -> None:
        """Run to the latest deadline of those that are left."""
        deadlines = [seat.sequence.deadline for seat in self.seats]
        known = [deadline for deadline in deadlines if deadline is not None]
        self.sequence.deadline = max(known) if len(known) == len(deadlines) else None


class _Carrier:
    """A task that runs flights together, as one group of the engine."""

    def __init__(self, flights: list[_Flight]) -> None:
        self.flights = flights
        self.flying = len(flights)
        self.task: asyncio.Task[None] | None = None


class SingleFlight:
    """In front of one model's engine. Used in one event loop."""

    def __init__(
        self, engine: Runner, cache: SentenceCache, metrics: Metrics, *, digest: str
    ) -> None:
        """Set what runs the sentences, what keeps their results, and the model's digest."""
        self._engine = engine
        self._cache = cache
        self._digest = digest
        count = metrics.sentence_cache_requests.labels
        self._hits, self._joins, self._misses = count("hit"), count("join"), count("miss")
        self._flights: dict[Key, _Flight] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def refuse_if_late(self, deadline: float | None, flow: Flow, cost: int) -> None:
        """As the engine's."""
        self._engine.refuse_if_late(deadline, flow, cost)

    def seconds(self, sequences: list[Sequence]) -> float | None:
        """As the engine's: what would be known by then cannot be said."""
        return self._engine.seconds(sequences)

    async def generate(self, sequences: list[Sequence]) -> AsyncGenerator[None, None]:
        """As the engine's, but a sentence that is known, or in flight, is not run again.

        Raises:
            Overloaded: no room for those that have to be run.
            ShuttingDown: the server drains.
        """
        call = _Call(sequences)
        self._launch([flight for one in sequences if (flight := self._board(call, one))])
        self._set_alarm(call)
        try:
            if call.unfinished < len(sequences):
                yield
            while call.unfinished:
                await call.changed.wait()
                call.changed.clear()
                if call.error is not None:
                    raise call.error
                yield
        finally:
            if call.alarm is not None:
                call.alarm.cancel()
            self._leave(call)

    def _board(self, call: _Call, sequence: Sequence) -> _Flight | None:
        """Answer a sequence, or seat it; returns the flight if that is a new one."""
        key = self._key(sequence)
        if key is None:
            return _seated(_Flight(None, sequence.anew()), call, sequence)
        flight = self._flights.get(key)
        if flight is not None and flight.sequence.finish_reason is not None:
            self._land(flight)  # it has ended, and its group has not been told yet
            flight = None
        if self._cache.answer(key, sequence):
            call.unfinished -= 1
            self._hits.inc()
            return None
        if flight is not None and _open_to(flight, sequence):
            if sequence.streamed or flight.carrier is not None:
                flight.sequence.streamed = True  # another call hears of its end before its group's
            _seated(flight, call, sequence)
            flight.extend()
            self._joins.inc()
            return None
        flight = self._flights[key] = _Flight(key, sequence.anew())
        self._misses.inc()
        return _seated(flight, call, sequence)

    def _key(self, sequence: Sequence) -> Key | None:
        """What makes two sentences one; None for those that are never shared.

        A draw without a seed is new each time; the weights of single heads are too large to keep.
        """
        parameters = sequence.parameters
        drawn = parameters.strategy == "sample" and parameters.seed is None
        heads = parameters.head_attention
        if not self._cache.enabled or sequence.bypass_cache or heads or drawn:
            return None
        return Key(self._digest, sequence)

    def _launch(self, flights: list[_Flight]) -> None:
        """Have flights run together."""
        if not flights:
            return
        carrier = _Carrier(flights)
        for flight in flights:
            flight.carrier = carrier
        carrier.task = asyncio.get_running_loop().create_task(self._carry(carrier))
        self._tasks.add(carrier.task)
        carrier.task.add_done_callback(self._tasks.discard)

    async def _carry(self, carrier: _Carrier) -> None:
        """Run flights and tell their callers; ends when all have landed."""
        flights = carrier.flights
        run = self._engine.generate([flight.sequence for flight in flights])
        try:
            async with contextlib.aclosing(run) as progress:
                async for _ in progress:
                    for flight in flights:
                        self._tell(flight)
            assert not carrier.flying, "the engine ends every sequence it took"
        except Exception as error:  # noqa: BLE001  not ours: it is raised to every caller
            for flight in flights:
                self._fail(flight, error)

    def _tell(self, flight: _Flight) -> None:
        """Let the callers of a flight know how far it is."""
        if flight.landed:
            return
        if flight.sequence.finish_reason is not None:
            self._land(flight)
            return
        for seat in flight.seats:
            if seat.sequence.streamed:
                seat.call.changed.set()

    def _land(self, flight: _Flight) -> None:
        """Give everybody the result; who has time left when a flight has not starts anew."""
        if flight.landed:
            return
        reason = flight.sequence.finish_reason
        assert reason is not None
        self._close(flight)
        if reason in KEPT and flight.key is not None:
            self._cache.keep(flight.key, flight.sequence)
        seats = flight.seats
        if reason in {FinishReason.DEADLINE, FinishReason.CANCELLED}:
            now = time.monotonic()
            early = [seat for seat in seats if seat.sequence.drop_reason(now) is None]
            seats = [seat for seat in seats if seat not in early]
            self._relaunch(flight, early)
        for place, seat in enumerate(seats):
            seat.call.flights.pop(flight, None)
            _share(flight.sequence, seat.sequence, first=place == 0)
            seat.call.finished(seat.sequence)

    def _relaunch(self, flight: _Flight, seats: list[_Seat]) -> None:
        """A deadline passed in the very moment in which others, with more time, sat down."""
        if not seats:
            return
        again = _Flight(flight.key, seats[0].sequence.anew())
        for seat in seats:
            seat.call.flights.pop(flight, None)
            _seated(again, seat.call, seat.sequence)
        again.sequence.streamed = True
        again.extend()
        if flight.key is not None:
            self._flights[flight.key] = again
        self._launch([again])

    def _fail(self, flight: _Flight, error: Exception) -> None:
        """It was never run, or not to its end: its callers get the error."""
        if flight.landed:
            return
        self._close(flight)
        for seat in flight.seats:
            seat.call.flights.pop(flight, None)
            seat.call.error = error
            seat.call.changed.set()

    def _close(self, flight: _Flight) -> None:
        """It is over, well or not; nobody joins it any more."""
        assert flight.carrier is not None
        flight.landed = True
        flight.carrier.flying -= 1
        if flight.key is not None and self._flights.get(flight.key) is flight:
            del self._flights[flight.key]

    def _vacate(self, call: _Call, flight: _Flight) -> None:
        """A caller has given up seats; a flight with nobody left is dropped."""
        if all(seat.call is not call for seat in flight.seats):
            del call.flights[flight]
        if flight.seats:
            flight.extend()
            return
        self._close(flight)
        flight.sequence.abandoned = True
        carrier = flight.carrier
        if carrier is not None and carrier.task is not None and not carrier.flying:
            carrier.task.cancel()  # the group leaves the line at once

    def _leave(self, call: _Call) -> None:
        """A caller goes before all of its sequences have ended."""
        for flight in list(call.flights):
            flight.seats = [seat for seat in flight.seats if seat.call is not call]
            self._vacate(call, flight)

    def _set_alarm(self, call: _Call) -> None:
        """Wake up when the first of a call's deadlines passes."""
        deadlines = [
            sequence.deadline
            for sequence in call.sequences
            if sequence.deadline is not None and sequence.finish_reason is None
        ]
        if deadlines:
            left = max(0.0, min(deadlines) - time.monotonic())
            call.alarm = asyncio.get_running_loop().call_later(left, self._expire, call)

    def _expire(self, call: _Call) -> None:
        """End those of a caller whose deadline has passed, though their flights may go on."""
        now = time.monotonic()
        for flight in list(call.flights):
            mine = [seat for seat in flight.seats if seat.call is call]
            due = [seat for seat in mine if seat.sequence.drop_reason(now) is not None]
            if not due:
                continue
            flight.seats = [seat for seat in flight.seats if seat not in due]
            self._vacate(call, flight)
            for seat in due:
                seat.sequence.finish(FinishReason.DEADLINE, now)
                call.finished(seat.sequence)
        self._set_alarm(call)


def _seated(flight: _Flight, call: _Call, sequence: Sequence) -> _Flight:
    """Give a caller's sequence a seat; it shows the flight's progress from now on."""
    flight.seats.append(_Seat(call, sequence))
    call.flights[flight] = None
    sequence.target_ids = flight.sequence.target_ids
    return flight


def _open_to(flight: _Flight, sequence: Sequence) -> bool:
    """Whether a sequence may join: one that somebody waits for does not wait in bulk's place."""
    deadline = flight.sequence.deadline
    return (sequence.bulk or not flight.sequence.bulk) and (
        deadline is None or deadline > time.monotonic()
    )


def _share(flight: Sequence, sequence: Sequence, *, first: bool) -> None:
    """Give a caller's sequence what came of the flight; its cost is the first one's alone."""
    assert flight.finish_reason is not None
    assert flight.finished is not None
    sequence.target_ids = flight.target_ids
    sequence.token_log_probs = flight.token_log_probs
    sequence.attention = list(flight.attention)
    sequence.head_attention = flight.head_attention
    sequence.hypotheses = flight.hypotheses
    if flight.admitted is not None:
        sequence.admitted = max(flight.admitted, sequence.arrived)
    if first:
        sequence.encode_seconds = flight.encode_seconds
        sequence.first_token = flight.first_token
        sequence.steps = flight.steps
        sequence.batch_rows_sum = flight.batch_rows_sum
    else:
        sequence.cached = True
    sequence.finish(flight.finish_reason, flight.finished)
