"""One sentence on its way through the engine.

"Prefill" of an encoder-decoder means: run the encoder and project the keys and values of the
cross-attention into the sentence's slot. Decoding then starts from the begin token.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

import numpy as np
from numpy.typing import NDArray

_numbers = itertools.count(1)


class SequenceStatus(Enum):
    """Where a sequence stands."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


class FinishReason(Enum):
    """Why a sequence ended; every accepted sequence ends in exactly one of these."""

    EOS = "eos"
    LENGTH = "length"
    CANCELLED = "cancelled"
    DEADLINE = "deadline"
    ERROR = "error"
    SHUTDOWN = "shutdown"


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodingParameters:
    """How the tokens of one sequence are chosen."""

    strategy: Literal["greedy", "sample"] = "greedy"
    temperature: float = 1.0
    top_k: int = 0
    """0 = all tokens."""
    top_p: float = 1.0
    seed: tuple[int, ...] | None = None
    """None = a new draw each time."""
    min_tokens: int = 0
    """Tokens before the end token may come."""
    prefix_ids: tuple[int, ...] = ()
    """Tokens that the output begins with."""
    log_probs: bool = False
    """Keep each token's log-probability."""


GREEDY = DecodingParameters()


@dataclass(slots=True, kw_only=True, eq=False)
class Sequence:
    """One sentence: what is asked, how far it is, and what it cost. Times are monotonic seconds."""

    source_ids: NDArray[np.int64]
    """[S], ends in EOS."""
    max_tokens: int
    """Most steps, the end token counted."""
    arrived: float
    parameters: DecodingParameters = GREEDY
    deadline: float | None = None
    streamed: bool = False
    """Its progress is published at every step, not only its end."""
    number: int = field(default_factory=lambda: next(_numbers))

    cancelled: bool = False
    """Set by any thread; the engine drops the sequence at its next step."""
    status: SequenceStatus = SequenceStatus.WAITING
    slot: int | None = None
    target_ids: list[int] = field(default_factory=list)
    """Output so far, without begin and end."""
    token_log_probs: list[float] = field(default_factory=list)
    """One a step, the end token's last; filled if ``parameters.log_probs``."""
    finish_reason: FinishReason | None = None

    admitted: float | None = None
    encode_seconds: float = 0.0
    first_token: float | None = None
    finished: float | None = None
    steps: int = 0
    batch_rows_sum: int = 0
    """Sum over its steps of the rows that ran in each."""

    @property
    def source_length(self) -> int:
        """Source tokens, end token counted."""
        return int(self.source_ids.size)

    def drop_reason(self, now: float) -> FinishReason | None:
        """Why it must not go on, if its caller left or its time is up."""
        if self.cancelled:
            return FinishReason.CANCELLED
        if self.deadline is not None and now >= self.deadline:
            return FinishReason.DEADLINE
        return None

    def finish(self, reason: FinishReason, now: float) -> None:
        """End it, once and for good."""
        assert self.finish_reason is None, "a sequence ends once"
        self.finish_reason = reason
        self.status = SequenceStatus.FINISHED
        self.slot = None
        self.finished = now


@dataclass(frozen=True, slots=True)
class Choice:
    """What the search chose for one row."""

    token: int
    log_prob: float | None
