"""A connection of HTTP/1.1 that no caller can hold for ever or fill without end."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# Together, with the path: what Node.js and nginx take too.
_MOST_HEADER_BYTES = 16 * 1024


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's, with a limit on connections, and on the size and the time of headers."""

    def __init__(
        self, *arguments: Any, max_connections: int, read_seconds: float, **names: Any  # noqa: ANN401
    ) -> None:  # fmt: skip
        """Set the limits.

        Args:
            arguments: uvicorn's.
            max_connections: at once; one more is closed unanswered.
            read_seconds: for the headers of a request to come, and for the rest of an answer to
                be taken once the connection is being closed.
            names: uvicorn's.
        """
        super().__init__(*arguments, **names)
        self._max_connections = max_connections
        self._read_seconds = read_seconds
        self._timer: asyncio.TimerHandle | None = None
        self._header_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take it, or refuse it."""
        super().connection_made(transport)
        if len(self.connections) > self._max_connections:
            transport.abort()
            return
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._disarm()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """A request's first bytes."""
        super().on_message_begin()
        self._header_bytes = 0
        self._arm()

    def on_url(self, url: bytes) -> None:
        """Some of its path."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header."""
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """All of them."""
        self._disarm()
        super().on_headers_complete()

    def timeout_keep_alive_handler(self) -> None:
        """Nobody asked again."""
        super().timeout_keep_alive_handler()
        # close() waits for what was sent to be taken; who takes nothing is not waited for.
        self._arm()

    def _count(self, more: int) -> None:
        self._header_bytes += more
        if self._header_bytes > _MOST_HEADER_BYTES:
            msg = "headers are too large"
            raise ValueError(msg)  # which the parser makes its own error: 400, and closed

    def _arm(self) -> None:
        self._disarm()
        self._timer = self.loop.call_later(self._read_seconds, self.transport.abort)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
