"""DeepL's REST API, version 2: ``/v2/translate``, ``/v2/languages``, ``/v2/usage``.

Fields, shapes and messages are those of developers.deepl.com; what differs stands in docs/APIS.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from server.access.gate import credential_of, current_visit
from server.api.desk import Desk, Order, language_name
from server.api.fields import Fields, checked, fields_of
from server.api.http import STATUS, Front, Refusal, arrived_at, deadline_of
from server.api.ignored_tags import hide, show
from server.api.openapi import FLAG, TEXT, WHOLE, Json, body, fields, listed, operation
from server.api.tenant import tenant_of
from server.errors import InvalidRequest, QuotaExceeded, Unauthenticated, UnknownModel
from server.text.languages import same_language
from server.text.request import MediaType

_SCHEME = "deepl-auth-key "
_TO_BCP47 = {"ZH-HANT": "zh-TW", "ZH-HANS": "zh-CN"}
_FROM_BCP47 = {"zh-TW": "ZH-HANT", "zh-CN": "ZH-HANS"}
_QUOTA_EXCEEDED = 456
# A share of a minute comes back soon: that is "too many requests", and clients wait for it.
_SOON_SECONDS = 60.0
# What DeepL says where there is no limit.
_UNLIMITED = 1_000_000_000_000


class Asked(BaseModel):
    """The fields of ``/v2/translate``; what is not here is ignored."""

    text: str | list[str] = []
    target_lang: str = ""
    source_lang: str = ""
    tag_handling: Literal["html", "xml", ""] = ""
    formality: Literal["default", "more", "less", "prefer_more", "prefer_less", ""] = ""
    split_sentences: Literal["0", "1", "nonewlines", 0, 1, True, False] = "1"
    preserve_formatting: bool = False
    outline_detection: bool = True
    show_billed_characters: bool = False
    model_type: Literal[
        "quality_optimized", "prefer_quality_optimized", "latency_optimized", ""
    ] = ""
    ignore_tags: str | list[str] = []
    context: str = ""
    glossary_id: str = ""


def front(desk: Desk) -> Front:
    """The routes."""
    deepl = _DeepL(desk)
    both = ["GET", "POST"]
    return Front(
        name="deepl",
        routes=[
            Route("/v2/translate", deepl.translate, methods=["POST"]),
            Route("/v2/languages", deepl.languages, methods=both),
            Route("/v2/usage", deepl.usage, methods=both),
        ],
        refuse=_refuse,
        statuses={**STATUS, UnknownModel: 400, Unauthenticated: 403},
        credential=deepl.credential,
        paths=paths(),
        prefix="/v2",
    )


class _DeepL:
    """Its handlers."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._characters = 0

    async def credential(self, request: Request) -> str | None:
        """``Authorization: DeepL-Auth-Key``, the older field ``auth_key``, or as for other APIs."""
        header = request.headers.get("authorization", "")
        if header[: len(_SCHEME)].lower() == _SCHEME:
            return header[len(_SCHEME) :].strip()
        key = (await self._fields(request)).first("auth_key")
        return key if isinstance(key, str) and key else credential_of(request.headers.items())

    async def translate(self, request: Request) -> Response:
        """``POST /v2/translate``: each text, in order."""
        asked = _read(await self._fields(request))
        texts = [asked.text] if isinstance(asked.text, str) else asked.text
        _check(asked, texts)
        source, target = self._languages(asked)
        ignored = _names(asked.ignore_tags) if asked.tag_handling else frozenset()
        answers = await self._desk.translate(
            Order(
                texts=[hide(text, ignored) for text in texts] if ignored else texts,
                field="text",
                source=source,
                target=target,
                media_type=MediaType.HTML if asked.tag_handling else MediaType.PLAIN,
                arrived=arrived_at(request),
                deadline=deadline_of(request),
                tenant=tenant_of(request.headers.items()),
            )
        )
        self._characters += sum(map(len, texts))
        translations = []
        for text, answer in zip(texts, answers, strict=True):
            found = answer.detected.language if answer.detected else source
            one: dict[str, Any] = {
                "detected_source_language": _source_code(found or self._desk.pairs()[0][0]),
                "text": show(answer.text, ignored) if ignored else answer.text,
            }
            if asked.show_billed_characters:
                one["billed_characters"] = len(text)
            if asked.model_type:
                one["model_type_used"] = "latency_optimized"
            translations.append(one)
        return JSONResponse({"translations": translations})

    async def languages(self, request: Request) -> Response:
        """``/v2/languages``: what texts may be in, or with ``type=target`` become."""
        kind = (await self._fields(request)).first("type") or "source"
        if kind not in ("source", "target"):  # a tuple: of JSON it may be anything
            raise HTTPException(400, "Value for 'type' not supported.")
        pairs = self._desk.pairs()
        if kind == "source":
            codes = {_source_code(source) for source, _ in pairs}
            found = [{"language": code, "name": language_name(code)} for code in sorted(codes)]
            return JSONResponse(found)
        return JSONResponse(
            [
                {
                    "language": _target_code(code),
                    "name": language_name(code),
                    "supports_formality": False,
                }
                for code in sorted({target for _, target in pairs})
            ]
        )

    async def usage(self, request: Request) -> Response:
        """``/v2/usage``: characters that were translated, and how many may be."""
        del request
        count, limit = current_visit.get().characters() or (self._characters, None)
        limit = _UNLIMITED if limit is None else limit
        return JSONResponse({"character_count": count, "character_limit": limit})

    async def _fields(self, request: Request) -> Fields:
        """The request's fields, read once."""
        found: Fields | None = getattr(request.state, "fields", None)
        if found is None:
            settings = self._desk.settings
            found = await fields_of(request, settings.max_texts, settings.max_message_bytes)
            request.state.fields = found
        return found

    def _languages(self, asked: Asked) -> tuple[str, str]:
        """Source ("" = find out) and target, BCP-47.

        Raises:
            HTTPException: 400, a language is none of this server's.
        """
        pairs = self._desk.pairs()
        sources, targets = [list(dict.fromkeys(codes)) for codes in zip(*pairs, strict=True)]
        source = _bcp47(asked.source_lang, sources)
        target = _bcp47(asked.target_lang, targets)
        # A text may be in the target language already.
        if source and not any(same_language(source, one) for one in [*sources, *targets]):
            raise HTTPException(400, "Value for 'source_lang' not supported.")
        if not any(same_language(target, one) for one in [*targets, *sources]):
            raise HTTPException(400, "Value for 'target_lang' not supported.")
        return source, target


