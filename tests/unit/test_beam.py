"""The engine's beam search against a search of a dozen lines, over a made-up network."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from fakes import BOS, EOS, VOCABULARY, make_engine, make_sequence
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine.engine import Engine
from server.engine.kv_cache import KVCachePool
from server.engine.logits import Logits
from server.engine.looking import Looking
from server.engine.request import DecodingParameters, FinishReason, FloatArray, Hypothesis, Sequence

NEVER = (0, 1, 3)
Next = Callable[[int, tuple[int, ...]], FloatArray]
"""Logits of the token after a source and a history."""


def next_logits(source: int, history: tuple[int, ...]) -> FloatArray:
    """Any function of source and history does, as long as every row has its own."""
    seed = hash((source, history)) % 2**32
    return np.random.default_rng(seed).normal(scale=2.0, size=VOCABULARY).astype(np.float32)


class TreeRunner:
    """Reads what a row has written back from its cache: a beam that is moved wrongly shows."""

    def __init__(self, pool: KVCachePool, logits: Next = next_logits) -> None:
        self.pool, self.logits = pool, logits

    def encode(self, sequences: list[Sequence]) -> None:
        for sequence in sequences:
            for slot in sequence.slots:
                self.pool.cross_kv[0, slot, 0, 0, 0] = sequence.source_ids[0]

    def decode(self, rows: int) -> Logits:
        logits = np.empty((rows, VOCABULARY), np.float32)
        for row in range(rows):
            position = self.pool.positions[row]
            self.pool.self_kv[0, row, 0, position, 0] = self.pool.tokens[row]
            history = self.pool.self_kv[0, row, 0, : position + 1, 0]
            assert history[0] == BOS
            source = int(self.pool.cross_kv[0, row, 0, 0, 0])
            logits[row] = self.logits(source, tuple(history[1:].astype(int).tolist()))
        return Logits.of(logits)

    def source_keys(self, slot: int) -> FloatArray:
        """Only the first token is of interest, and the more the later it is."""
        return np.eye(self.pool.source_lengths[slot], 1, dtype=np.float32)[None, None]

    def queries(self, rows: list[int]) -> FloatArray:
        return self.pool.positions[rows].astype(np.float32)[:, None, None, None]


def engine(slots: int = 12, logits: Next = next_logits) -> Engine:
    made, _ = make_engine(slots=slots)
    made._runner = TreeRunner(made.scheduler.pool, logits)
    made._looking = Looking(made._runner)
    return made


def branching(source: int, beams: int, max_tokens: int, **more: object) -> Sequence:
    parameters = DecodingParameters(strategy="beam", beams=beams, **more)  # type: ignore[arg-type]
    sequence = make_sequence(3, max_tokens=max_tokens, parameters=parameters)
    sequence.source_ids[0] = source
    return sequence


def reference(source: int, beams: int, limit: int, alpha: float) -> list[tuple[list[int], float]]:
    """As model/decoding.py says it."""
    live: list[tuple[tuple[int, ...], float]] = [((), 0.0)]
    ended: list[tuple[list[int], float]] = []
    for step in range(1, limit + 1):
        found = []
        for ids, total in live:
            logits = next_logits(source, ids).astype(np.float64)
            log_probs = logits - np.log(np.exp(logits).sum())
            log_probs[list(NEVER)] = -np.inf
            found += [(total + log_probs[token], ids, token) for token in range(VOCABULARY)]
        found.sort(key=lambda one: -one[0])
        live = []
        for rank, (total, ids, token) in enumerate(found[: 2 * beams]):
            if token == EOS or step == limit:
                if rank < beams:
                    whole = list(ids) if token == EOS else [*ids, token]
                    ended.append((whole, total / ((5 + step) / 6) ** alpha))
            elif len(live) < beams:
                live.append(((*ids, token), total))
        if len(ended) >= beams or not live:
            break
    return sorted(ended, key=lambda one: -one[1])[:beams]


def run(engine: Engine, sequences: list[Sequence]) -> None:
    for sequence in sequences:
        engine.add(sequence)
    while engine.has_unfinished:
        engine.step()
        engine.scheduler.check_integrity()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(4, 40), st.integers(1, 5), st.integers(1, 9)), min_size=1, max_size=7
    ),
    st.sampled_from([0.0, 0.6, 1.0]),
    st.integers(5, 14),
)
def test_beams_of_any_size_side_by_side_find_what_the_plain_search_finds(
    asked: list[tuple[int, int, int]], alpha: float, slots: int
) -> None:
    made = engine(slots)
    beams = [branching(*one, length_penalty=alpha) for one in asked]
    others = [make_sequence(4, max_tokens=6) for _ in range(3)]  # greedy ones among them
    run(made, [*beams, *others])
    for one, sequence in zip(asked, beams, strict=True):
        expected = reference(*one, alpha)
        assert [found.ids for found in sequence.hypotheses] == [ids for ids, _ in expected]
        assert [found.score for found in sequence.hypotheses] == pytest.approx(
            [score for _, score in expected], abs=1e-4
        )
        assert sequence.target_ids == expected[0][0]
    assert made.scheduler.pool.used == 0
    assert not made._search.beams


@pytest.mark.parametrize("source", [4, 17, 33])
def test_sixteen_hypotheses_the_most_there_may_be(source: int) -> None:
    made = engine(slots=34)
    beams = [branching(one, 16, 12) for one in (source, source + 1)]
    run(made, [*beams, make_sequence(4, max_tokens=6)])
    for sequence in beams:
        expected = reference(int(sequence.source_ids[0]), 16, 12, 1.0)
        assert len(expected) == 16
        assert [found.ids for found in sequence.hypotheses] == [ids for ids, _ in expected]
        assert [found.score for found in sequence.hypotheses] == pytest.approx(
            [score for _, score in expected], abs=1e-4
        )
    assert made.scheduler.pool.used == 0


def going_round(end: int) -> Next:
    """Two tokens, 10 and 11, in turns; after so many the end."""

    def logits(source: int, history: tuple[int, ...]) -> FloatArray:
        found = next_logits(source, history)
        found[EOS] = -9.0
        found[10 + len(history) % 2 if len(history) < end else EOS] = 12.0
        return found

    return logits


def guarded(source: int, max_tokens: int, beams: int = 4, **more: object) -> Sequence:
    sequence = branching(source, beams, max_tokens, log_probs=True, attention=True, **more)
    sequence.guarded = True
    return sequence


@pytest.mark.parametrize(
    ("end", "beams", "steps", "stopped"),
    [(99, 4, 24, 18), (22, 4, 24, 18), (22, 1, 23, 18), (12, 4, 38, None)],
    ids=["for ever", "and ends", "the only one", "not for long"],
)
def test_a_beam_that_goes_round_in_circles_is_stopped_and_says_so(
    end: int, beams: int, steps: int, stopped: int | None
) -> None:
    sequence = guarded(5, 38, beams, length_penalty=0.0)
    run(made := engine(logits=going_round(end)), [sequence])
    best = sequence.hypotheses[0]
    assert sequence.target_ids == best.ids == [10, 11] * (len(best.ids) // 2)
    if stopped is None:
        assert (sequence.finish_reason, len(best.ids)) == (FinishReason.EOS, end)
    else:
        # where an output that does not branch is stopped, with what is known of its tokens
        alone = make_sequence(3, max_tokens=38)
        alone.source_ids[0], alone.guarded = 5, True
        run(engine(logits=going_round(end)), [alone])
        assert sequence.finish_reason is alone.finish_reason is FinishReason.DEGENERATE
        assert best.ids == alone.target_ids
        assert len(best.ids) == stopped
        assert len(sequence.token_log_probs) == len(sequence.attention) == stopped
        assert sum(sequence.token_log_probs) == pytest.approx(best.log_prob)
    assert sequence.steps <= steps
    assert made.scheduler.pool.used == 0


def test_a_loop_that_is_not_the_best_that_was_found_is_none() -> None:
    """Ended well, and likelier than the loop that the beam is still in."""

    def logits(source: int, history: tuple[int, ...]) -> FloatArray:
        found = np.full(VOCABULARY, -9.0, np.float32)
        if not history:
            found[[20, 10]] = 2.0, 1.0
        elif history[0] == 20:
            found[EOS if len(history) == 3 else 21 + len(history)] = 12.0
        else:
            found[10] = 12.0
        return found

    sequence = guarded(5, 38, length_penalty=0.0)
    run(engine(logits=logits), [sequence])
    assert sequence.finish_reason is FinishReason.EOS
    assert sequence.target_ids == [20, 22, 23]
    assert sequence.steps < 38


def test_a_beam_that_nobody_guards_or_that_must_go_on_goes_round() -> None:
    free, must = guarded(5, 38), guarded(5, 38, min_tokens=30)
    free.guarded = False
    run(engine(logits=going_round(99)), [free, must])
    assert (free.finish_reason, free.steps) == (FinishReason.LENGTH, 38)
    assert must.finish_reason is FinishReason.DEGENERATE
    assert len(must.target_ids) == 30


def test_a_beam_of_one_is_greedy() -> None:
    made = engine()
    beam, plain = branching(9, 1, 12), make_sequence(3, max_tokens=12)
    plain.source_ids[0] = 9
    run(made, [beam, plain])
    assert beam.target_ids == plain.target_ids


def test_each_hypothesis_keeps_its_log_probabilities_and_its_attention() -> None:
    sequence = branching(7, 3, 8, log_probs=True, attention=True)
    run(engine(), [sequence])
    for found in sequence.hypotheses:
        steps = len(found.ids) + (found.finish_reason is FinishReason.EOS)
        assert len(found.token_log_probs) == len(found.attention) == steps
        assert sum(found.token_log_probs) == pytest.approx(found.log_prob, abs=1e-4)
        looked = [np.log(row[0] / row[1]) for row in found.attention]
        assert looked == pytest.approx(range(steps), abs=1e-4)


def test_filters_hold_for_every_hypothesis() -> None:
    sequence = branching(5, 4, 30, no_repeat_ngram=1, min_tokens=6, prefix_ids=(9, 8))
    run(engine(), [sequence])
    for found in sequence.hypotheses:
        assert found.ids[:2] == [9, 8]
        assert len(set(found.ids)) == len(found.ids)
        assert len(found.ids) >= 6


def test_a_caller_who_leaves_frees_every_row_of_a_beam() -> None:
    made = engine(slots=6)
    leaving, staying = branching(5, 4, 30, min_tokens=20), branching(6, 2, 9)
    for sequence in (leaving, staying):
        made.add(sequence)
    made.step()
    made.step()
    assert made.scheduler.pool.used == 6
    leaving.cancelled = True
    made.step()
    made.scheduler.check_integrity()
    assert leaving.finish_reason is FinishReason.CANCELLED
    assert made.scheduler.pool.used == 2
    run(made, [])
    assert [found.ids for found in staying.hypotheses] == [
        ids for ids, _ in reference(6, 2, 9, 1.0)
    ]


def test_hypotheses_are_plain_values() -> None:
    sequence = branching(5, 2, 4)
    run(engine(), [sequence])
    assert all(isinstance(found, Hypothesis) for found in sequence.hypotheses)
    scores = [found.score for found in sequence.hypotheses]
    assert scores == sorted(scores, reverse=True)


def test_a_beam_whose_caller_has_left_is_not_judged() -> None:
    engine, _ = make_engine(slots=4)
    beam = make_sequence(9, parameters=DecodingParameters(strategy="beam", beams=2))
    beam.guarded = True
    others = [make_sequence(9), make_sequence(9)]
    for sequence in (beam, *others):
        engine.add(sequence)
    engine.step()
    beam.cancelled = True
    engine.step()
    assert beam.finish_reason is FinishReason.CANCELLED
    assert [other.steps for other in others] == [2, 2]
