"""The port that asks for no certificate and no key: /metrics, and /health for probes.

It has threads of its own, so it answers while the event loop is busy.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterable
from http import HTTPStatus
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from prometheus_client import make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from server.errors import PortTaken
from server.metrics import Metrics
from server.settings import Settings

_HEALTH = "/health"
_PATHS = {"/", "/metrics", _HEALTH}


def serve_metrics(settings: Settings, metrics: Metrics, host: str) -> int:
    """Serve them from now on; returns the port.

    Not by prometheus-client's ``start_http_server``: that answers every path with the metrics until
    it is given another application, and a probe in that moment would take its 200 for health.

    Raises:
        PortTaken: it cannot be had.
    """
    application = _with_health(make_wsgi_app(metrics.registry), lambda: metrics.serving)
    try:
        server = make_server(
            host.strip("[]"), settings.metrics_port, application, _server_at(host), _Silent
        )
    except OSError as error:
        msg = f"cannot listen on {host}:{settings.metrics_port} ({error.strerror})"
        raise PortTaken(msg) from error
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return int(server.server_port)


class _Silent(WSGIRequestHandler):
    """Who asks, and how often, is no matter for the log."""

    timeout = 10.0
    """Seconds that a read or a write may take: who says nothing would hold a thread for ever."""

    # Without a version a request is of HTTP 0.9, whose answers have no status, faults neither.
    default_request_version = "HTTP/1.0"

    def parse_request(self) -> bool:
        """Read the request; False where its fault has been answered."""
        if not super().parse_request():
            return False
        if self.request_version != "HTTP/0.9":
            return True
        self.request_version = self.default_request_version
        self.send_error(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED)
        return False

    def handle(self) -> None:
        """Answer a request, if one comes; who leaves before it is whole needs no answer."""
        with contextlib.suppress(ConnectionError, TimeoutError):
            super().handle()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base's name
        """Say nothing."""


def _server_at(host: str) -> type[WSGIServer]:
    """A server of the address's family; that of the standard library knows IPv4 alone.

    Raises:
        OSError: there is no such host.
    """
    found = socket.getaddrinfo(
        host.strip("[]"), None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    return type("_Server", (ThreadingWSGIServer,), {"address_family": found[0][0]})


def _with_health(application: WSGIApplication, ready: Callable[[], bool]) -> WSGIApplication:
    """200 where requests are taken, 503 where they are not; the metrics are another's."""

    def answer(environment: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        method, path = environment["REQUEST_METHOD"], environment["PATH_INFO"]
        if path not in _PATHS:
            return _plain(start, "404 Not Found", b"not found; /metrics and /health are here\n")
        if (method, path) != ("GET", _HEALTH):
            return _metrics(application, environment, start)
        if ready():
            return _plain(start, "200 OK", b"ok\n")
        return _plain(start, "503 Not Serving", b"not serving\n")

    return answer


def _metrics(
    application: WSGIApplication, environment: WSGIEnvironment, start: StartResponse
) -> Iterable[bytes]:
    """As the caller accepts them; as text where prometheus-client fails on what it accepts."""
    try:
        return application(environment, start)
    except (TypeError, ValueError):  # "version=abc"; nothing has been started yet
        if environment.pop("HTTP_ACCEPT", None) is None:
            raise
        return application(environment, start)


def _plain(start: StartResponse, status: str, text: bytes) -> Iterable[bytes]:
    start(status, [("Content-Type", "text/plain"), ("Content-Length", str(len(text)))])
    return [text]
