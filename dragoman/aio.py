"""The client for asyncio: the same methods as :class:`dragoman.Client`, to be awaited."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from types import TracebackType
from typing import Self, overload

import grpc

from dragoman import bulk, connection, findings, request, results
from dragoman.bulk import BulkResult, Feed
from dragoman.connection import Tls
from dragoman.errors import DeadlineExceededError, UnavailableError, rpc_errors
from dragoman.findings import LanguageCandidate, TextAnalysis
from dragoman.options import Decoding
from dragoman.results import Delta, LoadedModel, ModelInfo, Translation
from dragoman.v1 import models_pb2, models_pb2_grpc, translation_pb2, translation_pb2_grpc


class AsyncClient:
    """A connection to a server, for one event loop; reuse it, connections are dear."""

    def __init__(
        self,
        target: str | None = None,
        *,
        api_key: str | None = None,
        tls: Tls | None = None,
        tenant: str | None = None,
    ) -> None:
        """Set where to call; the connection is made by the first call.

        Args:
            target: ``host:port``; None = ``$DRAGOMAN_TARGET``, else ``localhost:50051``.
            api_key: sent with every call, in the clear without ``tls``;
                None = ``$DRAGOMAN_API_KEY``, if set.
            tls: encrypt; None = plain text.
            tenant: whose work it is, for a server that is shared fairly between tenants.

        Raises:
            InvalidRequestError: an argument cannot be used.
        """
        self.target = connection.resolve_target(target)
        self._metadata = connection.call_metadata(api_key, tenant)
        options = connection.CHANNEL_OPTIONS
        if tls is None:
            self._channel = grpc.aio.insecure_channel(self.target, options)
        else:
            self._channel = grpc.aio.secure_channel(self.target, tls.credentials(), options)
        # One stub class serves both kinds of channel; the types are two.
        self._translation: translation_pb2_grpc.TranslationServiceAsyncStub = (
            translation_pb2_grpc.TranslationServiceStub(self._channel)
        )
        self._models: models_pb2_grpc.ModelServiceAsyncStub = models_pb2_grpc.ModelServiceStub(
            self._channel
        )

    @overload
    async def translate(  # type: ignore[overload-overlap]  # a string is a sequence of strings
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

        Args:
            texts: a text of one or many sentences, or many texts.
            target_language: BCP-47, such as ``zh-TW``.
            source_language: BCP-47.
            model: its name; None lets the server choose one for the languages.
            decoding: None = greedy.
            timeout_seconds: for the call with all its retries; None = no limit.

        Raises:
            DragomanError: one of its subclasses, see :mod:`dragoman.errors`.
        """
        message = request.translate_request(
            texts,
            source_language=source_language,
            target_language=target_language,
            model=model,
            decoding=decoding,
        )
        with rpc_errors():
            response: translation_pb2.TranslateResponse = await self._translation.Translate(
                message, timeout=timeout_seconds, metadata=self._metadata
            )
        found = request.translations(response, len(message.texts))
        return found[0] if isinstance(texts, str) else found

    def translate_stream(
        self,
        text: str,
        *,
        target_language: str,
        source_language: str = "en",
        model: str | None = None,
        decoding: Decoding | None = None,
        timeout_seconds: float | None = 60.0,
    ) -> AsyncGenerator[Delta | Translation, None]:
        """Pieces as they are decoded, then the whole; closing the iterator cancels the call.

        The call begins with the first step of the iterator. Leaving an ``async for`` loop early
        closes it soon after; ``contextlib.aclosing`` does so at once.

        Raises:
            DragomanError: at once if the request is faulty, else while iterating.
        """
        message = request.stream_request(
            text,
            source_language=source_language,
            target_language=target_language,
            model=model,
            decoding=decoding,
        )
        return self._events(message, timeout_seconds)

    async def _events(
        self, message: translation_pb2.TranslateStreamRequest, timeout_seconds: float | None
    ) -> AsyncGenerator[Delta | Translation, None]:
        call = self._translation.TranslateStream(
            message, timeout=timeout_seconds, metadata=self._metadata
        )
        event = None
        try:
            with rpc_errors():
                async for part in call:
                    event = request.stream_event(part)
                    if event is not None:
                        yield event
        finally:
            call.cancel()
        request.check_stream_end(event)

    def translate_bulk(
        self,
        items: Iterable[tuple[str, str]],
        *,
        target_language: str,
        source_language: str = "en",
        model: str | None = None,
        decoding: Decoding | None = None,
        in_order: bool = False,
    ) -> AsyncGenerator[BulkResult, None]:
        """Each item's translation, as they are ready or in order, over one call without a timeout.

        Items are taken as the server has room. Who is cut off calls again with those ids that
        have had no result. Closing the iterator cancels what is left.

        Args:
            items: (id, text) pairs, any number.
            target_language: BCP-47.
            source_language: BCP-47; "" lets the server find out, for each text.
            model: its name; None lets the server choose.
            decoding: None = greedy.
            in_order: whether results come in the order of the items.

        Raises:
            DragomanError: at once if an option is faulty, else while iterating. An item that
                cannot be translated raises nothing: its result says why.
        """
        options = request.bulk_options(
            source_language=source_language,
            target_language=target_language,
            model=model,
            decoding=decoding,
            in_order=in_order,
        )
        return self._bulk_results(Feed(options, items))

    async def _bulk_results(self, feed: Feed) -> AsyncGenerator[BulkResult, None]:
        call = self._translation.TranslateBulk(iter(feed), metadata=self._metadata)
        try:
            with rpc_errors():
                async for message in call:
                    yield bulk.result(message)
        finally:
            call.cancel()
        if feed.error is not None:
            raise feed.error

    async def detect_language(
        self,
        texts: str | Sequence[str],
        *,
        mime_type: str = "",
        max_candidates: int = 3,
        timeout_seconds: float | None = 10.0,
    ) -> list[tuple[LanguageCandidate, ...]]:
        """What each text may be written in, likeliest first.

        Raises:
            DragomanError: as :meth:`translate`.
        """
        message = request.detect_request(texts, mime_type=mime_type, max_candidates=max_candidates)
        with rpc_errors():
            response: translation_pb2.DetectLanguageResponse = (
                await self._translation.DetectLanguage(
                    message, timeout=timeout_seconds, metadata=self._metadata
                )
            )
        return findings.candidates(response)

    async def analyze(
        self,
        texts: str | Sequence[str],
        *,
        target_language: str,
        source_language: str = "",
        model: str | None = None,
        decoding: Decoding | None = None,
        timeout_seconds: float | None = 10.0,
    ) -> list[TextAnalysis]:
        """What each text is made of and what its translation would cost; nothing is translated.

        Raises:
            DragomanError: as :meth:`translate`.
        """
        message = request.analyze_request(
            texts,
            source_language=source_language,
            target_language=target_language,
            model=model,
            decoding=decoding,
        )
        with rpc_errors():
            response: translation_pb2.AnalyzeResponse = await self._translation.Analyze(
                message, timeout=timeout_seconds, metadata=self._metadata
            )
        return [findings.analysis(item) for item in response.analyses]

    async def list_models(self, *, timeout_seconds: float | None = 10.0) -> list[ModelInfo]:
        """The server's models, by name.

        Raises:
            DragomanError: as :meth:`translate`.
        """
        with rpc_errors():
            response: models_pb2.ListModelsResponse = await self._models.ListModels(
                models_pb2.ListModelsRequest(), timeout=timeout_seconds, metadata=self._metadata
            )
        return [results.model_info(item) for item in response.models]

    async def get_model(self, name: str, *, timeout_seconds: float | None = 10.0) -> ModelInfo:
        """One model.

        Raises:
            UnknownModelError: the server has none of that name.
            DragomanError: as :meth:`translate`.
        """
        message = request.model_request(name)
        with rpc_errors():
            response: models_pb2.GetModelResponse = await self._models.GetModel(
                message, timeout=timeout_seconds, metadata=self._metadata
            )
        return results.model_info(response.model)

    async def load_model(self, path: str, *, timeout_seconds: float | None = 300.0) -> LoadedModel:
        """A bundle that lies on the server takes requests; a model of its name is replaced.

        Requests that had begun finish on the old model: a swap fails nobody. Once it is this
        call's turn the server carries the change out, also if the timeout passes.

        Args:
            path: the bundle's directory, relative to the server's ``model_root``.
            timeout_seconds: for the call, which may wait for other changes first.

        Raises:
            UnauthenticatedError: the server lets nobody change its models.
            FailedPreconditionError: the bundle cannot be used; the models are as they were.
            DragomanError: as :meth:`translate`.
        """
        message = request.load_request(path)
        with rpc_errors():
            response: models_pb2.LoadModelResponse = await self._models.LoadModel(
                message, timeout=timeout_seconds, metadata=self._metadata
            )
        return results.loaded_model(response)

    async def unload_model(self, name: str, *, timeout_seconds: float | None = 300.0) -> ModelInfo:
        """The model takes no more requests; its memory is freed when those begun have finished.

        Raises:
            UnauthenticatedError: the server lets nobody change its models.
            UnknownModelError: the server has none of that name.
            FailedPreconditionError: it is the last one.
            DragomanError: as :meth:`translate`.
        """
        message = request.unload_request(name)
        with rpc_errors():
            response: models_pb2.UnloadModelResponse = await self._models.UnloadModel(
                message, timeout=timeout_seconds, metadata=self._metadata
            )
        return results.model_info(response.model)

    async def is_ready(self, *, timeout_seconds: float | None = 5.0) -> bool:
        """Whether the server is there and takes requests (``grpc.health.v1``).

        Raises:
            DragomanError: it is there, but will not say.
        """
        check: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(
            request.HEALTH_METHOD
        )
        try:
            with rpc_errors():
                status: bytes = await check(
                    request.HEALTH_REQUEST, timeout=timeout_seconds, metadata=self._metadata
                )
        except (UnavailableError, DeadlineExceededError):
            return False
        return status == request.HEALTH_SERVING

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
