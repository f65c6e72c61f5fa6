"""OTLP's own service on a port of its own, keeping the spans that come."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc


class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    """OTLP's own service, keeping what comes."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.arrived = threading.Condition()

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802
        with self.arrived:
            self.requests.append(request)
            self.arrived.notify_all()
        return trace_service_pb2.ExportTraceServiceResponse()

    @property
    def spans(self) -> list[Any]:
        return [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


@contextlib.contextmanager
def receiving() -> Iterator[tuple[str, Receiver]]:
    """Its address, and what has come there."""
    found = Receiver()
    server = grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(found, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"http://127.0.0.1:{port}", found
    finally:
        server.stop(0).wait()
