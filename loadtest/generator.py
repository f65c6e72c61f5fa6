"""Sends requests at their times from processes of its own, and notes what became of each.

Times are counted from when a request was due, not from when it was sent: a generator or a server
that falls behind makes nobody's wait look shorter (no coordinated omission). How late requests were
sent is noted too. Messages are written before and read after the load.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import resource
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc

from dragoman.connection import Tls, call_metadata
from dragoman.v1 import translation_pb2
from loadtest.arrivals import Arrivals, arrival_times

TRANSLATE = "/dragoman.v1.TranslationService/Translate"
_STREAM = "/dragoman.v1.TranslationService/TranslateStream"
_START_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is sent where."""

    target: str
    sentences: list[str]
    rate: float
    """Requests a second, a sentence each."""
    seconds: float
    arrivals: Arrivals = "poisson"
    stream_every: int = 0
    """Each so manieth request is a stream; 0 = none."""
    deadline_seconds: float = 10.0
    seed: int = 0
    processes: int = 1
    connections: int = 4
    """Of each process."""
    source_language: str = "en"
    target_language: str = "zh-TW"
    bypass_cache: bool = False
    """Have every sentence decoded anew by a server that remembers some."""
    tls: Tls | None = None
    """None = in the clear."""

    def messages(self) -> list[bytes]:
        """A request for each sentence, as it goes over the wire."""
        return [
            translation_pb2.TranslateRequest(
                texts=[text],
                source_language=self.source_language,
                target_language=self.target_language,
                bypass_cache=self.bypass_cache,
            ).SerializeToString()
            for text in self.sentences
        ]

    def stream_messages(self) -> list[bytes]:
        """The same as streams."""
        return [
            translation_pb2.TranslateStreamRequest(
                text=text,
                source_language=self.source_language,
                target_language=self.target_language,
                bypass_cache=self.bypass_cache,
            ).SerializeToString()
            for text in self.sentences
        ]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a request; seconds from when the load began."""

    sentence: int
    """Its index among the load's sentences."""
    streamed: bool
    due: float
    sent: float
    first: float | None
    """When the first piece of a stream came."""
    last: float | None
    """When its last piece came, the result not counted."""
    ended: float
    code: str
    """Name of its gRPC status."""
    answer: str
    tokens: int
    """Target tokens."""


@dataclass(frozen=True, slots=True)
class Generated:
    """All outcomes of a load, and the CPU time that it took to send it."""

    outcomes: list[Outcome]
    cpu_seconds: float


