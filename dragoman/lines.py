"""One line in, one line out, in order, with many calls in flight and little in memory.

    source.take() -> lines for one call -> a task each -> awaited in order -> write()

A call takes the lines that are there when there is room for it, so a lone line goes out at
once and a flood fills its calls. Only so many calls are unwritten at a time; then nothing
more is taken, the reading thread stops, and whoever writes to us waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import re
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from dragoman.errors import DragomanError, InvalidRequestError, OverloadedError, ServerError

LINES_A_CALL = 32
CALLS_IN_FLIGHT = 16
# The first line of a call may be larger.
_BYTES_A_CALL = 16_384
_MAX_LINE_BYTES = 4 * 1024 * 1024
_CHUNK_BYTES = 65_536
_CHUNKS_AHEAD = 4
_FIELD = re.compile(r"texts\[(\d+)\]: ")

Result = TypeVar("Result")
Answer = TypeVar("Answer")
Translate = Callable[[list[str]], Awaitable[Sequence[Result]]]


class LineError(Exception):
    """A line cannot be translated; the message names it, and all lines before it are written."""


@dataclass(frozen=True, slots=True)
class Line(Generic[Result]):
    """A line of the input and what became of it."""

    number: int
    """Counted from 1."""
    text: str
    result: Result | None
    """None for a blank line, which the server is not asked for."""


class Source(Protocol):
    """Where lines come from."""

    noun: str
    """What an error calls one: "line 3", "text 3"."""

    async def take(self) -> list[bytes]:
        """The next lines for one call, at least one; none at the end."""


class GivenTexts:
    """Texts that are all there."""

    noun = "text"

    def __init__(self, texts: Sequence[str]) -> None:
        """Set the texts, which are arguments of the command."""
        # Bytes that Python could not read are as they were typed, to be found out like others.
        self._lines = deque(text.encode(errors="surrogateescape") for text in texts)

    async def take(self) -> list[bytes]:
        """As :class:`Source` says."""
        return _fill(self._lines)


class LineReader:
    """Lines of a file, read ahead by a thread of its own, no further than memory allows."""

    noun = "line"

    def __init__(self, descriptor: int) -> None:
        """Start reading; call it in the event loop."""
        self._lines: deque[bytes] = deque()
        self._end: LineError | EOFError | None = None
        self._arrived: asyncio.Queue[list[bytes] | LineError | EOFError] = asyncio.Queue()
        self._room = threading.Semaphore(_CHUNKS_AHEAD)
        self._loop = asyncio.get_running_loop()
        # A daemon: it may hang in read() when an error has ended everything else.
        threading.Thread(target=self._read, args=(descriptor,), daemon=True).start()

    async def take(self) -> list[bytes]:
        """Wait for one line and take with it those that are there, as :class:`Source` says.

        Raises:
            LineError: all lines before this one were taken, and it cannot be read.
        """
        while self._end is None and len(self._lines) < LINES_A_CALL:
            if self._lines and self._arrived.empty():
                break
            await self._receive()
        if not self._lines and isinstance(self._end, LineError):
            raise self._end
        return _fill(self._lines)

    async def _receive(self) -> None:
        chunk = await self._arrived.get()
        if isinstance(chunk, Exception):
            self._end = chunk
        else:
            self._lines += chunk
            self._room.release()

    def _read(self, descriptor: int) -> None:
        # RuntimeError: the event loop is closed, nobody waits for lines any more.
        with contextlib.suppress(RuntimeError):
            try:
                for lines in _chunks(descriptor):
                    self._room.acquire()
                    self._post(lines)
                self._post(EOFError())
            except LineError as error:
                self._post(error)

    def _post(self, item: list[bytes] | LineError | EOFError) -> None:
        self._loop.call_soon_threadsafe(self._arrived.put_nowait, item)


async def translate_lines(
    source: Source, translate: Translate[Result], write: Callable[[list[Line[Result]]], None]
) -> None:
    """Write every line with its translation, in order, as soon as those before it are written.

    Args:
        source: the lines.
        translate: one call to a server: as many results as texts, in their order.
        write: takes the next lines; what it raises ends everything.

    Raises:
        LineError: a line cannot be translated; those before it are written, nothing runs on.
    """
    room = asyncio.Semaphore(CALLS_IN_FLIGHT)
    calls: asyncio.Queue[asyncio.Task[_Outcome[Result]] | None] = asyncio.Queue()
    starter = asyncio.create_task(_start_calls(source, translate, room, calls))
    call: asyncio.Task[_Outcome[Result]] | None = None
    try:
        while (call := await calls.get()) is not None:
            outcome = await call
            write(outcome.lines)
            if outcome.error is not None:
                raise outcome.error
            room.release()
        await starter
    finally:
        left = [starter, call, *(calls.get_nowait() for _ in range(calls.qsize()))]
        await _cancel([task for task in left if task is not None])


async def insist(call: Callable[[], Awaitable[Answer]]) -> Answer:
    """What the call returns, made anew after the server's delay whenever it has no room.

    Raises:
        OverloadedError: the server names no delay: the call is too large at any time.
        DragomanError: whatever else the call raises.
    """
    while True:
        try:
            return await call()
        except OverloadedError as error:
            if error.retry_after_seconds is None:
                raise
            await asyncio.sleep(error.retry_after_seconds)


def decode(line: bytes, name: str) -> str:
    """The text of a line.

    Raises:
        LineError: it is no UTF-8.
    """
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        msg = f"{name}: is not UTF-8 (byte {error.start})"
        raise LineError(msg) from None


def reason(error: DragomanError) -> str:
    """The error in one line, with what finds it in the server's log."""
    message = " ".join(str(error).split())
    if isinstance(error, ServerError) and error.request_id:
        return f"{message} (request {error.request_id})"
    return message


