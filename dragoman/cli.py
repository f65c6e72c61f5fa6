"""The ``dragoman`` command: finds a subcommand and runs it.

Commands above the client (``serve``, ``train``, ...) live in their own packages, which fill the
entry-point group ``dragoman.commands``; nothing of them is imported before it is asked for.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points, version

from dragoman import translate_command

GROUP = "dragoman.commands"

Command = Callable[[list[str]], int]

OWN: dict[str, Command] = {
    "translate": translate_command.translate,
    "models": translate_command.models,
}

# Name: what it does, and the extra that brings it.
KNOWN = {
    "translate": ("translate texts, or standard input line by line", None),
    "models": ("list the models of a server", None),
    "serve": ("serve a bundle over gRPC", "serve"),
    "inspect": ("check a bundle and show what it is", "serve"),
    "train": ("train a model from an experiment file", "train"),
    "schedule": ("plot the warm-up schedule of the learning rate", "train"),
    "export": ("turn a trained model into a bundle", "train"),
}


def main(argv: list[str] | None = None) -> int:
    """Run a subcommand; its exit status, or 2 if there is none to run."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in {"-h", "--help"}:
        print(_help())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"dragoman {version('dragoman')}")
        return 0
    command = _find(arguments[0])
    if command is None:
        return 2
    try:
        status = command(arguments[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return status


def _find(name: str) -> Command | None:
    """The command, or None after saying why there is none."""
    if name in OWN:
        return OWN[name]
    found = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name in found:
        return _load(found[name])
    known = ", ".join(sorted({*OWN, *found}))
    print(f"dragoman: no command '{name}'; there is {known}", file=sys.stderr)
    return None


def _load(entry: EntryPoint) -> Command | None:
    """The command, or None after saying which extra brings it."""
    try:
        command: Command = entry.load()
    except ModuleNotFoundError as error:
        extra = KNOWN.get(entry.name, ("", entry.name))[1]
        print(
            f"dragoman: '{entry.name}' needs {error.name}, which is not installed; "
            f"pip install 'dragoman[{extra}]'",
            file=sys.stderr,
        )
        return None
    return command


def _help() -> str:
    lines = ["usage: dragoman COMMAND [options]", "", "commands:"]
    installed = {entry.name for entry in entry_points(group=GROUP)}
    lines += [
        f"  {name:12}{KNOWN.get(name, ('', None))[0]}".rstrip()
        for name in [*KNOWN, *sorted(installed - set(KNOWN))]
    ]
    lines += ["", "dragoman COMMAND --help tells more; dragoman --version"]
    return "\n".join(lines)
