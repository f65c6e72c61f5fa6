"""Traces arrive at an OTLP receiver, logs are JSON, and neither tells what was translated."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from google.api_core import exceptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import translate_v3
from google.cloud.translate_v3.services.translation_service.transports import (
    TranslationServiceGrpcTransport,
)
from running import ROOT, RunningServer, running_server
from span_receiver import Receiver, receiving

import dragoman
from dragoman.v1 import translation_pb2, translation_pb2_grpc
from server.access.key_command import add_key

CANARY = "Zanzibar the canary sings at midnight."
# 127.0.0.7 is nobody's address but this caller's.
CANARY_ADDRESS = "127.0.0.7"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
STAGES = ["tokenise", "queue", "encode", "decode", "detokenise"]


@pytest.fixture
def receiver() -> Iterator[tuple[str, Receiver]]:
    with receiving() as (endpoint, found):
        yield endpoint, found


def call(target: str, text: str, *metadata: tuple[str, str]) -> Any:
    ask: dict[str, Any] = {"source_language": "en", "target_language": "zh-TW"}
    with grpc.insecure_channel(target) as channel:
        stub = translation_pb2_grpc.TranslationServiceStub(channel)
        request = translation_pb2.TranslateRequest(texts=[text], **ask)
        return stub.Translate(request, metadata=metadata, timeout=20)


def attributes(span: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}


def test_a_request_is_a_span_in_its_callers_trace_with_a_span_for_each_stage(
    receiver: tuple[str, Receiver],
) -> None:
    endpoint, found = receiver
    before = time.time_ns()
    with running_server("--otlp-endpoint", endpoint, "--trace-sample-ratio", "0") as server:
        call(server.target, "Good morning.", ("traceparent", f"00-{TRACE}-{PARENT}-00"))
        call(server.target, "I love you.", ("traceparent", f"00-{TRACE}-{PARENT}-01"))
        with pytest.raises(grpc.RpcError):
            call(server.target, " ", ("traceparent", f"00-{TRACE}-{PARENT}-01"))
        call(server.target, "Good night.")  # nobody has decided, and the ratio is 0
        assert server.stop() == 0
    spans = found.spans
    assert {span.trace_id.hex() for span in spans} == {TRACE}
    well, refused = sorted(
        (span for span in spans if span.parent_span_id.hex() == PARENT),
        key=lambda span: span.start_time_unix_nano,
    )
    assert well.name == "dragoman.v1.TranslationService/Translate"
    assert well.kind == 2  # SERVER
    assert attributes(well)["rpc.grpc.status_code"] == 0
    assert attributes(refused)["rpc.grpc.status_code"] == 3
    assert well.status.code == refused.status.code == 0  # unset: the server is not at fault
    inside = [span for span in spans if span.parent_span_id == well.span_id]
    inside.sort(key=lambda span: span.start_time_unix_nano)
    assert [span.name for span in inside] == STAGES
    last = before
    for span in inside:
        assert last <= span.end_time_unix_nano
        assert well.start_time_unix_nano - 10**6 <= span.start_time_unix_nano
        assert span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.end_time_unix_nano <= well.end_time_unix_nano + 10**6
        last = span.end_time_unix_nano
    assert attributes(inside[0]) == {"dragoman.sentences": 1, "dragoman.source_tokens": 5}
    assert attributes(inside[3])["dragoman.target_tokens"] > 0


def test_a_receiver_that_is_not_there_holds_nobody_up() -> None:
    with running_server("--otlp-endpoint", "http://127.0.0.1:9") as server:
        start = time.monotonic()
        call(server.target, "I love you.")
        assert time.monotonic() - start < 5
        assert server.stop() == 0


def test_logs_are_json_with_times_and_without_them_nothing_is_noted(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    key = add_key(file, "website", {}, admin=False)
    flags = ["--key-file", str(file), "--log-format", "json", "--log-requests", "all"]
    with running_server(*flags) as server:
        metadata = (("authorization", f"Bearer {key}"), ("x-request-id", "mine-1"))
        call(server.target, "I love you.", *metadata)
        with pytest.raises(grpc.RpcError):
            call(server.target, "I love you.")
        assert server.stop() == 0
    lines = [json.loads(line) for line in server.log]
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
    well, refused = [line for line in lines if "request_id" in line]
    assert well["request_id"] == "mine-1"
    assert well["tenant"] == "website"
    assert (well["method"], well["code"]) == ("Translate", "OK")
    assert well["duration_ms"] >= well["decode_ms"] > 0
    assert {f"{name}_ms" for name in STAGES} <= well.keys()
    assert refused["code"] == "UNAUTHENTICATED"
    assert "tenant" not in refused


def test_logs_metrics_and_traces_hold_no_text_key_or_address(
    tmp_path: Path, receiver: tuple[str, Receiver]
) -> None:
    endpoint, found = receiver
    file = tmp_path / "keys.toml"
    key = add_key(file, "website", {}, admin=False)
    flags = [
        "--key-file", str(file), "--log-format", "json", "--log-requests", "all",
        "--log-level", "debug", "--otlp-endpoint", endpoint,
    ]  # fmt: skip
    with running_server(*flags) as server:
        answers = _call_from_canary_address(server.target, key)
        with pytest.raises(grpc.RpcError):
            call(server.target, CANARY, ("authorization", "Bearer canary-of-a-wrong-key"))
        answers += _call_the_other_doors(server, key)
        metrics = server.metrics()
        shown = Path(f"/proc/{server.process.pid}/cmdline").read_text()
        assert server.stop() == 0
    log = "".join(server.log)
    traces = "".join(map(str, found.requests))
    assert "website" in log
    assert "decode" in traces
    secrets = [CANARY, "Zanzibar", key, "canary-of-a-wrong-key", CANARY_ADDRESS, *answers]
    assert all(answers)
    for place, text in [("log", log), ("metrics", metrics), ("traces", traces), ("ps", shown)]:
        for secret in secrets:
            assert secret not in text, (place, secret)


def _call_the_other_doors(server: RunningServer, key: str) -> list[str]:
    """LibreTranslate's API, DeepL's and Google's, each with its own way to give a key."""
    url, canaries = server.http_url, [f"{CANARY} {number}." for number in ("One", "Two", "Three")]
    answers = []
    for given, status in ((key, 200), ("canary-of-a-wrong-key", 403)):
        libre = {"q": canaries[0], "source": "en", "target": "zh-Hant", "api_key": given}
        answer = httpx.post(f"{url}/translate", json=libre, timeout=20)
        assert answer.status_code == status
        answers += [answer.json().get("translatedText")]
        deepl = {"text": [canaries[1]], "source_lang": "EN", "target_lang": "ZH-HANT"}
        header = {"authorization": f"DeepL-Auth-Key {given}"}
        answer = httpx.post(f"{url}/v2/translate", json=deepl, headers=header, timeout=20)
        assert answer.status_code == status
        answers += [one["text"] for one in answer.json().get("translations", ())]
    with grpc.insecure_channel(server.target) as channel:
        transport = TranslationServiceGrpcTransport(
            channel=channel, credentials=AnonymousCredentials()
        )
        client = translate_v3.TranslationServiceClient(transport=transport)
        google = {
            "parent": "projects/x/locations/global", "contents": [canaries[2]],
            "mime_type": "text/plain", "source_language_code": "en",
            "target_language_code": "zh-TW",
        }  # fmt: skip
        said = client.translate_text(request=google, metadata=[("x-goog-api-key", key)])
        answers += [one.translated_text for one in said.translations]
        wrong = [("x-goog-api-key", "canary-of-a-wrong-key")]
        with pytest.raises(exceptions.Unauthenticated):
            client.translate_text(request=google, metadata=wrong)
    found = [answer for answer in answers if answer]
    assert len(found) == len(canaries)
    return found


