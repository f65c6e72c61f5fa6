"""Who runs in the next step. Decides, and computes nothing (Orca, Yu et al. 2022, section 3.1).

The clock comes in as an argument: this file has none of its own.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Collection
from dataclasses import dataclass

from server.engine.beam import Beam
from server.engine.kv_cache import KVCachePool
from server.engine.request import FinishReason, Sequence, SequenceStatus

_RUNNING_EACH = 2
"""Rows that run for each sentence that an encoder batch had better have: who joins few rows, whose
steps are quick, comes in at once, and among many a batch of one would hold up all of them."""


@dataclass(frozen=True, slots=True)
class SchedulerOutput:
    """The plan of one step."""

    encode: list[Sequence]
    """Newly admitted, with their slots; the encoder runs over these."""
    decode: list[Sequence]
    """The owner of every row, the new ones' too; who branches holds several."""
    dropped: list[Sequence]
    """Ended before this step: their callers left or their time was up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What a scheduler may do in one step."""

    max_encode_tokens: int
    """Most tokens of one encoder batch, padding counted; a longer sentence is encoded alone."""
    window: int
    """How many of the first in line are looked at for a batch of like lengths."""
    min_encode_rows: int = 1
    """While others run, the encoder waits until this many can be encoded at once, or all that
    wait: a batch of few costs nearly twice as much a token."""
    patience: int = 4
    """So many steps at most it waits though there is room, for one more sentence for every two
    rows that run."""
    max_bulk_tokens: int = 64
    """The same for bulk work that joins while interactive sequences run."""
    bulk_turn: int = 20
    """While interactive sequences run, those of bulk work take part in every so manieth step,
    counted from when the first of them came: most sentences end before."""


