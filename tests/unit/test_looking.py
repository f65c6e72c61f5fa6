"""Where a sequence has looked is the same, whoever is beside it and whichever slot it ends in."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import make_engine, make_sequence
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine.attention import attention_weights
from server.engine.request import DecodingParameters, FinishReason, FloatArray, Sequence

ASKS = DecodingParameters(attention=True)


def of_one_step(keys: FloatArray, queries: FloatArray) -> FloatArray:
    """Keys [L, H, S, D] and queries [L, H, D] as the definition has it."""
    scores = np.einsum("lhsd,lhd->lhs", keys, queries) / np.sqrt(keys.shape[-1])
    weights = np.exp(scores.astype(np.float64))
    found: FloatArray = weights / weights.sum(axis=-1, keepdims=True)
    return found


@settings(deadline=None)
@given(
    st.tuples(*(st.integers(1, 4) for _ in range(5))).map(tuple),
    st.integers(0, 2**32 - 1),
)
def test_all_steps_at_once_are_each_step_by_itself(
    shape: tuple[int, int, int, int, int], seed: int
) -> None:
    steps, layers, heads, source, size = shape
    rng = np.random.default_rng(seed)
    keys = rng.normal(size=(layers, heads, source, size)).astype(np.float32)
    queries = rng.normal(size=(steps, layers, heads, size)).astype(np.float32)
    found = attention_weights(keys, queries)
    for step in range(steps):
        np.testing.assert_allclose(found[step], of_one_step(keys, queries[step]), atol=1e-5)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(st.integers(2, 20), st.booleans(), st.integers(0, 3)), max_size=12),
    st.integers(2, 5),
)
def test_who_asks_is_told_of_every_step_though_others_come_and_go(
    arrivals: list[tuple[int, bool, int]], slots: int
) -> None:
    engine, _ = make_engine(slots=slots)
    engine._checked = True
    sequences = []
    for length, asks, pause in arrivals:
        sequences.append(make_sequence(length, parameters=ASKS if asks else DecodingParameters()))
        engine.add(sequences[-1])
        for _ in range(pause):
            engine.step()
    while engine.has_unfinished:
        engine.step()
    for sequence, (length, asks, _) in zip(sequences, arrivals, strict=True):
        looked = [int(weights.argmax()) for weights in sequence.attention]
        assert looked == (list(range(length)) if asks else [])
        assert not sequence.head_attention
    assert not engine._looking._looks


def test_who_has_ended_lacks_nothing_for_other_threads_take_it_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked = []
    finish = Sequence.finish

    def watched(self: Sequence, reason: FinishReason, now: float) -> None:
        looked.append(len(self.attention))
        finish(self, reason, now)

    monkeypatch.setattr(Sequence, "finish", watched)
    engine, _ = make_engine()
    for length in (3, 5):
        engine.add(make_sequence(length, parameters=ASKS))
    while engine.has_unfinished:
        engine.step()
    assert looked == [3, 5]


def test_weights_by_head_come_to_who_asks_for_them() -> None:
    engine, _ = make_engine()
    sequence = make_sequence(5, parameters=DecodingParameters(attention=True, head_attention=True))
    engine.add(sequence)
    while engine.has_unfinished:
        engine.step()
    assert [weights.shape for weights in sequence.head_attention] == [(1, 1, 5)] * 5
    assert all((weights.sum(axis=-1) > 0.999).all() for weights in sequence.head_attention)


def test_nothing_is_kept_of_who_left() -> None:
    engine, _ = make_engine()
    sequences = [make_sequence(20, parameters=ASKS) for _ in range(3)]
    for sequence in sequences:
        engine.add(sequence)
    engine.step()
    sequences[0].cancelled = True
    engine.step()
    engine.fail(FinishReason.ERROR)
    assert not engine._looking._looks
