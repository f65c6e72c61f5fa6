"""The least that a gRPC front can be: text to ids, the engine, ids to text.

What somebody writes around an engine in an afternoon. It finds no sentences, protects nothing,
checks, refuses, counts, times and explains nothing. Behind it two engines are compared almost
alone; the difference to our own front is what serving costs, whichever engine runs.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any

import grpc
import numpy as np

from dragoman.v1 import translation_pb2
from server.bundle import Bundle
from server.engine.request import Sequence, default_max_tokens
from server.text.single_flight import Runner
from server.text.tokenizer import tokenizers_of

_SERVICE = "dragoman.v1.TranslationService"


class BareFront:
    """``Translate`` of our contract, alone, and a port."""

    def __init__(self, bundle: Bundle, engine: Runner, address: str) -> None:
        """Read the tokenizers and take the port."""
        self._manifest = bundle.manifest
        self._source, self._target = tokenizers_of(bundle)
        self._engine = engine
        self._server = grpc.aio.server()
        translate = grpc.unary_unary_rpc_method_handler(
            self._translate,
            request_deserializer=translation_pb2.TranslateRequest.FromString,
            response_serializer=translation_pb2.TranslateResponse.SerializeToString,
        )
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(_SERVICE, {"Translate": translate}),)
        )
        self.port = self._server.add_insecure_port(address)

    async def start(self) -> None:
        """Listen."""
        await self._server.start()

    async def stop(self, grace_seconds: float) -> None:
        """Listen no more."""
        await self._server.stop(grace_seconds)

    async def _translate(
        self,
        request: translation_pb2.TranslateRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> translation_pb2.TranslateResponse:
        """Every text's translation, each taken for one sentence."""
        del context
        now = time.monotonic()
        sequences = [self._sequence(text, now) for text in request.texts]
        async with contextlib.aclosing(self._engine.generate(sequences)) as progress:
            async for _ in progress:
                pass
        return translation_pb2.TranslateResponse(
            translations=[
                translation_pb2.Translation(text=self._target.decode(one.target_ids))
                for one in sequences
            ]
        )

    def _sequence(self, text: str, now: float) -> Sequence:
        ids = self._source.encode(text)
        shape = self._manifest.shape
        ids = ids[: shape.max_source_tokens - 1]
        return Sequence(
            source_ids=np.array([*ids, self._manifest.tokens.eos], np.int64),
            max_tokens=min(default_max_tokens(len(ids)), shape.max_target_tokens),
            arrived=now,
        )
