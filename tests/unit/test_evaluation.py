"""``dragoman evaluate``: weights and bundles, other systems beside them, alignment error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from export import commercial, evaluation
from export.commercial import PeerScore, PeerScores

ROOT = Path(__file__).parents[2]
RELEASE, BUNDLE = ROOT / "checkpoints" / "en-zh-TW", ROOT / "bundles" / "en-zh-TW"
GOLD = ROOT / "tests" / "data" / "aligned.en-zh-TW.tsv"
ROWS = "I love you.\t我愛你。\nGood morning.\t早安。\t早上好。\nHow are you?\t你好嗎？\n"


@pytest.fixture
def dev(tmp_path: Path) -> Path:
    path = tmp_path / "dev.tsv"
    path.write_text(ROWS, encoding="utf-8")
    return path


def evaluate(*arguments: object) -> int:
    return evaluation.main([str(argument) for argument in arguments])


@pytest.mark.parametrize("model", [RELEASE, BUNDLE])
def test_weights_and_bundles_are_scored(
    model: Path, dev: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scores.json"
    assert evaluate(model, "--validation", f"dev={dev}", "--json", out) == 0
    told = capsys.readouterr().out
    assert "| dev | this | 3 |" in told
    assert "| dev | this, first reference alone | 3 |" in told
    assert "tok:zh" in told
    assert "chrF2" in told
    (result,) = json.loads(out.read_text(encoding="utf-8"))["results"]
    assert result["scores"]["chrf"] > 50
    assert result["scores"]["chrf"] >= result["first_reference"]["chrf"]
    assert f"{result['scores']['bleu']:.1f}" in told


def test_other_systems_stand_beside_a_file_that_they_are_known_on(
    dev: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert evaluate(BUNDLE, "--validation", f"dev={dev}") == 0
    assert "Online-A" not in capsys.readouterr().out
    known = PeerScores(commercial.digest_of(dev), "somewhere", (PeerScore("Online-A", 31.6, 26.4),))
    monkeypatch.setattr(commercial, "KNOWN", (known,))
    assert evaluate(BUNDLE, "--validation", f"dev={dev}") == 0
    told = capsys.readouterr().out
    assert "| dev | Online-A | 3 | 31.6 | 26.4 |" in told
    assert "other systems: somewhere" in told
    assert evaluate(BUNDLE, "--validation", f"dev={dev}", "--sentences", "2") == 0
    assert "Online-A" not in capsys.readouterr().out  # their scores are of the whole file


def test_the_error_rate_of_every_head_is_told(
    dev: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(RELEASE, "--validation", f"dev={dev}", "--alignment", GOLD) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.endswith("% |")]
    assert len(rows) == 2 * 4 + 1
    rates = [float(row.split("|")[2].strip(" %")) for row in rows]
    assert rates == sorted(rates)
    assert any("mean of all" in row for row in rows)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((BUNDLE,), "--validation NAME=FILE"),
        ((BUNDLE, "--validation", "dev"), "--validation takes NAME=FILE"),
        ((RELEASE, "--validation", "dev=nothing.tsv"), "nothing.tsv: No such file"),
        ((ROOT / "docs",), "not a run folder or release"),
        ((RELEASE, "--corpora", ROOT / "docs"), "No such file"),
    ],
)
def test_a_fault_is_one_line(
    arguments: tuple[object, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(*arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("dragoman evaluate: ")
    assert told in line


def test_reference_scores_are_of_the_file_that_they_name() -> None:
    assert len(commercial.KNOWN) == 1
    assert {peer.system for peer in commercial.KNOWN[0].systems} >= {"Online-A", "Online-Y"}
