"""Whether work can be done in time: refused before it is computed, not after.

Rates are measured while there is more to do than can be done at once; at other times the queue
is short and says nothing of the capacity. The clock comes in as an argument.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from server.engine.request import Sequence, second_attempts

_WINDOW_SECONDS = 0.2
_UP, _DOWN = 0.7, 0.4
"""Shares of what was known; that engines have become slower is believed sooner."""
SAFETY = 1.4
"""By how much an estimate is stretched until it is known how good estimates are."""
_MISSED, _GAIN = 0.01, 0.2
_STRETCH = (1.25, 4.0)
_SHORTEST_SECONDS = 0.05
"""Shorter estimates say nothing of the others: a step more or less is all of them."""


@dataclass(slots=True)
class Stretch:
    """What one in a hundred takes longer than, as a multiple of its estimate."""

    value: float = SAFETY

    def took(self, seconds: float, estimate: float) -> None:
        """Learn how good an estimate was.

        The stretch goes up by much when it was too short and down by little when it was not; it
        rests where one in a hundred is (Robbins and Monro 1951).
        """
        if estimate < _SHORTEST_SECONDS:
            return
        low, high = _STRETCH
        missed = seconds > self.value * estimate
        self.value += _GAIN * ((1 - _MISSED) if missed else -_MISSED)
        self.value = min(high, max(low, self.value))


@dataclass(slots=True)
class Rate:
    """How much is done a second while there is more to do than can be done at once."""

    value: float = 0.0
    """0 = not known yet."""
    _start: float | None = None
    _done: int = 0

    def add(self, done: int, now: float, *, busy: bool) -> None:
        """Count what was done since the last call; in a time that was not busy it says nothing."""
        self._done += done
        if not busy or self._start is None:
            self._start, self._done = (now if busy else None), 0
        elif now - self._start >= _WINDOW_SECONDS:
            rate = self._done / (now - self._start)
            share = _UP if rate > self.value else _DOWN
            self.value = _smooth(self.value, rate, share)
            self._start, self._done = now, 0

    def seconds(self, cost: int) -> float:
        """How long until so much is done; 0 while nothing is known."""
        return cost / self.value if self.value else 0.0


@dataclass(slots=True)
class _Class:
    """What is known of interactive or of bulk work."""

    step_seconds: float = 0.0
    """A decoding step, pauses counted."""
    stretch: Stretch = field(default_factory=Stretch)


class Admission:
    """Learns how fast the engines are, and says when a request would be done."""

    def __init__(self) -> None:
        """Know nothing: until something is measured nothing is refused."""
        self._rate = Rate()
        self._steps_per_source = 1.0
        self._classes = {False: _Class(), True: _Class()}

    @property
    def rate(self) -> float:
        """Tokens a second when busy, source and target; 0 = not known yet."""
        return self._rate.value

    def finished(self, sequences: Iterable[Sequence], now: float, *, backlog: bool) -> None:
        """Learn from sequences that ended well.

        Args:
            sequences: what ended since the last call.
            now: monotonic seconds.
            backlog: whether others waited for room.
        """
        done = 0
        for sequence in sequences:
            done += sequence.cost
            if sequence.admitted is not None and sequence.finished is not None and sequence.steps:
                seconds = (sequence.finished - sequence.admitted) / sequence.steps
                own = self._classes[sequence.bulk]
                own.step_seconds = _smooth(own.step_seconds, seconds, 0.95)
                ratio = sequence.steps / sequence.source_length
                self._steps_per_source = _smooth(self._steps_per_source, ratio, 0.95)
        self._rate.add(done, now, busy=backlog)

    def wait_seconds(self, cost: int) -> float:
        """How long until so many tokens are done; 0 while nothing is known."""
        return self._rate.seconds(cost)

    def took(self, seconds: float, estimate: float, *, bulk: bool) -> None:
        """Learn how good an estimate was.

        Args:
            seconds: from the request to its last sentence, or until its caller gave up.
            estimate: what :meth:`seconds` had said.
            bulk: its class.
        """
        self._classes[bulk].stretch.took(seconds, estimate)

    def seconds(self, sequences: list[Sequence], ahead: int) -> float:
        """How long a request is likely to take; 0 while nothing is known.

        Args:
            sequences: the request.
            ahead: tokens to be done before it.
        """
        if not self.rate:
            return 0.0
        longest = max(sequence.source_length for sequence in sequences)
        step_seconds = self._classes[sequences[0].bulk].step_seconds
        alone = longest * self._steps_per_source * step_seconds
        return self.wait_seconds(ahead + sum(sequence.cost for sequence in sequences)) + alone

    def late_behind(self, ahead: int, deadline: float, now: float, *, bulk: bool) -> bool:
        """Whether a deadline passes before what is ahead is done."""
        return self._late(self.wait_seconds(ahead), deadline, now, bulk=bulk)

    def late(self, sequences: list[Sequence], ahead: int, now: float) -> bool:
        """Whether a request would miss its deadline.

        Args:
            sequences: the request.
            ahead: tokens to be done before it.
            now: monotonic seconds.
        """
        deadline = min((s.deadline for s in sequences if s.deadline is not None), default=None)
        if deadline is None:
            return False
        seconds = self.seconds(sequences, ahead)
        if second_attempts(sequences):  # without a margin: refused, it is a worse answer
            return now + seconds > deadline
        return self._late(seconds, deadline, now, bulk=sequences[0].bulk)

    def _late(self, seconds: float, deadline: float, now: float, *, bulk: bool) -> bool:
        return self.rate > 0 and now + self._classes[bulk].stretch.value * seconds > deadline


def _smooth(old: float, new: float, share: float) -> float:
    return share * old + (1 - share) * new if old else new