def _read(given: Fields) -> Asked:
    """The fields, of the types that they have.

    Raises:
        InvalidRequest: one is of another.
    """
    lists = {name: given.every(name) for name in ("text", "ignore_tags")}
    others = {name: given.first(name) for name in Asked.model_fields if name not in lists}
    return checked(Asked, lists | others)


def _check(asked: Asked, texts: list[str]) -> None:
    """Nothing, if this server can do what is asked.

    Raises:
        HTTPException: 400, in DeepL's words where it has some.
    """
    if not texts:
        raise HTTPException(400, "Parameter 'text' not specified.")
    if not asked.target_lang:
        raise HTTPException(400, "Parameter 'target_lang' not specified.")
    if asked.formality in {"more", "less"}:
        raise HTTPException(400, "'formality' is not supported for given 'target_lang'.")
    if asked.glossary_id:
        raise HTTPException(400, "'glossary_id' is not supported: this server keeps no glossaries.")


def _names(tags: str | Iterable[str]) -> frozenset[str]:
    """The names of tags, in lower case; commas between, or a list."""
    given = [tags] if isinstance(tags, str) else tags
    names = (name.strip().lower() for one in given for name in one.split(","))
    return frozenset(name for name in names if name)


def _bcp47(code: str, offered: list[str]) -> str:
    """BCP-47 of a code; of ZH, which says no script, a Chinese that is offered."""
    code = code.upper()
    if code == "ZH":
        chinese = [one for one in offered if one.startswith("zh")]
        return "zh-CN" if "zh-CN" in chinese or not chinese else chinese[0]
    return _TO_BCP47.get(code, code)


def _source_code(language: str) -> str:
    return language.partition("-")[0].upper()


def _target_code(language: str) -> str:
    return _FROM_BCP47.get(language, language.upper())


def _refuse(refusal: Refusal) -> Response:
    status, error = refusal.status, refusal.error
    if isinstance(error, QuotaExceeded):
        seconds = error.retry_after_seconds
        later = seconds is None or seconds > _SOON_SECONDS
        status = _QUOTA_EXCEEDED if later else status
        message = "Quota exceeded" if later else "Too many requests"
        return JSONResponse({"message": message, "detail": refusal.message}, status)
    if isinstance(error, Unauthenticated):
        return JSONResponse({"message": "Forbidden", "detail": refusal.message}, status)
    if isinstance(error, (InvalidRequest, UnknownModel)):
        return JSONResponse({"message": "Bad request", "detail": refusal.message}, status)
    return JSONResponse({"message": refusal.message}, status)


def paths() -> dict[str, Json]:
    """What OpenAPI says of the routes."""
    error = fields("message", message=TEXT, detail=TEXT)
    usual = "400 403 404 405 408 413 415 429 456 503 504"
    forms = ("application/json", "application/x-www-form-urlencoded")
    words = listed(TEXT)
    asked = fields(
        "text target_lang",
        text=words,
        target_lang={**TEXT, "examples": ["ZH-HANT"]},
        source_lang={**TEXT, "examples": ["EN"]},
        tag_handling={**TEXT, "enum": ["html", "xml"]},
        formality={**TEXT, "enum": ["default", "prefer_more", "prefer_less"]},
        split_sentences={**TEXT, "enum": ["0", "1", "nonewlines"]},
        preserve_formatting=FLAG,
        show_billed_characters=FLAG,
        ignore_tags=words,
        context=TEXT,
    )
    one = fields(
        "detected_source_language text",
        detected_source_language=TEXT,
        text=TEXT,
        billed_characters=WHOLE,
        model_type_used=TEXT,
    )
    kind = {"name": "type", "in": "query", "schema": {**TEXT, "enum": ["source", "target"]}}
    language = fields("language name", language=TEXT, name=TEXT, supports_formality=FLAG)
    usage = fields("character_count character_limit", character_count=WHOLE, character_limit=WHOLE)
    keyed: dict[str, Any] = {"security": [{}, {"deepl": []}, {"bearer": []}]}
    return {
        "/v2/translate": {
            "post": operation(
                "Translate", fields("translations", translations=listed(one)), error, usual,
                requestBody=body(asked, *forms), **keyed,
            )
        },
        "/v2/languages": {
            "get": operation(
                "Languages", listed(language), error, usual, parameters=[kind], **keyed
            )
        },
        "/v2/usage": {"get": operation("Usage", usage, error, usual, **keyed)},
    }  # fmt: skip
