"""``dragoman translate-file`` against the real server: every format, kills, resuming."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import polib
import pytest
import srt
from markdown_it import MarkdownIt
from running import RunningServer, running_server
from unlike import unlike_sentences

ROOT = Path(__file__).parents[2]
TRANSLATE_FILE = [sys.executable, "-m", "dragoman", "translate-file", "--to", "zh-TW"]

FILES = {
    "a.txt": "I love you.\r\n\r\n  Good morning.\r\n",
    "a.md": "# Good morning\n\nI **love** you, see [the dog](dog.md) and `code`.\n\n- I eat.\n",
    "a.html": '<h1 class="x">Good morning</h1>\n<p>I <b>love</b> you.</p><pre>left alone</pre>\n',
    "a.srt": "1\n00:00:01,000 --> 00:00:02,000\nI have a dog\nand I love you.\n\n",
    "a.po": 'msgid ""\nmsgstr ""\n\n#, c-format\nmsgid "I have %d books."\nmsgstr ""\n',
    "a.json": '{\n   "b": "I love you.",\n   "a": [1, "Good morning."]\n}\n',
}


@pytest.fixture(scope="module")
def environment(server: RunningServer) -> dict[str, str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("DRAGOMAN_")}
    return clean | {"DRAGOMAN_TARGET": server.target}


def run(environment: dict[str, str], *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*TRANSLATE_FILE, *map(str, arguments)], capture_output=True, env=environment, text=True,
        timeout=120, cwd=ROOT, check=False,
    )  # fmt: skip


def is_chinese(text: str) -> bool:
    return any("\u4e00" <= character <= "\u9fff" for character in text)


@pytest.fixture(scope="module")
def translated(
    environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("files")
    found = {}
    for name, text in FILES.items():
        source, output = folder / name, folder / f"zh-{name}"
        source.write_bytes(text.encode())
        done = run(environment, source, output)
        assert done.returncode == 0, done.stderr
        found[name] = output.read_bytes().decode()
        assert sorted(path.name for path in folder.glob("zh-*.p*")) == (
            ["zh-a.po"] if (folder / "zh-a.po").exists() else []
        )
    return found


def test_text_keeps_its_lines(translated: dict[str, str]) -> None:
    first, blank, second, rest = translated["a.txt"].split("\r\n")
    assert (first, blank, rest) == ("我愛你。", "", "")
    assert second.startswith("  ")
    assert is_chinese(second)


def test_markdown_keeps_its_markup(translated: dict[str, str]) -> None:
    said = translated["a.md"]
    before, after = (MarkdownIt().parse(text) for text in (FILES["a.md"], said))
    assert [token.type for token in before] == [token.type for token in after]
    inner = [child for token in after for child in token.children or []]
    assert [one.attrs["href"] for one in inner if one.type == "link_open"] == ["dog.md"]
    assert "`code`" in said
    assert said.count("**") == 2
    assert is_chinese(said)


def test_a_page_keeps_its_tags(translated: dict[str, str]) -> None:
    said = translated["a.html"]
    assert said.startswith('<h1 class="x">')
    assert said.endswith("</p><pre>left alone</pre>\n")
    assert said.count("<b>") == said.count("</b>") == 1
    assert is_chinese(said)


def test_subtitles_keep_their_times(translated: dict[str, str]) -> None:
    (one,) = srt.parse(translated["a.srt"])
    assert is_chinese(one.content)
    assert translated["a.srt"].startswith("1\n00:00:01,000 --> 00:00:02,000\n")


def test_messages_keep_their_formats(translated: dict[str, str]) -> None:
    (entry,) = polib.pofile(translated["a.po"])
    assert "%d" in entry.msgstr
    assert is_chinese(entry.msgstr)
    assert "c-format" in entry.flags


def test_json_keeps_its_layout(translated: dict[str, str]) -> None:
    said = translated["a.json"]
    value = json.loads(said)
    assert list(value) == ["b", "a"]
    assert value["b"] == "我愛你。"
    assert value["a"][0] == 1
    assert (
        said
        == json.dumps(value, indent=3, ensure_ascii=False)
        .replace("[\n      1,\n      ", "[1, ")
        .replace("\n   ]", "]")
        + "\n"
    )


def test_an_output_that_is_there_is_replaced_on_demand_only(
    environment: dict[str, str], tmp_path: Path
) -> None:
    source, output = tmp_path / "a.txt", tmp_path / "b.txt"
    source.write_text("I love you.")
    output.write_text("precious")
    done = run(environment, source, output)
    assert (done.returncode, output.read_text()) == (1, "precious")
    assert (
        done.stderr
        == f"dragoman translate-file: {output}: is there already; --overwrite replaces it\n"
    )
    assert run(environment, "--overwrite", source, output).returncode == 0
    assert output.read_text(encoding="utf-8") == "我愛你。"
    assert "is the input" in run(environment, "--overwrite", source, source).stderr


def test_faults_are_one_line(environment: dict[str, str], tmp_path: Path) -> None:
    missing = run(environment, tmp_path / "none.txt", tmp_path / "b.txt")
    assert (missing.returncode, missing.stderr.count("\n")) == (1, 1)
    source = tmp_path / "a.txt"
    source.write_text("I love you.")
    done = run(environment, "--model", "none", source, tmp_path / "b.txt")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert not (tmp_path / "b.txt").exists()
    nobody = run(environment, "--server", "127.0.0.1:1", source, tmp_path / "b.txt")
    assert (nobody.returncode, nobody.stderr.count("\n")) == (1, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_segment_that_is_refused_stays_and_is_told(
    environment: dict[str, str], tmp_path: Path
) -> None:
    source, output = tmp_path / "a.json", tmp_path / "b.json"
    source.write_text(json.dumps(["I love you.", "nul \0 here"]))
    done = run(environment, source, output)
    assert done.returncode == 1
    assert "dragoman translate-file: 1: left as it is: " in done.stderr
    assert json.loads(output.read_text(encoding="utf-8")) == ["我愛你。", "nul \0 here"]


def ended(server: RunningServer) -> float:
    """Sentences that the engine has ended; second tries of degenerate ones do not count."""
    return server.sample("dragoman_sequences_total") - server.sample("dragoman_retries_total")


def test_killed_at_any_moment_the_same_command_goes_on(
    server: RunningServer, environment: dict[str, str], tmp_path: Path
) -> None:
    source, output = tmp_path / "a.txt", tmp_path / "b.txt"
    lines = unlike_sentences(2500, "at home")
    source.write_text("\n".join(lines))
    journal = tmp_path / "b.txt.parts.jsonl"
    kept = 0
    for _ in range(3):
        process = subprocess.Popen(
            [*TRANSLATE_FILE, str(source), str(output)], env=environment, cwd=ROOT,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            if journal.exists() and journal.read_bytes().count(b"\n") > kept + 64:
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not output.exists()
        found = journal.read_bytes().count(b"\n")
        assert found > kept
        kept = found
    # The run that was killed last had up to 256 in work, which are counted as they are dropped.
    server.settle()
    before = ended(server)
    done = run(environment, source, output)
    assert done.returncode == 0, done.stderr
    decoded = ended(server) - before
    # Each missing line was decoded, unless the server knew it from a run that did not live to hear
    # of it, and none of those that were kept.
    assert kept > 192
    assert 0 < decoded <= 2500 - kept
    said = output.read_text(encoding="utf-8").split("\n")
    assert len(said) == 2500
    assert all(map(is_chinese, said))
    assert not journal.exists()
    alone = tmp_path / "alone.txt"
    alone.write_text(lines[0])
    assert run(environment, alone, tmp_path / "c.txt").returncode == 0
    assert said[0] == (tmp_path / "c.txt").read_text(encoding="utf-8")


def test_a_server_that_dies_and_comes_back_is_called_again(tmp_path: Path) -> None:
    source, output = tmp_path / "a.txt", tmp_path / "b.txt"
    source.write_text("\n".join(unlike_sentences(900, "in the city")))
    journal = tmp_path / "b.txt.parts.jsonl"
    with running_server() as first:
        target = first.target
        process = subprocess.Popen(
            [*TRANSLATE_FILE, "--server", target, str(source), str(output)],
            cwd=ROOT, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        deadline = time.monotonic() + 60
        while not (journal.exists() and journal.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.01)
        first.stop(signal.SIGKILL)
        assert process.poll() is None
    with running_server("--port", target.rpartition(":")[2]):
        _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert output.read_text(encoding="utf-8").count("\n") == 899
