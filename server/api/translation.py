"""``dragoman.v1.TranslationService``."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc

from dragoman.v1 import translation_pb2, translation_pb2_grpc
from server.access.gate import current_visit
from server.api import convert
from server.errors import InvalidRequest
from server.settings import Settings
from server.text.catalogue import Catalogue
from server.text.pace import Pace
from server.text.pipeline import TranslationPipeline
from server.text.request import Delta, TextResult, TranslationRequest

_TENANT_KEY = "dragoman-tenant"
# Stochastic fairness queueing (McKenney 1990): the line tells this many tenants apart and no more,
# whatever callers say; who shares a number with whom changes with every start.
_TENANTS = 1024
_SALT = os.urandom(16)

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
        current_visit.get().spend(sum(map(_tokens, results)))
        response = translation_pb2.TranslateResponse(model=convert.model_reference(pipeline.bundle))
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
        pipeline, plain = self._read(request, [request.text], ["text"], context)
        async with contextlib.aclosing(pipeline.stream(plain)) as events:
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
        visit = current_visit.get()
        now = time.monotonic()
        remaining = context.time_remaining()
        plain = convert.translation_request(
            request,
            texts,
            names,
            self._settings,
            convert.Caller(
                arrived=now,
                deadline=None if remaining is None else now + remaining,
                # A key says whose work it is; what the caller says beside it does not count.
                tenant=visit.tenant or _tenant(context),
            ),
        )
        pipeline = self._catalogue.find(
            request.source_language, request.target_language, request.model
        )
        visit.charge(sum(map(len, texts)))
        return pipeline, plain


def _tokens(result: TextResult) -> int:
    """What counts against a quota: tokens read and written, from memory or not."""
    return result.source_tokens + result.target_tokens


def _tenant(context: Context) -> str:
    """Whose work it is, as the caller or a proxy in front says: a number that tells no name."""
    for key, value in context.invocation_metadata() or ():
        if key == _TENANT_KEY and isinstance(value, str) and value:
            digest = hashlib.blake2b(value.encode(), key=_SALT, digest_size=8).digest()
            return str(int.from_bytes(digest) % _TENANTS)
    return ""
