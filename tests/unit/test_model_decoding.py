"""Greedy and beam search on networks that were never trained: any distribution will do."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from model.config import TransformerConfig
from model.decoding import Hypothesis, beam_search, greedy, length_penalty, next_log_probs
from model.tokenizer import EOS_ID
from model.transformer import Transformer, padding_mask

SOURCE = torch.tensor([[4, 5, 6, 2]])


def network(seed: int, vocabulary: int = 7, max_positions: int = 32) -> Transformer:
    torch.manual_seed(seed)
    config = TransformerConfig(
        source_vocab_size=8, target_vocab_size=vocabulary, d_model=16, n_heads=2,
        encoder_layers=1, decoder_layers=1, d_ff=16, dropout=0.0, norm="pre",
        max_positions=max_positions,
    )  # fmt: skip
    model = Transformer(config)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model.eval()


@torch.no_grad()
def score(model: Transformer, ids: tuple[int, ...], alpha: float) -> float:
    """Of a whole sequence, its end included, scored at once."""
    target = torch.tensor([[1, *ids]])
    log_probs = next_log_probs(model(SOURCE, target[:, :-1], padding_mask(SOURCE, 0)))[0]
    total = float(sum(log_probs[place, token] for place, token in enumerate(ids)))
    return total / length_penalty(len(ids), alpha)


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0, 2.0])
def test_a_beam_of_one_is_greedy_whatever_the_length_penalty(alpha: float) -> None:
    ended = 0
    for seed in range(60):
        model = network(seed)
        (expected,) = greedy(model, SOURCE, 8)
        (found,) = beam_search(model, SOURCE, 8, beam_size=1, alpha=alpha)
        assert found.ids == expected.ids
        assert found.log_probability == pytest.approx(expected.log_probability, abs=1e-4)
        ended += 0 < len(expected.ids) < 8
    assert ended > 2  # both ways to end were seen


@pytest.mark.parametrize("alpha", [0.0, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_a_beam_as_wide_as_the_choice_finds_the_best_of_all(seed: int, alpha: float) -> None:
    model, limit = network(seed), 4
    every = [
        (*body, EOS_ID) for n in range(limit) for body in itertools.product((4, 5, 6), repeat=n)
    ]
    every += list(itertools.product((4, 5, 6), repeat=limit))
    best = max(every, key=lambda ids: score(model, ids, alpha))
    found = beam_search(model, SOURCE, limit, beam_size=200, alpha=alpha)
    assert len(found) == len(every)
    assert tuple(found[0].ids) == tuple(token for token in best if token != EOS_ID)
    assert found[0].score == pytest.approx(score(model, best, alpha), abs=1e-4)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_a_beam_gives_at_most_its_size_best_first_each_as_it_scores(size: int) -> None:
    for seed in range(8):
        model = network(seed)
        found = beam_search(model, SOURCE, 6, beam_size=size, alpha=0.6)
        assert 1 <= len(found) <= size
        assert found == sorted(found, key=lambda hypothesis: -hypothesis.score)
        for hypothesis in found:
            ids = hypothesis.ids if len(hypothesis.ids) == 6 else [*hypothesis.ids, EOS_ID]
            assert hypothesis.score == pytest.approx(score(model, tuple(ids), 0.6), abs=1e-4)


def test_no_search_writes_padding_begin_or_unknown() -> None:
    for seed in range(10):
        model = network(seed)
        outputs: list[Hypothesis] = greedy(model, SOURCE, 9) + beam_search(model, SOURCE, 9, 4)
        assert all(token > 3 for hypothesis in outputs for token in hypothesis.ids)


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_no_search_goes_beyond_its_limit(limit: int) -> None:
    for seed in range(10):
        model = network(seed)
        for hypothesis in greedy(model, SOURCE, limit) + beam_search(model, SOURCE, limit, 3):
            assert len(hypothesis.ids) <= limit


def test_no_search_goes_beyond_the_positions_of_the_network() -> None:
    lengths = set()
    for seed in range(25):
        model = network(seed, max_positions=5)
        (found,) = greedy(model, SOURCE, 1000)
        lengths.add(len(found.ids))
        assert all(len(h.ids) <= 5 for h in beam_search(model, SOURCE, 1000, 3))
    assert max(lengths) == 5


def test_a_longer_hypothesis_wins_by_the_penalty() -> None:
    # lp(1) = 1, lp(7) = 2 at alpha 1: -1.5 over one token loses to -2.8 over seven (-1.4).
    assert -1.5 / length_penalty(1, 1.0) < -2.8 / length_penalty(7, 1.0)
    assert length_penalty(13, 0.5) == pytest.approx(3**0.5)  # (5 + 13) / 6 = 3
