"""LibreTranslate's REST API: ``/translate``, ``/detect``, ``/languages`` and what its page asks.

Fields, shapes and messages are those of LibreTranslate 1.7 (docs.libretranslate.com); what differs
stands in docs/APIS.md.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from server.access.gate import credential_of
from server.api.desk import Answer, Desk, Order, language_name
from server.api.fields import Fields, checked, fields_of
from server.api.http import STATUS, Front, Refusal, arrived_at, deadline_of
from server.api.openapi import (
    FLAG,
    NUMBER,
    TEXT,
    WHOLE,
    Json,
    body,
    document,
    fields,
    listed,
    operation,
)
from server.api.tenant import tenant_of
from server.errors import InvalidRequest, QuotaExceeded, Unauthenticated, UnknownModel
from server.text.language import Guess
from server.text.languages import same_language
from server.text.request import MediaType

_AUTO = "auto"
# Its own codes for what BCP-47 calls otherwise, old and new.
_TO_BCP47 = {"zt": "zh-TW", "zh-hant": "zh-TW", "zh": "zh-CN", "zh-hans": "zh-CN", "pb": "pt-BR"}
_FROM_BCP47 = {"zh-TW": "zh-Hant", "zh-CN": "zh-Hans"}
_DETECTED = 5
_MEDIA_TYPES = {"text": MediaType.PLAIN, "html": MediaType.HTML}


class Asked(BaseModel):
    """The fields of ``/translate``."""

    q: str | list[str] = ""
    source: str = ""
    target: str = ""
    format: Literal["text", "html", ""] = ""
    alternatives: int = 0


def front(desk: Desk) -> Front:
    """The routes."""
    libre = _LibreTranslate(desk)
    return Front(
        name="libretranslate",
        routes=[
            Route("/translate", libre.translate, methods=["POST"]),
            Route("/detect", libre.detect, methods=["POST"]),
            Route("/languages", libre.languages, methods=["GET"]),
            Route("/frontend/settings", libre.settings, methods=["GET"]),
            Route("/spec", libre.spec, methods=["GET"]),
        ],
        refuse=_refuse,
        # A pair that nobody serves is a bad request here.
        statuses={**STATUS, UnknownModel: 400, Unauthenticated: 403},
        credential=libre.credential,
        # What its pages ask before anybody has typed a key.
        open_paths=frozenset({"/languages", "/frontend/settings", "/spec"}),
        paths=paths(),
    )


class _LibreTranslate:
    """Its handlers."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def credential(self, request: Request) -> str | None:
        """The field ``api_key``, or a header as for other APIs."""
        fields = await self._fields(request)
        key = fields.first("api_key")
        return key if isinstance(key, str) and key else credential_of(request.headers.items())

    async def translate(self, request: Request) -> Response:
        """``POST /translate``: one text, or a list of them."""
        fields = await self._fields(request)
        names = ("q", "source", "target", "format", "alternatives")
        asked = checked(Asked, {name: fields.first(name) for name in names})
        for name in ("q", "source", "target"):
            if not getattr(asked, name):
                raise HTTPException(400, f"Invalid request: missing {name} parameter")
        many = isinstance(asked.q, list)
        texts = asked.q if isinstance(asked.q, list) else [asked.q]
        if fields.json is None:
            # Forms end lines as RFC 2046 says.
            texts = ["\n".join(text.splitlines()) for text in texts]
        source = "" if asked.source == _AUTO else _bcp47(asked.source)
        target = _bcp47(asked.target)
        self._check_languages(asked, source, target)
        answers = await self._desk.translate(
            Order(
                texts=texts,
                field="q",
                source=source,
                target=target,
                media_type=_MEDIA_TYPES[asked.format or "text"],
                alternatives=asked.alternatives,
                arrived=arrived_at(request),
                deadline=deadline_of(request),
                tenant=tenant_of(request.headers.items()),
            )
        )
        return JSONResponse(self._translated(answers, asked, many=many))

    async def detect(self, request: Request) -> Response:
        """``POST /detect``: what a text may be in, likeliest first."""
        text = (await self._fields(request)).first("q")
        if not text:
            raise HTTPException(400, "Invalid request: missing q parameter")
        if not isinstance(text, str):
            raise InvalidRequest("q", "must be a string")
        (guesses,) = await self._desk.detect([text], "q", most=_DETECTED)
        return JSONResponse([_guess(guess) for guess in guesses] or [self._unsure()])

    async def languages(self, request: Request) -> Response:
        """``GET /languages``: what each can be translated to."""
        del request
        targets: dict[str, list[str]] = {}
        for source, target in self._desk.pairs():
            targets.setdefault(source, []).append(_code(target))
            targets.setdefault(target, [])
        return JSONResponse(
            [
                {"code": _code(code), "name": language_name(code), "targets": sorted(found)}
                for code, found in sorted(targets.items())
            ]
        )

    async def settings(self, request: Request) -> Response:
        """``GET /frontend/settings``: limits, for whoever draws a page."""
        del request
        source, target = self._desk.pairs()[0]
        asks = self._desk.asks_for_keys
        return JSONResponse(
            {
                "charLimit": self._desk.settings.max_text_characters,
                "frontendTimeout": 500,
                "apiKeys": asks,
                "keyRequired": asks,
                "suggestions": False,
                "filesTranslation": False,
                "supportedFilesFormat": [],
                "language": {
                    "source": {"code": _code(source), "name": language_name(source)},
                    "target": {"code": _code(target), "name": language_name(target)},
                },
            }
        )

    async def spec(self, request: Request) -> Response:
        """``GET /spec``: this API's part of the OpenAPI document."""
        del request
        return JSONResponse(document(paths()))

    async def _fields(self, request: Request) -> Fields:
        """The request's fields, read once."""
        found: Fields | None = getattr(request.state, "fields", None)
        if found is None:
            settings = self._desk.settings
            found = await fields_of(request, settings.max_texts, settings.max_message_bytes)
            request.state.fields = found
        return found

    def _check_languages(self, asked: Asked, source: str, target: str) -> None:
        """Nothing, if both are ones of this server.

        Raises:
            HTTPException: 400, as LibreTranslate says it.
        """
        pairs = self._desk.pairs()
        if source and not any(same_language(source, code) for pair in pairs for code in pair):
            raise HTTPException(400, f"{asked.source[:40]} is not supported")
        if not any(same_language(target, code) for pair in pairs for code in pair):
            raise HTTPException(400, f"{asked.target[:40]} is not supported")

    def _translated(self, answers: list[Answer], asked: Asked, *, many: bool) -> dict[str, Any]:
        """The body of an answer: lists for a list, else what is in them."""
        found: dict[str, list[Any]] = {"translatedText": [answer.text for answer in answers]}
        if asked.alternatives:
            found["alternatives"] = [answer.alternatives for answer in answers]
        if asked.source == _AUTO:
            found["detectedLanguage"] = [
                _guess(answer.detected) if answer.detected else self._unsure() for answer in answers
            ]
        return found if many else {name: values[0] for name, values in found.items()}

    def _unsure(self) -> dict[str, Any]:
        """What a text without letters is in."""
        return {"confidence": 0.0, "language": _code(self._desk.pairs()[0][0])}


