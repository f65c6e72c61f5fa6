"""A head that learns whose word is whose, how that is measured, and where it is written down."""

from __future__ import annotations

import dataclasses
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from model_fixtures import write_corpus
from toy import toy_data, toy_experiment

from model.alignment import align, grow_diag_final_and
from model.alignment_error import AlignedPair, error_rate, head_error_rates, read_aligned
from model.attention import attention_of, watched
from model.batching import TokenisedPair, WeightedSource
from model.checkpoint import CheckpointError, load_weights
from model.config import AlignmentSettings, ConfigError, read_experiment
from model.objective import alignment_loss
from model.prepare import prepare
from model.sharding import build_shards
from model.shards import open_shards
from model.train import Trainer, TrainingData
from model.transformer import DecoderLayer, MultiHeadAttention
from server.bundle import AlignmentHead

GOLD = Path(__file__).parents[1] / "data" / "aligned.en-zh-TW.tsv"
link = st.tuples(st.integers(0, 5), st.integers(0, 5))


@given(st.sets(link), st.sets(link))
def test_joined_directions_lie_between_what_both_and_what_either_says(
    forward: set[tuple[int, int]], reverse: set[tuple[int, int]]
) -> None:
    joined = grow_diag_final_and(forward, reverse)
    assert forward & reverse <= joined <= forward | reverse
    assert grow_diag_final_and(forward, forward) == forward


def test_a_link_beside_an_agreed_one_is_grown() -> None:
    assert grow_diag_final_and({(0, 0), (1, 1)}, {(0, 0)}) == {(0, 0), (1, 1)}
    # far from what is agreed on, and of words that are free: the last step takes it
    assert grow_diag_final_and({(0, 0), (5, 5)}, {(0, 0)}) == {(0, 0), (5, 5)}
    # not if one of its words is linked
    assert grow_diag_final_and({(0, 0), (0, 5)}, {(0, 0)}) == {(0, 0)}


def test_the_loss_is_the_cross_entropy_of_each_linked_target_token() -> None:
    weights = torch.tensor([[[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]])
    links = torch.tensor([[0, 0, 0], [0, 0, 1], [0, 1, 2]])  # the first token has two
    expected = -(0.5 * np.log(0.5) + 0.5 * np.log(0.25)) - np.log(0.8)
    assert float(alignment_loss(weights, links)) == pytest.approx(expected, rel=1e-6)
    assert float(alignment_loss(weights, links[:0])) == 0.0


def aligned_toy() -> TrainingData:
    """Letters said backwards: the target's token t comes from the source's from the end."""
    data = toy_data(1500)
    pairs = [
        TokenisedPair(
            pair.source,
            pair.target,
            np.array([(len(pair.source) - 1 - t, t) for t in range(len(pair.target))], np.uint16),
        )
        for pair in data.sources[0].pairs
    ]
    return dataclasses.replace(data, sources=[WeightedSource(pairs, 1.0)])


def toy_gold() -> list[AlignedPair]:
    generator = random.Random(9)
    rows = [generator.choices("abcdefghij", k=generator.randint(3, 6)) for _ in range(20)]
    return [
        AlignedPair(row, row[::-1], sure := {(len(row) - 1 - t, t) for t in range(len(row))}, sure)
        for row in rows
    ]


def test_a_guided_head_aligns_and_says_so(tmp_path: Path) -> None:
    data = aligned_toy()
    experiment = dataclasses.replace(
        toy_experiment(validate_every_steps=60), alignment=AlignmentSettings(weight=0.5, head=2)
    )
    trainer = Trainer(experiment, data, tmp_path)
    languages = "en", "fr"
    before = head_error_rates(trainer.model, data.tokenizers, languages, toy_gold())[1, 2]
    trainer.run(until_step=120)
    model, metadata = load_weights(tmp_path / "best.safetensors")
    rates = head_error_rates(model, data.tokenizers, languages, toy_gold())
    assert rates[1, 2] < 0.1 < before
    assert min(rates, key=lambda name: rates[name]) == (1, 2)
    head = AlignmentHead.model_validate_json(metadata["alignment_head"])
    assert (head.layer, head.head) == (1, 2)


def test_without_a_weight_nothing_is_watched_or_written(tmp_path: Path) -> None:
    trainer = Trainer(toy_experiment(), aligned_toy(), tmp_path)
    plain = Trainer(toy_experiment(), toy_data(1500), tmp_path / "plain")
    assert trainer.train_step() == plain.train_step()
    trainer.validate()
    assert "alignment_head" not in load_weights(tmp_path / "best.safetensors")[1]


def test_what_is_watched_is_what_the_network_computed(toy_trainer: Trainer) -> None:
    data = toy_trainer.data
    found = attention_of(toy_trainer.model, data.tokenizers, "a b c d", None)
    assert found.source_pieces == [" a", " b", " c", " d", "</s>"]
    assert found.target_pieces == [" d", " c", " b", " a", "</s>"]
    assert found.encoder.shape == (2, 4, 5, 5)
    assert found.cross.shape == (2, 4, 5, 5)
    for weights in (found.encoder, found.decoder, found.cross):
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones(weights.shape[:-1]))
    assert float(found.decoder.triu(diagonal=1).abs().max()) == 0.0  # nobody sees what comes
    module = toy_trainer.model.decoder[0]
    assert isinstance(module, DecoderLayer)
    assert isinstance(module.cross, MultiHeadAttention)
    with watched([module.cross]) as seen:
        pass
    attention_of(toy_trainer.model, data.tokenizers, "a b", "b a")
    assert seen == []  # outside of ``with`` nobody looks


