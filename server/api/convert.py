"""Between the wire's messages and our own types; protobuf ends here."""

from __future__ import annotations

import dataclasses
import math
from typing import Protocol

from google.rpc import code_pb2

from dragoman.v1 import models_pb2, translation_pb2
from server.api import text_messages
from server.api.status import status_of
from server.bundle import Bundle
from server.engine.provider import NAMES
from server.engine.request import DecodingParameters, FinishReason
from server.errors import DragomanError, InvalidRequest
from server.settings import Settings
from server.text.bulk import Done
from server.text.languages import sides
from server.text.request import SentenceResult, TextResult, TranslationRequest, WarningKind

_DEFAULT_BEAMS = 4
_BULK: dict[int, bool] = {
    translation_pb2.PRIORITY_INTERACTIVE: False,
    translation_pb2.PRIORITY_BULK: True,
}
_FINISH_REASONS = {
    FinishReason.EOS: translation_pb2.FINISH_REASON_EOS,
    FinishReason.LENGTH: translation_pb2.FINISH_REASON_LENGTH,
    FinishReason.DEGENERATE: translation_pb2.FINISH_REASON_DEGENERATE,
}
_WARNINGS = {
    WarningKind.OUTPUT_TRUNCATED: translation_pb2.WARNING_CODE_OUTPUT_TRUNCATED,
    WarningKind.SENTENCE_SPLIT: translation_pb2.WARNING_CODE_SENTENCE_SPLIT,
    WarningKind.DEGENERATE_OUTPUT: translation_pb2.WARNING_CODE_DEGENERATE_OUTPUT,
    WarningKind.RETRIED: translation_pb2.WARNING_CODE_RETRIED,
    WarningKind.PLACEHOLDER_LOST: translation_pb2.WARNING_CODE_PLACEHOLDER_LOST,
    WarningKind.PLACEHOLDER_PLACED: translation_pb2.WARNING_CODE_PLACEHOLDER_PLACED,
    WarningKind.TERM_NOT_APPLIED: translation_pb2.WARNING_CODE_TERM_NOT_APPLIED,
    WarningKind.LANGUAGE_UNCERTAIN: translation_pb2.WARNING_CODE_LANGUAGE_UNCERTAIN,
    WarningKind.PIVOTED: translation_pb2.WARNING_CODE_PIVOTED,
}


class _Asked(text_messages.Asked, Protocol):
    """What all requests to translate have."""

    bypass_cache: bool

    @property
    def priority(self) -> int: ...
    @property
    def decoding(self) -> translation_pb2.DecodingOptions: ...


@dataclasses.dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, since when and how long."""

    arrived: float
    """Monotonic seconds."""
    deadline: float | None
    tenant: str


def translation_request(
    message: _Asked,
    texts: list[str],
    field_names: list[str],
    settings: Settings,
    caller: Caller,
) -> TranslationRequest:
    """Our request of the wire's, within the limits.

    Raises:
        InvalidRequest: names the first field that is not acceptable.
    """
    asked = text_messages.text_options(message, settings)
    check_texts(texts, field_names, settings)
    options = message.decoding
    maximum, minimum = _token_limits(options, settings)
    return TranslationRequest(
        texts=texts,
        field_names=field_names,
        arrived=caller.arrived,
        deadline=caller.deadline,
        decoding=_parameters(options, minimum, settings),
        seed=_seed(options),
        max_tokens=maximum,
        target_prefix=_target_prefix(options, settings),
        scores=options.include_scores,
        candidates=_candidates(options),
        bulk=_BULK.get(message.priority),
        tenant=caller.tenant,
        bypass_cache=message.bypass_cache,
        **asked,
    )


def check_texts(texts: list[str], names: list[str], settings: Settings) -> None:
    """Nothing, if texts are within the limits.

    Raises:
        InvalidRequest: names the first that is not, or all.
    """
    if not texts:
        raise InvalidRequest("texts", "holds no text")
    if len(texts) > settings.max_texts:
        raise InvalidRequest(
            "texts", f"holds {len(texts)} texts, the limit is {settings.max_texts}"
        )
    total = 0
    for text, name in zip(texts, names, strict=True):
        total += len(text)
        if len(text) > settings.max_text_characters:
            limit = settings.max_text_characters
            raise InvalidRequest(name, f"has {len(text)} characters, the limit is {limit}")
        if "\0" in text:
            raise InvalidRequest(name, "holds a NUL character")
    if total > settings.max_request_characters:
        limit = settings.max_request_characters
        raise InvalidRequest("texts", f"have {total} characters together, the limit is {limit}")


def _token_limits(
    options: translation_pb2.DecodingOptions, settings: Settings
) -> tuple[int | None, int]:
    maximum = options.max_output_tokens if options.HasField("max_output_tokens") else None
    if maximum is not None and not 1 <= maximum <= settings.max_output_tokens:
        limit = settings.max_output_tokens
        raise InvalidRequest("decoding.max_output_tokens", f"must be 1 to {limit}, not {maximum}")
    minimum = options.min_output_tokens
    ceiling = settings.max_output_tokens if maximum is None else maximum
    if not 0 <= minimum <= ceiling:
        raise InvalidRequest("decoding.min_output_tokens", f"must be 0 to {ceiling}, not {minimum}")
    return maximum, minimum


def _target_prefix(options: translation_pb2.DecodingOptions, settings: Settings) -> str:
    if "\0" in options.target_prefix:
        raise InvalidRequest("decoding.target_prefix", "holds a NUL character")
    if len(options.target_prefix) > settings.max_text_characters:
        limit = settings.max_text_characters
        raise InvalidRequest("decoding.target_prefix", f"is longer than {limit} characters")
    return options.target_prefix


def _parameters(
    options: translation_pb2.DecodingOptions, minimum: int, settings: Settings
) -> DecodingParameters:
    """Our parameters of the wire's; each strategy adds its own."""
    common = DecodingParameters(
        min_tokens=minimum,
        log_probs=options.include_scores,
        attention=options.include_attention,
        repetition_penalty=_repetition_penalty(options),
        no_repeat_ngram=_no_repeat_ngram(options),
    )
    match options.WhichOneof("strategy"):
        case "sampling":
            return _sampling(common, options.sampling)
        case "beam":
            return _beam(common, options.beam, settings)
        case _:
            return common


