"""``dragoman key``: makes a key, writes its hash into the key file, prints the key once."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from dataclasses import fields
from pathlib import Path

from server.access.keys import NAME, digest_of, new_secret, read_keys
from server.access.quota import Limits
from server.errors import SettingsFault

_HEADER = "# Keys of callers: names, SHA-256 of each key, limits. docs/SECURITY.md says more.\n"


def main(arguments: list[str] | None = None) -> int:
    """Make a key; 2 with one line where it cannot be done."""
    options = _parser().parse_args(arguments)
    limits = {one.name: getattr(options, one.name) for one in fields(Limits)}
    try:
        secret = add_key(
            options.file,
            options.name,
            {name: value for name, value in limits.items() if value is not None},
            admin=options.admin,
        )
    except SettingsFault as error:
        print(f"dragoman key: {error}", file=sys.stderr)
        return 2
    print(secret)
    print(
        f"'{options.name}' is in {options.file}; this is the only time its key is shown.",
        file=sys.stderr,
    )
    return 0


def add_key(path: Path, name: str, limits: dict[str, int], *, admin: bool) -> str:
    """A new key, whose hash the file holds; a server that reads the file takes it at once.

    Raises:
        SettingsFault: the name is taken or none, or the file cannot be read or written.
    """
    if not NAME.fullmatch(name):
        msg = f"'{name}' is no name: letters, digits, '_', '.' and '-'"
        raise SettingsFault(msg)
    before = _HEADER
    if path.exists():
        if name in read_keys(path).names:
            msg = f"{path} has a key named '{name}' already"
            raise SettingsFault(msg)
        before = path.read_text(encoding="utf-8")
    secret = new_secret()
    lines = [f'\n[keys."{name}"]', f'sha256 = ["{digest_of(secret)}"]']
    lines += [f"{limit} = {value}" for limit, value in limits.items()]
    lines += ["admin = true"] if admin else []
    _replace(path, before + "\n".join(lines) + "\n")
    return secret


def _replace(path: Path, text: str) -> None:
    """Write a file whole or not at all; who may read it stays as it was, at first the owner."""
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o600
    try:
        with tempfile.NamedTemporaryFile(
            "w", dir=path.parent, prefix=f".{path.name}.", delete=False, encoding="utf-8"
        ) as file:
            file.write(text)
        Path(file.name).chmod(mode)
        os.replace(file.name, path)  # noqa: PTH105  says that it is atomic
    except OSError as error:
        msg = f"{path}: cannot be written: {error.strerror}"
        raise SettingsFault(msg) from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dragoman key", description=__doc__)
    parser.add_argument("name", help="whose key it is; also the tenant's name")
    parser.add_argument(
        "--file", type=Path, required=True, help="the key file; made if it is not there"
    )
    parser.add_argument("--admin", action="store_true", help="may load and unload models")
    for one in fields(Limits):
        text = one.name.replace("_", " ")
        parser.add_argument(f"--{one.name.replace('_', '-')}", type=_count, help=f"most {text}")
    return parser


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        msg = "at least 1"
        raise argparse.ArgumentTypeError(msg)
    return value


if __name__ == "__main__":
    sys.exit(main())
