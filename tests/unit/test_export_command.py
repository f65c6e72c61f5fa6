"""``dragoman export``: run folder or release in; bundle, release or one clear line out."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from export import place
from export.__main__ import main
from export.release import read_trained, save_release
from export.speed import Speed
from model.checkpoint import CheckpointError
from model.config import ConfigError
from model.train import Trainer, TrainingData
from server.bundle import MODEL_CARD, PARITY_REPORT, open_bundle

EXPERIMENT = """
source_language = "en"
target_language = "fr"
[model]
preset = "tiny"
[tokenizer]
source_vocab_size = 280
target_vocab_size = 280
[corpus]
folder = "{folder}"
max_tokens = 30
[corpus.validation]
toy = "toy.tsv"
[corpus.sources.letters]
path = "letters.tsv"
licence = "CC0"
origin = "made up"
weight = 2.0
"""
LIMITS = ["--max-source-tokens", "24", "--max-target-tokens", "40"]


@pytest.fixture
def run(toy_trainer: Trainer, toy: TrainingData, tmp_path: Path) -> Path:
    """A run folder as training leaves it."""
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("best.safetensors", "log.jsonl"):
        shutil.copyfile(toy_trainer.folder / name, folder / name)
    (folder / "source.model").write_bytes(toy.source_tokenizer.model)
    (folder / "target.model").write_bytes(toy.target_tokenizer.model)
    text = EXPERIMENT.format(folder=tmp_path)
    (folder / "experiment.toml").write_text(text, encoding="utf-8")
    ends = {"letters/source_ends": np.arange(41), "letters/target_ends": np.arange(41)}
    np.savez_compressed(folder / "corpus.npz", allow_pickle=False, **ends)
    of_toy = toy.validation["toy"]
    rows = zip(of_toy.sources, of_toy.references, strict=True)
    lines = [f"{source}\t{references[0]}" for source, references in rows]
    (tmp_path / "toy.tsv").write_text("\n".join(lines), encoding="utf-8")
    return folder


def fault(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a command that exits 2."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("dragoman export: ")
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_run_and_its_release_make_the_same_bundle(
    precision: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    release = tmp_path / "release"
    assert main([str(run), "--release", str(release)]) == 0
    assert not (release / "best.safetensors").exists()
    digests = []
    for trained in (run, release):
        out = tmp_path / trained.name / "toy-model"
        assert main([str(trained), "--out", str(out), "--precision", precision, *LIMITS]) == 0
        manifest = open_bundle(out).manifest
        assert (manifest.name, manifest.precision) == ("toy-model", precision)
        (source,) = manifest.training_data
        assert (source.name, source.licence, source.pairs) == ("letters", "CC0", 41)
        # What was timed is never twice the same.
        timed = {PARITY_REPORT, MODEL_CARD} if precision != "fp32" else set()
        digests.append({name: one for name, one in manifest.files.items() if name not in timed})
    assert digests[0] == digests[1]
    assert "chrF2" in capsys.readouterr().out


def test_a_release_is_half_the_size_and_can_be_released_again(run: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    save_release(run, first)
    save_release(first, second)
    assert sorted(path.name for path in first.iterdir()) == [
        "corpus.json", "experiment.toml", "log.jsonl", "source.model", "target.model",
        "weights.safetensors",
    ]  # fmt: skip
    weights = load_file(first / "weights.safetensors")
    again = load_file(second / "weights.safetensors")
    assert all(torch.equal(weights[name], again[name]) for name in weights | again)
    for name in ("corpus.json", "experiment.toml", "log.jsonl", "source.model", "target.model"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    stored = (first / "weights.safetensors").stat().st_size
    assert stored < 0.6 * (run / "best.safetensors").stat().st_size
    assert {value.dtype for value in weights.values()} == {torch.float16}


def test_the_model_card_says_what_a_reader_must_know(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "toy"
    assert main([str(run), "--out", str(out), "--licence", "CC0-1.0", *LIMITS]) == 0
    card = open_bundle(out).read(MODEL_CARD).decode()
    for expected in ("en to fr", "| letters | 41 | 2 | CC0 | made up |", "CC0-1.0", "nrefs:1",
                     "Do not rely on it", "dragoman serve", "## Parity", "### toy"):  # fmt: skip
        assert expected in card
    report = json.loads(open_bundle(out).read("parity.json"))
    assert report["scores"]["toy"]["bleu_signature"] in card
    assert min(report["speed"][name] for name in ("seconds", "seconds_float32")) > 0
    assert str(Speed(**report["speed"])) in card


def test_progress_goes_to_stderr_and_scores_to_stdout(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(run), "--out", str(tmp_path / "toy"), *LIMITS]) == 0
    assert any("translating" in message for message in caplog.messages)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[:-2]] == [["toy", "BLEU"], ["toy", "chrF2"]]
    assert re.match(r"int8: [\d.]+ times as fast as float32 \(\d+ sentences in ", lines[-2])
    assert lines[-1] == str(tmp_path / "toy")


def test_an_export_without_a_destination_is_refused(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main([str(run)])
    assert caught.value.code == 2
    assert "--out" in capsys.readouterr().err


def test_missing_validation_sentences_say_how_to_name_them(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "toy.tsv").rename(tmp_path / "moved.tsv")
    arguments = [str(run), "--out", str(tmp_path / "toy"), *LIMITS]
    told = fault(arguments, capsys)
    assert "toy.tsv" in told
    assert "--validation toy=FILE" in told
    assert "NAME=FILE" in fault([*arguments, "--validation", "moved.tsv"], capsys)
    assert main([*arguments, "--validation", f"other={tmp_path / 'moved.tsv'}"]) == 0
    assert {score.dataset for score in open_bundle(tmp_path / "toy").manifest.scores} == {"other"}


def test_nothing_but_a_bundle_is_replaced(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    precious = tmp_path / "documents"
    precious.mkdir()
    (precious / "thesis.txt").write_text("x")
    arguments = [str(run), *LIMITS, "--out"]
    assert "thesis.txt" in fault([*arguments, str(precious)], capsys)
    (precious / "manifest.json").write_text("{}")  # many things have one
    assert "thesis.txt" in fault([*arguments, str(precious)], capsys)
    assert "not a directory" in fault([*arguments, str(precious / "thesis.txt")], capsys)
    monkeypatch.chdir(precious)
    assert "thesis.txt" in fault([*arguments, "."], capsys)
    assert (precious / "thesis.txt").read_text() == "x"


def test_a_damaged_bundle_and_an_empty_directory_are_replaced(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "toy"
    out.mkdir()
    assert main([str(run), "--out", str(out), *LIMITS]) == 0
    (out / "decoder.onnx").write_bytes(b"damaged")
    assert main([str(run), "--out", str(out), *LIMITS]) == 0
    open_bundle(out)


def test_a_move_that_fails_puts_the_old_bundle_back(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "toy"
    assert main([str(run), "--out", str(out), *LIMITS]) == 0
    digest = open_bundle(out).digest
    capsys.readouterr()
    rename = Path.rename

    def failing(path: Path, target: Path) -> Path:
        if path.name.endswith(".partial"):
            raise OSError(28, "No space left on device", str(path))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", failing)
    assert main([str(run), "--out", str(out), *LIMITS]) == 2
    assert "No space left" in capsys.readouterr().err.splitlines()[-1]
    assert open_bundle(out).digest == digest
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("limits", [("0", "40"), ("24", "1"), ("-3", "40"), ("24", "65")])
def test_limits_that_make_no_sense_are_one_line(
    limits: tuple[str, str], run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--max-source-tokens", limits[0], "--max-target-tokens", limits[1]]
    fault([str(run), "--out", str(tmp_path / "toy"), *arguments], capsys)
    assert not (tmp_path / "toy").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("best.safetensors", None), ("best.safetensors", b"damaged"), ("source.model", None),
        ("target.model", b"damaged"), ("experiment.toml", None), ("experiment.toml", b"= 3"),
        ("corpus.npz", None), ("corpus.npz", b"damaged"), ("corpus.npz", b"PK\x05\x06" + bytes(18)),
        ("corpus.json", b"[1]"), ("corpus.json", b'{"letters": "41"}'), ("corpus.json", b"{}"),
    ],
)  # fmt: skip
def test_a_run_folder_with_a_fault_is_one_line(
    name: str,
    content: bytes | None,
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (run / name).unlink(missing_ok=True)
    if content is not None:
        (run / name).write_bytes(content)
    told = fault([str(run), "--out", str(tmp_path / "toy"), *LIMITS], capsys)
    looked_for = "shards.json" if name == "corpus.npz" and content is None else name
    assert looked_for in told or "corpus.sources.letters" in told
    assert not (tmp_path / "toy").exists()


def test_a_release_that_cannot_be_whole_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "log.jsonl").unlink()
    assert "log.jsonl" in fault([str(run), "--release", str(tmp_path / "release")], capsys)
    assert not (tmp_path / "release").exists()


def test_a_tokenizer_of_another_model_is_refused(run: Path) -> None:
    shutil.copyfile(
        Path(__file__).parents[2] / "bundles/en-zh-TW/target.model", run / "target.model"
    )
    with pytest.raises(ConfigError, match=r"target\.model: has 8000 pieces"):
        read_trained(run)


@pytest.mark.parametrize("value", [float("nan"), 1e6])
def test_weights_that_float16_cannot_hold_are_refused(value: float, run: Path) -> None:
    weights = load_file(run / "best.safetensors")
    name = next(name for name in weights if name.endswith("inner.weight"))
    weights[name][0, 0] = value
    save_file(weights, run / "best.safetensors", metadata_of(run))
    with pytest.raises(CheckpointError, match="float16"):
        read_trained(run)


def metadata_of(run: Path) -> dict[str, str]:
    data = (run / "best.safetensors").read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    table: dict[str, str] = header["__metadata__"]
    return table


def test_the_commit_is_unknown_outside_git(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert len(place.commit().removesuffix("-dirty")) == 40
    monkeypatch.setattr(place, "__file__", str(tmp_path / "place.py"))
    assert place.commit() == "unknown"
