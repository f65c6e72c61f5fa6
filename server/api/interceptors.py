"""What every RPC passes through: the watch, errors to status codes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from server.access.gate import credential_of
from server.api import google
from server.api.status import metadata_of, status_of
from server.api.tenant import tenant_of
from server.api.watch import REQUEST_ID, Watch, Watcher, request_id_of
from server.errors import InvalidRequest, Overloaded, Unauthenticated

_OURS = ("/dragoman.v1.", f"/{google.SERVICE}/")
_SHEDDABLE = ("/dragoman.v1.TranslationService/", f"/{google.SERVICE}/")
_REFLECTION = "/grpc.reflection."

# The stubs know only the handlers of the synchronous server.
Handler = Any
Reader = Callable[[bytes], Any]
Context = grpc.aio.ServicerContext[Any, Any]

_OVERLOAD = Overloaded("more requests come than can be answered", retry_after_seconds=0.5)
_OVERLOAD_DETAILS = metadata_of(_OVERLOAD)


class Observer(grpc.aio.ServerInterceptor):
    """Wraps every method of this project's services; health and reflection pass untouched."""

    def __init__(self, watcher: Watcher, *, open_reflection: bool) -> None:
        """Set what requests meet, and whether reflection asks for no key."""
        self._watcher = watcher
        self._open_reflection = open_reflection

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """The handler, wrapped."""
        handler = await continuation(handler_call_details)
        path = handler_call_details.method
        if path.startswith(_REFLECTION) and not self._open_reflection:
            return self._guarded(handler, handler_call_details)
        if handler is None or not path.startswith(_OURS):
            return handler
        method = path[1:]
        if handler.request_streaming:
            return grpc.stream_stream_rpc_method_handler(
                self._duplex(method, handler.stream_stream, handler.request_deserializer),
                response_serializer=handler.response_serializer,
            )
        if path.startswith(_SHEDDABLE):
            refusal = self._refusal(handler_call_details)
            if refusal is not None:
                return self._refused(method, handler, refusal)
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self._stream(method, handler.unary_stream, handler.request_deserializer),
                response_serializer=handler.response_serializer,
            )
        return grpc.unary_unary_rpc_method_handler(
            self._unary(method, handler.unary_unary, handler.request_deserializer),
            response_serializer=handler.response_serializer,
        )

    def _guarded(self, handler: Handler, details: grpc.HandlerCallDetails) -> Handler:
        """The handler, for callers with a key; for others one that refuses."""
        try:
            self._watcher.gate.identify(credential_of(details.invocation_metadata or ()))
        except Unauthenticated as error:
            code, message = status_of(error), str(error)

            async def refuse(_: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
                await context.abort(code, message)
                yield b""

            return grpc.stream_stream_rpc_method_handler(refuse)
        return handler

    def _refusal(self, details: grpc.HandlerCallDetails) -> Overloaded | Unauthenticated | None:
        """Why the call is refused, where it is one too many in a queue that does not go away.

        Whose it is has been looked up by then, in microseconds: who has no known key is told that,
        and not to come again.
        """
        headers = details.invocation_metadata or ()
        unknown: Unauthenticated | None = None

        def tenant() -> str:
            nonlocal unknown
            try:
                key = self._watcher.gate.identify(credential_of(headers))
            except Unauthenticated as error:
                unknown = error
                return ""
            return tenant_of(headers) if key is None else key.name

        return (unknown or _OVERLOAD) if self._watcher.queue.sheds(tenant) else None

    def _refused(
        self, method: str, handler: Handler, refusal: Overloaded | Unauthenticated
    ) -> Handler:
        """A handler that refuses who has a deadline before anything is read, parsed or watched.

        It serves the others: only once a handler runs it is known whether a call has a deadline.
        """
        metrics = self._watcher.metrics
        code, overloaded = status_of(refusal), refusal is _OVERLOAD
        details = _OVERLOAD_DETAILS if overloaded else metadata_of(refusal)

        async def call(_: AsyncIterator[bytes], context: Context) -> None:
            if context.time_remaining() is None:
                await self._served(method, handler, context)
                return
            metrics.rejections.labels("door" if overloaded else "unauthenticated").inc()
            metrics.requests.labels(_name(*method.split("/")), code.name).inc()
            request_id = request_id_of(context.invocation_metadata() or ())
            context.set_trailing_metadata((*details, (REQUEST_ID, request_id)))
            context.set_details(str(refusal))
            context.set_code(code)  # to raise it would take half as long again

        return grpc.stream_stream_rpc_method_handler(
            call, response_serializer=handler.response_serializer
        )

    async def _served(self, method: str, handler: Handler, context: Context) -> None:
        """Read a call's one message and answer it."""
        message = await context.read()
        if not isinstance(message, bytes):  # the caller left
            return
        read = handler.request_deserializer
        if handler.response_streaming:
            async for response in self._stream(method, handler.unary_stream, read)(
                message, context
            ):
                await context.write(response)
            return
        await context.write(await self._unary(method, handler.unary_unary, read)(message, context))

    def _unary(
        self, method: str, behaviour: Callable[[Any, Context], Awaitable[Any]], read: Reader
    ) -> Callable[[bytes, Context], Awaitable[Any]]:
        async def call(message: bytes, context: Context) -> Any:  # noqa: ANN401
            rpc = _Call(self._watcher, method, context)
            try:
                entered = rpc.enter()
                response = await behaviour(_parse(read, message), entered)
            except BaseException as error:
                await rpc.fail(error)
                raise
            rpc.close()
            return response

        return call

    def _stream(
        self, method: str, behaviour: Callable[[Any, Context], AsyncIterator[Any]], read: Reader
    ) -> Callable[[bytes, Context], AsyncIterator[Any]]:
        async def call(message: bytes, context: Context) -> AsyncIterator[Any]:
            rpc = _Call(self._watcher, method, context)
            try:
                entered = rpc.enter()
                async for response in behaviour(_parse(read, message), entered):
                    yield response
            except BaseException as error:
                await rpc.fail(error)
                raise
            rpc.close()

        return call

    def _duplex(
        self,
        method: str,
        behaviour: Callable[[AsyncIterator[Any], Context], AsyncIterator[Any]],
        read: Reader,
    ) -> Callable[[AsyncIterator[bytes], Context], AsyncIterator[Any]]:
        async def call(messages: AsyncIterator[bytes], context: Context) -> AsyncIterator[Any]:
            rpc = _Call(self._watcher, method, context)
            parsed = (_parse(read, message) async for message in messages)
            try:
                async for response in behaviour(parsed, rpc.enter()):
                    yield response
            except BaseException as error:
                await rpc.fail(error)
                raise
            rpc.close()

        return call


class _Call:
    """An RPC and the watch on it."""

    def __init__(self, watcher: Watcher, path: str, context: Context) -> None:
        service, _, method = path.partition("/")
        method = _name(service, method)
        self._context = context
        self._headers = context.invocation_metadata() or ()
        self._watch = Watch(watcher, service, method, self._headers)

    def enter(self) -> Context:
        """Let the request in.

        Raises:
            Unauthenticated: its key is missing or unknown.
            QuotaExceeded: its key's owner has used what it may.
            Overloaded: as many requests are in flight as may be.
        """
        self._watch.enter(credential_of(self._headers))
        self._context.set_trailing_metadata(((REQUEST_ID, self._watch.request_id),))
        return self._context

    async def fail(self, error: BaseException) -> None:
        """End the RPC with the error's status; errors that are not ours become INTERNAL."""
        ours = self._watch.fail(error)
        if isinstance(error, (asyncio.CancelledError, GeneratorExit)):
            return
        trailing = (*metadata_of(ours), (REQUEST_ID, self._watch.request_id))
        await self._context.abort(status_of(ours), str(ours), trailing)

    def close(self) -> None:
        """It went well."""
        self._watch.close(grpc.StatusCode.OK)


def _name(service: str, method: str) -> str:
    """What metrics and logs call a method; both APIs have a DetectLanguage."""
    return f"google.{method}" if service == google.SERVICE else method


def _parse(read: Reader, message: bytes) -> Any:  # noqa: ANN401
    """The request; parsed here and not by gRPC, which would answer UNKNOWN to garbage.

    Raises:
        InvalidRequest: the bytes are no such message, or hold text that is no UTF-8.
    """
    try:
        return read(message)
    except DecodeError as error:
        raise InvalidRequest("request", "is no valid message") from error