def _repetition_penalty(options: translation_pb2.DecodingOptions) -> float:
    penalty = options.repetition_penalty if options.HasField("repetition_penalty") else 1.0
    if not 1.0 <= penalty <= 10.0:  # noqa: PLR2004
        raise InvalidRequest("decoding.repetition_penalty", "must be 1 to 10")
    return penalty


def _no_repeat_ngram(options: translation_pb2.DecodingOptions) -> int:
    if options.no_repeat_ngram_size < 0:
        raise InvalidRequest("decoding.no_repeat_ngram_size", "must be 0 or more")
    return options.no_repeat_ngram_size


def _sampling(
    common: DecodingParameters, sampling: translation_pb2.SamplingDecoding
) -> DecodingParameters:
    temperature = sampling.temperature if sampling.HasField("temperature") else 1.0
    if not (math.isfinite(temperature) and 0.01 <= temperature <= 100.0):  # noqa: PLR2004
        raise InvalidRequest("decoding.sampling.temperature", "must be 0.01 to 100")
    top_p = sampling.top_p if sampling.HasField("top_p") else 1.0
    if not 0.0 < top_p <= 1.0:
        raise InvalidRequest("decoding.sampling.top_p", "must be above 0 and at most 1")
    if sampling.top_k < 0:
        raise InvalidRequest("decoding.sampling.top_k", "must be 0 or more")
    return dataclasses.replace(
        common, strategy="sample", temperature=temperature, top_k=sampling.top_k, top_p=top_p
    )


def _beam(
    common: DecodingParameters, beam: translation_pb2.BeamDecoding, settings: Settings
) -> DecodingParameters:
    limit = min(settings.max_beams, settings.slots)
    size = beam.beam_size if beam.HasField("beam_size") else min(_DEFAULT_BEAMS, limit)
    if not 1 <= size <= limit:
        raise InvalidRequest("decoding.beam.beam_size", f"must be 1 to {limit}, not {size}")
    penalty = beam.length_penalty if beam.HasField("length_penalty") else 1.0
    if not 0.0 <= penalty <= 10.0:  # noqa: PLR2004
        raise InvalidRequest("decoding.beam.length_penalty", "must be 0 to 10")
    if not 0 <= beam.candidate_count <= size:
        raise InvalidRequest("decoding.beam.candidate_count", f"must be 0 to {size}")
    return dataclasses.replace(common, strategy="beam", beams=size, length_penalty=penalty)


def _candidates(options: translation_pb2.DecodingOptions) -> int:
    return options.beam.candidate_count if options.WhichOneof("strategy") == "beam" else 0


