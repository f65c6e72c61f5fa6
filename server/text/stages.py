"""Where the time of one request went, for traces and logs; nothing is kept unless one asks."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal

from server.engine.request import Sequence

StageName = Literal["tokenise", "queue", "encode", "decode", "detokenise"]


@dataclass(frozen=True, slots=True)
class Stage:
    """One of them; monotonic seconds, and numbers that say how much was done."""

    name: StageName
    start: float
    end: float
    amounts: dict[str, int] = field(default_factory=dict)


class Stages:
    """The stages of a request, from its first sentence to enter each to the last to leave it."""

    def __init__(self) -> None:
        """Begin with none."""
        self.found: list[Stage] = []

    def tokenised(self, start: float, sequences: list[Sequence]) -> None:
        """Sentences were split and tokenised just now."""
        tokens = sum(sequence.source_length for sequence in sequences)
        amounts = {"sentences": len(sequences), "source_tokens": tokens}
        self.found.append(Stage("tokenise", start, time.monotonic(), amounts))

    def ran(self, sequences: list[Sequence]) -> None:
        """Sentences have ended; those that were answered from memory took no time."""
        ran = [one for one in sequences if one.admitted is not None and not one.cached]
        encoded = [(one, (one.admitted or 0.0) + one.encode_seconds) for one in ran]
        # A sentence counts as arrived when its request did, which was before it was tokenised.
        ready = max((one.end for one in self.found), default=0.0)
        self._add("queue", ((max(one.arrived, ready), one.admitted) for one in ran))
        self._add("encode", ((one.admitted, end) for one, end in encoded))
        steps = sum(one.steps for one in ran)
        tokens = sum(len(one.target_ids) for one in ran)
        cached = sum(one.cached for one in sequences)
        amounts = {"steps": steps, "target_tokens": tokens, "cached_sentences": cached}
        self._add("decode", ((end, one.finished) for one, end in encoded), amounts)

    def detokenised(self, start: float) -> None:
        """Target tokens became texts just now."""
        self.found.append(Stage("detokenise", start, time.monotonic()))

    def milliseconds(self) -> dict[str, float]:
        """Each stage's time, by its name."""
        return {f"{one.name}_ms": round((one.end - one.start) * 1e3, 3) for one in self.found}

    def _add(
        self,
        name: StageName,
        intervals: Iterable[tuple[float | None, float | None]],
        amounts: dict[str, int] | None = None,
    ) -> None:
        known = [(a, b) for a, b in intervals if a is not None and b is not None]
        if known:
            start, end = min(a for a, _ in known), max(b for _, b in known)
            self.found.append(Stage(name, start, end, amounts or {}))


class _Unasked(Stages):
    """Keeps nothing."""

    def tokenised(self, start: float, sequences: list[Sequence]) -> None:
        """Nobody wants to know."""

    def ran(self, sequences: list[Sequence]) -> None:
        """Nobody wants to know."""

    def detokenised(self, start: float) -> None:
        """Nobody wants to know."""


UNASKED: Stages = _Unasked()
current_stages: ContextVar[Stages] = ContextVar("current_stages", default=UNASKED)
"""Where the running request notes its stages; set by a door where somebody wants to know."""
