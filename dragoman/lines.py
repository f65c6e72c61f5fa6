"""One line in, one line out, in order, with many calls in flight and little in memory."""

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections.abc import AsyncIterator, Awaitable, Callable

from dragoman.errors import DragomanError, InvalidRequestError, OverloadedError

_CHUNK_BYTES = 65_536
_CHUNKS_AHEAD = 4
_LINES_A_CALL = 32
_CHARACTERS_A_CALL = 20_000
_CALLS_IN_FLIGHT = 16
_FIELD = re.compile(r"texts\[(\d+)\]: ")

Translate = Callable[[list[str]], Awaitable[list[str]]]


class LineError(Exception):
    """A line cannot be translated; the message names it, and all lines before it are written."""


async def read_chunks(descriptor: int) -> AsyncIterator[list[bytes]]:
    """Lines of a file as they arrive: each item is what could be read without waiting.

    Reads ahead a little and then waits for whoever consumes.
    """
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[list[bytes] | None] = asyncio.Queue(_CHUNKS_AHEAD)

    def put(item: list[bytes] | None) -> None:
        asyncio.run_coroutine_threadsafe(queue.put(item), loop).result()

    def read() -> None:
        rest = b""
        while data := os.read(descriptor, _CHUNK_BYTES):
            *lines, rest = (rest + data).split(b"\n")
            if lines:
                put(lines)
        if rest:
            put([rest])
        put(None)

    # A daemon: it may hang in read() when an error has ended everything else.
    threading.Thread(target=read, daemon=True).start()
    while (chunk := await queue.get()) is not None:
        yield chunk


async def translate_lines(
    chunks: AsyncIterator[list[bytes]], translate: Translate, write: Callable[[str], None]
) -> None:
    """Write the translation of every line, in order; blank lines come out as they are.

    Raises:
        LineError: a line is no UTF-8, or the server cannot translate it.
    """
    calls: asyncio.Queue[asyncio.Task[list[str]] | None] = asyncio.Queue(_CALLS_IN_FLIGHT)

    async def start() -> None:
        number = 1
        async for chunk in chunks:
            for batch in batches(chunk):
                await calls.put(asyncio.create_task(_translate_batch(batch, number, translate)))
                number += len(batch)
        await calls.put(None)

    starter = asyncio.create_task(start())
    try:
        while (call := await calls.get()) is not None:
            for line in await call:
                write(line)
        await starter
    finally:
        starter.cancel()
        while not calls.empty():
            left = calls.get_nowait()
            if left is not None:
                left.cancel()


def batches(lines: list[bytes]) -> list[list[bytes]]:
    """The lines in groups that fit one call each."""
    groups: list[list[bytes]] = []
    size = 0
    for line in lines:
        size += len(line)
        if not groups or len(groups[-1]) == _LINES_A_CALL or size > _CHARACTERS_A_CALL:
            groups.append([])
            size = len(line)
        groups[-1].append(line)
    return groups


async def _translate_batch(lines: list[bytes], first: int, translate: Translate) -> list[str]:
    """The translations of lines ``first``, ``first + 1``, ... of the input."""
    texts = []
    for number, line in enumerate(lines, start=first):
        try:
            texts.append(line.decode().removesuffix("\r"))
        except UnicodeDecodeError as error:
            msg = f"line {number}: not UTF-8"
            raise LineError(msg) from error
    asked = [index for index, text in enumerate(texts) if text.strip()]
    if asked:
        try:
            answers = await _insist(translate, [texts[index] for index in asked])
        except InvalidRequestError as error:
            raise _name_line(error, asked, first) from error
        except DragomanError as error:
            msg = f"line {first}: {error}"
            raise LineError(msg) from error
        for index, answer in zip(asked, answers, strict=True):
            texts[index] = answer
    return texts


async def _insist(translate: Translate, texts: list[str]) -> list[str]:
    """Wait as long as the server says whenever it has no room."""
    while True:
        try:
            return await translate(texts)
        except OverloadedError as error:
            if error.retry_after_seconds is None:  # too large for any time, not for now
                raise
            await asyncio.sleep(error.retry_after_seconds)


def _name_line(error: InvalidRequestError, asked: list[int], first: int) -> LineError:
    found = _FIELD.match(str(error))
    if found is None:
        return LineError(f"line {first}: {error}")
    return LineError(f"line {first + asked[int(found[1])]}: {str(error)[found.end() :]}")
