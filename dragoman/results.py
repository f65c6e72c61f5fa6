"""What a caller gets: plain frozen objects, no protobuf."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from dragoman.v1 import models_pb2, translation_pb2

_FINISH_PREFIX, _WARNING_PREFIX = "FINISH_REASON_", "WARNING_CODE_"


class FinishReason(StrEnum):
    """Why a translation ended."""

    UNSPECIFIED = "unspecified"
    EOS = "eos"
    LENGTH = "length"


class WarningCode(StrEnum):
    """Kinds of warning."""

    UNSPECIFIED = "unspecified"
    OUTPUT_TRUNCATED = "output_truncated"
    SENTENCE_SPLIT = "sentence_split"


@dataclass(frozen=True, slots=True)
class TranslationWarning:
    """Something to know about a translation."""

    code: WarningCode
    message: str


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the time went and in what company; times in nanoseconds."""

    queue_time_ns: int
    encode_time_ns: int
    decode_time_ns: int
    total_time_ns: int
    decode_steps: int
    mean_batch_rows: float
    mean_batch_occupancy_ratio: float


@dataclass(frozen=True, slots=True)
class TokenScore:
    """A target token and its natural log-probability."""

    piece: str
    log_probability: float


@dataclass(frozen=True, slots=True)
class SentenceTranslation:
    """A sentence with scores; source positions count code points."""

    source_start: int
    source_end: int
    text: str
    finish_reason: FinishReason
    log_probability: float
    score: float
    """Log-probability a token, at most 0."""
    tokens: tuple[TokenScore, ...]


@dataclass(frozen=True, slots=True)
class ModelReference:
    """Which weights answered."""

    name: str
    digest: str


@dataclass(frozen=True, slots=True)
class Translation:
    """The translation of one text and how it came about."""

    text: str
    finish_reason: FinishReason
    source_tokens: int
    target_tokens: int
    timing: Timing
    warnings: tuple[TranslationWarning, ...]
    sentences: tuple[SentenceTranslation, ...]
    model: ModelReference


@dataclass(frozen=True, slots=True)
class Delta:
    """The next piece of a streamed translation."""

    text: str
    sentence_index: int


@dataclass(frozen=True, slots=True)
class QualityScore:
    """A measured quality of a model."""

    dataset: str
    metric: str
    value: float
    signature: str


@dataclass(frozen=True, slots=True)
class Model:
    """A model that the server holds."""

    name: str
    digest: str
    source_language: str
    target_language: str
    precision: str
    provider: str
    parameter_count: int
    max_source_tokens: int
    max_target_tokens: int
    licence: str
    producer_commit: str
    scores: tuple[QualityScore, ...]


def translations(message: translation_pb2.TranslateResponse) -> list[Translation]:
    """All results of a response."""
    return [translation(item, message.model) for item in message.translations]


def translation(
    message: translation_pb2.Translation, model: translation_pb2.ModelReference
) -> Translation:
    """Our translation of the wire's."""
    return Translation(
        text=message.text,
        finish_reason=_finish_reason(message.finish_reason),
        source_tokens=message.usage.source_tokens,
        target_tokens=message.usage.target_tokens,
        timing=Timing(**_fields(message.timing, Timing)),
        warnings=tuple(
            TranslationWarning(_warning_code(item.code), item.message) for item in message.warnings
        ),
        sentences=tuple(_sentence(item) for item in message.sentences),
        model=ModelReference(model.name, model.digest),
    )


def model(message: models_pb2.Model) -> Model:
    """Our model of the wire's."""
    plain = _fields(message, Model, leave_out={"scores"})
    scores = tuple(
        QualityScore(item.dataset, item.metric, item.value, item.signature)
        for item in message.scores
    )
    return Model(**plain, scores=scores)


def _sentence(message: translation_pb2.SentenceTranslation) -> SentenceTranslation:
    return SentenceTranslation(
        source_start=message.source_start,
        source_end=message.source_end,
        text=message.text,
        finish_reason=_finish_reason(message.finish_reason),
        log_probability=message.log_probability,
        score=message.score,
        tokens=tuple(TokenScore(item.piece, item.log_probability) for item in message.tokens),
    )


def _fields(
    message: object, kind: type[Any], leave_out: frozenset[str] | set[str] = frozenset()
) -> dict[str, Any]:
    """The values of the fields that both sides name alike."""
    return {name: getattr(message, name) for name in kind.__slots__ if name not in leave_out}


def _finish_reason(number: int) -> FinishReason:
    """A reason of a later server that this client does not know is UNSPECIFIED."""
    known = translation_pb2.FinishReason.DESCRIPTOR.values_by_number.get(number)
    name = known.name.removeprefix(_FINISH_PREFIX) if known else "UNSPECIFIED"
    return FinishReason[name]


def _warning_code(number: int) -> WarningCode:
    known = translation_pb2.WarningCode.DESCRIPTOR.values_by_number.get(number)
    name = known.name.removeprefix(_WARNING_PREFIX) if known else "UNSPECIFIED"
    return WarningCode[name]
