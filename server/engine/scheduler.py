"""Who runs in the next step. Decides, and computes nothing (Orca, Yu et al. 2022, section 3.1).

The clock comes in as an argument: this file has none of its own.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from server.engine.kv_cache import KVCachePool
from server.engine.request import Choice, FinishReason, Sequence, SequenceStatus


@dataclass(frozen=True, slots=True)
class SchedulerOutput:
    """The plan of one step."""

    encode: list[Sequence]
    """Newly admitted, with their slots; the encoder runs over these."""
    decode: list[Sequence]
    """Everyone running, the new ones too; the sequence at index i holds slot i."""
    dropped: list[Sequence]
    """Ended before this step: their callers left or their time was up."""


class Scheduler:
    """Waiting and running sequences of one engine."""

    def __init__(
        self, pool: KVCachePool, *, max_encode_tokens: int, window: int, bos_id: int, eos_id: int
    ) -> None:
        """Set the budget of an encoder batch and how far it may look for like lengths.

        Args:
            pool: where running sequences have their slots.
            max_encode_tokens: most tokens of one encoder batch, padding counted; a single
                longer sentence is encoded alone.
            window: how many of the longest waiting are looked at for a batch.
            bos_id: the token every sequence starts from.
            eos_id: the token that ends one.
        """
        self.pool = pool
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self._max_encode_tokens = max_encode_tokens
        self._window = window
        self._bos_id, self._eos_id = bos_id, eos_id

    @property
    def has_unfinished(self) -> bool:
        """Whether a step would do anything."""
        return bool(self.waiting or self.running)

    def add(self, sequence: Sequence) -> None:
        """Put a sequence at the end of the line."""
        assert sequence.max_tokens <= self.pool.shape.target_positions
        self.waiting.append(sequence)

    def schedule(self, now: float) -> SchedulerOutput:
        """Drop who must not go on, admit who fits, run everyone who is in."""
        dropped = self._drop(now)
        admitted = self._admit(now)
        return SchedulerOutput(encode=admitted, decode=list(self.running), dropped=dropped)

    def update(self, choices: list[Choice], now: float) -> list[Sequence]:
        """Append the chosen token to each running sequence; returns those that ended by it."""
        rows = len(self.running)
        assert len(choices) == rows == self.pool.used
        finished = []
        for slot, (sequence, choice) in enumerate(zip(self.running, choices, strict=True)):
            reason = self._append(sequence, choice, rows, now)
            self.pool.tokens[slot] = choice.token
            if reason is not None:
                finished.append((sequence, reason))
        self.pool.positions[:rows] += 1
        for sequence, reason in finished:
            self._leave(sequence)
            sequence.finish(reason, now)
        return [sequence for sequence, _ in finished]

    def fail(self, now: float, reason: FinishReason = FinishReason.ERROR) -> list[Sequence]:
        """End everything that runs or waits, and take back all slots; returns who ended."""
        ended = [*self.running, *self.waiting]
        self.running.clear()
        self.waiting.clear()
        self.pool.reset()
        for sequence in ended:
            sequence.finish(reason, now)
        return ended

    def check_integrity(self) -> None:
        """Assert that slots and running sequences are one to one."""
        self.pool.check_integrity()
        assert self.pool.used == len(self.running)
        for slot, sequence in enumerate(self.running):
            assert sequence.slot == slot
            assert sequence.status is SequenceStatus.RUNNING
            assert self.pool.positions[slot] == sequence.steps
        for sequence in self.waiting:
            assert sequence.status is SequenceStatus.WAITING
            assert sequence.slot is None

    def _append(
        self, sequence: Sequence, choice: Choice, rows: int, now: float
    ) -> FinishReason | None:
        sequence.steps += 1
        sequence.batch_rows_sum += rows
        if sequence.first_token is None:
            sequence.first_token = now
        if choice.log_prob is not None:
            sequence.token_log_probs.append(choice.log_prob)
        if choice.token == self._eos_id:
            return FinishReason.EOS
        sequence.target_ids.append(choice.token)
        return FinishReason.LENGTH if sequence.steps >= sequence.max_tokens else None

    def _drop(self, now: float) -> list[Sequence]:
        dropped = []
        for sequence in [*self.running, *self.waiting]:
            reason = sequence.drop_reason(now)
            if reason is None:
                continue
            if sequence.status is SequenceStatus.RUNNING:
                self._leave(sequence)
            sequence.finish(reason, now)
            dropped.append(sequence)
        if dropped:
            self.waiting = deque(
                sequence
                for sequence in self.waiting
                if sequence.status is not SequenceStatus.FINISHED
            )
        return dropped

    def _leave(self, sequence: Sequence) -> None:
        """Give a running sequence's slot back; the last one moves into the hole."""
        slot = sequence.slot
        assert slot is not None
        moved = self.pool.release(slot)
        last = self.running.pop()
        if moved is not None:
            self.running[slot] = last
            last.slot = slot

    def _admit(self, now: float) -> list[Sequence]:
        admitted = self._pick()
        if not admitted:
            return []
        for sequence in admitted:
            sequence.slot = self.pool.allocate(sequence.source_length, self._bos_id)
            sequence.status = SequenceStatus.RUNNING
            sequence.admitted = now
            self.running.append(sequence)
        self.waiting = deque(
            sequence for sequence in self.waiting if sequence.status is SequenceStatus.WAITING
        )
        return admitted

    def _pick(self) -> list[Sequence]:
        """The first in line and those of like length near it, within slots and budget.

        The first in line always goes, so nobody starves; who joins it is chosen to waste
        little: the cost of a batch is its rows times its longest, padding counted.
        """
        if not self.waiting or not self.pool.free:
            return []
        first = self.waiting[0]
        window = [self.waiting[index] for index in range(1, min(self._window, len(self.waiting)))]
        window.sort(key=lambda sequence: abs(sequence.source_length - first.source_length))
        chosen, longest = [first], first.source_length
        for sequence in window:
            widest = max(longest, sequence.source_length)
            if len(chosen) == self.pool.free:
                break
            if widest * (len(chosen) + 1) > self._max_encode_tokens:
                break
            chosen.append(sequence)
            longest = widest
        return chosen
