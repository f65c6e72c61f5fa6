"""The command line without a server: finding commands, and arguments that are wrong."""

from __future__ import annotations

import io
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

import dragoman
from dragoman import cli, translate_command
from dragoman.options import Decoding, Greedy, Sampling

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> int:
    """Exit status, whether returned or raised by argparse."""
    try:
        return cli.main(list(arguments))
    except SystemExit as end:
        return int(end.code or 0)


def install(monkeypatch: pytest.MonkeyPatch, **commands: str) -> None:
    """These entry points and no others."""
    entries = [EntryPoint(name, value, cli.GROUP) for name, value in commands.items()]

    def entry_points(group: str) -> list[EntryPoint]:
        assert group == "dragoman.commands"
        return entries

    monkeypatch.setattr(cli, "entry_points", entry_points)


def serve_stand_in(arguments: list[str]) -> int:
    print("serving", *arguments)
    return 7


def test_help_lists_every_command_and_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    printed = capsys.readouterr().out
    for name, (description, _) in cli.KNOWN.items():
        assert f"  {name}" in printed
        assert description in printed


def test_help_imports_none_of_the_commands() -> None:
    program = (
        "import sys; from dragoman.cli import main; main(['--help']); "
        "print('MODULES', *sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    modules = {name.split(".")[0] for name in done.stdout.split("MODULES")[1].split()}
    assert not {"torch", "onnxruntime", "numpy", "pydantic", "server", "model"} & modules


def test_every_installed_command_is_described_and_says_its_extra() -> None:
    installed = set(cli._installed())
    assert installed <= cli.KNOWN.keys()
    assert installed.isdisjoint(cli.OWN)
    assert {name for name, (_, extra) in cli.KNOWN.items() if extra is None} == set(cli.OWN)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out == f"dragoman {dragoman.__version__}\n"


def test_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dragoman", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("dragoman ")


def test_no_command_shows_the_help_and_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 2
    assert "usage: dragoman" in capsys.readouterr().err


def test_a_misspelt_command_is_guessed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("tranlsate") == 2
    assert "no command 'tranlsate'; did you mean 'translate'?" in capsys.readouterr().err


def test_an_unknown_command_lists_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fly") == 2
    printed = capsys.readouterr().err
    assert all(name in printed for name in cli.KNOWN)
    assert printed.count("\n") == 1


def test_a_command_of_another_package_gets_its_arguments_and_gives_its_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(monkeypatch, serve=f"{__name__}:serve_stand_in")
    monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])
    assert run("serve", "--port", "1") == 7
    assert capsys.readouterr().out == "serving --port 1\n"


@pytest.mark.parametrize(
    ("command", "extra"), [("serve", "serve"), ("train", "train"), ("inspect", "serve")]
)
def test_a_command_whose_import_fails_says_which_extra_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, extra: str
) -> None:
    install(monkeypatch, **{command: "no_such_module:main"})
    assert run(command) == 2
    printed = capsys.readouterr().err
    assert f"'{command}' needs no_such_module, which is not installed" in printed
    assert f"pip install 'dragoman[{extra}]'" in printed


def test_a_command_that_is_not_there_says_which_extra_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(monkeypatch)
    assert run("train") == 2
    assert "pip install 'dragoman[train]'" in capsys.readouterr().err


def test_a_command_of_a_stranger_is_listed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(monkeypatch, juggle="no_such_module:main")
    assert run("--help") == 0
    assert "  juggle\n" in capsys.readouterr().out
    assert run("juggle") == 2
    assert "install the package it comes with" in capsys.readouterr().err


def test_an_interrupt_has_its_own_status(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.OWN, "models", interrupted)
    assert run("models") == 130


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a"], "--to"),
        (["--to", "zh-TW", "--max-tokens", "many", "a"], "--max-tokens"),
        (["--to", "zh-TW", "--timeout", "0", "a"], "--timeout"),
        (["--to", "zh-TW", "--timeout", "nan", "a"], "--timeout"),
        (["--to", "zh-TW", "--stream", "--json", "a"], "not allowed with"),
        (["--to", "zh-TW", "--scores", "a"], "--scores shows nothing without --json"),
        (["--to", "zh-TW", "--colour", "a"], "--colour"),
        (["--to", "zh-TW", "--tls-roots", "/no/such/file", "a"], "/no/such/file: No such file"),
    ],
)
def test_wrong_arguments_are_named(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert run("translate", *arguments) == 2
    assert said in capsys.readouterr().err


def test_a_closed_input_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert run("translate", "--to", "zh-TW") == 2
    assert "standard input is closed" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["translate", "--to", "zh-TW", "a"], ["models"]])
def test_a_target_that_is_a_url_is_one_line(
    capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    assert run(*command, "--server", "http://localhost:1") == 1
    printed = capsys.readouterr().err
    assert "is a URL; give host:port" in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize(
    "command", [["translate", "--to", "x", "a"], ["translate", "--stream", "--to", "x", "a"]]
)
def test_no_server_is_one_line(capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    assert run(*command, "--server", "127.0.0.1:1") == 1
    printed = capsys.readouterr().err
    assert printed.startswith("dragoman translate: text 1: ")
    assert printed.count("\n") == 1


def parsed(*arguments: str) -> Any:
    parser = translate_command._translate_parser()
    return parser.parse_intermixed_args(["--to", "zh-TW", *arguments])


def test_decoding_flags() -> None:
    assert translate_command._decoding(parsed()) == Decoding(strategy=Greedy())
    flags = ["--max-tokens", "9", "--min-tokens", "2", "--prefix", "我", "--json", "--scores"]
    assert translate_command._decoding(parsed(*flags)) == Decoding(
        max_output_tokens=9, min_output_tokens=2, target_prefix="我", include_scores=True
    )
    flags = ["--temperature", "0.5", "--top-k", "3", "--top-p", "0.9", "--seed", "0"]
    assert translate_command._decoding(parsed(*flags)) == Decoding(
        strategy=Sampling(temperature=0.5, top_k=3, top_p=0.9, seed=0)
    )
    sampled = translate_command._decoding(parsed("--seed", "0"))
    assert sampled == Decoding(strategy=Sampling(seed=0))
    bulk = translate_command._decoding(parsed("--priority", "bulk"))
    assert bulk == Decoding(priority=dragoman.Priority.BULK)


def test_texts_may_stand_between_flags_and_have_a_timeout_that_input_has_not() -> None:
    options = parsed("a", "--json", "b")
    assert options.texts == ["a", "b"]
    assert translate_command._call(options)["timeout_seconds"] == 60.0
    assert translate_command._call(parsed())["timeout_seconds"] is None
    assert translate_command._call(parsed("--timeout", "5"))["timeout_seconds"] == 5.0


def test_output_is_utf8_whatever_the_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    cli._speak_utf8()
    print("我愛你")
    sys.stdout.flush()
    assert raw.getvalue().decode() == "我愛你\n"
