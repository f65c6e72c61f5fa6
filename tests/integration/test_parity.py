"""The released weights in float32: the engine against PyTorch, token for token."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from export.bundle import ExportSettings, _manifest, write_graphs
from export.release import TrainedModel, read_trained
from export.verify import Exported, stepwise_difference, torch_greedy
from model.decoding import beam_search
from model.tokenizer import EOS_ID
from server.bundle import Bundle
from server.engine.request import DecodingParameters

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def trained() -> TrainedModel:
    return read_trained(ROOT / "checkpoints" / "en-zh-TW")


@pytest.fixture(scope="module")
def exported(trained: TrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """In float32, caches too."""
    folder = tmp_path_factory.mktemp("fp32")
    settings = ExportSettings(name="en-zh-TW", precision="fp32", cache="float32")
    write_graphs(trained, [], folder, settings)
    return Exported(Bundle(folder, _manifest(trained, settings, [], []), digest=""))


@pytest.fixture(scope="module")
def sources(trained: TrainedModel, exported: Exported) -> list[list[int]]:
    """Ids of 500 real sentences."""
    lines = (ROOT / "loadtest" / "sentences.txt").read_text(encoding="utf-8").splitlines()
    found = exported.fitting(trained.tokenizers[0].encode(lines))
    assert len(found) == 500
    return found


def test_500_real_sentences_come_out_as_in_pytorch(
    trained: TrainedModel, exported: Exported, sources: list[list[int]]
) -> None:
    highest, _ = stepwise_difference(trained.model, exported, sources[:32])
    assert highest < 1e-3
    expected = torch_greedy(trained.model, sources, exported.limits(sources))
    assert exported.greedy(sources) == expected


def test_500_real_sentences_come_out_of_a_beam_as_in_pytorch(
    trained: TrainedModel, exported: Exported, sources: list[list[int]]
) -> None:
    parameters = DecodingParameters(strategy="beam", beams=4)
    sequences = exported.run(sources, parameters)
    different = []
    for ids, limit, sequence in zip(sources, exported.limits(sources), sequences, strict=True):
        expected = beam_search(trained.model, torch.tensor([[*ids, EOS_ID]]), limit, 4)
        found = [hypothesis.ids for hypothesis in sequence.hypotheses]
        if found != [hypothesis.ids for hypothesis in expected]:
            different.append((found, expected))
        for ours, theirs in zip(sequence.hypotheses, expected, strict=True):
            assert ours.score == pytest.approx(theirs.score, abs=1e-3)
    assert not different
