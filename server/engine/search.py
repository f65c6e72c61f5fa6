"""From logits to tokens: greedy, sampling, beam search and forced tokens, mixed in one batch."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from server.engine.beam import Beam, Beams
from server.engine.kv_cache import KVCachePool
from server.engine.logits import Logits
from server.engine.request import DecodingParameters, FloatArray, Sequence


class Search:
    """Chooses the next token of every row; holds the state of those that sample or branch."""

    def __init__(self, pool: KVCachePool, *, eos_id: int, never: Collection[int]) -> None:
        """Set where tokens go, the end token, and the tokens that no text has."""
        self._pool = pool
        self._eos_id = eos_id
        self._never = sorted(never)
        self._forbidden = frozenset(never)
        self._generators: dict[int, np.random.Generator] = {}
        self._beams = Beams(pool, eos_id)
        self.beams: dict[int, Beam] = {}
        """Of each sequence that branches, by its number."""

    def choose(self, logits: Logits, owners: list[Sequence]) -> list[int]:
        """One token a row, written to the pool too; beams are branched and their caches moved.

        Log-probabilities are those of the model itself, before any filter.

        Args:
            logits: of every row; changed in place.
            owners: the sequence of each row, before this step's token.

        Returns:
            [B]; what a sequence that branches has found is in ``beams`` and in the pool.
        """
        special = [
            row for row, owner in enumerate(owners) if owner.steps < owner.parameters.plain_from
        ]
        if not special:
            return self._plain(logits)
        alone = [row for row in special if owners[row].number not in self.beams]
        branching = [row for row in special if owners[row].number in self.beams]
        beams = list(
            {owners[row].number: self.beams[owners[row].number] for row in branching}.values()
        )
        raw, sums = _score(logits, owners, alone)
        log_sums = _of_rows(logits, branching)
        logits.forbid(self._never)
        for row in special:
            if owners[row].steps < owners[row].parameters.filtered_until:
                self._filter(logits.values[row], owners[row], self._history(owners[row], row))
                logits.changed(row)
        # What branches needs no likeliest token; where nothing else is, none is looked for.
        found = (
            logits.argmax() if len(branching) < len(owners) else self._pool.tokens[: len(owners)]
        )
        for row in alone:
            token = found[row] = self._token(logits.values[row], owners[row], int(found[row]))
            if row in raw:
                owners[row].token_log_probs.append(float(raw[row][token] - sums[row]))
        self._pool.tokens[: len(found)] = found
        for size in {beam.size for beam in beams}:  # those of one size in one stroke
            alike = [beam for beam in beams if beam.size == size]
            step = self._beams.step_of(alike, log_sums)
            self._beams.advance(alike, step, logits.branch(step, self._eos_id))
        tokens: list[int] = found.tolist()
        return tokens

    def _plain(self, logits: Logits) -> list[int]:
        """The likeliest token of each row; that it is one no text has hardly ever happens."""
        found = logits.argmax()
        tokens: list[int] = found.tolist()
        if not self._forbidden.isdisjoint(tokens):
            logits.forbid(self._never)
            found = logits.argmax()
            tokens = found.tolist()
        self._pool.tokens[: len(tokens)] = found
        return tokens

    def choose_alone(self, logits: Logits) -> int:
        """As :meth:`choose`, for a single row that wants the likeliest token."""
        token = logits.best()
        if token in self._forbidden:
            logits.forbid(self._never)
            token = logits.best()
        self._pool.tokens[0] = token
        return token

    def start(self, sequence: Sequence) -> None:
        """Take up a sequence that has just got its slots."""
        if sequence.parameters.strategy == "beam":
            self.beams[sequence.number] = self._beams.start(sequence)

    def forget(self, sequence: Sequence) -> None:
        """Drop the state of a sequence that has ended."""
        self._generators.pop(sequence.number, None)
        self.beams.pop(sequence.number, None)

    def _history(self, owner: Sequence, row: int) -> list[int]:
        """The tokens that this row has written."""
        beam = self.beams.get(owner.number)
        return owner.target_ids if beam is None else beam.ids(row)

    def _filter(self, row: FloatArray, owner: Sequence, history: list[int]) -> None:
        """Take out or weaken what the parameters do not want, in place; a forced token is alone."""
        parameters, step = owner.parameters, owner.steps
        if step < len(parameters.prefix_ids):
            forced = parameters.prefix_ids[step]
            value = row[forced]
            row[:] = -np.inf
            row[forced] = value if np.isfinite(value) else 0.0
            return
        if parameters.repetition_penalty != 1.0 and history:
            seen = np.unique(history)
            values, factor = row[seen], np.float32(parameters.repetition_penalty)
            row[seen] = np.where(values > 0, values / factor, values * factor)
        if parameters.no_repeat_ngram:
            row[_repeating(history, parameters.no_repeat_ngram)] = -np.inf
        if step < parameters.min_tokens:
            row[self._eos_id] = -np.inf

    def _token(self, row: FloatArray, owner: Sequence, likeliest: int) -> int:
        parameters = owner.parameters
        if parameters.strategy == "greedy" or owner.steps < len(parameters.prefix_ids):
            return likeliest
        generator = self._generators.get(owner.number)
        if generator is None:
            generator = np.random.default_rng(parameters.seed)
            self._generators[owner.number] = generator
        return sample(row, parameters, generator.random())


def _score(
    logits: Logits, owners: list[Sequence], rows: list[int]
) -> tuple[dict[int, FloatArray], dict[int, float]]:
    """Copies of the logits, and log(sum(exp)), of those rows whose log-probability is asked."""
    asked = [row for row in rows if owners[row].parameters.log_probs]
    if not asked:
        return {}, {}
    sums = logits.log_sums(asked).tolist()
    return {row: logits.values[row].copy() for row in asked}, dict(zip(asked, sums, strict=True))


def _of_rows(logits: Logits, rows: list[int]) -> FloatArray:
    """log(sum(exp)) in an array of all rows, filled in for these."""
    found = np.zeros(len(logits), np.float32)
    if rows:
        found[rows] = logits.log_sums(rows)
    return found


def sample(row: FloatArray, parameters: DecodingParameters, draw: float) -> int:
    """The token that ``draw`` in [0, 1) falls on, after temperature, top-k and top-p."""
    scaled = row.astype(np.float64) / parameters.temperature
    if not parameters.top_k and parameters.top_p == 1.0:
        cumulative = np.exp(scaled - scaled.max()).cumsum()
        drawn = int(np.searchsorted(cumulative, draw * cumulative[-1], side="right"))
        return min(drawn, len(cumulative) - 1)
    order = np.argsort(-scaled, kind="stable")
    if parameters.top_k:
        order = order[: parameters.top_k]
    weights = np.exp(scaled[order] - scaled[order[0]])
    weights /= weights.sum()
    cumulative = weights.cumsum()
    # The fewest tokens that reach top_p: all before the sum gets there, and the one that does.
    kept = int(np.searchsorted(cumulative, parameters.top_p - 1e-12)) + 1
    cumulative = cumulative[:kept]
    drawn = int(np.searchsorted(cumulative, draw * cumulative[-1], side="right"))
    return int(order[min(drawn, cumulative.size - 1)])


def _repeating(history: list[int], length: int) -> list[int]:
    """Tokens that would end an n-gram of this length that the history has already."""
    if len(history) < length:
        return []
    last = history[len(history) - length + 1 :]
    return [
        history[start + length - 1]
        for start in range(len(history) - length + 1)
        if history[start : start + length - 1] == last
    ]