def _call_from_canary_address(target: str, key: str) -> list[str]:
    """Unary, stream and a faulty call through a forwarder that binds the canary's address."""
    import socket  # noqa: PLC0415  here alone

    host, port = target.split(":")
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, sink: socket.socket) -> None:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)

    def forward() -> None:
        near, _ = listener.accept()
        far = socket.create_connection((host, int(port)), source_address=(CANARY_ADDRESS, 0))
        with near, far:
            back = threading.Thread(target=pump, args=(far, near), daemon=True)
            back.start()
            pump(near, far)
            back.join(10)

    thread = threading.Thread(target=forward, daemon=True)
    thread.start()
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    with dragoman.Client(address, api_key=key) as client:
        answer = client.translate(CANARY, target_language="zh-TW").text
        events = list(client.translate_stream(CANARY + " Hello.", target_language="zh-TW"))
        with pytest.raises(dragoman.InvalidRequestError):
            client.translate(CANARY, target_language="zh-TW", timeout_seconds=5, model=None,
                             decoding=dragoman.Decoding(target_prefix=CANARY * 500))  # fmt: skip
    thread.join(10)
    listener.close()
    assert isinstance(events[-1], dragoman.Translation)
    return [answer, events[-1].text]


def test_an_endpoint_without_opentelemetry_is_one_line_and_exit_2() -> None:
    program = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from server.__main__ import main\n"
        "sys.exit(main(['--otlp-endpoint', 'http://127.0.0.1:9', '--log-level', 'error']))"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "pip install 'dragoman[otel]'" in line


def test_without_an_endpoint_opentelemetry_is_not_even_imported() -> None:
    program = "import server.__main__, sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not any(name.startswith("opentelemetry") for name in done.stdout.split())
