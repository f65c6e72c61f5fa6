"""Traces through a receiver of OTLP that others wrote: rotel takes our spans and sends them on."""

from __future__ import annotations

import contextlib
import importlib.util
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from running import running_server
from span_receiver import receiving

from dragoman.v1 import translation_pb2, translation_pb2_grpc

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@contextlib.contextmanager
def rotel(exporter: str, log: Path) -> Iterator[str]:
    """It between us and ``exporter``; the address where it listens."""
    found = importlib.util.find_spec("rotel")
    if found is None or found.origin is None:
        pytest.skip("make test-system installs rotel")
    ports = []
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            taken = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            ports.append(taken.getsockname()[1])
    grpc_port, http_port = ports
    command = [
        str(Path(found.origin).parent / "rotel-agent"), "start", "--debug-log", "traces",
        "--otlp-grpc-endpoint", f"127.0.0.1:{grpc_port}",
        "--otlp-http-endpoint", f"127.0.0.1:{http_port}",
        "--exporter", "otlp", "--otlp-exporter-endpoint", exporter, "--batch-timeout", "100ms",
    ]  # fmt: skip
    with (
        log.open("wb") as out,
        subprocess.Popen(command, stdout=out, stderr=out) as process,
    ):
        try:
            with grpc.insecure_channel(f"127.0.0.1:{grpc_port}") as channel:
                grpc.channel_ready_future(channel).result(30)
            yield f"http://127.0.0.1:{grpc_port}"
        finally:
            process.terminate()


def test_another_receiver_understands_our_spans(tmp_path: Path) -> None:
    log = tmp_path / "rotel.log"
    with (
        receiving() as (address, found),
        rotel(address, log) as endpoint,
        running_server("--otlp-endpoint", endpoint) as server,
        grpc.insecure_channel(server.target) as channel,
    ):
        request = translation_pb2.TranslateRequest(
            texts=["I love you."], source_language="en", target_language="zh-TW"
        )
        stub = translation_pb2_grpc.TranslationServiceStub(channel)
        stub.Translate(request, metadata=(("traceparent", f"00-{TRACE}-{PARENT}-01"),), timeout=30)
        assert server.stop() == 0
        with found.arrived:
            assert found.arrived.wait_for(lambda: len(found.spans) >= 6, 30), log.read_text()
        names = {
            attribute.key: attribute.value.string_value
            for sent in found.requests
            for resource in sent.resource_spans
            for attribute in resource.resource.attributes
        }
    assert {span.trace_id.hex() for span in found.spans} == {TRACE}
    (outer,) = [span for span in found.spans if span.parent_span_id.hex() == PARENT]
    assert outer.name == "dragoman.v1.TranslationService/Translate"
    inside = {span.name for span in found.spans if span.parent_span_id == outer.span_id}
    assert inside == {"tokenise", "queue", "encode", "decode", "detokenise"}
    assert names["service.name"] == "dragoman"
    assert "Received traces" in log.read_text()
