"""The ``dragoman`` command as people and scripts use it, against the real server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from running import RunningServer
from unlike import unlike_sentences

ROOT = Path(__file__).parents[2]
TRANSLATE = ("translate", "--to", "zh-TW")


@pytest.fixture(scope="module")
def environment(server: RunningServer) -> dict[str, str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("DRAGOMAN_")}
    return clean | {"DRAGOMAN_TARGET": server.target}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "dragoman", *arguments]


def run(
    environment: dict[str, str], *arguments: str, given: str | bytes = ""
) -> subprocess.CompletedProcess[bytes]:
    data = given.encode() if isinstance(given, str) else given
    return subprocess.run(
        command(*arguments), input=data, capture_output=True, env=environment, timeout=120,
        cwd=ROOT, check=False,
    )  # fmt: skip


def test_texts_given_come_out_one_a_line(environment: dict[str, str]) -> None:
    done = run(environment, *TRANSLATE, "I love you.", "Good morning.")
    assert (done.returncode, done.stderr) == (0, b"")
    first, second = done.stdout.decode().splitlines()
    assert first == "我愛你。"
    assert second


def test_lines_come_out_in_order_and_blank_ones_as_they_are(environment: dict[str, str]) -> None:
    sentences = ["I love you.", "", "Good morning.", "  \t", "How are you?"] * 40
    done = run(environment, *TRANSLATE, given="\n".join(sentences))
    assert (done.returncode, done.stderr) == (0, b"")
    written = done.stdout.decode().split("\n")
    assert written.pop() == ""
    assert len(written) == len(sentences)
    known = dict(zip(sentences, written, strict=False))
    assert written == [known[sentence] for sentence in sentences]
    assert (known["I love you."], known[""], known["  \t"]) == ("我愛你。", "", "  \t")


def test_nothing_in_nothing_out(environment: dict[str, str]) -> None:
    done = run(environment, *TRANSLATE)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_json_tells_how_it_came_about(environment: dict[str, str]) -> None:
    done = run(environment, *TRANSLATE, "--json", "--scores", given="I love you.\n\n")
    first, blank = (json.loads(line) for line in done.stdout.splitlines())
    assert first["text"] == "我愛你。"
    assert first["finish_reason"] == "eos"
    assert first["timing"]["total_time_ns"] > 0
    assert first["model"]["name"]
    assert first["sentences"][0]["tokens"]
    assert blank == {"text": ""}


def test_a_lone_line_is_answered_while_the_pipe_stays_open(environment: dict[str, str]) -> None:
    process = subprocess.Popen(
        command(*TRANSLATE), env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    for _ in range(2):
        process.stdin.write(b"I love you.\n")
        process.stdin.flush()
        assert process.stdout.readline().decode() == "我愛你。\n"
    process.stdin.close()
    assert process.wait(30) == 0
    process.stdout.close()


@pytest.mark.parametrize("where", ["argument", "input"])
def test_streaming_prints_the_same_piece_by_piece(environment: dict[str, str], where: str) -> None:
    # Decoded for it: what the server knows comes in one piece.
    text = " ".join(unlike_sentences(12, {"argument": "by train", "input": "by bus"}[where]))
    arguments, given = ([text], "") if where == "argument" else ([], f"{text}\n\n{text}\n")
    process = subprocess.Popen(
        command(*TRANSLATE, "--stream", *arguments), env=environment,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(given.encode())
    process.stdin.close()
    pieces = []
    while piece := os.read(process.stdout.fileno(), 65536):
        pieces.append(piece)
    process.stdout.close()
    assert process.wait(30) == 0
    whole = run(environment, *TRANSLATE, text).stdout
    assert b"".join(pieces) == (whole if where == "argument" else whole + b"\n" + whole)
    assert len(pieces) > 2


def test_sampling_with_a_seed_repeats_itself(environment: dict[str, str]) -> None:
    flags = ["--temperature", "1.3", "--top-k", "20", "--seed", "5", "I like tea."]
    one, two = (run(environment, *TRANSLATE, *flags).stdout for _ in range(2))
    assert one == two != b""


def test_warnings_go_to_standard_error_with_the_line(environment: dict[str, str]) -> None:
    given = "Hello.\nI would like a cup of tea with milk.\n"
    done = run(environment, *TRANSLATE, "--max-tokens", "3", given=given)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 2
    assert "dragoman translate: line 2: " in done.stderr.decode()


def test_a_faulty_line_is_named_after_those_before_it_were_written(
    environment: dict[str, str],
) -> None:
    given = b"I love you.\n" * 40 + b"nul \0 here\nI love you.\n"
    done = run(environment, *TRANSLATE, given=given)
    assert done.returncode == 1
    assert done.stdout.decode() == "我愛你。\n" * 40
    assert done.stderr.startswith(b"dragoman translate: line 41: ")
    assert done.stderr.count(b"\n") == 1


def test_bytes_that_are_no_utf8_are_named(environment: dict[str, str]) -> None:
    done = run(environment, *TRANSLATE, given=b"I love you.\n\xff\xfe\n")
    assert done.returncode == 1
    assert done.stdout.decode() == "我愛你。\n"
    assert done.stderr == b"dragoman translate: line 2: is not UTF-8 (byte 0)\n"


def test_faulty_options_are_named(environment: dict[str, str]) -> None:
    done = run(environment, *TRANSLATE, "--top-p", "2", "Hello.")
    assert done.returncode == 1
    assert b"decoding.sampling.top_p" in done.stderr
    done = run(environment, "translate", "--to", "ja", "Hello.")
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1


def test_an_endless_input_ends_quietly_with_its_reader(environment: dict[str, str]) -> None:
    line = " ".join(command(*TRANSLATE))
    script = f"yes 'I love you.' | {line} | head -n 3; echo ${{PIPESTATUS[1]}}"
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, env=environment, timeout=60, check=False
    )
    assert done.stdout.decode() == "我愛你。\n" * 3 + "0\n"
    assert done.stderr == b""


def test_an_interrupt_ends_it_without_a_traceback(environment: dict[str, str]) -> None:
    process = subprocess.Popen(
        command(*TRANSLATE), env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"I love you.\n")
    process.stdin.flush()
    process.stdout.readline()
    process.send_signal(2)
    _, complaint = process.communicate(timeout=30)
    assert (process.returncode, complaint) == (130, b"")


def test_models_are_listed_and_described(environment: dict[str, str]) -> None:
    listed = run(environment, "models").stdout.decode().splitlines()
    name, pair, *_ = listed[0].split("\t")
    assert pair == "en -> zh-TW"
    described = json.loads(run(environment, "models", name).stdout)
    assert described["name"] == name
    missing = run(environment, "models", "none")
    assert missing.returncode == 1
    assert missing.stderr.count(b"\n") == 1


def test_a_flood_of_lines_goes_in_few_calls_and_decodes_side_by_side(
    server: RunningServer, environment: dict[str, str]
) -> None:
    before = server.sample("dragoman_requests_total", method="Translate")
    lines = unlike_sentences(1000, "at school")
    done = run(environment, *TRANSLATE, "--json", given="".join(f"{line}\n" for line in lines))
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len({item["text"] for item in found}) > 200
    for place in (0, 499, 999):  # in their order
        alone = json.loads(run(environment, *TRANSLATE, "--json", lines[place]).stdout)
        assert found[place]["text"] == alone["text"]
    calls = server.sample("dragoman_requests_total", method="Translate") - before
    assert calls < 100
    assert max(item["timing"]["mean_batch_rows"] for item in found) > 8
