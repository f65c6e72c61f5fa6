from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from fakes import EOS, make_sequence
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from server.engine.branching import Step
from server.engine.kv_cache import CacheShape, KVCachePool
from server.engine.logits import BLOCK, Logits
from server.engine.request import DecodingParameters, Sequence
from server.engine.search import Search

NEVER = {0, 1, 3}
SAMPLE = DecodingParameters(strategy="sample", seed=(7,))


def pool() -> KVCachePool:
    shape = CacheShape(
        layers=1, slots=8, heads=1, head_size=1, target_positions=40, source_positions=40
    )
    return KVCachePool(shape)


def search() -> Search:
    return Search(pool(), eos_id=EOS, never=NEVER)


def row(**parameters: object) -> Sequence:
    return make_sequence(5, parameters=DecodingParameters(**parameters))  # type: ignore[arg-type]


def logits(*rows: list[float]) -> Logits:
    return Logits.of(np.array(rows, np.float32))


def copied(values: Logits) -> Logits:
    return Logits(values.values.copy(), values._maxima.copy())


def test_greedy_takes_the_likeliest_token_that_a_text_may_have() -> None:
    owner = row()
    assert search().choose(logits([9, 9, 1, 9, 2, 3]), [owner]) == [5]
    assert owner.token_log_probs == []


def test_log_probabilities_are_the_models_own_before_any_filter() -> None:
    values = logits([2.0, 0.0, 1.0, -1.0, 0.5, 0.25])
    row_values = values.values[0].astype(np.float64)
    expected = row_values[2] - np.log(np.exp(row_values).sum())
    owner = row(log_probs=True)
    assert search().choose(copied(values), [owner]) == [EOS]
    assert owner.token_log_probs == pytest.approx([expected], abs=1e-6)


def test_the_end_may_not_come_before_min_tokens() -> None:
    sequence = row(min_tokens=2)
    values = logits([0, 0, 9, 0, 1, 2])
    assert search().choose(copied(values), [sequence])[0] == 5
    sequence.steps = 2
    assert search().choose(copied(values), [sequence])[0] == EOS


def test_a_forced_prefix_comes_out_first_whatever_the_strategy() -> None:
    for base in (DecodingParameters(), SAMPLE):
        sequence = make_sequence(
            5, parameters=dataclasses.replace(base, prefix_ids=(4, 5), log_probs=True)
        )
        values = logits([0, 0, 9, 0, 1, -3])
        first = search().choose(copied(values), [sequence])[0]
        sequence.steps = 1
        second = search().choose(copied(values), [sequence])[0]
        assert (first, second) == (4, 5)
        assert sequence.token_log_probs[1] < sequence.token_log_probs[0]


