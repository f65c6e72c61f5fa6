"""Between the wire's messages of what texts are made of and our own types."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, TypedDict

from dragoman.v1 import translation_pb2
from server.errors import InvalidRequest
from server.settings import Settings
from server.text.language import Guess
from server.text.protect import Term
from server.text.request import MediaType, ModelRef, Outcome, Placeholder, TextAnalysis

_LONGEST_TERM = 1000
_OUTCOMES = {
    Outcome.NONE: translation_pb2.PLACEHOLDER_OUTCOME_UNSPECIFIED,
    Outcome.KEPT: translation_pb2.PLACEHOLDER_OUTCOME_KEPT,
    Outcome.RETRIED: translation_pb2.PLACEHOLDER_OUTCOME_RETRIED,
    Outcome.PLACED: translation_pb2.PLACEHOLDER_OUTCOME_PLACED,
    Outcome.LOST: translation_pb2.PLACEHOLDER_OUTCOME_LOST,
}


class Asked(Protocol):
    """What every request about texts has."""

    source_language: str
    target_language: str
    model: str
    mime_type: str

    @property
    def glossary(self) -> Sequence[translation_pb2.GlossaryTerm]:
        """Terms and what each has to become."""

    @property
    def do_not_translate(self) -> Sequence[str]:
        """Words that stay."""

    @property
    def protection(self) -> int:
        """Whether placeholders are kept whole."""


class TextOptions(TypedDict):
    """Fields of a request of ours."""

    source_language: str
    target_language: str
    model: str
    media_type: MediaType
    terms: tuple[Term, ...]
    protect: bool


def text_options(message: Asked, settings: Settings) -> TextOptions:
    """What a request says of its texts, within the limits.

    Raises:
        InvalidRequest: names the first field that is not acceptable.
    """
    return TextOptions(
        source_language=message.source_language,
        target_language=message.target_language,
        model=message.model,
        media_type=media_type(message.mime_type),
        terms=_terms(message, settings),
        protect=message.protection != translation_pb2.PROTECTION_OFF,
    )


def media_type(name: str) -> MediaType:
    """What texts are written in.

    Raises:
        InvalidRequest: we read no such thing.
    """
    if not name:
        return MediaType.PLAIN
    try:
        return MediaType(name)
    except ValueError:
        names = " or ".join(one.value for one in MediaType)
        raise InvalidRequest("mime_type", f"must be {names}") from None


def _terms(message: Asked, settings: Settings) -> tuple[Term, ...]:
    count = len(message.glossary) + len(message.do_not_translate)
    if count > settings.max_terms:
        raise InvalidRequest("glossary", f"holds {count} terms, the limit is {settings.max_terms}")
    terms = []
    for index, one in enumerate(message.glossary):
        _check_term(f"glossary[{index}].source", one.source)
        _check_term(f"glossary[{index}].target", one.target)
        ignore_case = one.case_matching == translation_pb2.CASE_MATCHING_IGNORE
        terms.append(Term(one.source.strip(), one.target, ignore_case))
    for index, word in enumerate(message.do_not_translate):
        _check_term(f"do_not_translate[{index}]", word)
        terms.append(Term(word.strip(), word.strip()))
    return tuple(terms)


def _check_term(name: str, words: str) -> None:
    if not words.strip():
        raise InvalidRequest(name, "is empty")
    if len(words) > _LONGEST_TERM:
        raise InvalidRequest(name, f"is longer than {_LONGEST_TERM} characters")
    if "\0" in words or "\n" in words:
        raise InvalidRequest(name, "holds a line break or a NUL character")


def candidate_message(guess: Guess | None) -> translation_pb2.LanguageCandidate | None:
    """The wire's candidate of ours."""
    if guess is None:
        return None
    return translation_pb2.LanguageCandidate(language=guess.language, confidence=guess.confidence)


def detection_message(guesses: Iterable[Guess]) -> translation_pb2.LanguageDetection:
    """The wire's detection of ours."""
    candidates = [candidate_message(guess) for guess in guesses]
    return translation_pb2.LanguageDetection(candidates=[one for one in candidates if one])


def placeholder_message(one: Placeholder) -> translation_pb2.Placeholder:
    """The wire's placeholder of ours."""
    return translation_pb2.Placeholder(
        text=one.text, kind=one.kind, source_start=one.start, outcome=_OUTCOMES[one.outcome]
    )


def route_message(route: Iterable[ModelRef]) -> list[translation_pb2.ModelReference]:
    """The wire's models of ours."""
    return [translation_pb2.ModelReference(name=one.name, digest=one.digest) for one in route]


def analysis_message(found: TextAnalysis) -> translation_pb2.TextAnalysis:
    """The wire's analysis of ours."""
    return translation_pb2.TextAnalysis(
        source_language=found.language.language,
        language_confidence=found.language.confidence,
        characters=found.characters,
        sentences=[
            translation_pb2.SentenceAnalysis(
                source_start=one.span.start, source_end=one.span.end, source_tokens=one.tokens
            )
            for one in found.sentences
        ],
        placeholders=[placeholder_message(one) for one in found.placeholders],
        source_tokens=found.source_tokens,
        predicted_cost_tokens=found.cost_tokens,
        predicted_time_ns=None if found.seconds is None else int(found.seconds * 1e9),
        route=route_message(found.route),
    )
