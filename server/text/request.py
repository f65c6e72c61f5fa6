"""What a caller asks and gets, without any protocol's types."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from server.engine.request import GREEDY, DecodingParameters, FinishReason
from server.text.language import Guess
from server.text.protect import Term
from server.text.segmenter import Span


class MediaType(Enum):
    """What a text is written in."""

    PLAIN = "text/plain"
    HTML = "text/html"


@dataclass(frozen=True, slots=True, kw_only=True)
class TranslationRequest:
    """Texts of one call and how to translate them."""

    texts: list[str]
    field_names: list[str]
    """What the wire calls each text, for errors: ``texts[3]``."""
    arrived: float
    """Monotonic seconds."""
    source_language: str = ""
    """BCP-47; "" = find out."""
    target_language: str = ""
    model: str = ""
    """Its name; "" = any for the pair."""
    media_type: MediaType = MediaType.PLAIN
    terms: tuple[Term, ...] = ()
    """A glossary; do-not-translate terms have themselves as target."""
    protect: bool = False
    """Keep placeholders, addresses, numbers and the like whole."""
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
    PLACEHOLDER_LOST = "placeholder_lost"
    PLACEHOLDER_PLACED = "placeholder_placed"
    TERM_NOT_APPLIED = "term_not_applied"
    LANGUAGE_UNCERTAIN = "language_uncertain"
    PIVOTED = "pivoted"


class Outcome(Enum):
    """What became of a placeholder."""

    NONE = "none"
    """Nothing was translated."""
    KEPT = "kept"
    RETRIED = "retried"
    """Kept when the sentence was decoded once more."""
    PLACED = "placed"
    """The model left it out; it was put in by alignment."""
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Placeholder:
    """A stretch that was protected, or a term, and what became of it."""

    text: str
    kind: str
    start: int
    """In the text, in code points."""
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class AppliedTerm:
    """A term of the glossary that a text holds."""

    source: str
    target: str
    found: int
    applied: int


@dataclass(frozen=True, slots=True)
class ModelRef:
    """Which weights."""

    name: str
    digest: str


@dataclass(frozen=True, slots=True)
class TextWarning:
    """Something a caller should know."""

    kind: WarningKind
    message: str
    subjects: tuple[str, ...] = ()
    """Placeholders or terms that it is about."""


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
    head_attention: list[list[list[list[float]]]] = field(default_factory=list)
    """The same of each layer and head, [L][H][T][S]; filled if the parameters ask for it."""

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
    placeholders: list[Placeholder] = field(default_factory=list)
    applied_terms: list[AppliedTerm] = field(default_factory=list)
    detected: Guess | None = None
    """The language that was found, if none was named."""
    route: tuple[ModelRef, ...] = ()
    """The models that translated, in order; none if the text was in the target language."""


@dataclass(frozen=True, slots=True)
class SentenceAnalysis:
    """A sentence of a text, and the tokens that it has."""

    span: Span
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TextAnalysis:
    """What a text is made of and what its translation would cost."""

    language: Guess
    characters: int
    sentences: list[SentenceAnalysis]
    placeholders: list[Placeholder]
    source_tokens: int
    cost_tokens: int
    seconds: float | None
    """Until it would be done; None = not known yet."""
    route: tuple[ModelRef, ...]


@dataclass(frozen=True, slots=True)
class Delta:
    """The next piece of a streamed translation."""

    text: str
    sentence_index: int
