"""What is kept stays within its bound of memory, the least recently used goes first."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine.request import (
    DecodingParameters,
    FinishReason,
    FloatArray,
    Hypothesis,
    Sequence,
)
from server.metrics import Metrics
from server.text.sentence_cache import Key, SentenceCache

SCORED = DecodingParameters(log_probs=True)


def asked(number: int, tokens: int = 20, scored: bool = False) -> Sequence:
    source = np.array([number, *range(100, 100 + tokens), 2], np.int64)
    parameters = SCORED if scored else DecodingParameters()
    return Sequence(source_ids=source, max_tokens=64, arrived=0.0, parameters=parameters)


def rows(number: int, tokens: int) -> list[FloatArray]:
    return [np.full(tokens + 2, number + place, np.float32) for place in range(tokens + 1)]


def done(
    number: int, tokens: int = 20, scored: bool = False, beams: int = 0, looked: bool = False
) -> Sequence:
    sequence = asked(number, tokens, scored)
    sequence.target_ids = [number + 1000 * place for place in range(tokens)]
    if scored:
        sequence.token_log_probs = [-place / 7 for place in range(tokens + 1)]
    for beam in range(beams):
        ids = [number + beam + 1000 * place for place in range(tokens)]
        log_probs = [-(place + beam) / 7 for place in range(tokens + 1)]
        weights = rows(number + beam, tokens) if looked else []
        sequence.hypotheses.append(
            Hypothesis(ids, FinishReason.EOS, -1.0, -1.0, log_probs, weights)
        )
    if looked:
        best = sequence.hypotheses
        sequence.attention = best[0].attention if best else rows(number, tokens)
    sequence.finish(FinishReason.EOS, 1.0)
    return sequence


def key(sequence: Sequence, digest: str = "d") -> Key:
    return Key(digest, sequence)


def keep(cache: SentenceCache, sequence: Sequence) -> None:
    cache.keep(key(sequence), sequence)


def test_what_comes_back_is_what_was_kept() -> None:
    cache = SentenceCache(1 << 20, Metrics())
    first, again = done(7, scored=True, beams=2), asked(7, scored=True)
    keep(cache, first)
    assert cache.answer(key(again), again)
    assert again.target_ids == first.target_ids
    assert again.token_log_probs == first.token_log_probs
    assert again.hypotheses == first.hypotheses
    assert again.finish_reason is FinishReason.EOS
    assert again.cached
    again.target_ids.append(5)  # whoever gets it may do with it as he likes
    third = asked(7, scored=True)
    assert cache.answer(key(third), third)
    assert third.target_ids == first.target_ids


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 60)), max_size=60),
    st.integers(1, 30_000),
)
def test_the_bound_holds_and_the_sum_is_right(steps: list[tuple[int, int]], bound: int) -> None:
    metrics = Metrics()
    cache = SentenceCache(bound, metrics)
    for number, tokens in steps:
        keep(cache, done(number, tokens))
        assert cache.nbytes <= bound
        assert cache.nbytes == sum(result.nbytes for result in cache._results.values())
        assert metrics.registry.get_sample_value("dragoman_sentence_cache_bytes") == cache.nbytes


def test_the_least_recently_used_goes_first() -> None:
    metrics = Metrics()
    cache = SentenceCache(3000, metrics)
    for number in range(3):
        keep(cache, done(number))
    assert cache.answer(key(done(0)), asked(0))
    keep(cache, done(3))
    kept = [cache.answer(key(done(number)), asked(number)) for number in range(4)]
    assert kept == [True, False, True, True]
    evicted = metrics.registry.get_sample_value("dragoman_sentence_cache_evictions_total")
    assert evicted == 1


def test_a_model_that_is_gone_takes_its_results_along() -> None:
    cache = SentenceCache(1 << 20, Metrics())
    cache.keep(key(done(1), "old"), done(1))
    cache.keep(key(done(1), "new"), done(1))
    cache.forget("old")
    assert len(cache) == 1
    assert not cache.answer(key(done(1), "old"), asked(1))
    assert cache.answer(key(done(1), "new"), asked(1))


def test_weights_of_attention_come_back_and_an_entry_beyond_the_bound_is_not_kept() -> None:
    cache = SentenceCache(20_000, Metrics())
    for beams in (0, 2):
        first, again = done(beams, beams=beams, looked=True), asked(beams)
        keep(cache, first)
        assert cache.answer(key(again), again)
        assert np.array_equal(again.attention, first.attention)
    kept = len(cache)
    keep(cache, done(9, tokens=100, looked=True))  # 41 kB
    assert len(cache) == kept
    assert not cache.answer(key(asked(9, 100)), asked(9, 100))


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"scored": True},
        {"scored": True, "beams": 4},
        {"looked": True},
        {"scored": True, "beams": 4, "looked": True},
    ],
)
@pytest.mark.parametrize("tokens", [5, 20, 100])
def test_it_takes_about_the_memory_that_it_says(shape: dict[str, object], tokens: int) -> None:
    cache = SentenceCache(1 << 30, Metrics())
    keep(cache, done(0))
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0] - cache.nbytes
    for number in range(1, 400 if "looked" in shape else 1500):
        sequence = done(number, tokens, **shape)  # type: ignore[arg-type]
        keep(cache, sequence)
        del sequence
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert 0.7 <= taken / cache.nbytes <= 1.3  # the dictionary doubles now and then
