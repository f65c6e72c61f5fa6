"""Garbage at every port, and what becomes of the server: nothing.

    python -m loadtest.fuzz [--requests 100000] [--connections 10000] [--seed 0]

Mutated and random messages to every method, then connections that say what is no HTTP/2 (or no
HTTP, at the metrics port) and are dropped. Every request must end with a status that says what is
wrong with it: never UNKNOWN or INTERNAL, never nothing. Afterwards the server must translate as
before, hold no request, no connection and not much more memory. Exit status 1 if it does not.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

import dragoman
from loadtest.mutation import garbage, message
from loadtest.throughput import Served, served

PROPER = {
    "OK", "INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED", "PERMISSION_DENIED",
    "FAILED_PRECONDITION", "UNIMPLEMENTED",
}  # fmt: skip
# A server that has too much to do may be late, which is no hang; what is late is asked again alone.
_LATE = "DEADLINE_EXCEEDED"
_AT_ONCE = 64
_SHOWN_BYTES = 200
_HANG_SECONDS = 30.0
_MEMORY_MEGABYTES = 64.0
_SETTLE_SECONDS = 15.0
_KNOWN = ("I love you.", "我愛你。")


@dataclass(slots=True)
class Found:
    """What became of everything that was sent."""

    codes: Counter[str] = field(default_factory=Counter)
    improper: list[str] = field(default_factory=list)
    """Method, status and bytes of what ended otherwise than it should; the first ten."""
    late: list[tuple[str, bytes]] = field(default_factory=list)
    """Method and bytes of what was not answered in time among the others."""
    faults: list[str] = field(default_factory=list)
    """What is wrong with the server afterwards."""

    @property
    def improper_count(self) -> int:
        """Requests that ended otherwise than they should."""
        return sum(count for code, count in self.codes.items() if code not in {*PROPER, _LATE})

    def note(self, method: str, data: bytes, code: str) -> None:
        """Take the end of a request."""
        self.codes[code] += 1
        if code == _LATE:
            self.late.append((method, data))
        elif code not in PROPER and len(self.improper) < 10:  # noqa: PLR2004
            self.improper.append(_shown(method, data, code))


def main(arguments: list[str] | None = None) -> int:
    """Send, look, print."""
    options = _parser().parse_args(arguments)
    started = time.monotonic()
    with served(options.bundle, "--model-admin") as server:
        found = asyncio.run(fuzz(server, options.requests, options.connections, options.seed))
    codes = ", ".join(f"{code} {count}" for code, count in found.codes.most_common())
    print(
        f"{options.requests} requests, {options.connections} connections of garbage, seed "
        f"{options.seed}, {time.monotonic() - started:.0f} s: {codes}"
    )
    for line in [*found.improper, *found.faults]:
        print(line)
    bad = found.improper_count or found.faults
    print("FAILED" if bad else "every request ended with a proper status; the server is as before")
    return 1 if bad else 0


async def fuzz(server: Served, requests: int, connections: int, seed: int) -> Found:
    """Everything at one server."""
    found = Found()
    await _requests(server.target, max(1, requests // 10), seed - 1, found)
    # What is kept on purpose, such as the cache of sentences and gRPC's buffers, is there by now.
    memory, files = server.resident_megabytes(), server.open_files()
    await _requests(server.target, requests - max(1, requests // 10), seed, found)
    for number in range(connections):
        to = server.target if number % 3 else server.metrics_target
        await _connection(to, garbage(random.Random(f"{seed}-{number}")))  # noqa: S311
    await asyncio.to_thread(_look, server, memory, files, found)
    return found


async def _requests(target: str, count: int, seed: int, found: Found) -> None:
    draw = random.Random(seed)  # noqa: S311  the same requests each time
    waiting = iter(range(count))
    options = [("grpc.enable_retries", 0)]
    async with grpc.aio.insecure_channel(target, options=options) as channel:

        async def work() -> None:
            for _ in waiting:
                method, data = message(draw)
                found.note(method, data, await _ask(channel, method, data))

        await asyncio.gather(*(work() for _ in range(_AT_ONCE)))
        for method, data in found.late:
            code = await _ask(channel, method, data)
            if code not in PROPER:
                found.faults.append(f"hangs: {_shown(method, data, code)}")
        found.late.clear()


async def _ask(channel: grpc.aio.Channel, method: str, data: bytes) -> str:
    """How it ends, read as a stream: of a unary method that is its one message."""
    call: Any = channel.unary_stream(method)
    try:
        async for _piece in call(data, timeout=_HANG_SECONDS):
            pass
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"


def _shown(method: str, data: bytes, code: str) -> str:
    return f"{code} {method} {len(data)} bytes {data[:_SHOWN_BYTES].hex()}"


async def _connection(target: str, data: bytes) -> None:
    """Say something and hang up, sometimes after a look at what comes."""
    host, _, port = target.rpartition(":")
    with contextlib.suppress(OSError, TimeoutError):
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(data)
            await writer.drain()
            if len(data) % 4 == 0:
                await asyncio.wait_for(reader.read(1024), 0.2)
        finally:
            writer.transport.abort()


def _look(server: Served, memory: float, files: int, found: Found) -> None:
    """Note what is not as it was."""
    with dragoman.Client(server.target) as client:
        answer = client.translate(_KNOWN[0], target_language="zh-TW", timeout_seconds=30).text
    if answer != _KNOWN[1]:
        found.faults.append(f"the server translates otherwise than before: {answer}")
    deadline = time.monotonic() + _SETTLE_SECONDS
    # gRPC keeps a few descriptors of its own; a connection that stays open is one each.
    while (
        left := server.sample("dragoman_requests_in_flight")
        + server.sample("dragoman_sequences_waiting")
        + server.sample("dragoman_sequences_running")
    ) or server.open_files() > files + 4:
        if time.monotonic() > deadline:
            found.faults.append(
                f"{left:.0f} requests or sentences are left, {server.open_files()} open files, "
                f"{files} before"
            )
            break
        time.sleep(0.2)
    grown = server.resident_megabytes() - memory
    if grown > _MEMORY_MEGABYTES:
        found.faults.append(f"memory grew by {grown:.0f} MB")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtest.fuzz", description=__doc__)
    parser.add_argument("--bundle", type=Path, default=Path("bundles/en-zh-TW"))
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    sys.exit(main())
