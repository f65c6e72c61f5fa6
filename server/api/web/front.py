"""The page and the few things it asks: models, a translation as it comes, load.

Files are served from memory, by name, and nothing else is. The page needs no other host; its
content security policy forbids them, and scripts and styles that are not files.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from server.access.gate import current_visit
from server.api import convert
from server.api.desk import Desk
from server.api.http import Front, arrived_at, deadline_of, plain_refusal
from server.api.tenant import tenant_of
from server.engine.request import GREEDY, DecodingParameters
from server.errors import DragomanError, InvalidRequest
from server.metrics import Metrics
from server.text.request import Delta, SentenceResult, TextResult, TranslationRequest

_STATIC = Path(__file__).parent / "static"
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_CANDIDATES = 4
_BEAMS = DecodingParameters(strategy="beam", beams=_CANDIDATES)
_LOOKING = dataclasses.replace(GREEDY, attention=True, head_attention=True, log_probs=True)

Ask = Callable[[Request], Awaitable[Response]]


class Asked(BaseModel):
    """What the page sends with a text."""

    model_config = ConfigDict(extra="forbid", strict=True)

    text: str
    source_language: str = ""
    target_language: str


class Page:
    """Answers the page."""

    def __init__(self, desk: Desk, metrics: Metrics) -> None:
        """Set where translations come from, and the counters that are shown."""
        self._desk = desk
        self._metrics = metrics

    def front(self) -> Front:
        """Its routes."""
        files = [
            Route("/" if path.name == "index.html" else f"/web/{path.name}", _file(path))
            for path in sorted(_STATIC.iterdir())
        ]
        asks = [
            Route("/web/models", self.models, methods=["GET"]),
            Route("/web/load", self.load, methods=["GET"]),
            Route("/web/translate", self.translate, methods=["POST"]),
            Route("/web/alternatives", self.alternatives, methods=["POST"]),
            Route("/web/attention", self.attention, methods=["POST"]),
        ]
        return Front(
            name="web",
            routes=[*files, *asks],
            refuse=plain_refusal,
            open_paths=frozenset(route.path for route in files),
            prefix="/web/",
        )

    async def models(self, request: Request) -> Response:
        """The language pairs that are served."""
        del request
        pairs = [{"source": source, "target": target} for source, target in self._desk.pairs()]
        return JSONResponse({"pairs": pairs})

    async def load(self, request: Request) -> Response:
        """Counters as they stand: the page makes rates of them."""
        del request
        requests, seconds = _totals(self._metrics)
        counters = {
            "seconds": time.monotonic(),
            "target_tokens": self._metrics.target_tokens._value.get(),  # noqa: SLF001
            "requests": requests,
            "request_seconds": seconds,
        }
        return JSONResponse(counters)

    async def translate(self, request: Request) -> Response:
        """The translation as it comes: a JSON object a line, ``delta`` often, ``result`` once."""
        asked = await self._read(request)
        events = self._desk.translator.stream(asked)
        try:  # what is wrong with the request is told by the status, not in the stream
            first = await anext(events)
        except BaseException:
            await events.aclose()
            raise
        return StreamingResponse(_lines(first, events), media_type="application/x-ndjson")

    async def alternatives(self, request: Request) -> Response:
        """The likeliest translations of each sentence."""
        asked = await self._read(request)
        asked = dataclasses.replace(asked, decoding=_BEAMS, candidates=_CANDIDATES)
        result = await self._whole(asked)
        sentences = [
            {
                "source": sentence.span.of(asked.texts[0]),
                "candidates": [
                    {"text": one.text, "score": one.score} for one in sentence.candidates
                ],
            }
            for sentence in result.sentences
        ]
        return JSONResponse({"sentences": sentences})

    async def attention(self, request: Request) -> Response:
        """Where each piece looked, by layer and head."""
        asked = await self._read(request)
        result = await self._whole(dataclasses.replace(asked, decoding=_LOOKING, scores=True))
        return JSONResponse({"sentences": [_looks(sentence) for sentence in result.sentences]})

    async def _read(self, request: Request) -> TranslationRequest:
        """What is asked, within the limits; its characters are counted.

        Raises:
            InvalidRequest: it is not what the page sends, or too long.
            QuotaExceeded: the caller has used what it may.
        """
        try:
            asked = Asked.model_validate_json(await request.body())
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            field = ".".join(map(str, fault["loc"])) or "body"
            raise InvalidRequest(field, str(fault["msg"])) from error
        convert.check_texts([asked.text], ["text"], self._desk.settings)
        visit = current_visit.get()
        visit.charge(len(asked.text))
        return TranslationRequest(
            texts=[asked.text],
            field_names=["text"],
            arrived=arrived_at(request),
            deadline=deadline_of(request),
            source_language=asked.source_language,
            target_language=asked.target_language,
            protect=True,
            tenant=visit.tenant or tenant_of(request.headers.items()),
        )

    async def _whole(self, asked: TranslationRequest) -> TextResult:
        (result,) = await self._desk.translator.translate(asked)
        current_visit.get().spend(result.source_tokens + result.target_tokens)
        return result


def _file(path: Path) -> Ask:
    """Serves one file, read now."""
    content = path.read_bytes()
    headers = {
        "content-security-policy": _POLICY,
        "cross-origin-opener-policy": "same-origin",
        "referrer-policy": "no-referrer",
        "cache-control": "no-cache",
    }

    async def serve(request: Request) -> Response:
        del request
        return Response(content, media_type=_TYPES[path.suffix], headers=headers)

    serve.__name__ = path.name
    return serve


async def _lines(
    first: Delta | TextResult, events: AsyncIterator[Delta | TextResult]
) -> AsyncIterator[bytes]:
    """Events as JSON lines; an error that comes now can only be told here."""
    async with contextlib.aclosing(events):  # type: ignore[type-var]
        try:
            yield _line(first)
            async for event in events:
                yield _line(event)
        except DragomanError as error:
            yield json.dumps({"error": str(error)}).encode() + b"\n"


def _line(event: Delta | TextResult) -> bytes:
    if isinstance(event, Delta):
        content: dict[str, Any] = {"delta": event.text}
    else:
        current_visit.get().spend(event.source_tokens + event.target_tokens)
        content = {"result": _result(event)}
    return json.dumps(content, ensure_ascii=False).encode() + b"\n"


def _result(result: TextResult) -> dict[str, Any]:
    model = result.route[0] if result.route else None
    return {
        "text": result.text,
        "detected_language": result.detected.language if result.detected else None,
        "model": {"name": model.name, "digest": model.digest} if model else None,
        "source_tokens": result.source_tokens,
        "target_tokens": result.target_tokens,
        "rows": result.mean_batch_rows,
        "ms": {
            "queue": result.queue_time_ns / 1e6,
            "encode": result.encode_time_ns / 1e6,
            "decode": result.decode_time_ns / 1e6,
            "total": result.total_time_ns / 1e6,
        },
        "warnings": [warning.message for warning in result.warnings],
    }


def _looks(sentence: SentenceResult) -> dict[str, Any]:
    """Pieces of both sides and the weights [L][H][T][S] between them."""
    pieces = [token.piece for token in sentence.tokens]
    return {
        "source_pieces": sentence.source_pieces,
        "target_pieces": pieces,
        "weights": sentence.head_attention,
    }


def _totals(metrics: Metrics) -> tuple[float, float]:
    """Translations that have ended, and the seconds they took, by whatever door."""
    totals = {"count": 0.0, "sum": 0.0}
    for family in metrics.request_duration.collect():
        for sample in family.samples:
            kind = sample.name.rpartition("_")[2]
            if kind in totals and "ranslat" in sample.labels["method"]:
                totals[kind] += sample.value
    return totals["count"], totals["sum"]
