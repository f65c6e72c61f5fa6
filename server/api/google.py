"""Google Cloud Translation v3 on the gRPC port: TranslateText, DetectLanguage, supported languages.

The messages are those of the package google-cloud-translate, which the extra ``google`` installs;
where it is not, this API is not served. Their definitions stand in no lighter package, and a copy
of them here would be one more to keep up. Reading the package takes half a second, so that a thread
does it while models are loaded.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import langcodes

from server.api.desk import Answer, Desk, Order
from server.api.tenant import tenant_of
from server.errors import InvalidRequest
from server.text.request import MediaType

SERVICE = "google.cloud.translation.v3.TranslationService"
_PACKAGE = "google.cloud.translate_v3"
# Blank is HTML here, as it is there.
_MEDIA_TYPES = {"": MediaType.HTML, "text/html": MediaType.HTML, "text/plain": MediaType.PLAIN}
# Names of Google's own models: here whatever serves the pair.
_GENERAL = frozenset({"nmt", "base", "translation-llm"})
_UNDETERMINED = "und"
_LONGEST_CODE = 35  # RFC 5646, section 4.4.1

Context = grpc.aio.ServicerContext[Any, Any]
# Made by proto-plus while a program runs: nothing is known of them before.
Message = Any


def installed() -> bool:
    """Whether this API can be served."""
    with contextlib.suppress(ModuleNotFoundError):  # of a package above it
        return importlib.util.find_spec(_PACKAGE) is not None
    return False


class GoogleTranslation(grpc.GenericRpcHandler):
    """The service, for :class:`server.api.door.Door`."""

    def __init__(self, desk: Desk) -> None:
        """Begin to read the package."""
        self._desk = desk
        self._methods: dict[str, Callable[[Message, Context], Awaitable[Message]]] = {
            "TranslateText": self._translate_text,
            "DetectLanguage": self._detect_language,
            "GetSupportedLanguages": self._get_supported_languages,
        }
        threading.Thread(target=_types, name="google-types", daemon=True).start()

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The handler of one of its methods; None for any other."""
        service, _, method = handler_call_details.method[1:].partition("/")
        behaviour = self._methods.get(method)
        if service != SERVICE or behaviour is None:
            return None
        return grpc.unary_unary_rpc_method_handler(
            behaviour,
            request_deserializer=_message(f"{method}Request").FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )

    async def _translate_text(self, request: Message, context: Context) -> Message:
        """Each of the contents, in order."""
        if request.HasField("glossary_config"):
            why = "this server keeps no glossaries; dragoman.v1 takes terms with a request"
            raise InvalidRequest("glossary_config", why)
        if request.transliteration_config.enable_transliteration:
            raise InvalidRequest("transliteration_config", "nothing is transliterated here")
        _check_code("target_language_code", request.target_language_code, needed=True)
        _check_code("source_language_code", request.source_language_code)
        now, remaining = time.monotonic(), context.time_remaining()
        name = request.model.rpartition("/")[2]
        order = Order(
            texts=list(request.contents),
            field="contents",
            source=request.source_language_code,
            target=request.target_language_code,
            media_type=_media_type(request.mime_type),
            model="" if name in _GENERAL else name,
            arrived=now,
            deadline=None if remaining is None else now + remaining,
            tenant=tenant_of(context.invocation_metadata() or ()),
        )
        answers = await self._desk.translate(order)
        response = _message("TranslateTextResponse")()
        for answer in answers:
            one = response.translations.add(translated_text=answer.text)
            if not order.source:
                one.detected_language_code = (
                    answer.detected.language if answer.detected else _UNDETERMINED
                )
            if request.model:
                one.model = _model(request.parent, answer)
        return response

    async def _detect_language(self, request: Message, context: Context) -> Message:
        """What the content may be in, likeliest first."""
        del context
        if not request.content:
            raise InvalidRequest("content", "is missing")
        media_type = _media_type(request.mime_type)
        (guesses,) = await self._desk.detect([request.content], "content", media_type)
        response = _message("DetectLanguageResponse")()
        for guess in guesses:
            response.languages.add(language_code=guess.language, confidence=guess.confidence)
        if not guesses:
            response.languages.add(language_code=_UNDETERMINED, confidence=0.0)
        return response

    async def _get_supported_languages(self, request: Message, context: Context) -> Message:
        """What can be translated, from and to."""
        del context
        shown = request.display_language_code
        _check_code("display_language_code", shown)
        pairs = self._desk.pairs()
        sources = {source for source, _ in pairs}
        targets = {target for _, target in pairs}
        response = _message("SupportedLanguages")()
        for code in sorted(sources | targets):
            response.languages.add(
                language_code=code,
                display_name=langcodes.Language.get(code).display_name(shown) if shown else "",
                support_source=code in sources,
                support_target=code in targets,
            )
        return response


@functools.cache
def _types() -> Any:  # noqa: ANN401  see Message
    return importlib.import_module(f"{_PACKAGE}.types")


@functools.cache
def _message(name: str) -> Any:  # noqa: ANN401  see Message
    """The plain protobuf class behind one of proto-plus."""
    return getattr(_types(), name).pb()


def _media_type(name: str) -> MediaType:
    """The type of contents.

    Raises:
        InvalidRequest: there is no such.
    """
    media_type = _MEDIA_TYPES.get(name.partition(";")[0].strip().lower())
    if media_type is None:
        raise InvalidRequest("mime_type", "must be text/plain or text/html")
    return media_type


def _check_code(field: str, code: str, *, needed: bool = False) -> None:
    """Nothing, if it is a language's.

    Raises:
        InvalidRequest: it is not.
    """
    if not code and needed:
        raise InvalidRequest(field, "is missing")
    if code and (len(code) > _LONGEST_CODE or not langcodes.tag_is_valid(code)):
        raise InvalidRequest(field, "is not a BCP-47 language code")


def _model(parent: str, answer: Answer) -> str:
    """The resource name of the model that wrote an answer."""
    route = answer.result.route if answer.result else ()
    return f"{parent}/models/{route[-1].name}" if route else ""
