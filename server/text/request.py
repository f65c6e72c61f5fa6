"""What a caller asks and gets, without any protocol's types."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from server.engine.request import GREEDY, DecodingParameters, FinishReason
from server.text.segmenter import Span


@dataclass(frozen=True, slots=True, kw_only=True)
class TranslationRequest:
    """Texts of one call and how to translate them."""

    texts: list[str]
    field_names: list[str]
    """What the wire calls each text, for errors: ``texts[3]``."""
    arrived: float
    """Monotonic seconds."""
    deadline: float | None = None
    decoding: DecodingParameters = GREEDY
    seed: int | None = None
    max_tokens: int | None = None
    """Per sentence; None = the limit that grows with the sentence."""
    target_prefix: str = ""
    scores: bool = False
    candidates: int = 0
    """Hypotheses of a beam to give besides the translation."""
    bulk: bool | None = None
    """None = the number of sentences decides."""
    tenant: str = ""
    bypass_cache: bool = False


class WarningKind(Enum):
    """Kinds of warning."""

    DEGENERATE_OUTPUT = "degenerate_output"
    RETRIED = "retried"
    OUTPUT_TRUNCATED = "output_truncated"
    SENTENCE_SPLIT = "sentence_split"


@dataclass(frozen=True, slots=True)
class TextWarning:
    """Something a caller should know."""

    kind: WarningKind
    message: str


@dataclass(frozen=True, slots=True)
class TokenScore:
    """A target token and its log-probability."""

    piece: str
    log_probability: float


@dataclass(frozen=True, slots=True)
class Candidate:
    """One hypothesis of a beam."""

    text: str
    log_probability: float
    score: float


@dataclass(frozen=True, slots=True)
class SentenceResult:
    """A sentence's translation, with scores."""

    span: Span
    text: str
    finish_reason: FinishReason
    tokens: list[TokenScore]
    candidates: list[Candidate] = field(default_factory=list)
    source_pieces: list[str] = field(default_factory=list)
    attention: list[list[float]] = field(default_factory=list)
    """A row a step, a weight for each source piece."""

    @property
    def log_probability(self) -> float:
        """Sum over its tokens."""
        return sum(token.log_probability for token in self.tokens)

    @property
    def score(self) -> float:
        """Mean over its tokens."""
        return self.log_probability / max(1, len(self.tokens))


@dataclass(frozen=True, slots=True, kw_only=True)
class TextResult:
    """A text's translation and how it came about; times in nanoseconds."""

    text: str
    finish_reason: FinishReason
    source_tokens: int
    target_tokens: int
    cached_sentences: int
    queue_time_ns: int
    encode_time_ns: int
    decode_time_ns: int
    total_time_ns: int
    decode_steps: int
    mean_batch_rows: float
    mean_batch_occupancy_ratio: float
    warnings: list[TextWarning] = field(default_factory=list)
    sentences: list[SentenceResult] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Delta:
    """The next piece of a streamed translation."""

    text: str
    sentence_index: int