def generate(load: Load) -> Generated:
    """Send a load; returns when every request has ended.

    Raises:
        ConnectionError: nobody answers at the target.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(load.processes, mp_context=spawn) as pool:
        # A process takes some time to be there; the load begins when all are.
        for one in [pool.submit(_warm) for _ in range(load.processes)]:
            one.result()
        start = time.monotonic() + _START_SECONDS
        shares = [pool.submit(_share, load, number, start) for number in range(load.processes)]
        found = [share.result() for share in shares]
    outcomes = sorted((one for part in found for one in part.outcomes), key=lambda one: one.due)
    return Generated(outcomes, sum(part.cpu_seconds for part in found))


def _warm() -> int:
    time.sleep(0.1)  # long enough that no process takes two of these
    return os.getpid()


def _share(load: Load, number: int, start: float) -> Generated:
    """In a process: each so manieth request."""
    return asyncio.run(_Sender(load, start).run(number))


class _Sender:
    """The requests of one process."""

    def __init__(self, load: Load, start: float) -> None:
        self._load = load
        self._start = start
        self._key = call_metadata(None)
        self._unary_messages = load.messages()
        self._stream_messages = load.stream_messages()
        self._raw: list[_Raw] = []

    async def run(self, number: int) -> Generated:
        load = self._load
        times = arrival_times(load.arrivals, load.rate, load.seconds, load.seed)
        # Retries would hide refusals; each channel gets a connection of its own.
        options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
        channels = [connect(load, options) for _ in range(load.connections)]
        try:
            await asyncio.wait_for(channels[0].channel_ready(), 10)
        except TimeoutError:
            msg = f"nobody answers at {load.target}"
            raise ConnectionError(msg) from None
        unary: list[Any] = [channel.unary_unary(TRANSLATE) for channel in channels]
        streams: list[Any] = [channel.unary_stream(_STREAM) for channel in channels]
        before, tasks = _cpu_seconds(), []
        for index in range(number, len(times), load.processes):
            due = self._start + times[index]
            pause = due - time.monotonic()
            if pause > 0:
                await asyncio.sleep(pause)
            streamed = load.stream_every and index % load.stream_every == 0
            call = (streams if streamed else unary)[index % load.connections]
            send = self._stream(call, index, due) if streamed else self._unary(call, index, due)
            tasks.append(asyncio.ensure_future(send))
        await asyncio.gather(*tasks)
        used = _cpu_seconds() - before
        for channel in channels:
            await channel.close()
        return Generated([raw.read(self._start) for raw in self._raw], used)

    async def _unary(self, call: Any, index: int, due: float) -> None:  # noqa: ANN401
        raw = _Raw(index % len(self._unary_messages), due, time.monotonic(), streamed=False)
        with raw.until_it_ends(self._raw):
            message = self._unary_messages[raw.sentence]
            answer = await call(message, timeout=self._load.deadline_seconds, metadata=self._key)
            raw.pieces.append((time.monotonic(), answer))

    async def _stream(self, call: Any, index: int, due: float) -> None:  # noqa: ANN401
        raw = _Raw(index % len(self._stream_messages), due, time.monotonic(), streamed=True)
        with raw.until_it_ends(self._raw):
            message = self._stream_messages[raw.sentence]
            stream = call(message, timeout=self._load.deadline_seconds, metadata=self._key)
            async for piece in stream:
                raw.pieces.append((time.monotonic(), piece))


def connect(load: Load, options: list[tuple[str, int]]) -> grpc.aio.Channel:
    """A channel to a load's target."""
    if load.tls is None:
        return grpc.aio.insecure_channel(load.target, options=options)
    return grpc.aio.secure_channel(load.target, load.tls.credentials(), options=options)


@dataclass(slots=True)
class _Raw:
    """A request and what came back, unread; monotonic seconds."""

    sentence: int
    due: float
    sent: float
    streamed: bool
    pieces: list[tuple[float, bytes]] = field(default_factory=list)
    ended: float = 0.0
    code: str = "OK"

    @contextlib.contextmanager
    def until_it_ends(self, everything: list[_Raw]) -> Iterator[None]:
        """Note how the call inside ends, and put it with the others."""
        try:
            yield
        except grpc.aio.AioRpcError as error:
            self.code = error.code().name
        self.ended = time.monotonic()
        everything.append(self)

    def read(self, start: float) -> Outcome:
        """The outcome, after the load."""
        first = last = None
        if self.streamed and len(self.pieces) > 1:  # pieces, then the result
            first, last = self.pieces[0][0] - start, self.pieces[-2][0] - start
        result = translation_pb2.Translation()
        if self.pieces and self.code == "OK":
            result = _translation(self.pieces[-1][1], streamed=self.streamed)
        return Outcome(
            sentence=self.sentence,
            streamed=self.streamed,
            due=self.due - start,
            sent=self.sent - start,
            first=first,
            last=last,
            ended=self.ended - start,
            code=self.code,
            answer=result.text,
            tokens=result.usage.target_tokens,
        )


def _translation(message: bytes, *, streamed: bool) -> translation_pb2.Translation:
    if streamed:
        return translation_pb2.TranslateStreamResponse.FromString(message).result.translation
    (result,) = translation_pb2.TranslateResponse.FromString(message).translations
    return result


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
