"""The experiments of this repository are fit to run, and so is the phrasebook they train on."""

from __future__ import annotations

import csv
import dataclasses
import re
from pathlib import Path

import pytest
from toy import toy_experiment

from model import commands
from model.checkpoint import load_state, load_weights
from model.config import read_experiment
from model.train import Trainer, TrainingData

ROOT = Path(__file__).parents[2]
PHRASEBOOK = sorted((ROOT / "corpora" / "phrasebook").glob("*.tsv"))
# A half-width mark after a Chinese character and not before a digit is Western punctuation.
HALF_WIDTH = re.compile(r"(?<=[\u3400-\u9fff])[,?!;:](?!\d)")
MARKS_AS_WORDS = ("一個!或#之類",)


def pairs(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def test_a_newcomers_run_takes_two_steps_and_keeps_its_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As from a fresh clone, but for the text: smaller, so that it is prepared in seconds."""
    monkeypatch.chdir(ROOT)
    text = (ROOT / "experiments" / "phrasebook.toml").read_text(encoding="utf-8")
    text, cut = re.subn(r"\n\[corpus\.sources\.work\].*", "", text, flags=re.DOTALL)
    for name, value in {"validate_every_steps": 2, "validation_sentences": 2}.items():
        text, count = re.subn(rf"^{name} = \d+$", f"{name} = {value}", text, flags=re.MULTILINE)
        cut += count
    assert cut == 3
    path, run = tmp_path / "x.toml", tmp_path / "run"
    path.write_text(text, encoding="utf-8")
    arguments = [str(path), "--out", str(run), "--device", "cpu", "--until-step"]
    assert commands.train([*arguments, "2"]) == 0
    assert load_state(run / "checkpoint.pt")["experiment"] == text
    assert load_weights(run / "best.safetensors")[1]["experiment"] == text
    assert commands.train([*arguments, "3"]) == 0
    state = load_state(run / "checkpoint.pt")
    assert (state["position"]["step"], state["experiment"]) == (3, text)


def test_without_its_text_a_run_keeps_that_of_the_checkpoint(
    tmp_path: Path, toy: TrainingData
) -> None:
    Trainer(toy_experiment(), toy, tmp_path, toml="# this one").save()
    Trainer(toy_experiment(), toy, tmp_path).save()
    assert load_state(tmp_path / "checkpoint.pt")["experiment"] == "# this one"


def test_the_experiment_for_a_gpu_takes_two_steps_on_a_cpu(
    tmp_path: Path, toy: TrainingData
) -> None:
    """Its network, precision and schedule, on sentences of ten letters in small batches."""
    experiment = read_experiment(ROOT / "experiments" / "en-zh-TW-base.toml")
    shape = experiment.model.build(16000, 16000)
    assert (shape.d_model, shape.encoder_layers, shape.decoder_layers) == (512, 6, 6)
    small = dataclasses.replace(experiment.training, batch_tokens=200, sampling_alpha=0.0)
    trainer = Trainer(dataclasses.replace(experiment, training=small), toy, tmp_path)
    assert small.precision == "bf16"
    before = trainer.model.projection.weight.detach().clone()
    losses = [trainer.train_step()[0] for _ in range(2)]
    assert all(0 < loss < 20 for loss in losses)
    assert not before.equal(trainer.model.projection.weight)


@pytest.mark.parametrize("path", PHRASEBOOK, ids=lambda path: path.stem)
def test_the_phrasebook_is_well_formed(path: Path) -> None:
    rows = pairs(path)
    assert rows
    for number, row in enumerate(rows, start=1):
        place = f"{path.name}:{number}: {row}"
        assert len(row) == 2, place
        assert all(text and text == text.strip() for text in row), place
        assert "台" not in row[1], place
        text = row[1]
        for words in MARKS_AS_WORDS:
            text = text.replace(words, "")
        assert not HALF_WIDTH.search(text), place


def test_no_english_sentence_is_in_the_phrasebook_twice() -> None:
    sentences = [row[0] for path in PHRASEBOOK for row in pairs(path)]
    seen: set[str] = set()
    twice = [text for text in sentences if text in seen or seen.add(text)]  # type: ignore[func-returns-value]
    assert len(sentences) > 40_000
    assert twice == []
