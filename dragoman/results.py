"""What a caller gets: plain frozen objects. Here protobuf ends.

Durations are integers in nanoseconds, named ``_ns``; probabilities are natural logarithms.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from google.protobuf.descriptor import EnumDescriptor

from dragoman import findings
from dragoman.findings import AppliedTerm, LanguageCandidate, Placeholder
from dragoman.v1 import models_pb2, translation_pb2

_FINISH_PREFIX, _WARNING_PREFIX = "FINISH_REASON_", "WARNING_CODE_"


class FinishReason(StrEnum):
    """Why a translation ended."""

    UNSPECIFIED = "unspecified"
    """A reason that this version of the client does not know."""
    EOS = "eos"
    """The model wrote its end token: the translation is whole."""
    LENGTH = "length"
    """The limit of output tokens was reached: it may be cut short."""
    DEGENERATE = "degenerate"
    """The model went round in circles and was stopped."""


class WarningCode(StrEnum):
    """Kinds of warning."""

    UNSPECIFIED = "unspecified"
    """A kind that this version of the client does not know."""
    OUTPUT_TRUNCATED = "output_truncated"
    """A sentence reached its limit of output tokens and may be cut short."""
    SENTENCE_SPLIT = "sentence_split"
    """A sentence was longer than the model takes and was translated in parts."""
    DEGENERATE_OUTPUT = "degenerate_output"
    """A sentence came out as no translation should, and so it stayed when tried again."""
    RETRIED = "retried"
    """A sentence came out as no translation should, or without a placeholder, at first."""
    PLACEHOLDER_LOST = "placeholder_lost"
    """A placeholder is not in the translation as often as in the source."""
    PLACEHOLDER_PLACED = "placeholder_placed"
    """The model left a placeholder out; it was put in by alignment."""
    TERM_NOT_APPLIED = "term_not_applied"
    """A term of the glossary is in the text and not in its translation."""
    LANGUAGE_UNCERTAIN = "language_uncertain"
    """The language of the text was found with little confidence."""
    PIVOTED = "pivoted"
    """No model has this pair: the text went through a third language."""


@dataclass(frozen=True, slots=True)
class TranslationWarning:
    """Something to know about a translation that is there all the same."""

    code: WarningCode
    message: str
    subjects: tuple[str, ...] = ()
    """The placeholders or terms it is about, as they stand in the source."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the time of one text went, and in what company.

    Sentences of a text are decoded side by side: each time is that of the sentence for which
    it was longest, not a sum.
    """

    queue_time_ns: int
    """Waiting for a place in the batch."""
    encode_time_ns: int
    decode_time_ns: int
    total_time_ns: int
    """From the request's arrival at the server to the finished text."""
    decode_steps: int
    mean_batch_rows: float
    """Sentences that shared a decoding step, this one counted."""
    mean_batch_occupancy_ratio: float
    """The same as a share of the room, 0 to 1."""


@dataclass(frozen=True, slots=True)
class TokenScore:
    """A target token and its log-probability, given the source and the tokens before it."""

    piece: str
    """As the tokenizer writes it; "▁" stands for a space."""
    log_probability: float


@dataclass(frozen=True, slots=True)
class Candidate:
    """One hypothesis of a beam."""

    text: str
    log_probability: float
    score: float
    """What hypotheses are ranked by."""


@dataclass(frozen=True, slots=True)
class SentenceTranslation:
    """One sentence of a text, with what was asked for of it."""

    source_start: int
    """Index in the text, in code points: ``text[source_start:source_end]`` is the sentence."""
    source_end: int
    text: str
    finish_reason: FinishReason
    log_probability: float
    """Of the whole sentence."""
    score: float
    """The same divided by the number of tokens, at most 0: comparable between sentences."""
    tokens: tuple[TokenScore, ...]
    candidates: tuple[Candidate, ...] = ()
    """The best hypotheses of a beam, best first."""
    source_pieces: tuple[str, ...] = ()
    """With attention: the source tokens as the tokenizer writes them."""
    attention: tuple[tuple[float, ...], ...] = ()
    """Where each step looked, the end token's last: a weight for each source piece."""


@dataclass(frozen=True, slots=True)
class ModelReference:
    """Which weights answered."""

    name: str
    digest: str
    """SHA-256 of the model's manifest, hexadecimal."""


@dataclass(frozen=True, slots=True)
class Translation:
    """The translation of one text and how it came about."""

    text: str
    finish_reason: FinishReason
    source_tokens: int
    target_tokens: int
    cached_sentences: int
    """Sentences that the server had just translated, or was translating, for another call."""
    timing: Timing
    warnings: tuple[TranslationWarning, ...]
    sentences: tuple[SentenceTranslation, ...]
    """Empty unless scores, attention or candidates were asked for."""
    model: ModelReference
    detected_language: LanguageCandidate | None = None
    """Language the text was taken for; None if the call named one."""
    placeholders: tuple[Placeholder, ...] = ()
    """What was protected and what became of it."""
    applied_terms: tuple[AppliedTerm, ...] = ()
    route: tuple[ModelReference, ...] = ()
    """The models that translated, in order, if it went through a third language."""


