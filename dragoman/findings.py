"""What a server finds in texts: languages, placeholders, terms, sentences, cost."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from dragoman.v1 import translation_pb2

_OUTCOME_PREFIX = "PLACEHOLDER_OUTCOME_"


class PlaceholderOutcome(StrEnum):
    """What became of a placeholder."""

    UNSPECIFIED = "unspecified"
    """Nothing was translated, or this version of the client does not know it."""
    KEPT = "kept"
    """The model wrote it, or its stand-in, where it belongs."""
    RETRIED = "retried"
    """The model wrote it when the sentence was tried again."""
    PLACED = "placed"
    """The model left it out; it was put in by alignment and may stand in the wrong place."""
    LOST = "lost"
    """It is not in the translation as often as in the source."""


@dataclass(frozen=True, slots=True)
class LanguageCandidate:
    """A language that a text may be written in."""

    language: str
    """BCP-47."""
    confidence: float
    """0 to 1."""


@dataclass(frozen=True, slots=True)
class Placeholder:
    """A stretch of a text that is no language, or a term, and what became of it."""

    text: str
    kind: str
    """Such as "url", "printf" or "term"."""
    source_start: int
    """Index in the text, in code points."""
    outcome: PlaceholderOutcome


@dataclass(frozen=True, slots=True)
class AppliedTerm:
    """A term of the glossary that a text holds."""

    source: str
    target: str
    found_count: int
    applied_count: int


@dataclass(frozen=True, slots=True)
class SentenceAnalysis:
    """One sentence of a text."""

    source_start: int
    source_end: int
    source_tokens: int


@dataclass(frozen=True, slots=True)
class TextAnalysis:
    """What a text is made of and what its translation would cost."""

    source_language: str
    language_confidence: float
    """1 if the language was named."""
    characters: int
    sentences: tuple[SentenceAnalysis, ...]
    placeholders: tuple[Placeholder, ...]
    source_tokens: int
    predicted_cost_tokens: int
    predicted_time_ns: int | None
    """None while the server has not learned it."""
    route: tuple[str, ...]
    """Names of the models, in order; none if the text is in the target language."""


def candidate(message: translation_pb2.LanguageCandidate) -> LanguageCandidate:
    """Our candidate of the wire's."""
    return LanguageCandidate(message.language, message.confidence)


def candidates(
    response: translation_pb2.DetectLanguageResponse,
) -> list[tuple[LanguageCandidate, ...]]:
    """What each text may be in, of the wire's answer."""
    return [tuple(map(candidate, one.candidates)) for one in response.detections]


def placeholder(message: translation_pb2.Placeholder) -> Placeholder:
    """Our placeholder of the wire's."""
    values = translation_pb2.PlaceholderOutcome.DESCRIPTOR.values_by_number
    known = values.get(message.outcome)
    name = known.name.removeprefix(_OUTCOME_PREFIX) if known else "UNSPECIFIED"
    return Placeholder(message.text, message.kind, message.source_start, PlaceholderOutcome[name])


def applied_term(message: translation_pb2.AppliedTerm) -> AppliedTerm:
    """Our term of the wire's."""
    return AppliedTerm(message.source, message.target, message.found_count, message.applied_count)


def analysis(message: translation_pb2.TextAnalysis) -> TextAnalysis:
    """Our analysis of the wire's."""
    return TextAnalysis(
        source_language=message.source_language,
        language_confidence=message.language_confidence,
        characters=message.characters,
        sentences=tuple(
            SentenceAnalysis(one.source_start, one.source_end, one.source_tokens)
            for one in message.sentences
        ),
        placeholders=tuple(map(placeholder, message.placeholders)),
        source_tokens=message.source_tokens,
        predicted_cost_tokens=message.predicted_cost_tokens,
        predicted_time_ns=(
            message.predicted_time_ns if message.HasField("predicted_time_ns") else None
        ),
        route=tuple(model.name for model in message.route),
    )
