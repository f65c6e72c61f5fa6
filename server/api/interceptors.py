"""What every RPC passes through: a request id, the clock, metrics, errors to status codes."""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from server.access.gate import ANYBODY, Gate, Visit, credential_of, current_visit
from server.api.status import metadata_of, status_of
from server.errors import (
    DragomanError,
    InvalidRequest,
    ModelFailure,
    NotReady,
    Overloaded,
    QuotaExceeded,
    ShuttingDown,
    Unauthenticated,
    UnknownModel,
)
from server.metrics import Metrics
from server.settings import Settings
from server.text.stages import UNASKED, Stages, current_stages
from server.tracing import RequestTrace, Tracer

logger = logging.getLogger(__name__)

REQUEST_ID = "x-request-id"
_SAFE_ID = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_OURS = "/dragoman.v1."
_REFLECTION = "/grpc.reflection."
_PROCESS = uuid.uuid4().hex[:16]
_numbers = itertools.count(1)

_COUNTED = {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}

# Nothing was computed: what was counted against a quota is given back.
_REFUSALS = (InvalidRequest, UnknownModel, Overloaded, NotReady, ShuttingDown)
_REASONS: dict[type[DragomanError], str] = {
    InvalidRequest: "invalid",
    QuotaExceeded: "quota",
    Unauthenticated: "unauthenticated",
}

# The stubs know only the handlers of the synchronous server.
Handler = Any
Reader = Callable[[bytes], Any]
Context = grpc.aio.ServicerContext[Any, Any]