@dataclass(frozen=True, slots=True)
class Delta:
    """The next piece of a streamed translation; joined, the pieces are its text."""

    text: str
    sentence_index: int
    """Which sentence of the text it belongs to, counted from 0."""


@dataclass(frozen=True, slots=True)
class QualityScore:
    """A quality of a model, measured when it was exported."""

    dataset: str
    metric: str
    value: float
    signature: str
    """What makes it comparable, as sacreBLEU writes it."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model that the server holds."""

    name: str
    digest: str
    """SHA-256 of the manifest, hexadecimal."""
    source_language: str
    target_language: str
    precision: str
    provider: str
    """The ONNX Runtime execution provider it runs on."""
    requested_provider: str
    """What the server was set to: auto, cpu or cuda."""
    parameter_count: int
    max_source_tokens: int
    max_target_tokens: int
    licence: str
    producer_commit: str
    """Commit of the code that exported it."""
    scores: tuple[QualityScore, ...]
    source_languages: tuple[str, ...] = ()
    """All that it reads; ``source_language`` is ``mul`` if they are several."""
    target_languages: tuple[str, ...] = ()
    """All that it writes."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """What loading a model has done."""

    model: ModelInfo
    """It takes requests now."""
    replaced_digest: str | None
    """Digest of the model of the same name that it replaced; None if there was none."""


def translation(
    message: translation_pb2.Translation, model: translation_pb2.ModelReference
) -> Translation:
    """Our translation of the wire's."""
    return Translation(
        text=message.text,
        finish_reason=_finish_reason(message.finish_reason),
        source_tokens=message.usage.source_tokens,
        target_tokens=message.usage.target_tokens,
        cached_sentences=message.usage.cached_sentences,
        timing=Timing(**_fields(message.timing, Timing)),
        warnings=tuple(
            TranslationWarning(_warning_code(item.code), item.message, tuple(item.subjects))
            for item in message.warnings
        ),
        sentences=tuple(_sentence(item) for item in message.sentences),
        model=ModelReference(model.name, model.digest),
        detected_language=(
            findings.candidate(message.detected_language)
            if message.HasField("detected_language")
            else None
        ),
        placeholders=tuple(map(findings.placeholder, message.placeholders)),
        applied_terms=tuple(map(findings.applied_term, message.applied_terms)),
        route=tuple(ModelReference(item.name, item.digest) for item in message.route),
    )


def model_info(message: models_pb2.Model) -> ModelInfo:
    """Our model of the wire's."""
    scores = tuple(QualityScore(**_fields(item, QualityScore)) for item in message.scores)
    fields = _fields(message, ModelInfo, but="scores")
    for name in ("source_languages", "target_languages"):
        fields[name] = tuple(fields[name])
    return ModelInfo(**fields, scores=scores)


def loaded_model(message: models_pb2.LoadModelResponse) -> LoadedModel:
    """Our answer of the wire's."""
    replaced = message.replaced_digest if message.HasField("replaced_digest") else None
    return LoadedModel(model_info(message.model), replaced)


def _sentence(message: translation_pb2.SentenceTranslation) -> SentenceTranslation:
    return SentenceTranslation(
        source_start=message.source_start,
        source_end=message.source_end,
        text=message.text,
        finish_reason=_finish_reason(message.finish_reason),
        log_probability=message.log_probability,
        score=message.score,
        tokens=tuple(TokenScore(**_fields(item, TokenScore)) for item in message.tokens),
        candidates=tuple(Candidate(**_fields(item, Candidate)) for item in message.candidates),
        source_pieces=tuple(message.source_pieces),
        attention=tuple(tuple(row.weights) for row in message.attention),
    )


def _fields(message: object, kind: type[Any], but: str = "") -> dict[str, Any]:
    """The values of the fields that both sides name alike."""
    return {name: getattr(message, name) for name in kind.__slots__ if name != but}


def _finish_reason(number: int) -> FinishReason:
    return FinishReason[_member(translation_pb2.FinishReason.DESCRIPTOR, number, _FINISH_PREFIX)]


def _warning_code(number: int) -> WarningCode:
    return WarningCode[_member(translation_pb2.WarningCode.DESCRIPTOR, number, _WARNING_PREFIX)]


def _member(descriptor: EnumDescriptor, number: int, prefix: str) -> str:
    """The name of an enum's value; one of a later server that we do not know is UNSPECIFIED."""
    known = descriptor.values_by_number.get(number)
    return known.name.removeprefix(prefix) if known else "UNSPECIFIED"
