"""The server's HTTP side: its port, its encryption, its end."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence

import uvicorn

from server.api.http import Front, build_app, core_front
from server.api.http_protocol import BoundedProtocol
from server.api.tls import ssl_context
from server.api.watch import Watcher
from server.errors import PortTaken
from server.settings import Settings

_KEEP_ALIVE_SECONDS = 75
_BACKLOG = 1024


class HttpDoor:
    """An HTTP server in the event loop that runs; one process serves every door."""

    def __init__(self, fronts: Sequence[Front], watcher: Watcher, settings: Settings) -> None:
        """Take the port.

        Args:
            fronts: the APIs; the last one's shape of errors is for paths that none has.
            watcher: that of the gRPC door, so that limits and keys hold for both.
            settings: address, limits, TLS files.

        Raises:
            PortTaken: the port cannot be had.
            SettingsFault: a TLS file cannot be used.
        """
        self._serving = False
        self._task: asyncio.Task[None] | None = None
        context = ssl_context(settings)
        for name in ("uvicorn.error", "python_multipart"):
            # They warn of what callers send, as often as callers wish.
            logging.getLogger(name).setLevel(logging.ERROR)
        app = build_app([*fronts, core_front(lambda: self._serving, fronts)], watcher, settings)
        config = uvicorn.Config(
            app,
            http=functools.partial(  # type: ignore[arg-type]  # uvicorn only calls it
                BoundedProtocol,
                max_connections=settings.http_max_connections,
                read_seconds=settings.http_read_seconds,
            ),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            ssl_context_factory=None if context is None else _always(context),
        )
        self._server = _Server(config)
        self._socket = _listen(settings.host, settings.http_port)
        self.port: int = self._socket.getsockname()[1]

    async def start(self) -> None:
        """Listen; /health says that nothing is served."""
        self._task = asyncio.get_running_loop().create_task(self._server.serve([self._socket]))
        await self._server.listening.wait()

    async def set_serving(self, *, serving: bool) -> None:
        """Tell balancers whether to send requests."""
        self._serving = serving

    async def stop(self, grace_seconds: float) -> None:
        """Accept no more connections; what runs may finish within the grace."""
        if self._task is None:
            self._socket.close()
            return
        if grace_seconds > 0:
            self._server.config.timeout_graceful_shutdown = grace_seconds  # type: ignore[assignment]
        else:
            self._server.force_exit = True  # with no grace uvicorn would tell of none that it ends
        self._server.should_exit = True
        await self._task


class _Server(uvicorn.Server):
    """uvicorn's, beside others in a loop whose signals are not its own."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them to the server as a whole."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        self.listening.set()


def _always(
    context: ssl.SSLContext,
) -> Callable[[uvicorn.Config, Callable[[], ssl.SSLContext]], ssl.SSLContext]:
    return lambda _, __: context


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens there.

    Raises:
        PortTaken: the address cannot be had.
    """
    name = host.strip("[]")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                # "[::]" is every address, as it is for gRPC.
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            listener.bind(address)
            listener.listen(_BACKLOG)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        msg = f"cannot listen on {host}:{port} for HTTP ({error.strerror}); --http-port, --no-http"
        raise PortTaken(msg) from error
    listener.setblocking(False)  # noqa: FBT003
    return listener
