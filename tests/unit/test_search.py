from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from fakes import EOS, make_sequence
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine.request import DecodingParameters, Sequence
from server.engine.search import Search, log_sum_exp

NEVER = {0, 1, 3}
SAMPLE = DecodingParameters(strategy="sample", seed=(7,))


def search() -> Search:
    return Search(eos_id=EOS, never=NEVER)


def row(**parameters: object) -> Sequence:
    return make_sequence(5, parameters=DecodingParameters(**parameters))  # type: ignore[arg-type]


def logits(*rows: list[float]) -> np.ndarray:
    return np.array(rows, np.float32)


def test_greedy_takes_the_likeliest_token_that_a_text_may_have() -> None:
    chosen = search().choose(logits([9, 9, 1, 9, 2, 3]), [row()])
    assert chosen[0].token == 5
    assert chosen[0].log_prob is None


def test_log_probabilities_are_the_models_own_before_any_filter() -> None:
    values = logits([2.0, 0.0, 1.0, -1.0, 0.5, 0.25])
    expected = values[0, 2] - np.log(np.exp(values[0].astype(np.float64)).sum())
    choice = search().choose(values.copy(), [row(log_probs=True)])[0]
    assert choice.token == EOS
    assert choice.log_prob == pytest.approx(expected, abs=1e-6)


def test_the_end_may_not_come_before_min_tokens() -> None:
    sequence = row(min_tokens=2)
    values = logits([0, 0, 9, 0, 1, 2])
    assert search().choose(values.copy(), [sequence])[0].token == 5
    sequence.steps = 2
    assert search().choose(values.copy(), [sequence])[0].token == EOS


def test_a_forced_prefix_comes_out_first_whatever_the_strategy() -> None:
    for base in (DecodingParameters(), SAMPLE):
        sequence = make_sequence(
            5, parameters=dataclasses.replace(base, prefix_ids=(4, 5), log_probs=True)
        )
        values = logits([0, 0, 9, 0, 1, -3])
        first = search().choose(values.copy(), [sequence])[0]
        sequence.steps = 1
        second = search().choose(values.copy(), [sequence])[0]
        assert (first.token, second.token) == (4, 5)
        assert second.log_prob is not None
        assert second.log_prob < first.log_prob  # type: ignore[operator]


def test_rows_of_every_kind_share_a_batch() -> None:
    values = np.tile(logits([0, 0, 1, 0, 2, 9, 3]), (4, 1))
    rows = [row(), row(prefix_ids=(6,)), row(strategy="sample", top_k=1), row(log_probs=True)]
    assert [choice.token for choice in search().choose(values, rows)] == [5, 6, 5, 5]


def test_the_same_seed_draws_the_same_alone_and_in_a_crowd() -> None:
    random = np.random.default_rng(0)
    steps = random.normal(size=(20, 3, 50)).astype(np.float32)

    def run(crowd: bool) -> list[int]:
        chooser = search()
        mine = make_sequence(5, parameters=SAMPLE)
        others = [make_sequence(5, parameters=dataclasses.replace(SAMPLE, seed=None))] * 2
        drawn = []
        for step in steps:
            rows = [*others, mine] if crowd else [mine]
            values = step.copy() if crowd else step[2:].copy()
            drawn.append(chooser.choose(values, rows)[-1].token)
        return drawn

    assert run(crowd=True) == run(crowd=False)


@settings(deadline=None)
@given(st.integers(1, 6), st.floats(0.05, 1.0), st.floats(0.1, 3.0), st.integers(0, 1000))
def test_a_draw_is_always_inside_top_k_and_top_p(
    top_k: int, top_p: float, temperature: float, seed: int
) -> None:
    values = np.random.default_rng(seed).normal(size=(1, 12)).astype(np.float32) * 3
    allowed = values[0].astype(np.float64) / temperature
    allowed[sorted(NEVER)] = -np.inf
    order = np.argsort(-allowed)[:top_k]
    weights = np.exp(allowed[order] - allowed[order[0]])
    cumulative = (weights / weights.sum()).cumsum()
    kept = order[: int(np.argmax(cumulative >= top_p - 1e-9)) + 1]
    sequence = row(strategy="sample", top_k=top_k, top_p=top_p, temperature=temperature)
    assert search().choose(values, [sequence])[0].token in kept


def test_draws_follow_the_distribution() -> None:
    probabilities = np.array([0, 0, 0.5, 0, 0.3, 0.2])
    with np.errstate(divide="ignore"):
        values = np.log(probabilities).astype(np.float32)[None]
    chooser, sequence = search(), make_sequence(5, parameters=SAMPLE)
    drawn = [chooser.choose(values.copy(), [sequence])[0].token for _ in range(4000)]
    share = np.bincount(drawn, minlength=6) / len(drawn)
    assert np.abs(share - probabilities).max() < 0.03


def test_log_sum_exp_does_not_overflow() -> None:
    assert log_sum_exp(logits([1000.0, 1000.0]))[0] == pytest.approx(1000 + np.log(2))
    assert log_sum_exp(np.zeros((0, 4), np.float32)).shape == (0,)