class Scheduler:
    """Waiting and running sequences of one engine."""

    def __init__(self, pool: KVCachePool, policy: Policy, *, bos_id: int, eos_id: int) -> None:
        """Set where running sequences have their slots, and the first and last token of each."""
        self.pool = pool
        self.waiting: list[Sequence] = []
        """In the order in which the line gave them."""
        self.running: list[Sequence] = []
        """The owner of each row in use; interactive ones first, so that they can run alone."""
        self._interactive = 0
        self._held = 0
        """Steps that those who wait were held back though there was room."""
        self._steps_without_bulk = 0
        self._rows = 0
        self._policy = policy
        self._bos_id, self._eos_id = bos_id, eos_id

    @property
    def has_unfinished(self) -> bool:
        """Whether a step would do anything."""
        return bool(self.waiting or self.running)

    @property
    def alone(self) -> Sequence | None:
        """The only sequence of this step, if it wants the likeliest tokens and nobody follows it.

        Bulk work may be there too: it waits for its turn.
        """
        if self._rows != 1:
            return None
        sequence = self.running[0]
        if any(sequence.bulk or not one.bulk for one in self.waiting):
            return None
        plain = sequence.steps >= sequence.parameters.plain_from
        return sequence if plain and not sequence.streamed else None

    @property
    def urgent(self) -> bool:
        """Whether it has interactive work; may be asked in any thread."""
        return self._interactive > 0 or not all(one.bulk for one in list(self.waiting))

    @property
    def next_tag(self) -> float | None:
        """The line's tag of the sequence that is next; may be asked in any thread."""
        waiting = self.waiting[:1]
        return waiting[0].tag if waiting else None

    def cost_ahead(self, tag: float, *, bulk: bool) -> int:
        """Tokens to be done before new work of this tag and class; may be asked in any thread."""
        before = [sequence for sequence in list(self.waiting) if sequence.tag <= tag]
        mine = [sequence for sequence in before if bulk or not sequence.bulk]
        half_done = [sequence for sequence in list(self.running) if bulk or not sequence.bulk]
        return sum(one.cost for one in mine) + sum(one.source_length for one in half_done)

    def add(self, sequence: Sequence) -> None:
        """Put a sequence behind all that the line put before it."""
        assert sequence.max_tokens <= self.pool.shape.target_positions
        bisect.insort(self.waiting, sequence, key=_place)

    def schedule(self, now: float) -> SchedulerOutput:
        """Drop who must not go on, admit who fits, run who is in and whose turn it is."""
        dropped = self._drop(now)
        admitted = self._admit(now)
        if self._interactive and not self._bulks_turn:
            self._rows = self._interactive
            self._steps_without_bulk += 1
        else:
            self._rows = len(self.running)
            self._steps_without_bulk = 0
        return SchedulerOutput(encode=admitted, decode=self.running[: self._rows], dropped=dropped)

    @property
    def _bulks_turn(self) -> bool:
        """Whether bulk work goes on in this step though interactive work runs."""
        return self._steps_without_bulk + 1 >= self._policy.bulk_turn

    def update(
        self,
        tokens: list[int],
        beams: dict[int, Beam],
        now: float,
        looping: Collection[int] = (),
        *,
        at_end: Callable[[Sequence], None] = lambda _: None,
    ) -> list[Sequence]:
        """Take a step's tokens in; returns the sequences that ended by it.

        Args:
            tokens: one for each row of the plan.
            beams: the hypotheses of each sequence that branches, by its number.
            now: monotonic seconds.
            looping: rows that go round in circles, and end.
            at_end: gives a sequence what it lacks: once it has ended, others take it as it is.
        """
        rows, end = len(tokens), self._eos_id
        finished: list[tuple[Sequence, FinishReason]] = []
        # Once a row and step, while every other thread waits: no calls that can be left out.
        for slot, (sequence, token) in enumerate(zip(self.running, tokens, strict=False)):
            if beams and sequence.slots[0] != slot:
                continue
            sequence.batch_rows_sum += rows
            sequence.steps = steps = sequence.steps + 1
            if steps == 1:
                sequence.first_token = now
            reason: FinishReason | None = None
            if beams and (beam := beams.get(sequence.number)) is not None:
                reason = _ended(sequence, beam)
            elif token == end:
                reason = FinishReason.EOS
            else:
                sequence.target_ids.append(token)
                if steps >= sequence.max_tokens:
                    reason = FinishReason.LENGTH
                elif slot in looping and steps >= sequence.parameters.min_tokens:
                    reason = FinishReason.DEGENERATE
            if reason is not None:
                finished.append((sequence, reason))
        self.pool.positions[:rows] += 1
        for sequence, reason in finished:
            self._leave(sequence)
            at_end(sequence)
            sequence.finish(reason, now)
        return [sequence for sequence, _ in finished]

    def update_alone(self, token: int, now: float, *, looping: bool) -> bool:
        """As :meth:`update`, for the sequence that is :attr:`alone`; whether it goes on."""
        self._steps_without_bulk += 1
        # A sentence that is alone has its fewest tokens already.
        return not self.update([token], {}, now, (0,) if looping else ())

    def fail(self, now: float, reason: FinishReason = FinishReason.ERROR) -> list[Sequence]:
        """End everything that runs or waits, and take back all slots; returns who ended."""
        ended = [*self._sequences(), *self.waiting]
        self.running.clear()
        self.waiting.clear()
        self._interactive = 0
        self.pool.reset()
        for sequence in ended:
            sequence.finish(reason, now)
        return ended

    def check_integrity(self) -> None:
        """Assert that slots and running sequences are one to one."""
        self.pool.check_integrity()
        assert self.pool.used == len(self.running)
        assert self.waiting == sorted(self.waiting, key=_place)
        for slot, sequence in enumerate(self.running):
            assert sequence.bulk is (slot >= self._interactive)
            assert sequence.slots.count(slot) == 1
            assert len(sequence.slots) == sequence.parameters.slots
            assert sequence.status is SequenceStatus.RUNNING
            assert self.pool.positions[slot] == sequence.steps
        for sequence in self.waiting:
            assert sequence.status is SequenceStatus.WAITING
            assert sequence.slot is None

    def _sequences(self) -> list[Sequence]:
        """Those that run, once each."""
        return [sequence for slot, sequence in enumerate(self.running) if sequence.slots[0] == slot]

    def _drop(self, now: float) -> list[Sequence]:
        leaving = [
            sequence
            for sequence in itertools.chain(self.running, self.waiting)
            if sequence.cancelled
            or sequence.abandoned
            or ((deadline := sequence.deadline) is not None and now >= deadline)
        ]
        dropped = []
        for sequence in dict.fromkeys(leaving):  # once each, whatever rows it has
            reason = sequence.drop_reason(now)
            assert reason is not None
            if sequence.status is SequenceStatus.RUNNING:
                self._leave(sequence)
            sequence.finish(reason, now)
            dropped.append(sequence)
        if dropped:
            self.waiting = [
                sequence
                for sequence in self.waiting
                if sequence.status is not SequenceStatus.FINISHED
            ]
        return dropped

    def _leave(self, sequence: Sequence) -> None:
        """Give a running sequence's rows back; others move into the holes."""
        for slot in sorted(sequence.slots, reverse=True):
            hole = slot
            if hole < self._interactive:
                self._interactive -= 1
                hole = self._interactive
                if hole != slot:
                    self._move(hole, slot)
            last = len(self.running) - 1
            if last != hole:
                self._move(last, hole)
            self.running.pop()
            self.pool.release()
        sequence.slots = []

    def _move(self, slot: int, to: int) -> None:
        """Another row takes over a row's sequence."""
        owner = self.running[slot]
        self.pool.move(slot, to)
        self.running[to] = owner
        owner.slots[owner.slots.index(slot)] = to

    def _enter(self, sequence: Sequence) -> None:
        """Give a sequence its rows: bulk at the end, interactive before all bulk."""
        for _ in range(sequence.parameters.slots):
            slot = self.pool.allocate()
            self.running.append(sequence)
            if not sequence.bulk:
                if slot != self._interactive:
                    self._move(self._interactive, slot)
                    slot = self._interactive
                    self.running[slot] = sequence
                self._interactive += 1
            self.pool.start(slot, sequence.source_length, self._bos_id)
            sequence.slots.append(slot)

    def _admit(self, now: float) -> list[Sequence]:
        admitted = self._pick() if self._worth_encoding() else []
        if not admitted:
            return []
        self._held = 0
        for sequence in admitted:
            self._enter(sequence)
            sequence.status = SequenceStatus.RUNNING
            sequence.admitted = now
        self.waiting = [
            sequence for sequence in self.waiting if sequence.status is SequenceStatus.WAITING
        ]
        return admitted

    def _worth_encoding(self) -> bool:
        """Whether to encode now, or to go on and encode more at once a few steps later."""
        if not self.waiting:
            return False
        bulk = (
            self.waiting[0].bulk or self.waiting[-1].bulk or len(self.running) > self._interactive
        )
        if bulk and self.urgent:
            return True  # who of them waits is not made to wait longer
        if not self.running:
            return True
        few, waiting = self._policy.min_encode_rows, len(self.waiting)
        if self.pool.free < min(waiting, few):
            return False
        if waiting >= min(few, len(self.running) // _RUNNING_EACH):
            return True
        self._held += 1
        return self._held > self._policy.patience

    def _first(self) -> Sequence | None:
        """Who joins at the next occasion: bulk work not among interactive but in its turn."""
        first = self.waiting[0]
        if not first.bulk or self._bulks_turn:
            return first
        urgent = next((sequence for sequence in self.waiting if not sequence.bulk), None)
        return urgent if urgent or self._interactive else first

    def _pick(self) -> list[Sequence]:
        """The first in line and those of like length near it, within slots and budget.

        The first in line always goes, so nobody starves; who joins it is chosen to waste
        little: the cost of a batch is its rows times its longest, padding counted.
        """
        first = self._first()
        if first is None:
            return []
        budget = self._policy.max_encode_tokens
        if first.bulk and self._interactive:
            budget = min(budget, self._policy.max_bulk_tokens)
        free = self.pool.free - first.parameters.slots
        if free < 0:
            return []
        near = self.waiting[: self._policy.window]
        window = [sequence for sequence in near if sequence is not first]
        window.sort(key=lambda sequence: abs(sequence.source_length - first.source_length))
        chosen, longest = [first], first.source_length
        for sequence in window:
            if sequence.bulk is not first.bulk:
                continue
            widest = max(longest, sequence.source_length)
            free -= sequence.parameters.slots
            if free < 0 or widest * (len(chosen) + 1) > budget:
                break
            chosen.append(sequence)
            longest = widest
        return chosen


def _place(sequence: Sequence) -> tuple[float, bool, int]:
    """Where a sequence stands among those that wait."""
    return sequence.tag, sequence.bulk, sequence.number


def _ended(sequence: Sequence, beam: Beam) -> FinishReason | None:
    """Take over what a beam has found, if it is done."""
    if not beam.done:
        return None
    sequence.hypotheses = beam.hypotheses
    if not sequence.hypotheses:  # the filters left no token to go on with
        return FinishReason.EOS
    best = sequence.hypotheses[0]
    sequence.target_ids = best.ids
    sequence.attention = best.attention
    if sequence.parameters.log_probs:
        sequence.token_log_probs = best.token_log_probs
    return best.finish_reason