def _seed(options: translation_pb2.DecodingOptions) -> int | None:
    if options.WhichOneof("strategy") == "sampling" and options.sampling.HasField("seed"):
        return options.sampling.seed
    return None


def translation_message(result: TextResult) -> translation_pb2.Translation:
    """The wire's translation of ours."""
    return translation_pb2.Translation(
        text=result.text,
        finish_reason=_FINISH_REASONS[result.finish_reason],
        usage=translation_pb2.TokenUsage(
            source_tokens=result.source_tokens,
            target_tokens=result.target_tokens,
            cached_sentences=result.cached_sentences,
        ),
        timing=translation_pb2.Timing(
            queue_time_ns=result.queue_time_ns,
            encode_time_ns=result.encode_time_ns,
            decode_time_ns=result.decode_time_ns,
            total_time_ns=result.total_time_ns,
            decode_steps=result.decode_steps,
            mean_batch_rows=result.mean_batch_rows,
            mean_batch_occupancy_ratio=result.mean_batch_occupancy_ratio,
        ),
        warnings=[
            translation_pb2.Warning(
                code=_WARNINGS[warning.kind], message=warning.message, subjects=warning.subjects
            )
            for warning in result.warnings
        ],
        sentences=[_sentence_message(sentence) for sentence in result.sentences],
        detected_language=text_messages.candidate_message(result.detected),
        placeholders=[text_messages.placeholder_message(one) for one in result.placeholders],
        applied_terms=[
            translation_pb2.AppliedTerm(
                source=term.source,
                target=term.target,
                found_count=term.found,
                applied_count=term.applied,
            )
            for term in result.applied_terms
        ],
        route=text_messages.route_message(result.route) if len(result.route) > 1 else [],
    )


def _sentence_message(sentence: SentenceResult) -> translation_pb2.SentenceTranslation:
    return translation_pb2.SentenceTranslation(
        source_start=sentence.span.start,
        source_end=sentence.span.end,
        text=sentence.text,
        finish_reason=_FINISH_REASONS[sentence.finish_reason],
        log_probability=sentence.log_probability,
        score=sentence.score,
        tokens=[
            translation_pb2.TokenScore(piece=token.piece, log_probability=token.log_probability)
            for token in sentence.tokens
        ],
        candidates=[
            translation_pb2.Candidate(
                text=one.text, log_probability=one.log_probability, score=one.score
            )
            for one in sentence.candidates
        ],
        source_pieces=sentence.source_pieces,
        attention=[translation_pb2.AttentionRow(weights=row) for row in sentence.attention],
    )


def model_reference(result: TextResult) -> translation_pb2.ModelReference | None:
    """Which weights wrote a text; None if it was in the target language."""
    if not result.route:
        return None
    last = result.route[-1]
    return translation_pb2.ModelReference(name=last.name, digest=last.digest)


def bulk_message(done: Done) -> translation_pb2.TranslateBulkResponse:
    """The wire's result of an item."""
    message = translation_pb2.TranslateBulkResponse(id=done.item.id)
    outcome = done.outcome
    if isinstance(outcome, DragomanError):
        message.error.code = code_pb2.Code.Value(status_of(outcome).name)
        message.error.message = str(outcome)
    elif outcome is None:
        message.translation.text = done.item.text
        message.translation.finish_reason = translation_pb2.FINISH_REASON_EOS
    else:
        message.translation.CopyFrom(translation_message(outcome))
        model = model_reference(outcome)
        if model is not None:
            message.model.CopyFrom(model)
    return message


def model_message(bundle: Bundle, requested: str) -> models_pb2.Model:
    """The wire's description of a model; ``requested`` is the setting of the provider.

    A bundle that is live runs where it says: anything else was an error when it was loaded.
    """
    manifest = bundle.manifest
    sources, targets = sides(manifest)
    return models_pb2.Model(
        name=manifest.name,
        digest=bundle.digest,
        source_language=manifest.source_language,
        target_language=manifest.target_language,
        precision=manifest.precision,
        provider=NAMES[manifest.provider],
        requested_provider=requested,
        parameter_count=manifest.shape.parameter_count,
        max_source_tokens=manifest.shape.max_source_tokens,
        max_target_tokens=manifest.shape.max_target_tokens,
        licence=manifest.licence,
        scores=[
            models_pb2.QualityScore(
                dataset=score.dataset,
                metric=score.metric,
                value=score.value,
                signature=score.signature,
            )
            for score in manifest.scores
        ],
        producer_commit=manifest.producer.commit,
        source_languages=sources,
        target_languages=targets,
    )
