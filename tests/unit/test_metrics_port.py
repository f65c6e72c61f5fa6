"""The port that asks for no key: it never says more of the server than is so."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
import urllib.error
import urllib.request
from typing import Any

import pytest

from server.api import metrics_port
from server.api.metrics_port import serve_metrics
from server.errors import PortTaken
from server.metrics import Metrics
from server.settings import Settings


def asked(port: int, path: str, host: str = "127.0.0.1") -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def sent(port: int, request: bytes) -> bytes:
    """All that comes back before the port closes; what it has not read may reset the connection."""
    found = b""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            while part := connection.recv(65536):
                found += part
    return found


def test_health_is_what_the_server_says_of_itself_and_the_rest_are_metrics() -> None:
    metrics = Metrics()
    port = serve_metrics(Settings(metrics_port=0), metrics, "127.0.0.1")
    assert asked(port, "/health") == (503, b"not serving\n")
    metrics.set_serving(serving=True)
    assert asked(port, "/health") == (200, b"ok\n")
    status, text = asked(port, "/metrics")
    assert (status, b"dragoman_ready 1.0" in text) == (200, True)


def test_a_probe_that_comes_in_the_very_moment_it_listens_is_told_the_truth(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = []

    class Started(threading.Thread):
        """Has a probe come before whoever started the thread can do anything more."""

        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, **named)
            self.work = named.get("target")

        def start(self) -> None:
            super().start()
            if getattr(self.work, "__name__", "") == "serve_forever":
                answers.append(asked(self.work.__self__.server_port, "/health"))  # type: ignore[union-attr]

    monkeypatch.setattr(threading, "Thread", Started)
    serve_metrics(Settings(metrics_port=0), Metrics(), "127.0.0.1")
    assert answers == [(503, b"not serving\n")]


def test_it_listens_where_it_is_told_to() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6 on its loopback")
    for host in ("::1", "[::1]"):
        port = serve_metrics(Settings(metrics_port=0), Metrics(), host)
        assert asked(port, "/health", "[::1]")[0] == 503


def test_a_port_that_is_taken_and_a_host_that_is_none_are_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = Settings(metrics_port=taken.getsockname()[1])
        with pytest.raises(PortTaken, match="Address already in use"):
            serve_metrics(settings, Metrics(), "127.0.0.1")
    with pytest.raises(PortTaken, match="cannot listen on no host:"):
        serve_metrics(Settings(metrics_port=0), Metrics(), "no host")


def test_who_says_nothing_holds_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0 < metrics_port._Silent.timeout <= 10
    monkeypatch.setattr(metrics_port._Silent, "timeout", 0.2)
    port = serve_metrics(Settings(metrics_port=0), Metrics(), "127.0.0.1")
    before = threading.active_count()
    with contextlib.ExitStack() as stack:
        silent = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            for _ in range(20)
        ]
        silent[0].sendall(b"GET /health HTTP/1.1\r\nHost: half-a-req")
        assert [one.recv(1) for one in silent] == [b""] * len(silent)
        assert asked(port, "/health")[0] == 503
    deadline = time.monotonic() + 10
    while threading.active_count() > before:
        assert time.monotonic() < deadline
        time.sleep(0.01)


# A request, and the status that it must be answered with.
FAULTS: list[tuple[bytes, int]] = [
    (b"GET /nothing HTTP/1.1\r\n\r\n", 404),
    (b"GET /metrics/../health HTTP/1.1\r\n\r\n", 404),
    (b"GET /%00%ff HTTP/1.1\r\n\r\n", 404),
    (b"GET * HTTP/1.1\r\n\r\n", 404),
    (b"POST /health HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc", 405),
    (b"HEAD /metrics HTTP/1.1\r\n\r\n", 405),
    (b"BREW /health HTTP/1.1\r\n\r\n", 405),
    (b"GET /health HTTP/0.9\r\n\r\n", 505),
    (b"GET /health HTTP/2.0\r\n\r\n", 505),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    (b"GET /health HTTP/x\r\n\r\n", 400),
    (b"GET a b c HTTP/1.1\r\n\r\n", 400),
    (b"\x16\x03\x01\x02\x00\x01\x00\xfc", 400),
    (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", 414),
    (b"GET /health HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n", 431),
    (b"GET /health HTTP/1.1\r\na: " + b"b" * 70_000 + b"\r\n\r\n", 431),
    (b"GET /health HTTP/1.1\r\nnocolon\r\n\xff: \x00\r\n\r\n", 200),
    (b"GET /metrics?name[]=%ff&=&%% HTTP/1.1\r\nContent-Length: -5\r\n\r\n", 200),
    (b"GET /metrics HTTP/1.1\r\nAccept: application/openmetrics-text;version=x\r\n\r\n", 200),
    (b"GET /metrics HTTP/1.1\r\nAccept-Encoding: gzip;q=x\r\n\r\n", 200),
]


@pytest.fixture
def fuzzed() -> int:
    metrics = Metrics()
    metrics.set_serving(serving=True)
    return serve_metrics(Settings(metrics_port=0), metrics, "127.0.0.1")


@pytest.mark.parametrize(("request_", "status"), FAULTS, ids=lambda one: repr(one)[:50])
def test_a_faulty_request_is_told_so(
    fuzzed: int, request_: bytes, status: int, capfd: pytest.CaptureFixture[str]
) -> None:
    assert sent(fuzzed, request_).startswith(b"HTTP/1.0 %d " % status)
    assert capfd.readouterr().err == ""


def test_no_mutation_is_a_fault_of_ours(fuzzed: int, capfd: pytest.CaptureFixture[str]) -> None:
    drawn = random.Random(7)
    proper = {200, 400, 404, 405, 414, 431, 501, 505}
    for _ in range(500):
        request = bytearray(drawn.choice(FAULTS)[0][:2000])
        for _ in range(drawn.randrange(1, 6)):
            request[drawn.randrange(len(request))] = drawn.randrange(256)
        answer = sent(fuzzed, bytes(request[: drawn.choice([len(request), 9, 30])]))
        # No line at all is no request: the other side has left.
        assert not answer or int(answer.removeprefix(b"HTTP/1.0 ")[:3]) in proper, bytes(request)
    assert capfd.readouterr().err == ""
    assert asked(fuzzed, "/health") == (200, b"ok\n")
