"""OpenTelemetry traces: a server span a request, and a span in it for each stage.

Optional (the extra ``otel``) and imported only where an endpoint is set. Spans hold names, numbers
and the tenant; no text, key or address.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from server.errors import SettingsFault
from server.text.stages import Stages

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

_TRACE_CONTEXT = ("traceparent", "tracestate")
# Which codes are the server's fault: OpenTelemetry's semantic conventions for gRPC servers.
_FAULTS = {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
_EXPORT_SECONDS = 5.0


class RequestTrace:
    """The server span of a request that was drawn to be traced."""

    def __init__(self, tracer: Tracer, span: Span) -> None:
        """Keep the span that has begun."""
        self._tracer = tracer
        self._span = span
        self.trace_id = f"{span.get_span_context().trace_id:032x}"

    def end(
        self, code: str, number: int, stages: Stages, attributes: dict[str, str | None]
    ) -> None:
        """End it with its status, and put its stages into it.

        Args:
            code: name of the gRPC status.
            number: the same as a number.
            stages: what was done.
            attributes: more to say; None is left out.
        """
        self._tracer.add_stages(self._span, stages)
        self._span.set_attribute("rpc.grpc.status_code", number)
        for name, value in attributes.items():
            if value is not None:
                self._span.set_attribute(name, value)
        if code in _FAULTS:
            self._tracer.mark_failed(self._span, code)
        self._span.end()


class Tracer:
    """Makes spans and sends them to an OTLP receiver, in a thread of its own."""

    def __init__(self, endpoint: str, sample_ratio: float) -> None:
        """Begin to send.

        Args:
            endpoint: of OTLP over gRPC, such as ``http://127.0.0.1:4317``.
            sample_ratio: share of the requests that are traced where the caller has not decided.

        Raises:
            SettingsFault: OpenTelemetry is not installed.
        """
        try:
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (  # noqa: PLC0415
                OTLPSpanExporter,
            )
            from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
            from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
            from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
            from opentelemetry.sdk.trace.sampling import (  # noqa: PLC0415
                ParentBased,
                TraceIdRatioBased,
            )
        except ImportError as error:
            msg = f"otlp_endpoint: needs {error.name}; pip install 'dragoman[otel]'"
            raise SettingsFault(msg) from error
        exporter = OTLPSpanExporter(endpoint=endpoint, timeout=_EXPORT_SECONDS)
        self._provider: TracerProvider = TracerProvider(
            # Resource.create adds what OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME say.
            resource=Resource.create({"service.name": "dragoman"}),
            sampler=ParentBased(TraceIdRatioBased(sample_ratio)),
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("dragoman.server")

    def begin(
        self, service: str, method: str, headers: Iterable[tuple[str, str | bytes]]
    ) -> RequestTrace | None:
        """Begin a request's span, inside the caller's (W3C Trace Context); None if not drawn."""
        from opentelemetry import trace  # noqa: PLC0415
        from opentelemetry.trace.propagation import tracecontext  # noqa: PLC0415

        carrier = {name: value for name, value in headers if name in _TRACE_CONTEXT}
        context = tracecontext.TraceContextTextMapPropagator().extract(carrier)
        span = self._tracer.start_span(
            f"{service}/{method}",
            context=context,
            kind=trace.SpanKind.SERVER,
            attributes={"rpc.system": "grpc", "rpc.service": service, "rpc.method": method},
        )
        return RequestTrace(self, span) if span.is_recording() else None

    def add_stages(self, span: Span, stages: Stages) -> None:
        """Put the stages into a span."""
        from opentelemetry import trace  # noqa: PLC0415

        inside = trace.set_span_in_context(span)
        offset = time.time_ns() - time.monotonic_ns()
        for stage in stages.found:
            child = self._tracer.start_span(
                stage.name,
                context=inside,
                start_time=int(stage.start * 1e9) + offset,
                attributes={f"dragoman.{name}": value for name, value in stage.amounts.items()},
            )
            child.end(int(stage.end * 1e9) + offset)

    def mark_failed(self, span: Span, code: str) -> None:
        """Say that the server is at fault."""
        from opentelemetry.trace import Status, StatusCode  # noqa: PLC0415

        span.set_status(Status(StatusCode.ERROR, code))

    def close(self) -> None:
        """Send what is left; takes as long as one export may."""
        self._provider.force_flush(int(_EXPORT_SECONDS * 1000))
        self._provider.shutdown()
