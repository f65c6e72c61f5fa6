"""What of an output is done, so that a run that was killed at any moment goes on from there.

Beside OUT stands ``OUT.parts/`` while it is being made: ``plan.json`` says of what and how, and
each part is a file that is either whole or not there. At the end they become OUT, and the plan
becomes ``OUT.receipt.json``. A run with another plan is refused instead of mixed in.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.bulk.formats import Format, Part, Rows
from server.errors import CorpusFault

_SAMPLE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Plan:
    """All that the output depends on."""

    input: str
    """File name; its folder may change between runs."""
    input_bytes: int
    input_sha256: str
    """Of its first and last megabyte."""
    part_bytes: int
    model: str
    model_digest: str
    options: dict[str, Any]
    """How to decode, and which fields to read and write."""


@dataclass(slots=True)
class Account:
    """What became of texts."""

    texts: int = 0
    target_tokens: int = 0
    warnings: dict[str, int] = dataclasses.field(default_factory=dict)

    def add(self, other: Account) -> None:
        """Count another's in."""
        self.texts += other.texts
        self.target_tokens += other.target_tokens
        self.warnings = dict(Counter(self.warnings) + Counter(other.warnings))


def fingerprint(path: Path) -> str:
    """SHA-256 of a file's first and last megabyte: large files are told apart in no time."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        digest.update(file.read(_SAMPLE_BYTES))
        file.seek(max(0, path.stat().st_size - _SAMPLE_BYTES))
        digest.update(file.read())
    return digest.hexdigest()


class Journal:
    """The parts of one output."""

    def __init__(self, output: Path, plan: Plan) -> None:
        """Nothing is read or written yet."""
        self.output = output
        self.plan = plan
        self._folder = output.with_name(output.name + ".parts")
        self._receipt = output.with_name(output.name + ".receipt.json")

    def absolute(self) -> Journal:
        """The same, wherever a process works."""
        return Journal(self.output.absolute(), self.plan)

    @property
    def finished(self) -> bool:
        """Whether the output is there already, made by this very plan.

        Raises:
            CorpusFault: there is an output of something else.
        """
        if self._receipt.exists() and self.output.exists():
            self._compare(self._receipt)
            return True
        if self.output.exists() and not self._folder.exists():
            msg = f"{self.output}: is there already; remove it or name another"
            raise CorpusFault(msg)
        return False

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Nobody else works on the output inside the block.

        Raises:
            CorpusFault: somebody does, or the parts that are there are of another plan.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                msg = f"{self.output}: another process is at work on it"
                raise CorpusFault(msg) from error
            plan = self._folder / "plan.json"
            if plan.exists():
                self._compare(plan)
            else:
                _write_json(plan, {"plan": dataclasses.asdict(self.plan)})
            yield

    def missing(self, parts: Iterable[Part]) -> list[Part]:
        """The parts that are not done."""
        return [part for part in parts if not self._path(part).exists()]

    def write(self, part: Part, rows: Rows, translations: list[str], account: Account) -> None:
        """Keep a part's translations, whole or not at all; doing it twice changes nothing."""
        path = self._path(part)
        _write_json(path.with_suffix(".json"), dataclasses.asdict(account))
        # Several processes may make the same part, where one was thought to be lost.
        partial = path.with_name(f"{path.name}.{os.uname().nodename}.{os.getpid()}.partial")
        rows.write(partial, translations)
        _move(partial, path)

    def finish(self, parts: list[Part], file_format: Format) -> Account:
        """Put the parts together and take them away; returns what became of all texts."""
        total = Account()
        for part in parts:
            table = json.loads(self._path(part).with_suffix(".json").read_text(encoding="utf-8"))
            total.add(Account(**table))
        partial = self.output.with_name(self.output.name + ".partial")
        file_format.join((self._path(part) for part in parts), partial)
        _move(partial, self.output)
        receipt = {"plan": dataclasses.asdict(self.plan), "account": dataclasses.asdict(total)}
        _write_json(self._receipt, receipt, self._folder)  # what is left of it goes with the parts
        self.clear()
        return total

    def clear(self) -> None:
        """Take away what is left of the parts."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _path(self, part: Part) -> Path:
        return self._folder / f"{part.number:08}"

    def _compare(self, path: Path) -> None:
        try:
            before = json.loads(path.read_text(encoding="utf-8"))["plan"]
        except (ValueError, LookupError, TypeError) as error:
            msg = f"{path}: damaged; remove it to begin anew"
            raise CorpusFault(msg) from error
        now = dataclasses.asdict(self.plan)
        changed = sorted(name for name in now if before.get(name) != now[name])
        if changed:
            msg = (
                f"{self.output}: was begun otherwise ({', '.join(changed)} changed); "
                f"go on as before, or remove {path.parent if path.name == 'plan.json' else path}"
            )
            raise CorpusFault(msg)


def _write_json(path: Path, content: dict[str, Any], by_way_of: Path | None = None) -> None:
    """Write a file whole or not at all; first into another folder of the disk if one is given."""
    name = f"{path.name}.{os.uname().nodename}.{os.getpid()}.partial"
    partial = (by_way_of or path.parent) / name
    partial.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    _move(partial, path)


def _move(partial: Path, path: Path) -> None:
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)
