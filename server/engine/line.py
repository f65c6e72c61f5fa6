"""Who is served next: start-time fair queueing between tenants and classes of work.

Goyal, Vin and Cheng 1996, "Start-time Fair Queueing", section 2; that the cost is counted in tokens
is of Sheng et al. 2024, "Fairness in Serving Large Language Models". A flow is what one tenant
wants done in one class. A flow that was idle is served at once; flows that always wait share
the tokens in proportion to their weights, so that none starves.

A flow's next sequence gets its tag when it is taken, so that nobody pays for work that was
cancelled; the tag orders it in the engines too. Not for two threads at once.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from server.engine.request import Flow, Sequence

INTERACTIVE_WEIGHT = 8.0
"""Tokens of interactive work to one of bulk work, while both wait."""

Entry = tuple[float, bool, int, "_Backlog"]
"""A flow's place: the tag of its next sequence; of equal ones interactive goes first, then age."""


@dataclass(slots=True, eq=False)
class _Backlog:
    """What waits of one flow, and what it has had."""

    bulk: bool
    waiting: deque[Sequence] = field(default_factory=deque)
    cost: int = 0
    """Tokens that wait."""
    finish: float = 0.0
    """Virtual time at which its share of what was taken so far is used up."""
    entry: Entry | None = None
    """Its place among those that wait; entries that are not their flow's are void."""

    @property
    def weight(self) -> float:
        return 1.0 if self.bulk else INTERACTIVE_WEIGHT


class Line:
    """Sequences that no engine has taken yet. Tenants are as many as the caller tells apart."""

    def __init__(self) -> None:
        """Start empty."""
        self._backlogs: dict[Flow, _Backlog] = {}
        self._entries: list[Entry] = []
        self._length = 0
        self._now = 0.0

    def __len__(self) -> int:
        """How many wait."""
        return self._length

    @property
    def head(self) -> Sequence | None:
        """Who is next."""
        self._skip_void()
        return self._entries[0][-1].waiting[0] if self._entries else None

    def cost(self, *, bulk: bool) -> int:
        """Tokens that wait in a class."""
        return sum(one.cost for one in self._backlogs.values() if one.bulk is bulk)

    def cost_ahead(self, flow: Flow) -> int:
        """Tokens that will be taken from the line before new work of a flow, about.

        While its own are taken, every other flow gets its share, or all it wants if that is less.
        """
        own = self._backlogs.get(flow) or _Backlog(flow.bulk)
        others = (one for one in self._backlogs.values() if one.cost and one is not own)
        return own.cost + sum(
            int(min(one.cost, own.cost * one.weight / own.weight)) for one in others
        )

    def tag(self, flow: Flow, served: float | None = None) -> float:
        """The tag that new work of a flow would get."""
        own = self._backlogs.get(flow) or _Backlog(flow.bulk)
        return max(self._virtual_time(served), own.finish) + own.cost / own.weight

    def add(self, sequences: Iterable[Sequence], served: float | None = None) -> None:
        """Put sequences in; of one tenant and class they are served in the order they came.

        Args:
            sequences: new ones.
            served: the tag that the engines have come to, if they hold some that wait.
        """
        if served is None and not self._length:  # the end of a busy time: nobody owes anything
            self._backlogs.clear()
            self._entries.clear()
            self._now = 0.0
        for sequence in sequences:
            flow = sequence.flow
            backlog = self._backlogs.setdefault(flow, _Backlog(flow.bulk))
            backlog.waiting.append(sequence)
            backlog.cost += sequence.cost
            self._length += 1
            if backlog.entry is None:
                self._enter(backlog, max(self._virtual_time(served), backlog.finish))

    def pop(self) -> Sequence:
        """Take the next and give it its tag."""
        self._skip_void()
        start, _, _, backlog = heapq.heappop(self._entries)
        sequence = backlog.waiting.popleft()
        sequence.tag = start
        backlog.cost -= sequence.cost
        backlog.finish = start + sequence.cost / backlog.weight
        backlog.entry = None
        if backlog.waiting:
            self._enter(backlog, backlog.finish)
        self._length -= 1
        self._now = max(self._now, start)
        return sequence

    def take_cancelled(self, sequences: list[Sequence]) -> list[Sequence]:
        """Take out those of a request, all of one flow, whose caller has left."""
        backlog = self._backlogs.get(sequences[0].flow)
        if backlog is None:
            return []
        left = [sequence for sequence in backlog.waiting if sequence.cancelled]
        if left:
            backlog.waiting = deque(one for one in backlog.waiting if not one.cancelled)
            backlog.cost -= sum(sequence.cost for sequence in left)
            self._length -= len(left)
            if not backlog.waiting:
                backlog.entry = None
        return left

    def _virtual_time(self, served: float | None) -> float:
        return self._now if served is None else min(self._now, served)

    def _enter(self, backlog: _Backlog, start: float) -> None:
        backlog.entry = start, backlog.bulk, backlog.waiting[0].number, backlog
        heapq.heappush(self._entries, backlog.entry)

    def _skip_void(self) -> None:
        while self._entries and self._entries[0][-1].entry is not self._entries[0]:
            heapq.heappop(self._entries)
