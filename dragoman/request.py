"""What both clients send, and what they make of the answer: all but the waiting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dragoman import results
from dragoman.errors import InvalidRequestError, ServerError
from dragoman.options import (
    Decoding,
    check_text,
    decoding_message,
    set_fields,
    set_handling,
)
from dragoman.results import Delta, Translation
from dragoman.v1 import models_pb2, translation_pb2

# grpc.health.v1 by hand, which spares a dependency: an empty HealthCheckRequest asks for the
# whole server, and a HealthCheckResponse of SERVING is field 1, varint 1.
HEALTH_METHOD = "/grpc.health.v1.Health/Check"
HEALTH_REQUEST = b""
HEALTH_SERVING = b"\x08\x01"


def translate_request(
    texts: str | Sequence[str],
    *,
    source_language: str,
    target_language: str,
    model: str | None,
    decoding: Decoding | None,
) -> translation_pb2.TranslateRequest:
    """The message of ``translate``.

    Raises:
        InvalidRequestError: there is no text, or something the wire cannot carry.
    """
    listed = _listed(texts)
    request = translation_pb2.TranslateRequest(texts=listed)
    set_fields(request, "", _languages(source_language, target_language, model))
    if decoding is not None:
        request.decoding.CopyFrom(decoding_message(decoding))
        set_handling(request, decoding)
    return request


def stream_request(
    text: str,
    *,
    source_language: str,
    target_language: str,
    model: str | None,
    decoding: Decoding | None,
) -> translation_pb2.TranslateStreamRequest:
    """The message of ``translate_stream``.

    Raises:
        InvalidRequestError: as :func:`translate_request`.
    """
    check_text("text", text)
    request = translation_pb2.TranslateStreamRequest(text=text)
    set_fields(request, "", _languages(source_language, target_language, model))
    if decoding is not None:
        request.decoding.CopyFrom(decoding_message(decoding))
        set_handling(request, decoding)
    return request


def bulk_options(
    *,
    source_language: str,
    target_language: str,
    model: str | None,
    decoding: Decoding | None,
    in_order: bool,
) -> translation_pb2.BulkOptions:
    """The first message of ``translate_bulk``.

    Raises:
        InvalidRequestError: as :func:`translate_request`.
    """
    options = translation_pb2.BulkOptions(in_order=in_order)
    set_fields(options, "", _languages(source_language, target_language, model))
    if decoding is not None:
        options.decoding.CopyFrom(decoding_message(decoding))
        set_handling(options, decoding)
    return options


def detect_request(
    texts: str | Sequence[str], *, mime_type: str, max_candidates: int
) -> translation_pb2.DetectLanguageRequest:
    """The message of ``detect_language``.

    Raises:
        InvalidRequestError: as :func:`translate_request`.
    """
    request = translation_pb2.DetectLanguageRequest(texts=_listed(texts))
    set_fields(request, "", {"mime_type": mime_type, "max_candidates": max_candidates})
    return request


def analyze_request(
    texts: str | Sequence[str],
    *,
    source_language: str,
    target_language: str,
    model: str | None,
    decoding: Decoding | None,
) -> translation_pb2.AnalyzeRequest:
    """The message of ``analyze``.

    Raises:
        InvalidRequestError: as :func:`translate_request`.
    """
    request = translation_pb2.AnalyzeRequest(texts=_listed(texts))
    set_fields(request, "", _languages(source_language, target_language, model))
    if decoding is not None:
        set_handling(request, decoding)
    return request


def model_request(name: str) -> models_pb2.GetModelRequest:
    """The message of ``get_model``.

    Raises:
        InvalidRequestError: the name is no text.
    """
    check_text("name", name)
    return models_pb2.GetModelRequest(name=name)


def load_request(path: str) -> models_pb2.LoadModelRequest:
    """The message of ``load_model``.

    Raises:
        InvalidRequestError: the path is no text.
    """
    check_text("path", path)
    return models_pb2.LoadModelRequest(path=path)


def unload_request(name: str) -> models_pb2.UnloadModelRequest:
    """The message of ``unload_model``.

    Raises:
        InvalidRequestError: the name is no text.
    """
    check_text("name", name)
    return models_pb2.UnloadModelRequest(name=name)


def translations(response: translation_pb2.TranslateResponse, expected: int) -> list[Translation]:
    """The results of an answer.

    Raises:
        ServerError: they are not as many as there were texts.
    """
    found = [results.translation(item, response.model) for item in response.translations]
    if len(found) != expected:
        msg = f"{len(found)} translations came back for {expected} texts"
        raise ServerError(msg)
    return found


def stream_event(message: translation_pb2.TranslateStreamResponse) -> Delta | Translation | None:
    """What a message of a stream carries; None if it is an event of a later server."""
    match message.WhichOneof("event"):
        case "delta":
            return Delta(message.delta.text, message.delta.sentence_index)
        case "result":
            return results.translation(message.result.translation, message.result.model)
        case _:
            return None


def check_stream_end(last: Delta | Translation | None) -> None:
    """Nothing, if a stream ended as it should.

    Raises:
        ServerError: its last event is not the result.
    """
    if not isinstance(last, Translation):
        msg = "the stream ended without a result"
        raise ServerError(msg)


def _listed(texts: str | Sequence[str]) -> list[str]:
    """The texts, checked before the wire does it with a message that names none of them."""
    if isinstance(texts, str):
        check_text("texts", texts)
        return [texts]
    if not isinstance(texts, Sequence) or isinstance(texts, (bytes, bytearray, memoryview)):
        msg = f"texts: must be a string or a sequence of strings, not {type(texts).__name__}"
        raise InvalidRequestError(msg)
    if not texts:
        msg = "texts: holds no text"
        raise InvalidRequestError(msg)
    for index, text in enumerate(texts):
        check_text(f"texts[{index}]", text)
    return list(texts)


def _languages(
    source_language: str, target_language: str, model: str | None
) -> Mapping[str, object]:
    """The fields that say who translates; no language stands for another, so none is left out."""
    check_text("source_language", source_language)
    check_text("target_language", target_language)
    return {"source_language": source_language, "target_language": target_language, "model": model}
