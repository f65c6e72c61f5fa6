"""Beam search of one sentence: which hypotheses live on, and which have ended.

The same search as ``model/decoding.py``: of the K likeliest extensions, those that end are ranked
by their penalised score; the K likeliest that do not end live on; it is over when K have ended.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from server.engine.request import FinishReason, FloatArray, Hypothesis, Sequence


@dataclass(slots=True, eq=False)
class Live:
    """A hypothesis that may go on: its last token, and the hypothesis that it went on from."""

    place: int
    """Which of the sequence's slots."""
    log_prob: float = 0.0
    """Sum over its tokens."""
    token: int = -1
    token_log_prob: float = 0.0
    parent: Live | None = None
    looked: FloatArray | None = None
    """Where its row has looked in the step after it."""

    @property
    def line(self) -> list[Live]:
        """The hypotheses that it grew from, shortest first, without the empty one; itself last."""
        line: list[Live] = []
        one: Live | None = self
        while one is not None and one.parent is not None:
            line.append(one)
            one = one.parent
        return line[::-1]

    @property
    def ids(self) -> list[int]:
        """Its tokens."""
        return [one.token for one in self.line]


class Extension(NamedTuple):
    """A token that a live hypothesis may go on with."""

    total: float
    """Log-probability of the hypothesis and this token."""
    parent: int
    """Which of the live."""
    token: int
    log_prob: float


class Beam:
    """The hypotheses of a running sequence; it starts with one, of no token."""

    def __init__(self, sequence: Sequence, eos_id: int) -> None:
        """Start on the sequence's first slot."""
        self.live = [Live(0)]
        self._sequence = sequence
        self._eos_id = eos_id
        self._ended: list[Hypothesis] = []

    @property
    def size(self) -> int:
        """Hypotheses kept."""
        return self._sequence.parameters.beams

    @property
    def _step(self) -> int:
        """The step that is being taken; the sequence counts it when it is done."""
        return self._sequence.steps + 1

    @property
    def slots(self) -> list[int]:
        """The slot of each live hypothesis."""
        return [self._sequence.slots[hypothesis.place] for hypothesis in self.live]

    @property
    def done(self) -> bool:
        """Whether nothing better is looked for."""
        return len(self._ended) >= self.size or not self.live

    @property
    def hypotheses(self) -> list[Hypothesis]:
        """Those that have ended, best first, at most as many as there are beams."""
        ranked = sorted(self._ended, key=lambda hypothesis: -hypothesis.score)
        return ranked[: self.size]

    def advance(self, extensions: list[Extension]) -> list[tuple[int, int]]:
        """Take a step.

        Args:
            extensions: the 2K likeliest, best first; half of them may be ends, and then there
                are still enough to go on with.

        Returns:
            (slot, other): the target cache that ``slot`` needs is now that of ``other``.
        """
        last = self._step == self._sequence.max_tokens
        chosen: list[Extension] = []
        for rank, extension in enumerate(extensions):
            if extension.token == self._eos_id or last:
                if rank < self.size:
                    self._end(extension)
            elif len(chosen) < self.size:
                chosen.append(extension)
        return self._branch(chosen)

    def looked(self, slot: int, weights: FloatArray) -> None:
        """Note where the hypothesis in this slot, if one lives there, has looked this step."""
        for place, hypothesis in zip(self.slots, self.live, strict=True):
            if place == slot:
                hypothesis.looked = weights

    def _end(self, extension: Extension) -> None:
        parent = self.live[extension.parent]
        line, whole = parent.line, extension.token == self._eos_id
        ids = [one.token for one in line]
        looks = [one.parent.looked for one in line if one.parent] + [parent.looked]
        self._ended.append(
            Hypothesis(
                ids=ids if whole else [*ids, extension.token],
                finish_reason=FinishReason.EOS if whole else FinishReason.LENGTH,
                log_prob=extension.total,
                score=extension.total / self._penalty(),
                token_log_probs=[*(one.token_log_prob for one in line), extension.log_prob],
                attention=[look for look in looks if look is not None],
            )
        )

    def _penalty(self) -> float:
        """((5 + length) / 6)^alpha (Wu et al. 2016, equation 14)."""
        return float(((5 + self._step) / 6) ** self._sequence.parameters.length_penalty)

    def _branch(self, chosen: list[Extension]) -> list[tuple[int, int]]:
        """Make the chosen the living: a parent's first child keeps its slot, others are copied."""
        slots = self._sequence.slots
        kept = {self.live[extension.parent].place for extension in chosen}
        spare = [place for place in range(len(slots)) if place not in kept]
        moves: list[tuple[int, int]] = []
        children: list[Live] = []
        for extension in chosen:
            parent = self.live[extension.parent]
            place = parent.place
            if place in kept:
                kept.remove(place)
            else:
                place = spare.pop()
                moves.append((slots[place], slots[parent.place]))
            children.append(
                Live(place, extension.total, extension.token, extension.log_prob, parent)
            )
        self.live = children
        return moves
