"""A request's body: read whole before anything else, within a size and a time."""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive

from server.errors import RequestCancelled


async def read_body(headers: Headers, receive: Receive, most_bytes: int, seconds: float) -> bytes:
    """The body.

    Raises:
        HTTPException: 413 if it is, or says it is, larger than ``most_bytes``; 415 if it is
            compressed; 408 if it does not come within ``seconds``.
        RequestCancelled: the caller left while it came.
    """
    if headers.get("content-encoding", "identity").lower() not in {"", "identity"}:
        # A few kilobytes may unpack to gigabytes, and no client of these APIs compresses.
        raise HTTPException(415, "Compressed bodies are not taken")
    length = headers.get("content-length", "0")
    if len(length) > len(str(most_bytes)) or int(length) > most_bytes:
        raise _too_large(most_bytes)
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    msg = "the caller left"
                    raise RequestCancelled(msg)
                chunk: bytes = message.get("body", b"")
                size += len(chunk)
                if size > most_bytes:
                    raise _too_large(most_bytes)
                chunks.append(chunk)
                if not message.get("more_body", False):
                    return b"".join(chunks)
    except TimeoutError as error:
        raise HTTPException(408, f"The body did not come within {seconds:g} s") from error


def replay(body: bytes, receive: Receive) -> Receive:
    """What gives the body once more, as one message, and then what comes after it."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _too_large(most_bytes: int) -> HTTPException:
    return HTTPException(413, f"The body is larger than {most_bytes} bytes")
