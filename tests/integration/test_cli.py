"""The command line as it is typed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from running import RunningServer

from dragoman import cli

COMMAND = [sys.executable, "-m", "dragoman"]


def dragoman(
    server: RunningServer, *arguments: str, stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    environment = os.environ | {"DRAGOMAN_TARGET": server.target}
    return subprocess.run(
        [*COMMAND, *arguments], input=stdin, capture_output=True, env=environment, timeout=60,
        check=False,
    )  # fmt: skip


def test_texts_as_arguments(server: RunningServer) -> None:
    done = dragoman(server, "translate", "--to", "zh-TW", "I love you.", "Good morning.")
    assert done.returncode == 0
    lines = done.stdout.decode().splitlines()
    assert lines[0] == "我愛你。"
    assert len(lines) == 2


def test_standard_input_line_by_line_in_order(server: RunningServer) -> None:
    source = ["I love you.", "", "   ", *(f"I have {n} books." for n in range(300)), "I love you."]
    done = dragoman(server, "translate", "--to", "zh-TW", stdin="\n".join(source).encode())
    lines = done.stdout.decode().split("\n")
    assert lines.pop() == ""
    assert len(lines) == len(source)
    assert lines[0] == lines[-1] == "我愛你。"
    assert lines[1:3] == ["", "   "]
    again = dragoman(server, "translate", "--to", "zh-TW", *source[3:40])
    assert again.stdout.decode().splitlines() == lines[3:40]


def test_an_interactive_line_is_answered_before_the_input_ends(server: RunningServer) -> None:
    environment = os.environ | {"DRAGOMAN_TARGET": server.target}
    with subprocess.Popen(
        [*COMMAND, "translate", "--to", "zh-TW"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env=environment,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        for _ in range(2):
            process.stdin.write(b"I love you.\n")
            process.stdin.flush()
            assert process.stdout.readline().decode() == "我愛你。\n"
        process.stdin.close()
        assert process.wait(10) == 0


def test_a_stream_is_the_same_text(server: RunningServer) -> None:
    text = "I love you. How are you?"
    streamed = dragoman(server, "translate", "--to", "zh-TW", "--stream", text)
    whole = dragoman(server, "translate", "--to", "zh-TW", text)
    assert streamed.stdout == whole.stdout


def test_json_explains(server: RunningServer) -> None:
    done = dragoman(server, "translate", "--to", "zh-TW", "--json", "--scores", "I love you.")
    answer = json.loads(done.stdout)
    assert answer["text"] == "我愛你。"
    assert answer["timing"]["decode_steps"] == answer["target_tokens"] + 1
    assert answer["sentences"][0]["tokens"]


def test_errors_are_one_line_and_name_the_line_of_the_input(server: RunningServer) -> None:
    done = dragoman(server, "translate", "--to", "zh-TW", stdin=b"I love you.\nbad \xff\n")
    assert done.returncode == 1
    assert b"line 2" in done.stderr
    assert done.stderr.count(b"\n") == 1
    unknown = dragoman(server, "translate", "--to", "fr", "Hi.")
    assert unknown.returncode == 1
    assert b"fr" in unknown.stderr


def test_a_reader_that_leaves_is_no_error(server: RunningServer) -> None:
    lines = b"I love you.\n" * 3000
    environment = os.environ | {"DRAGOMAN_TARGET": server.target}
    with subprocess.Popen(
        [*COMMAND, "translate", "--to", "zh-TW"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env=environment,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(lines[: 12 * 500])
        process.stdin.flush()
        process.stdout.readline()
        process.stdout.close()
        process.stdin.write(lines[12 * 500 :])
        process.stdin.close()
        assert process.wait(30) == 0
        assert process.stderr.read() == b""


def test_models(server: RunningServer) -> None:
    listed = dragoman(server, "models")
    assert b"en-zh-TW" in listed.stdout
    one = json.loads(dragoman(server, "models", "en-zh-TW").stdout)
    assert one["precision"] == "int8"


def test_help_names_every_command_and_is_quick() -> None:
    start = time.monotonic()
    done = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, check=True)
    assert time.monotonic() - start < 5
    for name in cli.KNOWN:
        assert name in done.stdout


def test_an_unknown_command_and_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["fly"]) == 2
    assert "fly" in capsys.readouterr().err
    assert cli.main([]) == 2
    assert cli.main(["--version"]) == 0


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["inspect", "/nowhere"], "/nowhere"),
        (["serve", "--bundle", "/nowhere", "--metrics-port", "0"], "/nowhere"),
        (["train", "/nowhere.toml", "--out", "/tmp/never"], "/nowhere.toml"),
        (["export", "/nowhere", "--out", "/tmp/never"], "/nowhere"),
    ],
    ids=["inspect", "serve", "train", "export"],
)
def test_commands_of_other_packages_fail_with_one_line(arguments: list[str], named: str) -> None:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("DRAGOMAN_")}
    done = subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, check=False, env=clean
    )
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert named in last
    assert last.startswith(f"dragoman {arguments[0]}: ")


def test_schedule_draws_a_picture(tmp_path: Path) -> None:
    assert cli.main(["schedule", "--out", str(tmp_path / "s.png"), "--steps", "100"]) == 0
    assert (tmp_path / "s.png").exists()
