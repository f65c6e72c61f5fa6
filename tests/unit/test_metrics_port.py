"""The port that asks for no key: it never says more of the server than is so."""

from __future__ import annotations

import socket
import threading
import urllib.error
import urllib.request
from typing import Any

import pytest

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
