"""The segments of a file through a server: one bulk stream, begun again when it breaks."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypedDict

from dragoman.aio import AsyncClient
from dragoman.bulk import BulkResult
from dragoman.errors import (
    CancelledError,
    DragomanError,
    InvalidRequestError,
    OverloadedError,
    RetryableError,
    ServerError,
)
from dragoman.options import Decoding
from dragoman.results import Translation, WarningCode

_ATTEMPTS = 5
_PAUSE_SECONDS = 1.0

# A server that dies in the middle of a stream shows as any of these: gRPC's asyncio calls it
# INTERNAL ("Internal error from Core") if a write fails before the status is there.
_PASSING = (RetryableError, ServerError, CancelledError)

# Something is missing from a translation with one of these.
DOUBTFUL = frozenset({
    WarningCode.PLACEHOLDER_LOST,
    WarningCode.DEGENERATE_OUTPUT,
    WarningCode.OUTPUT_TRUNCATED,
    WarningCode.TERM_NOT_APPLIED,
})  # fmt: skip


class Call(TypedDict):
    """Keyword arguments of a bulk call."""

    source_language: str
    target_language: str
    model: str | None
    decoding: Decoding


@dataclass(frozen=True, slots=True)
class Sink:
    """Who is told of results, by the segment's key."""

    done: Callable[[str, Translation], None]
    refused: Callable[[str, InvalidRequestError], None]
    """It will never be translated as it is."""


async def translate(client: AsyncClient, texts: Mapping[str, str], call: Call, sink: Sink) -> None:
    """Every text to its result.

    A stream that breaks, and items the server had no room for, are tried again, after a pause
    that doubles; only attempts that brought nothing count against the limit. A server that
    never answered anything is not waited for.

    Args:
        client: of the server.
        texts: by key.
        call: what is asked for of all.
        sink: gets each result once.

    Raises:
        DragomanError: the call as such is refused, or the server stays away.
    """
    waiting = dict(texts)
    failures = 0
    while waiting:
        before = len(waiting)
        error: DragomanError | None
        try:
            error = await _stream(client, waiting, call, sink)
        except _PASSING as failure:
            error = failure
        if not waiting:
            return
        failures = 0 if len(waiting) < before else failures + 1
        unheard = len(waiting) == len(texts) and not isinstance(error, OverloadedError)
        if unheard or failures >= _ATTEMPTS:
            raise error or ServerError("the server ended the stream without the last answers")
        asked = error.retry_after_seconds if isinstance(error, RetryableError) else None
        await asyncio.sleep(max(asked or 0.0, _PAUSE_SECONDS * 2**failures))


async def _stream(
    client: AsyncClient, waiting: dict[str, str], call: Call, sink: Sink
) -> RetryableError | None:
    """Take what gets its result out of ``waiting``; why the rest may yet get one."""
    error: RetryableError | None = None
    stream = client.translate_bulk(list(waiting.items()), **call)
    async with contextlib.aclosing(stream) as results:
        async for result in results:
            error = _settle(result, waiting, sink) or error
    return error


def _settle(result: BulkResult, waiting: dict[str, str], sink: Sink) -> RetryableError | None:
    if isinstance(result.error, RetryableError):
        return result.error
    if waiting.pop(result.id, None) is None:
        return None
    if result.translation is not None:
        sink.done(result.id, result.translation)
    elif isinstance(result.error, InvalidRequestError):
        sink.refused(result.id, result.error)
    elif result.error is not None:
        raise result.error
    return None