class Observer(grpc.aio.ServerInterceptor):
    """Wraps every method of this project's services; health and reflection pass untouched."""

    def __init__(
        self, metrics: Metrics, settings: Settings, gate: Gate, tracer: Tracer | None
    ) -> None:
        """Set what requests meet.

        Args:
            metrics: where they are counted.
            settings: how many may be in flight, and which get a log line.
            gate: lets them in.
            tracer: follows them; None = nobody does.
        """
        self._metrics = metrics
        self._max_in_flight = settings.max_concurrent_requests
        self._gate = gate
        self._tracer = tracer
        self._log_all = settings.log_requests == "all"
        self._open_reflection = settings.open_reflection
        self._in_flight = 0

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
            self._gate.identify(credential_of(details.invocation_metadata or ()))
        except Unauthenticated as error:
            code, message = status_of(error), str(error)

            async def refuse(_: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
                await context.abort(code, message)
                yield b""

            return grpc.stream_stream_rpc_method_handler(refuse)
        return handler

    def _unary(
        self, method: str, behaviour: Callable[[Any, Context], Awaitable[Any]], read: Reader
    ) -> Callable[[bytes, Context], Awaitable[Any]]:
        async def call(message: bytes, context: Context) -> Any:  # noqa: ANN401
            watch = _Watch(self, method, context)
            try:
                entered = watch.enter()
                response = await behaviour(_parse(read, message), entered)
            except BaseException as error:
                await watch.fail(error)
                raise
            watch.close(grpc.StatusCode.OK)
            return response

        return call

    def _stream(
        self, method: str, behaviour: Callable[[Any, Context], AsyncIterator[Any]], read: Reader
    ) -> Callable[[bytes, Context], AsyncIterator[Any]]:
        async def call(message: bytes, context: Context) -> AsyncIterator[Any]:
            watch = _Watch(self, method, context)
            try:
                entered = watch.enter()
                async for response in behaviour(_parse(read, message), entered):
                    yield response
            except BaseException as error:
                await watch.fail(error)
                raise
            watch.close(grpc.StatusCode.OK)

        return call

    def _duplex(
        self,
        method: str,
        behaviour: Callable[[AsyncIterator[Any], Context], AsyncIterator[Any]],
        read: Reader,
    ) -> Callable[[AsyncIterator[bytes], Context], AsyncIterator[Any]]:
        async def call(messages: AsyncIterator[bytes], context: Context) -> AsyncIterator[Any]:
            watch = _Watch(self, method, context)
            parsed = (_parse(read, message) async for message in messages)
            try:
                async for response in behaviour(parsed, watch.enter()):
                    yield response
            except BaseException as error:
                await watch.fail(error)
                raise
            watch.close(grpc.StatusCode.OK)

        return call


class _Watch:
    """One RPC from its arrival to its status."""

    def __init__(self, observer: Observer, path: str, context: Context) -> None:
        service, _, self.method = path.partition("/")
        self.observer, self.context = observer, context
        self.metrics = observer._metrics  # noqa: SLF001  the two are one
        self.started = time.monotonic()
        self.request_id = _request_id(context)
        self.closed = False
        self.visit: Visit = ANYBODY
        self.trace: RequestTrace | None = None
        if observer._tracer is not None:  # noqa: SLF001
            headers = context.invocation_metadata() or ()
            self.trace = observer._tracer.begin(service, self.method, headers)  # noqa: SLF001
        self.stages = UNASKED
        if self.trace is not None or observer._log_all:  # noqa: SLF001
            self.stages = Stages()
            current_stages.set(self.stages)
        observer._in_flight += 1  # noqa: SLF001
        self.metrics.requests_in_flight.labels(self.method).inc()

    def enter(self) -> Context:
        """Let the request in.

        Raises:
            Unauthenticated: its key is missing or unknown.
            QuotaExceeded: its key's owner has used what it may.
            Overloaded: as many requests are in flight as may be.
        """
        gate = self.observer._gate  # noqa: SLF001
        if gate.asks_for_keys:
            self.visit = gate.enter(credential_of(self.context.invocation_metadata() or ()))
            current_visit.set(self.visit)
        self.context.set_trailing_metadata(((REQUEST_ID, self.request_id),))
        limit = self.observer._max_in_flight  # noqa: SLF001
        if self.observer._in_flight > limit:  # noqa: SLF001
            self.metrics.rejections.labels("too_many_requests").inc()
            msg = f"{limit} requests are in flight, as many as may be"
            raise Overloaded(msg, retry_after_seconds=0.5)
        return self.context

    async def fail(self, error: BaseException) -> None:
        """End the RPC with the error's status; errors that are not ours become INTERNAL."""
        if isinstance(error, (asyncio.CancelledError, GeneratorExit)):
            self.close(grpc.StatusCode.CANCELLED)
            return
        if not isinstance(error, DragomanError):
            logger.error("request %s failed", self.request_id, exc_info=error)
            error = ModelFailure("internal error")
        if isinstance(error, _REFUSALS):
            self.visit.refund()
        reason = _REASONS.get(type(error))
        if reason is not None:
            self.metrics.rejections.labels(reason).inc()
        self.close(status_of(error))
        trailing = (*metadata_of(error), (REQUEST_ID, self.request_id))
        await self.context.abort(status_of(error), str(error), trailing)

    def close(self, code: grpc.StatusCode) -> None:
        """Count the RPC, once."""
        if self.closed:
            return
        self.closed = True
        self.visit.leave()
        self.observer._in_flight -= 1  # noqa: SLF001
        self.metrics.requests_in_flight.labels(self.method).dec()
        self.metrics.requests.labels(self.method, code.name).inc()
        seconds = time.monotonic() - self.started
        self.metrics.request_duration.labels(self.method).observe(seconds)
        self._log(code, seconds)
        if self.trace is not None:
            about = {"dragoman.request_id": self.request_id, "dragoman.tenant": self.visit.tenant}
            number: int = code.value[0]
            self.trace.end(code.name, number, self.stages, about)

    def _log(self, code: grpc.StatusCode, seconds: float) -> None:
        # The metrics count what went well or was refused; a line each would cost a tenth of a
        # millisecond, and under overload most calls are refused.
        quiet = code in _COUNTED and not self.observer._log_all  # noqa: SLF001
        level = logging.DEBUG if quiet else logging.INFO
        if not logger.isEnabledFor(level):
            return
        fields = {
            "request_id": self.request_id,
            "method": self.method,
            "code": code.name,
            "duration_ms": round(seconds * 1000, 3),
            "tenant": self.visit.tenant,
            "trace_id": self.trace.trace_id if self.trace else None,
            **self.stages.milliseconds(),
        }
        known = {name: value for name, value in fields.items() if value is not None}
        logger.log(
            level, "request %s %s %s %.1f ms", self.request_id, self.method, code.name,
            seconds * 1000, extra=known,
        )  # fmt: skip


def _parse(read: Reader, message: bytes) -> Any:  # noqa: ANN401
    """The request; parsed here and not by gRPC, which would answer UNKNOWN to garbage.

    Raises:
        InvalidRequest: the bytes are no such message, or hold text that is no UTF-8.
    """
    try:
        return read(message)
    except DecodeError as error:
        raise InvalidRequest("request", "is no valid message") from error


def _request_id(context: Context) -> str:
    """The caller's id where it is a plain one, else a new one, unique to this process."""
    for key, value in context.invocation_metadata() or ():
        if key == REQUEST_ID and isinstance(value, str) and _SAFE_ID.fullmatch(value):
            return value
    return f"{_PROCESS}-{next(_numbers):x}"
