"""A sentence and its translation."""

from __future__ import annotations

from typing import NamedTuple


class Pair(NamedTuple):
    """One sentence and its translation."""

    source: str
    target: str
