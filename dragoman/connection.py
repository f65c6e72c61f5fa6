"""What both clients share: where to call, with which options, and what to send."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import grpc

from dragoman.errors import InvalidRequestError
from dragoman.options import Decoding, decoding_message
from dragoman.v1 import translation_pb2

DEFAULT_TARGET = "localhost:50051"
TARGET_VARIABLE = "DRAGOMAN_TARGET"
API_KEY_VARIABLE = "DRAGOMAN_API_KEY"
_MAX_MESSAGE_BYTES = 64 * 1024 * 1024

# gRFC A6: translation has no side effects, so a call may always be tried again.
SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [
                {"service": "dragoman.v1.TranslationService"},
                {"service": "dragoman.v1.ModelService"},
            ],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
    "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
}

CHANNEL_OPTIONS: list[tuple[str, str | int]] = [
    ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
    ("grpc.enable_retries", 1),
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """Files in PEM; without any, the machine's own roots are trusted."""

    root_certificates: bytes | None = None
    client_key: bytes | None = None
    client_certificates: bytes | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """For a channel."""
        return grpc.ssl_channel_credentials(
            self.root_certificates, self.client_key, self.client_certificates
        )


def resolve_target(target: str | None) -> str:
    """The address given, that of the environment, or the default."""
    return target or os.environ.get(TARGET_VARIABLE) or DEFAULT_TARGET


def call_metadata(api_key: str | None) -> tuple[tuple[str, str], ...]:
    """Metadata of every call."""
    key = api_key or os.environ.get(API_KEY_VARIABLE)
    return (("authorization", f"Bearer {key}"),) if key else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Languages:
    """The pair and the model of a call."""

    source_language: str
    target_language: str
    model: str | None


def translate_request(
    texts: Sequence[str], languages: Languages, decoding: Decoding | None
) -> translation_pb2.TranslateRequest:
    """The message of ``translate``.

    Raises:
        InvalidRequestError: a text is no text, or an option does not fit.
    """
    for index, text in enumerate(texts):
        check_text(f"texts[{index}]", text)
    fields = {"texts": list(texts)}
    return _build(translation_pb2.TranslateRequest, fields, languages, decoding)


def stream_request(
    text: str, languages: Languages, decoding: Decoding | None
) -> translation_pb2.TranslateStreamRequest:
    """The message of ``translate_stream``.

    Raises:
        InvalidRequestError: as :func:`translate_request`.
    """
    check_text("text", text)
    return _build(translation_pb2.TranslateStreamRequest, {"text": text}, languages, decoding)


def check_text(name: str, text: object) -> None:
    """Refuse what cannot be sent, before the wire does with a worse message."""
    if not isinstance(text, str):
        msg = f"{name}: is {type(text).__name__}, not str"
        raise InvalidRequestError(msg)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        msg = f"{name}: holds half a character (a lone surrogate) at {error.start}"
        raise InvalidRequestError(msg) from None


_Request = TypeVar(
    "_Request", translation_pb2.TranslateRequest, translation_pb2.TranslateStreamRequest
)


def _build(
    kind: type[_Request],
    fields: Mapping[str, object],
    languages: Languages,
    decoding: Decoding | None,
) -> _Request:
    try:
        return kind(
            **fields,  # type: ignore[arg-type]
            source_language=languages.source_language,
            target_language=languages.target_language,
            model=languages.model or "",
            decoding=decoding_message(decoding) if decoding else None,
        )
    except (TypeError, ValueError) as error:
        msg = f"decoding: {error}"
        raise InvalidRequestError(msg) from error
