"""Messages that no well-meaning caller would send: mutated, drawn at random, or plain garbage."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

from google.protobuf.message import Message

from dragoman.v1 import models_pb2, translation_pb2

TRANSLATE = "/dragoman.v1.TranslationService/Translate"
STREAM = "/dragoman.v1.TranslationService/TranslateStream"
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_ODD_TEXTS = (
    "", " ", "\0", "\u202e\u2066", "e\u0301" * 50, "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "A" * 3000, "!" * 500, "\ufeffHello", "ﷺ", "{{x}} %1$s <b>", "I love you.", "\ud7ff\ue000",
    "Where is the station? " * 20,
)  # fmt: skip
_ODD_TAGS = ("en", "zh-TW", "", "zh", "en-Latn-US-x-twain", "xx", "\u202e", "e" * 300, "中文")
_ODD_FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-38, 3e38, float("nan"), float("inf"), float("-inf"))
_ODD_INTEGERS = (0, 1, -1, 2, 5, 16, 2**31 - 1, -(2**31))


def message(draw: random.Random) -> tuple[str, bytes]:
    """A method and the bytes to send to it."""
    method, drawn = draw.choice(_METHODS)
    found = drawn(draw).SerializeToString()
    way = draw.random()
    if way < 0.6:  # noqa: PLR2004  some as they are
        return method, found
    if way < 0.9:  # noqa: PLR2004
        return method, _mutated(found, draw)
    return method, draw.randbytes(draw.randrange(400))


def garbage(draw: random.Random) -> bytes:
    """What to send to a port of HTTP/2 instead of HTTP/2."""
    noise = draw.randbytes(draw.randrange(2000))
    way = draw.randrange(5)
    if way == 0:
        return noise
    if way == 1:
        return _PREFACE + noise
    if way == 2:  # noqa: PLR2004
        return _PREFACE + b"".join(_frame(draw) for _ in range(draw.randrange(1, 30)))
    if way == 3:  # noqa: PLR2004
        return b"GET /metrics HTTP/1.1\r\nHost: x\r\n" + noise + b"\r\n\r\n"
    return b"\x16\x03\x01" + struct.pack(">H", len(noise)) + noise  # the beginning of TLS


def _frame(draw: random.Random) -> bytes:
    """An HTTP/2 frame with a plausible header and any payload (RFC 9113, section 4.1)."""
    payload = draw.randbytes(draw.choice([0, 1, 4, 5, 6, 8, 30, 300]))
    length = len(payload) if draw.random() < 0.9 else draw.randrange(1 << 24)  # noqa: PLR2004
    stream = draw.choice([0, 1, 2, 3, 2**31 - 1])
    head = struct.pack(">I", length)[1:] + bytes([draw.randrange(12), draw.randrange(256)])
    return head + struct.pack(">I", stream) + payload


def _mutated(data: bytes, draw: random.Random) -> bytes:
    found = bytearray(data)
    for _ in range(draw.randrange(1, 6)):
        at = draw.randrange(len(found) + 1)
        way = draw.randrange(4)
        if way == 0 and found:
            found[at % len(found)] ^= 1 << draw.randrange(8)
        elif way == 1:
            found[at:at] = draw.randbytes(draw.randrange(1, 12))
        elif way == 2:  # noqa: PLR2004
            del found[at : at + draw.randrange(1, 12)]
        else:
            found[at:at] = found[at : at + draw.randrange(1, 40)]
    return bytes(found)


def _translate(draw: random.Random) -> Message:
    request = translation_pb2.TranslateRequest(
        texts=[draw.choice(_ODD_TEXTS) for _ in range(draw.choice([0, 1, 1, 1, 2, 5]))]
    )
    _options(request, draw)
    return request


def _stream(draw: random.Random) -> Message:
    request = translation_pb2.TranslateStreamRequest(text=draw.choice(_ODD_TEXTS))
    _options(request, draw)
    return request


def _options(
    request: translation_pb2.TranslateRequest | translation_pb2.TranslateStreamRequest,
    draw: random.Random,
) -> None:
    request.source_language = "en" if draw.random() < 0.9 else draw.choice(_ODD_TAGS)  # noqa: PLR2004
    request.target_language = "zh-TW" if draw.random() < 0.9 else draw.choice(_ODD_TAGS)  # noqa: PLR2004
    if draw.random() < 0.4:  # noqa: PLR2004
        _fill(request.decoding, draw)
    if draw.random() < 0.1:  # noqa: PLR2004
        request.model = draw.choice(["en-zh-TW", "none", "../../etc"])
    if draw.random() < 0.1:  # noqa: PLR2004
        request.mime_type = draw.choice(["text/plain", "text/html", "x"])
    request.bypass_cache = draw.random() < 0.5  # noqa: PLR2004


def _fill(found: Message, draw: random.Random) -> None:
    """Some fields of a message at odd values, those of the messages inside it too."""
    for one in found.DESCRIPTOR.fields:
        if draw.random() < 0.8:  # noqa: PLR2004
            continue
        if one.message_type is not None:
            inside = getattr(found, one.name)
            inside.SetInParent()
            _fill(inside, draw)
        elif one.cpp_type == one.CPPTYPE_FLOAT:
            setattr(found, one.name, draw.choice(_ODD_FLOATS))
        elif one.cpp_type == one.CPPTYPE_INT32:
            setattr(found, one.name, draw.choice(_ODD_INTEGERS))
        elif one.cpp_type == one.CPPTYPE_UINT64:
            setattr(found, one.name, draw.choice([0, 1, 2**64 - 1]))
        elif one.cpp_type == one.CPPTYPE_BOOL:
            setattr(found, one.name, draw.random() < 0.5)  # noqa: PLR2004
        elif one.cpp_type == one.CPPTYPE_STRING:
            setattr(found, one.name, draw.choice(_ODD_TEXTS))


def _named(kind: type[Message], field: str) -> Callable[[random.Random], Message]:
    return lambda draw: kind(**{field: draw.choice(_ODD_TAGS)})


_SERVICE = "/dragoman.v1.ModelService/"
_METHODS: list[tuple[str, Callable[[random.Random], Message]]] = [
    *[(TRANSLATE, _translate)] * 4,
    *[(STREAM, _stream)] * 3,
    (f"{_SERVICE}ListModels", lambda _: models_pb2.ListModelsRequest()),
    (f"{_SERVICE}GetModel", _named(models_pb2.GetModelRequest, "name")),
    (f"{_SERVICE}LoadModel", _named(models_pb2.LoadModelRequest, "path")),
    (f"{_SERVICE}UnloadModel", _named(models_pb2.UnloadModelRequest, "name")),
    ("/dragoman.v1.TranslationService/Nothing", _translate),
]
