"""What goes wrong around a server: no crash, no leak, no request without an end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from running import BUNDLE, ROOT, RunningServer, running_server
from traffic import Traffic

import dragoman
from dragoman.v1 import translation_pb2, translation_pb2_grpc
from loadtest import fuzz

# The whole number, as docs/SECURITY.md gives it, is 100,000.
REQUESTS = int(os.environ.get("FUZZ_REQUESTS", "3000"))


def request(*texts: str) -> translation_pb2.TranslateRequest:
    return translation_pb2.TranslateRequest(
        texts=texts, source_language="en", target_language="zh-TW", bypass_cache=True
    )


def test_fuzzed_requests_all_end_properly_and_leave_nothing_behind(
    capsys: pytest.CaptureFixture[str],
) -> None:
    status = fuzz.main(["--requests", str(REQUESTS), "--connections", str(REQUESTS // 10)])
    said = capsys.readouterr().out
    assert status == 0, said
    assert "INVALID_ARGUMENT" in said
    assert "OK" in said


def test_the_fuzzer_sees_what_is_improper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "PROPER", fuzz.PROPER - {"INVALID_ARGUMENT"})
    assert fuzz.main(["--requests", "60", "--connections", "0"]) == 1


@contextlib.contextmanager
def blind_server() -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A server whose log goes to a device that is always full, and its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "server", "--bundle", str(BUNDLE), "--port", str(port),
               "--metrics-port", "0", "--no-http", "--log-requests", "all",
               "--log-level", "debug"]  # fmt: skip
    with (
        Path("/dev/full").open("wb") as full,
        subprocess.Popen(command, cwd=ROOT, stdout=full, stderr=full) as process,
    ):
        try:
            yield process, f"127.0.0.1:{port}"
        finally:
            process.kill()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_disk_for_the_log_stops_nobody() -> None:
    with blind_server() as (process, target):
        with dragoman.Client(target) as client:
            deadline = time.monotonic() + 60
            while not client.is_ready():
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
            for _ in range(20):
                assert client.translate("I love you.", target_language="zh-TW").text == "我愛你。"
            with pytest.raises(dragoman.InvalidRequestError):
                client.translate(" ", target_language="zh-TW")
        process.terminate()
        assert process.wait(30) == 0


def test_a_full_queue_loses_nobody_every_call_is_answered_or_refused() -> None:
    flags = ["--max-queue-sentences", "40", "--engines", "1", "--slots", "8"]
    with (
        running_server(*flags) as server,
        grpc.insecure_channel(server.target, options=[("grpc.enable_retries", 0)]) as channel,
    ):
        stub = translation_pb2_grpc.TranslationServiceStub(channel)
        text = "The weather is fine today and the trains are on time."
        futures = [stub.Translate.future(request(*[text] * 10), timeout=120) for _ in range(200)]
        codes: Counter[str] = Counter()
        for future in futures:
            error = future.exception()
            if error is None:
                answers = {one.text for one in future.result().translations}
                assert len(answers) == 1
            codes["OK" if error is None else error.code().name] += 1  # type: ignore[attr-defined]
        print(f"a full line, {len(futures)} calls of 10 at once: {dict(codes)}")
        assert codes.keys() == {"OK", "RESOURCE_EXHAUSTED"}
        assert codes.total() == len(futures)
        server.settle()


def test_connections_that_come_and_go_leave_no_descriptor() -> None:
    with running_server() as server:
        host, port = server.target.split(":")
        before = psutil.Process(server.process.pid).num_fds()
        for number in range(1000):
            with socket.create_connection((host, int(port)), timeout=5) as connection:
                if number % 2:
                    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert _translated(server) == "我愛你。"
        deadline = time.monotonic() + 20
        while psutil.Process(server.process.pid).num_fds() > before + 4:
            assert time.monotonic() < deadline
            time.sleep(0.1)


async def test_clients_that_never_read_hold_nobody_up_and_take_no_memory() -> None:
    text = "The weather is fine today. " * 100
    with running_server() as server, grpc.insecure_channel(server.target) as channel:
        stub = translation_pb2_grpc.TranslationServiceStub(channel)
        ask: dict[str, Any] = {"source_language": "en", "target_language": "zh-TW"}
        traffic = Traffic(server.target, callers=8)
        async with traffic.flowing() as account:
            silent = [
                stub.TranslateStream(
                    translation_pb2.TranslateStreamRequest(text=text, bypass_cache=True, **ask)
                )
                for _ in range(50)
            ]
            await asyncio.sleep(1.0)
            before = server.resident_megabytes()
            await asyncio.sleep(4.0)
        print(account.row("50 streams that nobody reads, 8 callers beside them"))
        assert account.right > 10
        # Behind all that the streams ask for some could not be done in time, and are told so.
        assert account.lost == 0, account.reasons[:5]
        assert account.wrong == 0, account.differing
        assert account.slowest_seconds < 10
        assert server.resident_megabytes() - before < 100
        for call in silent:
            call.cancel()
        server.settle()


def _translated(server: RunningServer) -> str:
    with dragoman.Client(server.target) as client:
        return client.translate("I love you.", target_language="zh-TW", timeout_seconds=30).text
