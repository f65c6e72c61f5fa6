"""``dragoman translate-corpus`` on the shipped model, stopped and killed at random moments."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from running import BUNDLE, ROOT

from server.bulk import command

SENTENCES = (ROOT / "loadtest" / "sentences.txt").read_text(encoding="utf-8").splitlines()


def call(source: Path, output: Path, *more: str) -> list[str]:
    return [str(source), str(output), "--bundle", str(BUNDLE), "--part-bytes", "2000", *more]


def start(*arguments: str, stderr: int = subprocess.PIPE) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "dragoman", "translate-corpus", *arguments]
    return subprocess.Popen(command, stderr=stderr, text=True)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """A file of 500 different lines, blank ones among them, and what becomes of it."""
    folder = tmp_path_factory.mktemp("corpus")
    source = folder / "in.txt"
    lines = [line if index % 50 else "" for index, line in enumerate(SENTENCES)]
    source.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert command.main(call(source, folder / "out.txt")) == 0
    return source, (folder / "out.txt").read_bytes()


def test_a_line_in_is_a_line_out(corpus: tuple[Path, bytes]) -> None:
    source, output = corpus
    lines = output.decode().split("\n")
    assert len(lines) == len(SENTENCES) + 1
    for before, after in zip(source.read_text(encoding="utf-8").split("\n"), lines, strict=True):
        assert bool(before) == bool(after)


def test_the_parts_do_not_change_the_translations(
    corpus: tuple[Path, bytes], tmp_path: Path
) -> None:
    source, output = corpus
    assert command.main(call(source, tmp_path / "out.txt", "--part-bytes", "1000000")) == 0
    assert (tmp_path / "out.txt").read_bytes() == output


def parts_of(output: Path) -> int:
    return len(list(output.with_name("out.txt.parts").glob("*[0-9]")))


def test_killed_at_any_moment_it_goes_on(corpus: tuple[Path, bytes], tmp_path: Path) -> None:
    source, expected = corpus
    kills = int(os.environ.get("DRAGOMAN_TEST_KILLS", "20"))
    output, receipt = tmp_path / "out.txt", tmp_path / "out.txt.receipt.json"
    generator = random.Random(kills)
    while kills:
        process = start(*call(source, output), stderr=subprocess.DEVNULL)
        before = parts_of(output)
        while kills % 2 and parts_of(output) == before and process.poll() is None:
            time.sleep(0.01)  # every other time only once it has done something
        time.sleep(generator.uniform(0.0, 0.1 if kills % 2 else 0.8))
        process.kill()
        if process.wait() == -signal.SIGKILL:
            kills -= 1
        else:  # too late, it was done: begin anew
            assert output.read_bytes() == expected
            output.unlink()
            receipt.unlink()
    with start(*call(source, output)) as process:
        assert process.wait(120) == 0
    assert output.read_bytes() == expected
    told = json.loads(receipt.read_text(encoding="utf-8"))
    assert told["account"]["texts"] == len(SENTENCES)
    assert sorted(path.name for path in tmp_path.iterdir()) == [output.name, receipt.name]


def test_a_signal_stops_it_and_the_same_command_goes_on(
    corpus: tuple[Path, bytes], tmp_path: Path
) -> None:
    source, _ = corpus
    many = tmp_path / "in.txt"
    lines = source.read_bytes().splitlines(keepends=True)
    many.write_bytes(b"".join(f"{n} ".encode() + line for n in range(12) for line in lines))
    process = start(*call(many, tmp_path / "out.txt"))
    parts = tmp_path / "out.txt.parts"
    while not (parts.exists() and len(list(parts.glob("*[0-9]"))) > 2):
        assert process.poll() is None
        time.sleep(0.02)
    process.terminate()
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert told.splitlines()[-1] == "dragoman translate-corpus: stopped; the same command goes on"
    assert not (tmp_path / "out.txt").exists()
    done = len(list(parts.glob("*[0-9]")))
    process = start(*call(many, tmp_path / "out.txt"))
    told = process.communicate(timeout=300)[1]
    assert process.returncode == 0
    assert f"going on: {done} of" in told
    assert (tmp_path / "out.txt").read_bytes().count(b"\n") == 12 * len(SENTENCES)


def test_json_rows_and_beams(tmp_path: Path) -> None:
    rows = [{"n": n, "body": text} for n, text in enumerate(["I love you", "Good morning."])]
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    fields = ["--field", "body", "--output-field", "zh", "--beam", "2"]
    assert command.main(call(source, tmp_path / "out.jsonl", *fields)) == 0
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_bytes().splitlines()]
    assert [row["n"] for row in written] == [0, 1]
    assert written[0]["zh"].startswith("我愛你")


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("none.txt", "No such file or directory"),
        ("a.txt.xz", "unpack it first"),
    ],
)
def test_a_fault_is_one_line_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str, told: str
) -> None:
    assert command.main(call(tmp_path / source, tmp_path / "out.txt")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line
