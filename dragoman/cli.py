"""The ``dragoman`` command: finds a subcommand and runs it.

Commands above the client (``serve``, ``train``, ...) live in their own packages, which fill the
entry-point group ``dragoman.commands`` with functions that take the arguments and return the
exit status. Nothing of them is imported before it is asked for, so that ``dragoman --help``
needs no more than the client has.
"""

from __future__ import annotations

import difflib
import io
import os
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points

import dragoman
from dragoman import health_command, models_command, translate_command
from dragoman.files import command as files_command

GROUP = "dragoman.commands"

Command = Callable[[list[str]], int]

OWN: dict[str, Command] = {
    "translate": translate_command.translate,
    "translate-file": files_command.translate_file,
    "models": models_command.models,
    "health": health_command.health,
}

# What each command does, and the extra that brings what it needs.
KNOWN = {
    "translate": ("translate texts, or standard input line by line", None),
    "translate-file": ("translate a document, keeping its layout", None),
    "models": ("list the models of a server, load and unload them", None),
    "health": ("exit 0 if a server takes requests", None),
    "serve": ("serve a bundle over gRPC", "serve"),
    "translate-corpus": ("translate a file of any size, going on where it was stopped", "serve"),
    "key": ("make a key that callers show, with its quotas", "serve"),
    "inspect": ("check a bundle and show what it is", "serve"),
    "corpus": ("clean an experiment's sources and make training shards of them", "train"),
    "loadtest": ("measure a server under load", "loadtest"),
    "train": ("train a model from an experiment file", "train"),
    "average": ("average weights that a run kept", "train"),
    "evaluate": ("score a run, a release or a bundle on validation sets", "train"),
    "attention": ("draw who looks at whom in a sentence and its translation", "train"),
    "curves": ("draw the training curves of a run", "train"),
    "schedule": ("plot the warm-up schedule of the learning rate", "train"),
    "export": ("turn a trained model into a bundle", "train"),
    "import": ("turn a checkpoint of others (Marian, NLLB, T5) into a bundle", "train"),
}

_FAULTY_CALL = 2
_INTERRUPTED = 130


def main(argv: list[str] | None = None) -> int:
    """Run a subcommand; its exit status, or 2 if there is none to run."""
    arguments = sys.argv[1:] if argv is None else argv
    _speak_utf8()
    try:
        status = _run(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output has had enough
        # What is left in the buffer would raise again when Python flushes it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return _INTERRUPTED
    return status


def _run(arguments: list[str]) -> int:
    if not arguments:
        print(_help(), file=sys.stderr)
        return _FAULTY_CALL
    name, *rest = arguments
    if name in {"-h", "--help"}:
        print(_help())
        return 0
    if name == "--version":
        print(f"dragoman {dragoman.__version__}")
        return 0
    command = _find(name)
    return _FAULTY_CALL if command is None else command(rest)


def _find(name: str) -> Command | None:
    """The command, or None after saying why there is none."""
    if name in OWN:
        return OWN[name]
    installed = _installed()
    if name in installed:
        return _load(installed[name])
    if name in KNOWN:
        _say(f"'{name}' is not installed; {_remedy(name)}")
        return None
    names = [*KNOWN, *sorted(installed.keys() - KNOWN)]
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"there is {', '.join(names)}"
    _say(f"no command '{name}'; {hint}")
    return None


def _load(entry: EntryPoint) -> Command | None:
    """The command, or None after saying which extra brings what it needs."""
    try:
        command: Command = entry.load()
    except ModuleNotFoundError as error:
        _say(f"'{entry.name}' needs {error.name}, which is not installed; {_remedy(entry.name)}")
        return None
    return command


def _remedy(name: str) -> str:
    extra = KNOWN.get(name, ("", None))[1]
    return f"pip install 'dragoman[{extra}]'" if extra else "install the package it comes with"


def _help() -> str:
    lines = ["usage: dragoman COMMAND [options]", "", "commands:"]
    names = [*KNOWN, *sorted(_installed().keys() - KNOWN)]
    lines += [f"  {name:<11} {KNOWN.get(name, ('', None))[0]}".rstrip() for name in names]
    lines += ["", "dragoman COMMAND --help tells more; dragoman --version tells the version."]
    return "\n".join(lines)


def _installed() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def _say(message: str) -> None:
    print(f"dragoman: {message}", file=sys.stderr)


def _speak_utf8() -> None:
    """Translations come out whole whatever the locale; our input is read as UTF-8 too."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