def test_after_a_forced_prefix_tokens_are_found_as_without(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    monkeypatch.setattr(Logits, "changed", lambda _logits, row: looked.append(row))
    begun, branching = row(prefix_ids=(4, 5)), row(strategy="beam", beams=2, prefix_ids=(4, 5))
    must, sampled = row(min_tokens=2), row(strategy="sample", prefix_ids=(4,))
    never = row(prefix_ids=(4,), no_repeat_ngram=3)
    for sequence in (begun, branching, must, sampled, never):
        sequence.steps = 2
    chooser = search()
    branching.slots = [1, 2]
    chooser.start(branching)
    rows = [begun, branching, branching, must, sampled, never]
    for owner in rows:
        owner.target_ids = [4, 5]
    values = logits(*[[0.0, 0, 1, 0, 2, 9, 3]] * 6)
    monkeypatch.setattr(chooser.beams[branching.number], "ids", lambda _slot: [4, 5])
    assert chooser.choose(values, rows)[::3] == [5, 5]
    assert looked == [5]
    assert [one.parameters.plain_from for one in (begun, must, row())] == [2, 2, 0]


def test_rows_of_every_kind_share_a_batch() -> None:
    values = logits(*[[0.0, 0, 1, 0, 2, 9, 3]] * 4)
    rows = [row(), row(prefix_ids=(6,)), row(strategy="sample", top_k=1), row(log_probs=True)]
    assert search().choose(values, rows) == [5, 6, 5, 5]


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
            values = Logits.of(step if crowd else step[2:])
            drawn.append(chooser.choose(values, rows)[-1])
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
    assert search().choose(Logits.of(values), [sequence])[0] in kept


def test_draws_follow_the_distribution() -> None:
    probabilities = np.array([0, 0, 0.5, 0, 0.3, 0.2])
    with np.errstate(divide="ignore"):
        values = Logits.of(np.log(probabilities).astype(np.float32)[None])
    chooser, sequence = search(), make_sequence(5, parameters=SAMPLE)
    drawn = [chooser.choose(copied(values), [sequence])[0] for _ in range(4000)]
    share = np.bincount(drawn, minlength=6) / len(drawn)
    assert np.abs(share - probabilities).max() < 0.03


def test_log_sum_exp_does_not_overflow() -> None:
    values = logits([1000.0, 1000.0], [0.0, -1e9])
    assert values.log_sums([0, 1]).tolist() == pytest.approx([1000 + np.log(2), 0.0])
    assert values.log_sums([1]).tolist() == [0.0]


@settings(deadline=None)
@given(
    st.integers(1, 3), st.integers(1, 5), st.integers(1, 5 * BLOCK), st.integers(0, 10**6),
    st.booleans(),
)  # fmt: skip
def test_blocks_find_what_a_sort_finds(
    beams: int, size: int, vocabulary: int, seed: int, filtered: bool
) -> None:
    random = np.random.default_rng(seed)
    rows = beams * size
    plain = random.integers(0, 30, (rows, vocabulary)).astype(np.float32)  # with many ties
    found = Logits.of(plain)
    if filtered:
        forbidden = random.choice(vocabulary, min(3, vocabulary - 1), replace=False).tolist()
        plain[:, forbidden] = -np.inf
        found.forbid(forbidden)
        plain[0, : vocabulary // 2] -= 7
        found.values[0, : vocabulary // 2] -= 7
        found.changed(0)
    assert found.argmax().tolist() == plain.argmax(axis=1).tolist()
    step = Step(
        slots=random.permutation(rows).reshape(beams, size),
        before=random.integers(-3, 3, (beams, size)).astype(np.float64),
        log_sums=random.integers(1, 3, (beams, size)).astype(np.float64),
        last=np.zeros((beams, 1), np.int64),
    )
    step.before[random.random(step.before.shape) < 0.2] = -np.inf  # hypotheses that are none
    best = found.branch(step, EOS)
    for group, members in enumerate(step.slots):
        offsets = (step.before - step.log_sums)[group]
        every = sorted(
            (-(plain[row, token] + offsets[rank]), rank, token)
            for rank, row in enumerate(members)
            for token in range(vocabulary)
            if np.isfinite(plain[row, token] + offsets[rank])
        )[: 2 * size]
        (parents, tokens), (totals, _) = best.found[:, group], best.found_scores[:, group]
        there = np.flatnonzero(totals > -np.inf)
        assert list(zip(-totals[there], parents[there], tokens[there], strict=True)) == every
        going = [one for one in every if one[2] != EOS][:size]
        assert best.going[:2, group, : len(going)].T.tolist() == [list(one[1:]) for one in going]
        assert best.going[4, group].tolist() == [1] * len(going) + [0] * (size - len(going))
        assert np.flatnonzero(best.ended[group]).tolist() == [
            rank for rank, one in enumerate(every[:size]) if one[2] == EOS
        ]
        check_places(members, best.going[:, group])


def check_places(members: NDArray[np.int64], going: NDArray[np.int64]) -> None:
    """Each child has a slot of its own; a parent's first is the parent's."""
    parents, _, slots, copied, alive = going
    assert sorted(slots) == sorted(members)
    seen: set[int] = set()
    for parent, slot, moved, lives in zip(parents, slots, copied, alive, strict=True):
        stays = bool(lives) and int(parent) not in seen
        seen.add(int(parent))
        assert bool(moved) == (bool(lives) and not stays)
        assert not stays or slot == members[parent]


def test_in_the_last_step_every_extension_is_an_end() -> None:
    step = Step(
        slots=np.array([[1, 0], [2, 3]]),
        before=np.zeros((2, 2)),
        log_sums=np.zeros((2, 2)),
        last=np.array([[1], [0]]),
    )
    found = logits(*[[0.0, 0, 1, 0, 5, 4]] * 4).branch(step, EOS)
    assert found.ended.tolist() == [[1, 1], [0, 0]]
    assert found.going[4].tolist() == [[0, 0], [1, 1]]


def test_no_ngram_comes_twice() -> None:
    sequence = row(no_repeat_ngram=3)
    sequence.target_ids = [4, 5, 6, 7, 4, 5]
    values = logits([0, 0, 0, 0, 1, 2, 9, 3])
    assert search().choose(values, [sequence]) == [7]


def test_a_repetition_penalty_weakens_what_came_before() -> None:
    sequence = row(repetition_penalty=2.0, log_probs=True)
    sequence.target_ids = [5, 6]
    values = logits([0, 0, -1, 0, 2.5, 4, -9, -3])
    raw = float(values.log_sums([0])[0])
    assert search().choose(values, [sequence]) == [4]  # 4 halved is less than 2.5
    assert values.values[0, 6] == -18
    assert sequence.token_log_probs == pytest.approx([2.5 - raw])


@settings(deadline=None, max_examples=40)
@given(rows=st.integers(2, 64), blocks=st.integers(1, 3), seed=st.integers(0))
def test_a_row_has_the_same_sum_whatever_stands_beside_it(
    rows: int, blocks: int, seed: int
) -> None:
    drawn = np.random.default_rng(seed).normal(scale=2, size=(rows, blocks * BLOCK))
    values = Logits.of((drawn - drawn.max(axis=1, keepdims=True)).astype(np.float32))
    together = values.log_sums(list(range(rows)))
    assert together.tolist() == [values.log_sums([row])[0] for row in range(rows)]
