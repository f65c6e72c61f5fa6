"""Faults of a server by itself, under load: its machine's clock jumps, connections come and go."""

from __future__ import annotations

import asyncio
import email.utils
import os
import socket
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from running import RunningServer, running_server
from traffic import Traffic

import dragoman
from server.access.key_command import add_key

FAKETIME = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)
CONNECTIONS = 10_000
TEXT = "I love you."
_AT_ONCE = 200
_DAY = 86_400


@dataclass
class JumpingServer:
    server: RunningServer
    offset: Path
    keys: dict[str, str]

    def jump(self, days: int) -> None:
        """Set its clock so far from ours, and wait until it has seen that.

        Monotonic clocks do not jump, as in a real machine.
        """
        self.offset.write_text(f"{days * _DAY:+d}")
        deadline = time.monotonic() + 30
        while abs(self._ahead_days() - days) > 0.01:
            assert time.monotonic() < deadline, f"its clock is not {days} days ahead"
            time.sleep(0.3)

    def _ahead_days(self) -> float:
        """How far from ours the clock is by which it dates its answers."""
        with urllib.request.urlopen(f"{self.server.http_url}/health", timeout=10) as answer:
            date = email.utils.parsedate_to_datetime(answer.headers["date"])
        return (date.timestamp() - time.time()) / _DAY


@pytest.fixture
def jumping(tmp_path: Path) -> Iterator[JumpingServer]:
    if FAKETIME is None:
        assert "EVERY_TEST" not in os.environ, "libfaketime is not there"
        pytest.skip("needs Debian's faketime, which .ci/run installs")
    keys, offset = tmp_path / "keys.toml", tmp_path / "offset"
    offset.write_text("+0")

    known = {
        name: add_key(keys, name, limits, admin=False)
        for name, limits in {"free": {}, "bounded": {"characters_per_day": 3 * len(TEXT)}}.items()
    }
    clock = {
        "LD_PRELOAD": str(FAKETIME), "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }  # fmt: skip
    with running_server("--key-file", str(keys), **clock) as server:  # type: ignore[arg-type]
        yield JumpingServer(server, offset, known)


async def test_a_clock_that_jumps_changes_nothing(jumping: JumpingServer) -> None:
    server = jumping.server
    traffic = Traffic(server.target, key=jumping.keys["free"])
    async with traffic.flowing() as account:
        await asyncio.sleep(0.5)
        await asyncio.to_thread(_use_up, jumping)
        for days in (1, -2, 400, 0):
            await asyncio.to_thread(jumping.jump, days)
            # A day that has not passed gives no quota back, and one that comes again takes none.
            seconds = await asyncio.to_thread(_seconds_to_wait, jumping)
            assert 0 < seconds <= _DAY / 3
    print(account.row("the clock a day on, two days back, 400 days on, and right again"))
    assert account.sent > 50, account
    assert account.wrong == account.lost == 0, account.reasons[:5]
    # gRPC tells how much time a call has left by the clock of the day: who arrives in the very
    # moment of a jump may be taken for late, and is told to come again.
    assert account.refused <= 16, account
    method = "Translate"
    requests = server.sample("dragoman_request_duration_seconds_count", method=method)
    seconds = server.sample("dragoman_request_duration_seconds_sum", method=method)
    assert requests >= account.sent
    assert 0 < seconds < account.slowest_seconds * requests
    assert server.stop() == 0


def _use_up(jumping: JumpingServer) -> None:
    with dragoman.Client(jumping.server.target, api_key=jumping.keys["bounded"]) as client:
        for _ in range(3):
            client.translate(TEXT, target_language="zh-TW")


def _seconds_to_wait(jumping: JumpingServer) -> float:
    """When the caller who has used its quota is told to come again."""
    with dragoman.Client(jumping.server.target, api_key=jumping.keys["bounded"]) as client:
        with pytest.raises(dragoman.QuotaExceededError) as refused:
            client.translate(TEXT, target_language="zh-TW")
        return refused.value.retry_after_seconds or 0.0


async def test_ten_thousand_connections_opened_and_dropped_disturb_nobody() -> None:
    with running_server() as server:
        process = psutil.Process(server.process.pid)
        async with Traffic(server.target).flowing() as account:
            before, resident = process.num_fds(), server.resident_megabytes()
            begun = time.monotonic()
            await asyncio.to_thread(_open_and_drop, server)
            seconds = time.monotonic() - begun
            await asyncio.sleep(0.5)
        print(account.row(f"{CONNECTIONS:,} connections opened and dropped in {seconds:.1f} s"))
        assert account.sent > 0
        assert account.right == account.sent, account.reasons[:5]
        deadline = time.monotonic() + 30
        while process.num_fds() > before:
            assert time.monotonic() < deadline, "descriptors are left"
            await asyncio.sleep(0.1)
        grown = server.resident_megabytes() - resident
        print(f"resident memory {resident:.0f} MB, {grown:+.0f} MB after it")
        assert grown < 64


def _open_and_drop(server: RunningServer) -> None:
    """So many at once, to gRPC and HTTP in turn, some with the first words of each."""
    ports = [server.target, server.http_url.removeprefix("http://")]
    words = [b"", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"POST /translate HTTP/1.1\r\n"]
    for start in range(0, CONNECTIONS, _AT_ONCE):
        held = []
        for number in range(start, start + _AT_ONCE):
            host, port = ports[number % 2].split(":")
            held.append(socket.create_connection((host, int(port)), timeout=10))
            held[-1].sendall(words[number % 3])
        for one in held:
            one.close()
