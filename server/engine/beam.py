"""Beam search: which hypotheses of a sentence live on, and which have ended.

The same search as ``model/decoding.py``: of the K likeliest extensions, those that end are ranked
by their penalised score; the K likeliest that do not end live on; it is over when K have ended.
All sentences with as many hypotheses take a step together, as arrays. A sentence's slots are in
the order of its hypotheses, the likeliest first.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from server.engine.branching import Branching, Step
from server.engine.kv_cache import KVCachePool
from server.engine.request import FinishReason, FloatArray, Hypothesis, Sequence


class _Taken(NamedTuple):
    """What became of the hypotheses of a beam in a step, by their rank after it."""

    parents: list[int]
    tokens: list[int]
    log_probs: list[float]


@dataclass(slots=True)
class _Path:
    """A hypothesis from its first token to its last."""

    ids: list[int]
    token_log_probs: list[float]
    attention: list[FloatArray]


class Beam:
    """The hypotheses of a running sequence; it starts with one, of no token."""

    def __init__(self, sequence: Sequence) -> None:
        """Start on the sequence's first slot."""
        self.sequence = sequence
        self.size = sequence.parameters.beams
        self._alive = True
        self._steps: list[_Taken] = []
        self._looked: list[dict[int, FloatArray]] = []
        self._ended: list[Hypothesis] = []

    @property
    def done(self) -> bool:
        """Whether nothing better is looked for."""
        return len(self._ended) >= self.size or not self._alive

    @property
    def hypotheses(self) -> list[Hypothesis]:
        """Those that have ended, best first, at most as many as there are beams."""
        ranked = sorted(self._ended, key=lambda hypothesis: -hypothesis.score)
        return ranked[: self.size]

    @property
    def steps(self) -> int:
        """Steps that it has taken."""
        return len(self._steps)

    @property
    def likeliest(self) -> list[int]:
        """The tokens of the likeliest hypothesis that lives."""
        return self._path(0).ids

    def ids(self, slot: int) -> list[int]:
        """The tokens of the hypothesis in this slot."""
        return self._path(self.sequence.slots.index(slot)).ids

    def looked(self, slot: int, weights: FloatArray) -> None:
        """Note where the hypothesis in this slot looks in the step that is being taken."""
        if len(self._looked) == len(self._steps):
            self._looked.append({})
        self._looked[-1][self.sequence.slots.index(slot)] = weights

    def end(self, rank: int, token: int, total: float, log_prob: float, *, whole: bool) -> None:
        """A hypothesis has ended with this token: the end token, or the last that there may be."""
        path = self._path(rank)
        steps = len(self._steps) + 1
        if self._looked:
            path.attention.append(self._looked[-1][rank])
        self._ended.append(
            Hypothesis(
                ids=path.ids if whole else [*path.ids, token],
                finish_reason=FinishReason.EOS if whole else FinishReason.LENGTH,
                log_prob=total,
                score=total / length_penalty(steps, self.sequence.parameters.length_penalty),
                token_log_probs=[*path.token_log_probs, log_prob],
                attention=path.attention,
            )
        )

    def advance(self, step: _Taken, slots: list[int], *, alive: bool) -> None:
        """Take a step: the hypotheses it leaves, and the slots they are in now."""
        self._steps.append(step)
        self._alive = alive
        self.sequence.slots[:] = slots

    def give_up(self) -> None:
        """End the likeliest hypothesis that lives as it is, and look for nothing better."""
        path = self._path(0)
        total = sum(path.token_log_probs)
        self._ended.append(
            Hypothesis(
                ids=path.ids,
                finish_reason=FinishReason.DEGENERATE,
                log_prob=total,
                score=total / length_penalty(self.steps, self.sequence.parameters.length_penalty),
                token_log_probs=path.token_log_probs,
                attention=path.attention,
            )
        )
        self._alive = False

    def cut_best(self, steps: int) -> None:
        """Let the best hypothesis that has ended be one that was stopped after so many tokens.

        Its score stays: it is what it was chosen by.
        """
        best = self.hypotheses[0]
        log_probs = best.token_log_probs[:steps]
        cut = dataclasses.replace(
            best,
            ids=best.ids[:steps],
            finish_reason=FinishReason.DEGENERATE,
            log_prob=sum(log_probs),
            token_log_probs=log_probs,
            attention=best.attention[:steps],
        )
        self._ended = [cut if one is best else one for one in self._ended]

    def _path(self, rank: int) -> _Path:
        """From the hypothesis of this rank back to the empty one, and turned round."""
        path = _Path([], [], [])
        ids, log_probs = path.ids, path.token_log_probs
        looked = reversed(self._looked[: len(self._steps)])
        for parents, tokens, of_tokens in reversed(self._steps):
            ids.append(tokens[rank])
            log_probs.append(of_tokens[rank])
            rank = parents[rank]
            if self._looked:
                path.attention.append(next(looked)[rank])
        for column in (ids, log_probs, path.attention):
            column.reverse()
        return path


class Beams:
    """The beams of one pool; what a row's hypothesis has come to moves with its slot."""

    def __init__(self, pool: KVCachePool, eos_id: int) -> None:
        """Begin without any."""
        self._pool = pool
        self._eos_id = eos_id
        self._log_probs = pool.column(np.float64)
        """[N], sum over a hypothesis' tokens; -inf for a row without one."""

    def start(self, sequence: Sequence) -> Beam:
        """A beam on the slots of a sequence that has just got them."""
        self._log_probs[sequence.slots] = -np.inf
        self._log_probs[sequence.slots[0]] = 0.0
        return Beam(sequence)

    def step_of(self, beams: list[Beam], log_sums: FloatArray) -> Step:
        """What beams of one size K are asked.

        Args:
            beams: G of them.
            log_sums: of every row.
        """
        slots = np.array([beam.sequence.slots for beam in beams], np.int64)
        last = [beam.sequence.steps + 1 == beam.sequence.max_tokens for beam in beams]
        return Step(
            slots=slots,
            before=self._log_probs[slots],
            log_sums=log_sums[slots].astype(np.float64),
            last=np.array(last, np.int64)[:, None],
        )

    def advance(self, beams: list[Beam], step: Step, found: Branching) -> None:
        """Take a step with beams of one size; their rows, tokens and caches follow."""
        if found.ended.any():
            _end(beams, found, self._eos_id)
        parents, tokens, slots, copied, going = found.going
        totals, log_probs = found.going_scores
        if copied.any():
            moved = copied.astype(bool)
            group = np.nonzero(moved)[0]
            self._pool.copy_target(step.slots[group, parents[moved]], slots[moved])
        self._pool.tokens[slots] = tokens
        self._log_probs[slots] = np.where(going, totals, -np.inf)
        columns = parents.tolist(), tokens.tolist(), log_probs.tolist()
        alive = going[:, 0].tolist()
        for beam, lives, of_beam, *taken in zip(
            beams, alive, slots.tolist(), *columns, strict=True
        ):
            beam.advance(_Taken(*taken), of_beam, alive=bool(lives))


def _end(beams: list[Beam], found: Branching, eos_id: int) -> None:
    """Note the extensions that are ends."""
    for group, rank in zip(*(axis.tolist() for axis in np.nonzero(found.ended)), strict=True):
        parent, token = found.found[:, group, rank].tolist()
        total, log_prob = found.found_scores[:, group, rank].tolist()
        beams[group].end(parent, token, total, log_prob, whole=token == eos_id)


def length_penalty(length: int, alpha: float) -> float:
    """((5 + length) / 6)^alpha (Wu et al. 2016, equation 14)."""
    return float(((5 + length) / 6) ** alpha)