@dataclass(frozen=True, slots=True)
class _Outcome(Generic[Result]):
    """The lines of a call that were translated, and why the next one was not."""

    lines: list[Line[Result]]
    error: LineError | None


async def _start_calls(
    source: Source,
    translate: Translate[Result],
    room: asyncio.Semaphore,
    calls: asyncio.Queue[asyncio.Task[_Outcome[Result]] | None],
) -> None:
    """Start calls as room and lines come, until there are no more lines; None comes last."""
    first = 1
    try:
        while True:
            await room.acquire()  # first: lines that arrive meanwhile go into the same call
            lines = await source.take()
            if not lines:
                return
            work = _translate_batch(lines, first, source.noun, translate)
            calls.put_nowait(asyncio.create_task(work))
            first += len(lines)
    finally:
        calls.put_nowait(None)


async def _translate_batch(
    lines: list[bytes], first: int, noun: str, translate: Translate[Result]
) -> _Outcome[Result]:
    """Lines ``first``, ``first + 1``, ... up to the first that cannot be translated."""
    texts: list[str] = []
    error: LineError | None = None
    try:
        for number, line in enumerate(lines, start=first):
            texts.append(decode(line, f"{noun} {number}"))
    except LineError as fault:
        error = fault
    results: dict[int, Result] = {}
    while asked := [index for index, text in enumerate(texts) if text.strip()]:
        try:
            answers = await insist(functools.partial(translate, [texts[i] for i in asked]))
        except DragomanError as failure:
            place, why = _refused(failure)
            faulty = asked[place]
            error = LineError(f"{noun} {first + faulty}: {why}")
            del texts[faulty:]
        else:
            results = dict(zip(asked, answers, strict=True))
            break
    done = [Line(first + index, text, results.get(index)) for index, text in enumerate(texts)]
    return _Outcome(done, error)


def _refused(error: DragomanError) -> tuple[int, str]:
    """Which text of a call is to blame, the first if all are, and why."""
    message = reason(error)
    found = _FIELD.match(message)
    if found is None or not isinstance(error, InvalidRequestError):
        return 0, message
    return int(found[1]), message[found.end() :]


async def _cancel(tasks: list[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _fill(lines: deque[bytes]) -> list[bytes]:
    """Take the lines that one call may carry."""
    batch: list[bytes] = []
    size = 0
    while lines and len(batch) < LINES_A_CALL:
        size += len(lines[0])
        if batch and size > _BYTES_A_CALL:
            break
        batch.append(lines.popleft())
    return batch


def _chunks(descriptor: int) -> Iterator[list[bytes]]:
    """Whole lines of a file, without their ends: each time those that one read completed.

    Raises:
        LineError: a line is too long, or reading failed.
    """
    count, rest = 0, b""
    while data := _read_some(descriptor, count):
        *lines, rest = (rest + data).split(b"\n")
        count += len(lines)
        if lines:
            yield lines
        if len(rest) > _MAX_LINE_BYTES:
            msg = f"line {count + 1}: longer than {_MAX_LINE_BYTES} bytes"
            raise LineError(msg)
    if rest:
        yield [rest]


def _read_some(descriptor: int, count: int) -> bytes:
    try:
        return os.read(descriptor, _CHUNK_BYTES)
    except OSError as error:
        msg = f"line {count + 1}: cannot be read: {error.strerror}"
        raise LineError(msg) from error
