"""One sentence on its way through the engine.

"Prefill" of an encoder-decoder means: run the encoder and project the keys and values of the
cross-attention into the sentence's slot. Decoding then starts from the begin token.
"""

from __future__ import annotations

import itertools
import sys
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]

_numbers = itertools.count(1)
_AT_FIRST = frozenset({"prefix_ids", "min_tokens"})
"""Parameters that have no say once so many steps are taken."""


class SequenceStatus(Enum):
    """Where a sequence stands."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


class FinishReason(Enum):
    """Why a sequence ended; every accepted sequence ends in exactly one of these."""

    EOS = "eos"
    LENGTH = "length"
    DEGENERATE = "degenerate"
    """It went round in circles and was stopped."""
    CANCELLED = "cancelled"
    DEADLINE = "deadline"
    ERROR = "error"
    SHUTDOWN = "shutdown"


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodingParameters:
    """How the tokens of one sequence are chosen."""

    strategy: Literal["greedy", "sample", "beam"] = "greedy"
    beams: int = 1
    """Hypotheses kept side by side; 1 unless the strategy is beam."""
    length_penalty: float = 1.0
    """Exponent of the length that divides a finished hypothesis' log-probability."""
    repetition_penalty: float = 1.0
    """Divides the positive and multiplies the negative logits of tokens that came before."""
    no_repeat_ngram: int = 0
    """No n-gram of this many tokens comes twice; 0 = any may."""
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
    attention: bool = False
    """Keep how much each step looked at each source token."""
    head_attention: bool = False
    """With ``attention``: by layer and head too. Not of those that branch."""
    plain_from: int = field(init=False, compare=False)
    """From which step on the likeliest token is all there is to it; asked at every step of every
    row."""

    filtered_until: int = field(init=False, compare=False)
    """Before which step tokens are taken out or weakened before one is chosen."""

    def __post_init__(self) -> None:
        """Look once."""
        begun = max(len(self.prefix_ids), self.min_tokens)
        always = bool(self.no_repeat_ngram) or self.repetition_penalty != 1.0
        plain = all(
            getattr(self, one.name) == one.default
            for one in fields(self)
            if one.init and one.name not in _AT_FIRST
        )
        object.__setattr__(self, "plain_from", begun if plain else sys.maxsize)
        object.__setattr__(self, "filtered_until", sys.maxsize if always else begun)

    @property
    def slots(self) -> int:
        """Rows of the batch that a sentence takes."""
        return self.beams if self.strategy == "beam" else 1


GREEDY = DecodingParameters()


def default_max_tokens(source_tokens: int) -> int:
    """Steps a sentence may take unless somebody says otherwise: room for twice its own length."""
    return 2 * source_tokens + 16


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A translation that beam search has ended."""

    ids: list[int]
    """Without begin and end."""
    finish_reason: FinishReason
    log_prob: float
    """Sum over its tokens, the end token counted."""
    score: float
    """What hypotheses are ranked by: the sum over the length penalty."""
    token_log_probs: list[float]
    attention: list[FloatArray]


class Flow(NamedTuple):
    """Work that is served in the order it came: one tenant's of one class."""

    tenant: str
    bulk: bool


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
    tenant: str = ""
    """Whose work it is; the engines are shared fairly between tenants."""
    guarded: bool = False
    """Whether it is stopped if it goes round in circles."""
    bypass_cache: bool = False
    cached: bool = False
    """Whether another sequence's result was taken over."""
    bulk: bool = False
    """Nobody waits for this sentence alone: it makes way for those that somebody does."""
    streamed: bool = False
    """Its progress is published at every step, not only its end."""
    again: bool = False
    """A second attempt at what was let in: there is room for it, or answers would change with
    how many others call."""
    number: int = field(default_factory=lambda: next(_numbers))
    source_length: int = field(init=False)
    """Source tokens, end token counted."""
    cost: int = field(init=False)
    """Tokens it will take, about: its source, and as many for each row it decodes."""

    tag: float = 0.0
    """Its place in the line, see ``line.py``."""
    cancelled: bool = False
    """Set by any thread; the engine drops the sequence at its next step."""
    abandoned: bool = False
    """The same for one sequence of a group that goes on: its place in the line stays its own."""
    status: SequenceStatus = SequenceStatus.WAITING
    slots: list[int] = field(default_factory=list)
    """Rows it holds while it runs."""
    target_ids: list[int] = field(default_factory=list)
    """Output so far, without begin and end."""
    token_log_probs: list[float] = field(default_factory=list)
    """One a step, the end token's last; filled if ``parameters.log_probs``."""
    attention: list[FloatArray] = field(default_factory=list)
    """[S] a step, mean over layers and heads, sums to 1; filled if ``parameters.attention``."""
    head_attention: list[FloatArray] = field(default_factory=list)
    """[L, H, S] a step; filled if ``parameters.head_attention``."""
    hypotheses: list[Hypothesis] = field(default_factory=list)
    """What beam search found, best first; ``target_ids`` are the first one's."""
    finish_reason: FinishReason | None = None

    admitted: float | None = None
    encode_seconds: float = 0.0
    first_token: float | None = None
    finished: float | None = None
    steps: int = 0
    batch_rows_sum: int = 0
    """Sum over its steps of the rows that ran in each."""

    def __post_init__(self) -> None:
        """Count once what is asked at every turn."""
        self.source_length = int(self.source_ids.size)
        self.cost = self.source_length * (1 + self.parameters.slots)

    @property
    def flow(self) -> Flow:
        """What it shares its place in the line with."""
        return Flow(self.tenant, self.bulk)

    @property
    def slot(self) -> int | None:
        """Its first row while it runs."""
        return self.slots[0] if self.slots else None

    def anew(
        self,
        parameters: DecodingParameters | None = None,
        source_ids: NDArray[np.int64] | None = None,
    ) -> Sequence:
        """The same question, not yet asked; with other parameters or words if they are given."""
        return Sequence(
            source_ids=self.source_ids if source_ids is None else source_ids,
            max_tokens=self.max_tokens,
            arrived=self.arrived,
            parameters=parameters or self.parameters,
            deadline=self.deadline,
            tenant=self.tenant,
            guarded=self.guarded,
            bypass_cache=self.bypass_cache,
            bulk=self.bulk,
            streamed=self.streamed,
            again=self.again,
        )

    def drop_reason(self, now: float) -> FinishReason | None:
        """Why it must not go on, if its caller left or its time is up."""
        if self.cancelled:
            return FinishReason.CANCELLED
        if self.deadline is not None and now >= self.deadline:
            return FinishReason.DEADLINE
        return FinishReason.CANCELLED if self.abandoned else None

    def finish(self, reason: FinishReason, now: float) -> None:
        """End it, once and for good."""
        assert self.finish_reason is None, "a sequence ends once"
        self.finish_reason = reason
        self.status = SequenceStatus.FINISHED
        self.slots = []
        self.finished = now


def second_attempts(sequences: list[Sequence]) -> bool:
    """Whether a group is nothing but second attempts at what was let in."""
    return all(sequence.again for sequence in sequences)