def _guess(guess: Guess) -> dict[str, Any]:
    return {"confidence": round(100 * guess.confidence, 1), "language": _code(guess.language)}


def _bcp47(code: str) -> str:
    return _TO_BCP47.get(code.lower(), code)


def _code(language: str) -> str:
    return _FROM_BCP47.get(language, language)


def _refuse(refusal: Refusal) -> Response:
    message = refusal.message
    if isinstance(refusal.error, Unauthenticated):
        message = "Invalid API key" if refusal.error.shown else "An API key is needed"
        return JSONResponse({"error": message}, refusal.status if refusal.error.shown else 400)
    if isinstance(refusal.error, QuotaExceeded):
        message = f"Slowdown: {message}"
    return JSONResponse({"error": message}, refusal.status)


def paths() -> dict[str, Json]:
    """What OpenAPI says of the routes."""
    error = fields("error", error=TEXT)
    usual = "400 403 404 405 408 413 415 429 503 504"
    forms = ("application/json", "application/x-www-form-urlencoded", "multipart/form-data")
    guess = fields("confidence language", confidence=NUMBER, language=TEXT)
    language = fields("code name", code=TEXT, name=TEXT)
    words = {"oneOf": [TEXT, listed(TEXT)]}
    asked = fields(
        "q source target",
        q=words,
        source={**TEXT, "examples": ["en", "auto"]},
        target={**TEXT, "examples": ["zh-Hant"]},
        format={**TEXT, "enum": ["text", "html"]},
        alternatives=WHOLE,
        api_key=TEXT,
    )
    answer = fields(
        "translatedText",
        translatedText=words,
        detectedLanguage={"oneOf": [guess, listed(guess)]},
        alternatives=listed({"oneOf": [TEXT, listed(TEXT)]}),
    )
    settings = fields(
        "charLimit frontendTimeout apiKeys keyRequired suggestions filesTranslation language",
        charLimit=WHOLE,
        frontendTimeout=WHOLE,
        apiKeys=FLAG,
        keyRequired=FLAG,
        suggestions=FLAG,
        filesTranslation=FLAG,
        supportedFilesFormat=listed(TEXT),
        language=fields("source target", source=language, target=language),
    )
    languages = listed(fields("code name targets", code=TEXT, name=TEXT, targets=listed(TEXT)))
    detected = fields("q", q=TEXT, api_key=TEXT)
    return {
        "/translate": {
            "post": operation("Translate", answer, error, usual, requestBody=body(asked, *forms))
        },
        "/detect": {
            "post": operation(
                "Detect", listed(guess), error, usual, requestBody=body(detected, *forms)
            )
        },
        "/languages": {"get": operation("Languages", languages, error, usual)},
        "/frontend/settings": {"get": operation("Limits", settings, error, usual)},
        "/spec": {"get": operation("This part of the document", {"type": "object"}, error, usual)},
    }
