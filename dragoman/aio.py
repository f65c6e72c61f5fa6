"""The client for asyncio; the same methods as :class:`dragoman.Client`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Self, overload

import grpc

from dragoman import connection, results
from dragoman.connection import Languages, Tls
from dragoman.errors import from_rpc_error
from dragoman.options import Decoding
from dragoman.results import Delta, Model, Translation
from dragoman.v1 import models_pb2, models_pb2_grpc, translation_pb2_grpc


class AsyncClient:
    """A connection to a server, for one event loop; reuse it, connections are dear."""

    def __init__(
        self, target: str | None = None, *, api_key: str | None = None, tls: Tls | None = None
    ) -> None:
        """Connect when first needed.

        Args:
            target: ``host:port``; default: ``$DRAGOMAN_TARGET``, else ``localhost:50051``.
            api_key: sent with every call; default: ``$DRAGOMAN_API_KEY``.
            tls: encrypt; None = plain text.
        """
        target = connection.resolve_target(target)
        options = connection.CHANNEL_OPTIONS
        if tls is None:
            self._channel = grpc.aio.insecure_channel(target, options)
        else:
            self._channel = grpc.aio.secure_channel(target, tls.credentials(), options)
        self._metadata = connection.call_metadata(api_key)
        # One stub class serves both kinds of channel; its types know of both.
        self._translation: translation_pb2_grpc.TranslationServiceAsyncStub = (
            translation_pb2_grpc.TranslationServiceStub(self._channel)
        )
        self._models: models_pb2_grpc.ModelServiceAsyncStub = models_pb2_grpc.ModelServiceStub(
            self._channel
        )

    @overload
    async def translate(  # type: ignore[overload-overlap]
        self,
        texts: str,
        *,
        target_language: str,
        source_language: str = ...,
        model: str | None = ...,
        decoding: Decoding | None = ...,
        timeout_seconds: float | None = ...,
    ) -> Translation: ...

    @overload
    async def translate(
        self,
        texts: Sequence[str],
        *,
        target_language: str,
        source_language: str = ...,
        model: str | None = ...,
        decoding: Decoding | None = ...,
        timeout_seconds: float | None = ...,
    ) -> list[Translation]: ...

    async def translate(
        self,
        texts: str | Sequence[str],
        *,
        target_language: str,
        source_language: str = "en",
        model: str | None = None,
        decoding: Decoding | None = None,
        timeout_seconds: float | None = 60.0,
    ) -> Translation | list[Translation]:
        """One text's translation, or as many as there are texts, in their order.

        Raises:
            DragomanError: see ``dragoman.errors``.
        """
        languages = Languages(
            source_language=source_language, target_language=target_language, model=model
        )
        alone = isinstance(texts, str)
        every = [texts] if isinstance(texts, str) else texts
        request = connection.translate_request(every, languages, decoding)
        try:
            response = await self._translation.Translate(
                request, timeout=timeout_seconds, metadata=self._metadata
            )
        except grpc.RpcError as error:
            raise from_rpc_error(error) from None
        found = results.translations(response)
        return found[0] if alone else found

    async def translate_stream(
        self,
        text: str,
        *,
        target_language: str,
        source_language: str = "en",
        model: str | None = None,
        decoding: Decoding | None = None,
        timeout_seconds: float | None = 60.0,
    ) -> AsyncIterator[Delta | Translation]:
        """Pieces as they are decoded, then the whole; closing the iterator cancels the call.

        Raises:
            DragomanError: see ``dragoman.errors``.
        """
        languages = Languages(
            source_language=source_language, target_language=target_language, model=model
        )
        request = connection.stream_request(text, languages, decoding)
        call = self._translation.TranslateStream(
            request, timeout=timeout_seconds, metadata=self._metadata
        )
        try:
            async for message in call:
                if message.WhichOneof("event") == "delta":
                    yield Delta(message.delta.text, message.delta.sentence_index)
                else:
                    result = message.result
                    yield results.translation(result.translation, result.model)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from None
        finally:
            call.cancel()

    async def list_models(self, timeout_seconds: float | None = 10.0) -> list[Model]:
        """The server's models, by name."""
        request = models_pb2.ListModelsRequest()
        try:
            response = await self._models.ListModels(
                request, timeout=timeout_seconds, metadata=self._metadata
            )
        except grpc.RpcError as error:
            raise from_rpc_error(error) from None
        return [results.model(item) for item in response.models]

    async def get_model(self, name: str, timeout_seconds: float | None = 10.0) -> Model:
        """One model."""
        request = models_pb2.GetModelRequest(name=name)
        try:
            response = await self._models.GetModel(
                request, timeout=timeout_seconds, metadata=self._metadata
            )
        except grpc.RpcError as error:
            raise from_rpc_error(error) from None
        return results.model(response.model)

    async def close(self) -> None:
        """Close the connection; calls in flight are cancelled."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        """The client itself."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        await self.close()
