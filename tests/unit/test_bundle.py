"""A faulty bundle is refused with one clear line, whatever is wrong with it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from server import inspection
from server.bundle import MANIFEST, REQUIRED_FILES, open_bundle
from server.errors import BundleError

SHIPPED = Path(__file__).parents[2] / "bundles" / "en-zh-TW"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SHIPPED, tmp_path / "bundle"))


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    table = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    change(table)
    (folder / MANIFEST).write_text(json.dumps(table), encoding="utf-8")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that ``dragoman inspect`` prints; it exits 2."""
    with pytest.raises(BundleError):
        open_bundle(folder)
    assert inspection.main([str(folder)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def test_the_shipped_bundle_opens_and_is_described(capsys: pytest.CaptureFixture[str]) -> None:
    assert inspection.main([str(SHIPPED)]) == 0
    table = capsys.readouterr().out
    for expected in ("en -> zh-TW", "I love you. -> 我愛你。", "BLEU", "tatoeba"):
        assert expected in table
    assert inspection.main([str(SHIPPED), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["digest"] == open_bundle(SHIPPED).digest


@pytest.mark.parametrize("name", REQUIRED_FILES)
def test_a_flipped_bit_is_found_in_every_file(
    folder: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flip(folder / name)
    assert name in refused(folder, capsys)


@pytest.mark.parametrize("name", [*REQUIRED_FILES, MANIFEST])
def test_a_missing_file_is_named(
    folder: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / name).unlink()
    assert name in refused(folder, capsys)


@pytest.mark.parametrize("name", [*REQUIRED_FILES, MANIFEST])
def test_a_truncated_file_is_named(
    folder: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: len(data) // 2])
    assert name in refused(folder, capsys)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda t: t.update(schema_version=3), "schema version 3"),
        (lambda t: t.update(schema_version="1"), "schema_version"),
        (lambda t: t.update(schema_version=True), "schema_version"),
        (lambda t: t.pop("schema_version"), "schema_version"),
        (lambda t: t.update(surprise=1), "surprise"),
        (lambda t: t.update(precision="fp4"), "precision"),
        (lambda t: t["shape"].update(heads=0), "shape.heads"),
        (lambda t: t["shape"].update(heads="4"), "shape.heads"),
        (lambda t: t.pop("tokens"), "tokens"),
        (lambda t: t.update(goldens=[]), "goldens"),
        (lambda t: t["files"].pop("encoder.onnx"), "encoder.onnx"),
        (lambda t: t["files"].update({"../outside": "0" * 64}), "../outside"),
        (lambda t: t["files"].update({"decoder.onnx": "0" * 64}), "decoder.onnx"),
        (lambda t: t["files"].update({"..": "0" * 64}), ".."),
        (lambda t: t["files"].update({"a\0b": "0" * 64}), "'a\\x00b'"),
        (lambda t: t["files"].update({"a\nb": "0" * 64}), "'a\\nb'"),
        (lambda t: t.update({"sur\nprise": 1}), "sur\\nprise"),
        (lambda t: t["scores"][0].update(value=float("nan")), "scores.0.value"),
        (lambda t: t["training_data"][0].update(weight=float("inf")), "training_data.0.weight"),
    ],
    ids=range(19),
)
def test_a_wrong_manifest_says_where(
    folder: Path, change: Callable[[dict[str, Any]], object], named: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    edit(folder, change)
    assert named in refused(folder, capsys)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'"x"', b"{" * 100_000,
                                  b"[" * 100_000, b'{"a":' * 100_000, b"9" * 5_000])  # fmt: skip
def test_a_manifest_that_is_none(
    folder: Path, text: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / MANIFEST).write_bytes(text)
    assert MANIFEST in refused(folder, capsys)


def test_a_commit_that_the_tree_differed_from_says_so(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(folder, lambda t: t["producer"].update(commit="0123456789abcdef-dirty"))
    assert inspection.main([str(folder)]) == 0
    assert "commit 0123456789ab-dirty," in capsys.readouterr().out


def test_texts_of_a_manifest_draw_no_lines_and_steer_no_terminal(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(folder, lambda t: t.update(name="one\ntwo\x1b[31m"))
    assert inspection.main([str(folder)]) == 0
    (line,) = [row for row in capsys.readouterr().out.split("\n") if row.startswith("name")]
    assert line.split()[1] == "one\ufffdtwo\ufffd[31m"


def test_no_directory_at_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no such bundle" in refused(tmp_path / "nothing", capsys)
    (tmp_path / "file").write_text("x")
    assert "no such bundle" in refused(tmp_path / "file", capsys)


def test_serving_a_damaged_bundle_is_one_line_and_exit_2(folder: Path) -> None:
    flip(folder / "decoder.onnx")
    command = [sys.executable, "-m", "server", "--bundle", str(folder), "--port", "0",
               "--metrics-port", "0", "--http-port", "0", "--log-level", "error"]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "decoder.onnx" in done.stderr
