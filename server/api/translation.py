"""``dragoman.v1.TranslationService``."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc

from dragoman.v1 import translation_pb2, translation_pb2_grpc
from server.access.gate import current_visit
from server.api import convert, text_messages
from server.api.tenant import tenant_of
from server.errors import InvalidRequest
from server.settings import Settings
from server.text import bulk
from server.text.bulk import Item
from server.text.catalogue import Catalogue
from server.text.pace import Pace
from server.text.request import Delta, TextResult, TranslationRequest
from server.text.translator import Translator

_CANDIDATES, _MOST_CANDIDATES = 3, 20
_LONGEST_ID = 256

Context = grpc.aio.ServicerContext[Any, Any]


class TranslationService(translation_pb2_grpc.TranslationServiceServicer):
    """Limits, conversion, and the pipeline in between."""

    def __init__(self, catalogue: Catalogue, settings: Settings) -> None:
        """Set the models and the limits."""
        self._translator = Translator(catalogue, settings.pivot_languages)
        self._settings = settings

    async def Translate(  # noqa: N802  the wire's name
        self, request: translation_pb2.TranslateRequest, context: Context
    ) -> translation_pb2.TranslateResponse:
        """Every text's translation, in order."""
        names = [f"texts[{index}]" for index in range(len(request.texts))]
        plain = self._read(request, list(request.texts), names, context)
        visit = current_visit.get()
        visit.charge(sum(map(len, plain.texts)))
        results = await self._translator.translate(plain)
        visit.spend(sum(map(_tokens, results)))
        response = translation_pb2.TranslateResponse(model=_model(results))
        pace = Pace()
        for result in results:
            response.translations.append(convert.translation_message(result))
            await pace.pause()
        return response

    async def TranslateStream(  # noqa: N802  the wire's name
        self, request: translation_pb2.TranslateStreamRequest, context: Context
    ) -> AsyncIterator[translation_pb2.TranslateStreamResponse]:
        """The text's translation piece by piece, then whole."""
        if request.decoding.WhichOneof("strategy") == "beam":
            raise InvalidRequest("decoding.beam", "what is likeliest may change to the last step")
        plain = self._read(request, [request.text], ["text"], context)
        current_visit.get().charge(len(request.text))
        async with contextlib.aclosing(self._translator.stream(plain)) as events:
            async for event in events:
                if isinstance(event, Delta):
                    delta = translation_pb2.TextDelta(
                        text=event.text, sentence_index=event.sentence_index
                    )
                    yield translation_pb2.TranslateStreamResponse(delta=delta)
                else:
                    current_visit.get().spend(_tokens(event))
                    result = translation_pb2.StreamResult(
                        translation=convert.translation_message(event),
                        model=convert.model_reference(event),
                    )
                    yield translation_pb2.TranslateStreamResponse(result=result)

    async def TranslateBulk(  # noqa: N802  the wire's name
        self,
        request_iterator: AsyncIterator[translation_pb2.TranslateBulkRequest],
        context: Context,
    ) -> AsyncIterator[translation_pb2.TranslateBulkResponse]:
        """Each item's translation, or why there is none."""
        first = await anext(request_iterator, None)
        if first is None:
            return
        if first.WhichOneof("message") != "options":
            raise InvalidRequest("options", "must be the first message")
        options = first.options
        # What holds for all items is checked once, before the first one comes.
        asked = self._read(options, ["."], ["text"], context)
        self._translator.check(asked)
        visit = current_visit.get()
        if asked.bulk is None:
            asked = dataclasses.replace(asked, bulk=True)

        async def translate(item: Item) -> TextResult:
            convert.check_texts([item.text], ["text"], self._settings)
            plain = dataclasses.replace(asked, texts=[item.text], arrived=time.monotonic())
            visit.charge(len(item.text))
            (result,) = await self._translator.translate(plain)
            visit.spend(_tokens(result))
            return result

        results = bulk.translated(
            _items(request_iterator),
            translate,
            window=self._settings.bulk_window,
            in_order=options.in_order,
        )
        async with contextlib.aclosing(results):
            async for done in results:
                yield convert.bulk_message(done)

    async def DetectLanguage(  # noqa: N802  the wire's name
        self, request: translation_pb2.DetectLanguageRequest, context: Context
    ) -> translation_pb2.DetectLanguageResponse:
        """What each text may be in."""
        del context
        texts = list(request.texts)
        names = [f"texts[{index}]" for index in range(len(texts))]
        convert.check_texts(texts, names, self._settings)
        if not 0 <= request.max_candidates <= _MOST_CANDIDATES:
            raise InvalidRequest("max_candidates", f"must be 0 to {_MOST_CANDIDATES}")
        media_type = text_messages.media_type(request.mime_type)
        most = request.max_candidates or _CANDIDATES
        current_visit.get().charge(sum(map(len, texts)))
        found = await self._translator.detect(texts, media_type, most)
        return translation_pb2.DetectLanguageResponse(
            detections=[text_messages.detection_message(guesses) for guesses in found]
        )

    async def Analyze(  # noqa: N802  the wire's name
        self, request: translation_pb2.AnalyzeRequest, context: Context
    ) -> translation_pb2.AnalyzeResponse:
        """What each text is made of and would cost."""
        del context
        texts = list(request.texts)
        names = [f"texts[{index}]" for index in range(len(texts))]
        convert.check_texts(texts, names, self._settings)
        plain = TranslationRequest(
            texts=texts,
            field_names=names,
            arrived=time.monotonic(),
            **text_messages.text_options(request, self._settings),
        )
        current_visit.get().charge(sum(map(len, texts)))
        found = await self._translator.analyze(plain)
        return translation_pb2.AnalyzeResponse(
            analyses=[text_messages.analysis_message(one) for one in found]
        )

    def _read(
        self,
        request: translation_pb2.TranslateRequest
        | translation_pb2.TranslateStreamRequest
        | translation_pb2.BulkOptions,
        texts: list[str],
        names: list[str],
        context: Context,
    ) -> TranslationRequest:
        """What is asked; all but the languages is checked before anything is computed."""
        visit = current_visit.get()
        now = time.monotonic()
        remaining = context.time_remaining()
        return convert.translation_request(
            request,
            texts,
            names,
            self._settings,
            convert.Caller(
                arrived=now,
                deadline=None if remaining is None else now + remaining,
                # A key says whose work it is; what the caller says beside it does not count.
                tenant=visit.tenant or tenant_of(context.invocation_metadata() or ()),
            ),
        )


async def _items(
    messages: AsyncIterator[translation_pb2.TranslateBulkRequest],
) -> AsyncIterator[Item]:
    """The items of a bulk stream.

    Raises:
        InvalidRequest: a message is none.
    """
    async for message in messages:
        if message.WhichOneof("message") != "item":
            raise InvalidRequest("item", "must be in every message after the first")
        if len(message.item.id) > _LONGEST_ID:
            raise InvalidRequest("item.id", f"is longer than {_LONGEST_ID} characters")
        yield Item(message.item.id, message.item.text)


def _model(results: list[TextResult]) -> translation_pb2.ModelReference | None:
    """The model of a call's translations: the first that any of them went through."""
    found = (convert.model_reference(result) for result in results)
    return next((model for model in found if model is not None), None)


def _tokens(result: TextResult) -> int:
    """What counts against a quota: tokens read and written, from memory or not."""
    return result.source_tokens + result.target_tokens
