"""Whether work can be done in time: refused before it is computed, not after.

Rates are measured while there is more to do than can be done at once; at other times the queue
is short and says nothing of the capacity. The clock comes in as an argument.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from server.engine.request import Sequence

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
class _Class:
    """What is known of interactive or of bulk work."""

    step_seconds: float = 0.0
    """A decoding step, pauses counted."""
    stretch: float = SAFETY
    """What one in a hundred takes longer than, as a multiple of its estimate."""


class Admission:
    """Learns how fast the engines are, and says when a request would be done."""

    def __init__(self) -> None:
        """Know nothing: until something is measured nothing is refused."""
        self._rate = 0.0
        self._window_start: float | None = None
        self._window_cost = 0
        self._steps_per_source = 1.0
        self._classes = {False: _Class(), True: _Class()}

    @property
    def rate(self) -> float:
        """Tokens a second when busy, source and target; 0 = not known yet."""
        return self._rate

    def finished(self, sequences: Iterable[Sequence], now: float, *, backlog: bool) -> None:
        """Learn from sequences that ended well.

        Args:
            sequences: what ended since the last call.
            now: monotonic seconds.
            backlog: whether others waited for room.
        """
        for sequence in sequences:
            self._window_cost += sequence.cost
            if sequence.admitted is not None and sequence.finished is not None and sequence.steps:
                seconds = (sequence.finished - sequence.admitted) / sequence.steps
                own = self._classes[sequence.bulk]
                own.step_seconds = _smooth(own.step_seconds, seconds, 0.95)
                ratio = sequence.steps / sequence.source_length
                self._steps_per_source = _smooth(self._steps_per_source, ratio, 0.95)
        if not backlog or self._window_start is None:
            self._window_start = now if backlog else None
            self._window_cost = 0
        elif now - self._window_start >= _WINDOW_SECONDS:
            rate = self._window_cost / (now - self._window_start)
            self._rate = _smooth(self._rate, rate, _UP if rate > self._rate else _DOWN)
            self._window_start, self._window_cost = now, 0

    def wait_seconds(self, cost: int) -> float:
        """How long until so many tokens are done; 0 while nothing is known."""
        return cost / self._rate if self._rate else 0.0

    def took(self, seconds: float, estimate: float, *, bulk: bool) -> None:
        """Learn how good an estimate was.

        The stretch goes up by much when it was too short and down by little when it was not; it
        rests where one in a hundred is (Robbins and Monro 1951).

        Args:
            seconds: from the request to its last sentence, or until its caller gave up.
            estimate: what :meth:`seconds` had said.
            bulk: its class.
        """
        if estimate < _SHORTEST_SECONDS:
            return
        own, (low, high) = self._classes[bulk], _STRETCH
        missed = seconds > own.stretch * estimate
        own.stretch += _GAIN * ((1 - _MISSED) if missed else -_MISSED)
        own.stretch = min(high, max(low, own.stretch))

    def seconds(self, sequences: list[Sequence], ahead: int) -> float:
        """How long a request is likely to take; 0 while nothing is known.

        Args:
            sequences: the request.
            ahead: tokens to be done before it.
        """
        if not self._rate:
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
        return self._late(self.seconds(sequences, ahead), deadline, now, bulk=sequences[0].bulk)

    def _late(self, seconds: float, deadline: float, now: float, *, bulk: bool) -> bool:
        return self._rate > 0 and now + self._classes[bulk].stretch * seconds > deadline


def _smooth(old: float, new: float, share: float) -> float:
    return share * old + (1 - share) * new if old else new
