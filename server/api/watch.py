"""One request from its arrival to its end, whatever it speaks: id, key, clock, log, trace."""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import time
import uuid
from collections.abc import Iterable

import grpc

from server.access.gate import ANYBODY, Gate, Visit, current_visit
from server.api.standing_queue import StandingQueue
from server.api.status import status_of
from server.errors import (
    DragomanError,
    InvalidRequest,
    ModelFailure,
    NotReady,
    Overloaded,
    QuotaExceeded,
    RequestCancelled,
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

Headers = Iterable[tuple[str, str | bytes]]


class Watcher:
    """What the requests of all doors meet; one a server, so that its limits hold for all doors."""

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
        self.metrics = metrics
        self.max_in_flight = settings.max_concurrent_requests
        self.gate = gate
        self.tracer = tracer
        self.log_all = settings.log_requests == "all"
        self.in_flight = 0
        self.queue = StandingQueue()


class Watch:
    """One request from its arrival to its status."""

    def __init__(self, watcher: Watcher, service: str, method: str, headers: Headers) -> None:
        """Begin to watch; whoever began calls :meth:`close`.

        Args:
            watcher: what it meets.
            service: what traces call the API.
            method: what metrics and logs call the method; one of a few names.
            headers: names in lower case.
        """
        self._watcher, self._method = watcher, method
        headers = list(headers)
        self._started = time.monotonic()
        self.request_id = request_id_of(headers)
        self._closed = False
        self._visit: Visit = ANYBODY
        self._trace: RequestTrace | None = None
        if watcher.tracer is not None:
            self._trace = watcher.tracer.begin(service, method, headers)
        self._stages = UNASKED
        if self._trace is not None or watcher.log_all:
            self._stages = Stages()
            current_stages.set(self._stages)
        self._entered = False
        watcher.metrics.requests_in_flight.labels(method).inc()

    def enter(self, credential: str | None) -> None:
        """Let the request in.

        Args:
            credential: the key that came with it.

        Raises:
            Unauthenticated: it is missing or unknown.
            QuotaExceeded: its owner has used what it may.
            Overloaded: as many requests are in flight as may be.
        """
        watcher = self._watcher
        # Not sooner: a caller who sends slowly takes no place from those who have sent.
        self._entered = True
        watcher.in_flight += 1
        if watcher.gate.asks_for_keys:
            self._visit = watcher.gate.enter(credential)
            current_visit.set(self._visit)
        limit = watcher.max_in_flight
        if watcher.in_flight > limit:
            watcher.metrics.rejections.labels("too_many_requests").inc()
            msg = f"{limit} requests are in flight, as many as may be"
            raise Overloaded(msg, retry_after_seconds=0.5)

    def fail(self, error: BaseException) -> DragomanError:
        """End the request with an error; one of ours to tell the caller."""
        if isinstance(error, (asyncio.CancelledError, GeneratorExit)):
            self.close(grpc.StatusCode.CANCELLED)
            msg = "the caller left"
            return RequestCancelled(msg)
        if not isinstance(error, DragomanError):
            logger.error("request %s failed", self.request_id, exc_info=error)
            error = ModelFailure("internal error")
        if isinstance(error, Overloaded):
            self._watcher.queue.refused()
        if isinstance(error, _REFUSALS):
            self._visit.refund()
        reason = _REASONS.get(type(error))
        if reason is not None:
            self._watcher.metrics.rejections.labels(reason).inc()
        self.close(status_of(error))
        return error

    def close(self, code: grpc.StatusCode) -> None:
        """Count the request, once."""
        if self._closed:
            return
        self._closed = True
        self._visit.leave()
        self._watcher.in_flight -= self._entered
        metrics = self._watcher.metrics
        metrics.requests_in_flight.labels(self._method).dec()
        metrics.requests.labels(self._method, code.name).inc()
        seconds = time.monotonic() - self._started
        metrics.request_duration.labels(self._method).observe(seconds)
        self._log(code, seconds)
        if self._trace is not None:
            about = {"dragoman.request_id": self.request_id, "dragoman.tenant": self._visit.tenant}
            number: int = code.value[0]
            self._trace.end(code.name, number, self._stages, about)

    def _log(self, code: grpc.StatusCode, seconds: float) -> None:
        # The metrics count what went well or was refused; a line each would cost a tenth of a
        # millisecond, and under overload most calls are refused.
        quiet = code in _COUNTED and not self._watcher.log_all
        level = logging.DEBUG if quiet else logging.INFO
        if not logger.isEnabledFor(level):
            return
        fields = {
            "request_id": self.request_id,
            "method": self._method,
            "code": code.name,
            "duration_ms": round(seconds * 1000, 3),
            "tenant": self._visit.tenant,
            "trace_id": self._trace.trace_id if self._trace else None,
            **self._stages.milliseconds(),
        }
        known = {name: value for name, value in fields.items() if value is not None}
        logger.log(
            level, "request %s %s %s %.1f ms", self.request_id, self._method, code.name,
            seconds * 1000, extra=known,
        )  # fmt: skip


def request_id_of(headers: Headers) -> str:
    """The caller's id where it is a plain one, else a new one, unique to this process."""
    for key, value in headers:
        if key == REQUEST_ID and isinstance(value, str) and _SAFE_ID.fullmatch(value):
            return value
    return f"{_PROCESS}-{next(_numbers):x}"
