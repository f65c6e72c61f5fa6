from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from model.config import TransformerConfig
from model.decoding import beam_search, greedy, length_penalty, next_log_probs
from model.tokenizer import EOS_ID, PAD_ID
from model.train import Trainer, TrainingData
from model.transformer import Transformer, padding_mask

SOURCE = torch.tensor([[4, 5, 6, 2], [7, 2, 0, 0], [6, 6, 2, 0]])


@pytest.fixture(scope="module")
def model() -> Transformer:
    torch.manual_seed(5)
    config = TransformerConfig(
        source_vocab_size=8, target_vocab_size=7, d_model=16, n_heads=2, encoder_layers=1,
        decoder_layers=1, d_ff=16, dropout=0.0, norm="pre",
    )  # fmt: skip
    model = Transformer(config)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.6)
    return model.eval()


@torch.no_grad()
def log_probability(model: Transformer, source: torch.Tensor, ids: list[int]) -> float:
    """Of a whole sequence, scored at once."""
    target = torch.tensor([[1, *ids]])
    log_probs = next_log_probs(model(source, target[:, :-1], padding_mask(source, PAD_ID)))
    return float(sum(log_probs[0, place, token] for place, token in enumerate(ids)))


def test_greedy_takes_the_likeliest_token_each_time(model: Transformer) -> None:
    for row, found in zip(SOURCE, greedy(model, SOURCE, max_tokens=6), strict=True):
        alone = row[row != PAD_ID][None]
        prefix: list[int] = []
        for token in [*found.ids, EOS_ID][:6]:
            target = torch.tensor([[1, *prefix]])
            with torch.no_grad():
                logits = model(alone, target, padding_mask(alone, PAD_ID))[:, -1]
            assert int(next_log_probs(logits).argmax()) == token
            prefix.append(token)
        assert found.log_probability == pytest.approx(
            log_probability(model, alone, prefix), abs=1e-4
        )


def test_rows_that_ended_do_not_disturb_the_others(model: Transformer) -> None:
    together = greedy(model, SOURCE, max_tokens=9)
    for row, found in zip(SOURCE, together, strict=True):
        (alone,) = greedy(model, row[row != PAD_ID][None], max_tokens=9)
        assert alone.ids == found.ids
        assert alone.log_probability == pytest.approx(found.log_probability, abs=1e-4)


def test_max_tokens_counts_the_end(model: Transformer) -> None:
    for limit in (1, 2, 5):
        assert all(len(found.ids) <= limit for found in greedy(model, SOURCE, limit))


def test_a_beam_of_one_is_greedy(toy_trainer: Trainer, toy: TrainingData) -> None:
    texts = toy.validation["toy"].sources[:10]
    for ids in toy.source_tokenizer.encode(texts):
        source = torch.tensor([[*ids, EOS_ID]])
        (expected,) = greedy(toy_trainer.model.eval(), source, 20)
        assert beam_search(toy_trainer.model, source, 20, beam_size=1)[0].ids == expected.ids


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
def test_a_wide_beam_finds_what_trying_everything_finds(model: Transformer, alpha: float) -> None:
    source, limit = SOURCE[:1], 3
    tokens = [token for token in range(7) if token not in {0, 1, 2, 3}]
    every = [[*body, EOS_ID] for n in range(limit) for body in itertools.product(tokens, repeat=n)]
    every += [list(body) for body in itertools.product(tokens, repeat=limit)]
    scored = {
        tuple(ids): log_probability(model, source, ids) / length_penalty(len(ids), alpha)
        for ids in every
    }
    best = sorted(scored, key=lambda ids: scored[ids], reverse=True)[:4]
    found = beam_search(model, source, limit, beam_size=40, alpha=alpha)[:4]
    assert [tuple(f.ids) for f in found] == [tuple(t for t in ids if t != EOS_ID) for ids in best]
    for hypothesis, ids in zip(found, best, strict=True):
        assert hypothesis.score == pytest.approx(scored[ids], abs=1e-4)


def test_a_beam_is_ranked_and_never_worse_than_a_narrower_one(model: Transformer) -> None:
    found = beam_search(model, SOURCE[:1], 6, beam_size=5, alpha=0.6)
    scores = [hypothesis.score for hypothesis in found]
    assert scores == sorted(scores, reverse=True)
    assert len({tuple(hypothesis.ids) for hypothesis in found}) == len(found)


def test_the_length_penalty_by_hand() -> None:
    assert length_penalty(7, 0.0) == 1.0
    assert length_penalty(7, 1.0) == pytest.approx(2.0)  # (5 + 7) / 6
    assert length_penalty(1, 0.5) == 1.0
