"""Beam search: which hypotheses of a sentence live on, and which have ended.

The same search as ``model/decoding.py``: of the K likeliest extensions, those that end are ranked
by their penalised score; the K likeliest that do not end live on; it is over when K have ended.
All sentences with as many hypotheses take a step together, as arrays. A sentence's slots are in
the order of its hypotheses, the likeliest first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from server.engine.kv_cache import KVCachePool
from server.engine.likeliest import Likeliest
from server.engine.request import FinishReason, FloatArray, Hypothesis, Sequence

Ints = NDArray[np.int64]
Doubles = NDArray[np.float64]
Flags = NDArray[np.bool_]


class Extensions(NamedTuple):
    """The likeliest extensions of each of G beams, best first, C each; what is missing is -inf."""

    totals: Doubles
    """[G, C], log-probability of the hypothesis and its new token."""
    parents: Ints
    """[G, C], which of the beam's hypotheses, by rank."""
    tokens: Ints
    """[G, C]."""


def extensions(found: Likeliest, offsets: Doubles, count: int) -> Extensions:
    """The likeliest of those of all rows of each beam; equal ones by parent and token.

    Args:
        found: of rows [G, K], C tokens each; what may not be chosen is -inf.
        offsets: [G, K], what makes a logit of the row the log-probability of the whole.
        count: of each beam.
    """
    groups, _, width = found.values.shape
    totals = (found.values + offsets[:, :, None]).reshape(groups, -1)
    best = np.argsort(-totals, axis=1, kind="stable")[:, :count]
    at = np.arange(groups)[:, None], best
    return Extensions(totals[at], best // width, found.tokens.reshape(groups, -1)[at])


class _Step(NamedTuple):
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
        self._steps: list[_Step] = []
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

    def advance(self, step: _Step, slots: list[int], *, alive: bool) -> None:
        """Take a step: the hypotheses it leaves, and the slots they are in now."""
        self._steps.append(step)
        self._alive = alive
        self.sequence.slots[:] = slots

    def _path(self, rank: int) -> _Path:
        """From the hypothesis of this rank back to the empty one, and turned round."""
        path = _Path([], [], [])
        for number in range(len(self._steps) - 1, -1, -1):
            step = self._steps[number]
            path.ids.append(step.tokens[rank])
            path.token_log_probs.append(step.log_probs[rank])
            rank = step.parents[rank]
            if self._looked:
                path.attention.append(self._looked[number][rank])
        for column in (path.ids, path.token_log_probs, path.attention):
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

    def before(self, rows: Ints) -> Doubles:
        """What the hypotheses of these rows have come to; -inf for a row without one."""
        before: Doubles = self._log_probs[rows]
        return before

    def advance(self, beams: list[Beam], rows: Ints, found: Extensions) -> None:
        """Take a step with beams of one size K; their rows, tokens and caches follow.

        Args:
            beams: G of them.
            rows: [G, K], their slots.
            found: the 2K likeliest extensions; half of them may be ends, and then there are
                still enough to go on with.
        """
        (totals, parents, tokens), size = found, rows.shape[1]
        group = np.arange(len(beams))[:, None]
        log_probs = totals - self._log_probs[rows[group, parents]]
        last = [beam.sequence.steps + 1 == beam.sequence.max_tokens for beam in beams]
        ends = (tokens == self._eos_id) | np.array(last)[:, None]
        there = totals > -np.inf
        self._end(beams, (ends & there)[:, :size], found, log_probs)
        going = ~ends & there
        chosen = group, np.argsort(~going, axis=1, kind="stable")[:, :size]
        going, parents, tokens = going[chosen], parents[chosen], tokens[chosen]
        totals, log_probs = np.where(going, totals[chosen], -np.inf), log_probs[chosen]
        places, copied = _places(parents, going)
        slots = rows[group, places]
        if copied.any():
            self._pool.copy_target(rows[group, parents][copied], slots[copied])
        self._pool.tokens[slots] = tokens
        self._log_probs[slots] = totals
        columns = parents.tolist(), tokens.tolist(), log_probs.tolist()
        alive = going[:, 0].tolist()
        for beam, lives, of_beam, *step in zip(beams, alive, slots.tolist(), *columns, strict=True):
            beam.advance(_Step(*step), of_beam, alive=lives)

    def _end(self, beams: list[Beam], ended: Flags, found: Extensions, log_probs: Doubles) -> None:
        """Note the extensions that are ends, by ``ended`` [G, K]."""
        for group, rank in zip(*(axis.tolist() for axis in np.nonzero(ended)), strict=True):
            token = int(found.tokens[group, rank])
            beams[group].end(
                int(found.parents[group, rank]),
                token,
                float(found.totals[group, rank]),
                float(log_probs[group, rank]),
                whole=token == self._eos_id,
            )


def _places(parents: Ints, going: Flags) -> tuple[Ints, Flags]:
    """Where children live, as places among their beam's rows, and which need a parent's cache.

    A parent's first child stays where the parent was; others take the rows of those without
    children.

    Args:
        parents: [G, K], the place of each child's parent.
        going: [G, K]; a child that is none only gets a row.
    """
    groups, size = parents.shape
    same = (parents[:, :, None] == parents[:, None, :]) & np.tri(size, k=-1, dtype=bool)
    stays = going & ~same.any(axis=2)
    taken = np.zeros((groups, size), bool)
    group, child = np.nonzero(stays)
    taken[group, parents[group, child]] = True
    places = parents.copy()
    # Row by row as many are free as move.
    places[~stays] = np.nonzero(~taken)[1]
    return places, going & ~stays


def length_penalty(length: int, alpha: float) -> float:
    """((5 + length) / 6)^alpha (Wu et al. 2016, equation 14)."""
    return float(((5 + length) / 6) ** alpha)
