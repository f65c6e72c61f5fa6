"""Heat maps and curves: drawn with letters that are there, or refused in one line."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from toy import toy_experiment

from model import looking
from model.config import ConfigError
from model.pictures import draw_curves, font_for, read_log, runs_in_a_row
from model.train import Trainer

PNG = b"\x89PNG"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def run(toy_trainer: Trainer) -> Path:
    """The toy's run folder, with the tokenizers that a command puts there."""
    for name, tokenizer in zip(("source", "target"), toy_trainer.data.tokenizers, strict=True):
        (toy_trainer.folder / f"{name}.model").write_bytes(tokenizer.model)
    return toy_trainer.folder


@pytest.mark.parametrize("more", [[], ["--target", "c b a"], ["--averages-only"]])
def test_attention_is_drawn(
    run: Path, tmp_path: Path, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "it.png"
    assert looking.attention(["a b c", "--model", str(run), "--out", str(out), *more]) == 0
    assert out.read_bytes().startswith(PNG)
    assert capsys.readouterr().out == f"{out}\n"


def chinese_font() -> bool:
    try:
        return bool(font_for("動物累"))
    except ConfigError:
        return False


@pytest.mark.skipif(not chinese_font(), reason="no font with Chinese; CI installs wqy-microhei")
def test_the_shipped_model_is_drawn_with_chinese_letters(tmp_path: Path) -> None:
    """A letter that the font has not would be a warning, and so an error here."""
    out = tmp_path / "it.png"
    text = "The animal didn't cross the street because it was too tired"
    arguments = [text, "--model", str(ROOT / "checkpoints" / "en-zh-TW"), "--out", str(out)]
    assert looking.attention(arguments) == 0
    assert out.read_bytes().startswith(PNG)
    path = font_manager.findfont(font_for("動物累"))
    assert {ord(letter) for letter in "動物累"} <= FT2Font(path).get_charmap().keys()


def test_without_a_font_one_is_named_that_can_be_installed(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fonts = [font for font in font_manager.fontManager.ttflist if "DejaVu" in font.name]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", fonts)
    monkeypatch.setattr(font_manager, "findSystemFonts", list)
    arguments = ["a b", "--target", "a 動", "--model", str(run), "--out", str(tmp_path / "x.png")]
    # the piece of an unknown letter is its bytes: the letter is in the title alone
    monkeypatch.setattr(looking, "draw_attention", lambda *_, **__: font_for("動"))
    assert looking.attention(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "fonts-wqy-microhei" in line


def test_curves_are_drawn_of_new_logs_and_old_ones(
    tmp_path: Path, toy_trainer: Trainer, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = toy_experiment(validate_every_steps=2, max_steps=4)
    small = dataclasses.replace(experiment.training, validation_sentences=3)
    trainer = Trainer(dataclasses.replace(experiment, training=small), toy_trainer.data, tmp_path)
    trainer.run()
    out = tmp_path / "curves.png"
    for folder in (tmp_path, ROOT / "checkpoints" / "en-zh-TW"):
        assert looking.curves([str(folder), "--out", str(out)]) == 0
        assert out.read_bytes().startswith(PNG)
    record = json.loads((tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert record["loss"] > 0
    assert record["learning_rate"] > 0
    capsys.readouterr()


def validations(*places: tuple[int | None, int]) -> list[dict[str, Any]]:
    """Records of a run (None: a log that does not number them) and a step each."""
    return [
        {"step": step, "place": place} | ({} if run is None else {"run": run})
        for place, (run, step) in enumerate(places)
    ]


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([(None, 2), (None, 4)], [[(2, 0), (4, 1)]]),
        ([(1, 5), (1, 9), (2, 3), (4, 2), (4, 6)],
         [[(5, 0), (9, 1)], [(12, 2)], [(14, 3), (18, 4)]]),
        # killed after the validation of step 4, begun again from a checkpoint before step 2
        ([(None, 2), (None, 4), (None, 2), (None, 4), (None, 6)], [[(2, 2), (4, 3), (6, 4)]]),
    ],
)  # fmt: skip
def test_runs_are_placed_one_after_the_other(
    places: list[tuple[int | None, int]], expected: list[list[tuple[int, int]]]
) -> None:
    runs = runs_in_a_row(validations(*places))
    assert [[(record["step"], record["place"]) for record in run] for run in runs] == expected


def test_lines_of_the_shipped_log_never_run_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is drawn: the steps of every curve rise, and a line stands where each run begins."""
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: figures.append(self))
    release = ROOT / "checkpoints" / "en-zh-TW"
    draw_curves(release, tmp_path / "x.png")
    runs = runs_in_a_row(read_log(release))
    assert len(runs) > 1
    (figure,) = figures
    assert figure.get_suptitle() == f"en-zh-TW: {runs[-1][-1]['step']:,} steps in {len(runs)} runs"
    for axes in figure.axes[:3]:
        steps = [np.asarray(line.get_xdata()) for line in axes.lines]
        assert all((np.diff(of) >= 0).all() for of in steps)
        upright = {int(of[0]) for of in steps if len(of) == 2 and of[0] == of[1]}
        assert {run[-1]["step"] for run in runs[:-1]} <= upright


@pytest.mark.parametrize("text", ["", "{", '{"step": 1}', "[]"])
def test_a_log_that_is_none_is_refused(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "log.jsonl").write_text(text, encoding="utf-8")
    assert looking.curves([str(tmp_path), "--out", str(tmp_path / "x.png")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "log.jsonl" in line


def test_a_folder_without_weights_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert looking.attention(["a", "--model", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "not a run folder or release" in line
