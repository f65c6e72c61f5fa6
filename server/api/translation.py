"""``dragoman.v1.TranslationService``."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc

from dragoman.v1 import translation_pb2, translation_pb2_grpc
from server.api import convert
from server.settings import Settings
from server.text.catalogue import Catalogue
from server.text.pipeline import TranslationPipeline
from server.text.request import Delta, TranslationRequest

Context = grpc.aio.ServicerContext[Any, Any]


class TranslationService(translation_pb2_grpc.TranslationServiceServicer):
    """Limits, conversion, and the pipeline in between."""

    def __init__(self, catalogue: Catalogue, settings: Settings) -> None:
        """Set the models and the limits."""
        self._catalogue = catalogue
        self._settings = settings

    async def Translate(  # noqa: N802  the wire's name
        self, request: translation_pb2.TranslateRequest, context: Context
    ) -> translation_pb2.TranslateResponse:
        """Every text's translation, in order."""
        names = [f"texts[{index}]" for index in range(len(request.texts))]
        pipeline, plain = self._read(request, list(request.texts), names, context)
        results = await pipeline.translate(plain)
        return translation_pb2.TranslateResponse(
            translations=[convert.translation_message(result) for result in results],
            model=convert.model_reference(pipeline.bundle),
        )

    async def TranslateStream(  # noqa: N802  the wire's name
        self, request: translation_pb2.TranslateStreamRequest, context: Context
    ) -> AsyncIterator[translation_pb2.TranslateStreamResponse]:
        """The text's translation piece by piece, then whole."""
        pipeline, plain = self._read(request, [request.text], ["text"], context)
        async with contextlib.aclosing(pipeline.stream(plain)) as events:
            async for event in events:
                if isinstance(event, Delta):
                    delta = translation_pb2.TextDelta(
                        text=event.text, sentence_index=event.sentence_index
                    )
                    yield translation_pb2.TranslateStreamResponse(delta=delta)
                else:
                    result = translation_pb2.StreamResult(
                        translation=convert.translation_message(event),
                        model=convert.model_reference(pipeline.bundle),
                    )
                    yield translation_pb2.TranslateStreamResponse(result=result)

    def _read(
        self,
        request: translation_pb2.TranslateRequest | translation_pb2.TranslateStreamRequest,
        texts: list[str],
        names: list[str],
        context: Context,
    ) -> tuple[TranslationPipeline, TranslationRequest]:
        """Who translates, and what; everything is checked before anything is computed."""
        now = time.monotonic()
        remaining = context.time_remaining()
        plain = convert.translation_request(
            request,
            texts,
            names,
            self._settings,
            arrived=now,
            deadline=None if remaining is None else now + remaining,
        )
        pipeline = self._catalogue.find(
            request.source_language, request.target_language, request.model
        )
        return pipeline, plain
