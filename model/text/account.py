"""What became of the pairs of each source: for the terminal, the model card and programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from model.config import SourceSettings


@dataclass(slots=True)
class SourceAccount:
    """Counts of one source; ``read + added == kept + dropped``, once it is read to its end."""

    read: int = 0
    """Pairs of the file."""
    split: int = 0
    """Of these, paragraphs that were cut into sentences."""
    added: int = 0
    """Pairs more, because paragraphs were cut."""
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    """Pairs, or sentences of cut paragraphs, by reason."""

    def count_split(self, parts: int) -> None:
        """A pair has become so many."""
        self.split += parts > 1
        self.added += parts - 1

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "read": self.read,
            "split": self.split,
            "added": self.added,
            "kept": self.kept,
            "dropped": dict(self.dropped.most_common()),
        }

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> SourceAccount:
        """What :meth:`as_json` gave.

        Raises:
            LookupError: a count is missing.
        """
        counts = {name: int(table[name]) for name in ("read", "split", "added", "kept")}
        return cls(**counts, dropped=Counter(table["dropped"]))


def as_text(accounts: Mapping[str, SourceAccount]) -> str:
    """A table for the terminal, one line a source and one for all."""
    lines = []
    for name, account in [*accounts.items(), ("all", total(accounts))]:
        reasons = ", ".join(f"{why} {count:,}" for why, count in account.dropped.most_common())
        split = f" (+{account.added:,} from {account.split:,} paragraphs)" if account.split else ""
        lines.append(
            f"{name:24} read {account.read:>9,}{split}  kept {account.kept:>9,}  "
            f"dropped: {reasons or 'none'}"
        )
    return "\n".join(lines)


def as_markdown(
    accounts: Mapping[str, SourceAccount], sources: Mapping[str, SourceSettings]
) -> str:
    """A table as a model card holds it, reasons below."""
    rows = [
        "| source | read | paragraphs cut | sentences | kept | dropped | weight | licence |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, account in accounts.items():
        settings = sources[name]
        row = (
            f"| {name} | {account.read:,} | {account.split:,} | {account.read + account.added:,} "
            f"| {account.kept:,} | {account.dropped.total():,} | {settings.weight:g} "
            f"| {settings.licence} |"
        )
        rows.append(row)
    every = total(accounts)
    rows.append(
        f"| all | {every.read:,} | {every.split:,} | {every.read + every.added:,} "
        f"| {every.kept:,} | {every.dropped.total():,} | | |"
    )
    rows += ["", "| dropped because | pairs |", "| --- | --- |"]
    rows += [f"| {reason} | {count:,} |" for reason, count in every.dropped.most_common()]
    return "\n".join(rows) + "\n"


def total(accounts: Mapping[str, SourceAccount]) -> SourceAccount:
    """The sum of all sources."""
    whole = SourceAccount()
    for account in accounts.values():
        whole.read += account.read
        whole.split += account.split
        whole.added += account.added
        whole.kept += account.kept
        whole.dropped.update(account.dropped)
    return whole
