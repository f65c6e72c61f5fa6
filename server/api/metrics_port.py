"""The port that asks for no certificate and no key: /metrics, and /health for probes.

It has threads of its own, so it answers while the event loop is busy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from prometheus_client import start_http_server

from server.errors import PortTaken
from server.metrics import Metrics
from server.settings import Settings

_HEALTH = "/health"


def serve_metrics(settings: Settings, metrics: Metrics, host: str) -> int:
    """Serve them from now on; returns the port.

    Raises:
        PortTaken: it cannot be had.
    """
    try:
        server, _ = start_http_server(settings.metrics_port, addr=host, registry=metrics.registry)
    except OSError as error:
        msg = f"cannot listen on {host}:{settings.metrics_port} ({error.strerror})"
        raise PortTaken(msg) from error
    application = server.get_app()
    assert application is not None
    server.set_app(_with_health(application, lambda: metrics.serving))
    return int(server.server_port)


def _with_health(application: WSGIApplication, ready: Callable[[], bool]) -> WSGIApplication:
    """200 where requests are taken, 503 where they are not; every other path is another's."""

    def answer(environment: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        asked = environment["REQUEST_METHOD"], environment["PATH_INFO"]
        if asked != ("GET", _HEALTH):
            return application(environment, start)
        status, text = ("200 OK", b"ok\n") if ready() else ("503 Not Serving", b"not serving\n")
        start(status, [("Content-Type", "text/plain"), ("Content-Length", str(len(text)))])
        return [text]

    return answer
