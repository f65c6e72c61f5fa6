"""Scores and translations of whole sets, odd ones too."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from toy import toy_experiment

from model.evaluate import (
    ValidationSet,
    mean_loss,
    read_validation,
    score,
    translate,
    validation_batches,
)
from model.train import Trainer, TrainingData
from model.transformer import Transformer


@pytest.fixture(scope="module")
def model(toy: TrainingData, tmp_path_factory: pytest.TempPathFactory) -> Transformer:
    trainer = Trainer(toy_experiment(), toy, tmp_path_factory.mktemp("untrained"))
    for parameter in trainer.model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return trainer.model


def test_chinese_is_scored_by_characters_and_other_languages_by_words() -> None:
    # One of four characters differs: no 4-gram is left, but three 1-grams are.
    chinese = score(["我愛你。"], [["我爱你。"]])
    assert 0 < chinese.bleu < 100
    assert "tok:zh" in chinese.bleu_signature
    french = score(["je t'aime."], [["je t'aime."]], "fr")
    assert "tok:13a" in french.bleu_signature
    assert french.chrf == pytest.approx(100)
    assert "chrF2" not in french.chrf_signature  # the signature tells nc:6|nw:0
    assert "nc:6" in french.chrf_signature


def test_any_reference_may_match_and_their_numbers_may_differ() -> None:
    hypotheses = ["我愛你。你好嗎？", "今天的天氣很好。"]
    found = score(hypotheses, [["一二三四", hypotheses[0]], [hypotheses[1]]])
    assert found.bleu == pytest.approx(100)
    assert found.chrf == pytest.approx(100)
    assert "nrefs:2" in found.bleu_signature


def test_a_missing_reference_changes_nothing() -> None:
    hypotheses, first = ["我愛你和他。", "今天天氣好。"], ["我愛你和她。", "今天天氣很好。"]
    one = score(hypotheses, [[row] for row in first])
    again = score(hypotheses, [[first[0], first[0]], [first[1]]])
    assert one.bleu == pytest.approx(again.bleu)
    assert one.chrf == pytest.approx(again.chrf)


def test_several_references_are_read_from_columns(tmp_path: Path) -> None:
    path = tmp_path / "dev.tsv"
    path.write_text("one\t一\t壹\ntwo\t二\n", encoding="utf-8")
    found = read_validation(path)
    assert found.sources == ["one", "two"]
    assert found.references == [["一", "壹"], ["二"]]


@pytest.mark.parametrize("count", [1, 2, 7, 10, 99])
def test_a_sample_is_even_and_without_repeats(count: int) -> None:
    whole = ValidationSet([str(n) for n in range(10)], [[str(n)] for n in range(10)])
    sample = whole.head(count)
    assert len(sample.sources) == len(set(sample.sources)) == min(count, 10)
    assert sample.references == [[source] for source in sample.sources]
    assert sample.sources == sorted(sample.sources)


def test_translations_keep_the_order_and_take_empty_and_overlong_texts(
    model: Transformer, toy: TrainingData
) -> None:
    generator = random.Random(4)
    texts = [" ".join(generator.choices("abcdef", k=n)) for n in (5, 1, 300, 3, 0, 2)]
    tokenizers = toy.source_tokenizer, toy.target_tokenizer
    assert translate(model, *tokenizers, []) == []
    alone = [translate(model, *tokenizers, [text])[0] for text in texts]
    for batch_tokens in (1, 4096):
        assert translate(model, *tokenizers, texts, batch_tokens) == alone
    assert not model.training


def test_the_loss_of_a_set_is_a_mean_over_its_tokens_however_it_is_batched(
    model: Transformer, toy: TrainingData
) -> None:
    whole, tokenizers = toy.validation["toy"].head(9), (toy.source_tokenizer, toy.target_tokenizer)
    losses = [
        mean_loss(model, validation_batches(whole, *tokenizers, rows=rows, max_positions=64), 0.1)
        for rows in (1, 4, 9)
    ]
    for smoothed, likelihood in losses[1:]:
        assert smoothed == pytest.approx(losses[0][0], rel=1e-5)
        assert likelihood == pytest.approx(losses[0][1], rel=1e-5)


def test_the_loss_of_what_is_longer_than_the_network_is_of_its_beginning(
    model: Transformer, toy: TrainingData
) -> None:
    long = ValidationSet(["a " * 500], [["b " * 500]])
    tokenizers = toy.source_tokenizer, toy.target_tokenizer
    batches = validation_batches(
        long, *tokenizers, rows=5, max_positions=model.config.max_positions
    )
    assert batches[0].source.shape == batches[0].target_in.shape == (1, 64)
    assert mean_loss(model, batches, 0.1)[1] > 0