def test_the_error_rate_is_that_of_och_and_ney() -> None:
    pair = AlignedPair(["a", "b"], ["x", "y"], {(0, 0)}, {(0, 0), (1, 1)})
    assert error_rate([{(0, 0)}], [pair]) == 0.0
    assert error_rate([{(0, 0), (1, 1)}], [pair]) == 0.0
    assert error_rate([{(0, 1)}], [pair]) == 1.0
    assert error_rate([{(0, 0), (0, 1)}], [pair]) == pytest.approx(1 - 2 / 3)


def test_the_sample_aligned_by_hand_reads() -> None:
    pairs = read_aligned(GOLD)
    assert len(pairs) == 40
    assert all(pair.sure <= pair.possible for pair in pairs)


@pytest.mark.parametrize("line", ["a\tb", "a\tb\t0-1", "a\tb\tx-0", "a\tb\t", "a\tb\t0?0"])
def test_a_faulty_alignment_is_named_by_its_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "a.tsv"
    path.write_text(f"a\tb\t0-0\n{line}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"a\.tsv:2: "):
        read_aligned(path)


def experiment_file(folder: Path, alignment: str) -> Path:
    path = write_corpus(folder)
    text = path.read_text(encoding="utf-8")
    path.write_text(f"{text}\n[alignment]\n{alignment}\n", encoding="utf-8")
    return path


def test_shards_get_the_aligners_links(tmp_path: Path) -> None:
    pytest.importorskip("eflomal", reason="the extra 'align' is not installed")

    experiment = read_experiment(experiment_file(tmp_path, "weight = 0.1"), tmp_path)
    build_shards(experiment, tmp_path / "shards")
    found = open_shards(tmp_path / "shards")
    assert found.aligned
    right = total = 0
    for pair in found.sources["a"]:
        assert pair.links is not None
        assert (pair.links[:, 0] < pair.source.size).all()
        assert (pair.links[:, 1] < pair.target.size).all()
        if pair.source.size == pair.target.size:  # a word a digit, in order
            right += int((pair.links[:, 0] == pair.links[:, 1]).sum())
            total += len(pair.links)
    assert total > 100
    assert right / total > 0.9


def test_shards_without_links_do_not_do_for_guided_alignment(tmp_path: Path) -> None:

    path = experiment_file(tmp_path, "weight = 0.0")
    prepare(read_experiment(path, tmp_path), tmp_path / "run")
    guided = experiment_file(tmp_path, "weight = 0.1")
    with pytest.raises(CheckpointError, match=r"made without alignment\.weight"):
        prepare(read_experiment(guided, tmp_path), tmp_path / "run")


@pytest.mark.parametrize(
    ("table", "told"),
    [("weight = 0.1\nlayer = 2", "alignment.layer: 2, and there are 2"),
     ("weight = 0.1\nhead = 4", "alignment.head: 4, and there are 4")],
)  # fmt: skip
def test_a_head_that_is_not_there_is_refused(tmp_path: Path, table: str, told: str) -> None:

    with pytest.raises(ConfigError, match=told):
        read_experiment(experiment_file(tmp_path, table), tmp_path)


def test_without_eflomal_the_setting_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "eflomal", None)
    with pytest.raises(ConfigError, match=r"dragoman\[align\]"):
        next(align([(np.array([5], np.uint16), np.array([6], np.uint16))]))
