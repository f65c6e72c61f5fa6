"""How long a connection lives: until it is old, or until nobody is at its other end."""

from __future__ import annotations

import asyncio
import socket
import time

import grpc
import psutil
from running import RunningServer, running_server
from traffic import Traffic

from dragoman.v1 import translation_pb2, translation_pb2_grpc

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
EMPTY_SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
GOAWAY, PING = 7, 6


def callers(server: RunningServer) -> set[int]:
    """The ports of those who are connected to its gRPC port."""
    port = int(server.target.rsplit(":", 1)[1])
    return {
        one.raddr.port
        for one in psutil.Process(server.process.pid).net_connections("tcp")
        if one.laddr.port == port and one.status == psutil.CONN_ESTABLISHED
    }


def frames(connection: socket.socket) -> list[int]:
    """The kinds of HTTP/2 frames that come until the other side closes, nothing being answered."""
    data = bytearray()
    while part := connection.recv(65536):
        data += part
    kinds = []
    while data:
        kinds.append(data[3])
        del data[: 9 + int.from_bytes(data[:3])]
    return kinds


def silent_caller(server: RunningServer) -> socket.socket:
    """A connection of HTTP/2 whose other end does nothing any more once it is there."""
    host, port = server.target.split(":")
    connection = socket.create_connection((host, int(port)), timeout=20)
    connection.sendall(PREFACE + EMPTY_SETTINGS)
    return connection


async def test_an_old_connection_is_closed_kindly_and_calls_go_on() -> None:
    flags = ("--max-connection-age-ms", "500")
    seen: set[int] = set()
    with running_server(*flags) as server:
        async with Traffic(server.target, callers=4).flowing() as account:
            deadline = time.monotonic() + 20
            while len(seen) < 4:
                assert time.monotonic() < deadline, "the connection is not made anew"
                seen |= callers(server)
                await asyncio.sleep(0.05)
        assert account.sent > 4
        assert account.right == account.sent, account.reasons[:5]


async def test_a_stream_that_is_longer_than_its_connection_may_live_is_finished() -> None:
    with running_server("--max-connection-age-ms", "100") as server:
        async with grpc.aio.insecure_channel(server.target) as channel:
            stub: translation_pb2_grpc.TranslationServiceAsyncStub = (
                translation_pb2_grpc.TranslationServiceStub(channel)
            )
            request = translation_pb2.TranslateStreamRequest(
                text="The weather is fine today, and so is the sea. " * 150, bypass_cache=True,
                source_language="en", target_language="zh-TW",
            )  # fmt: skip
            begun = time.monotonic()
            events = [event async for event in stub.TranslateStream(request)]
            assert time.monotonic() - begun > 0.1, "the connection grew old in between"
    assert events[-1].HasField("result")


def test_who_answers_no_ping_is_dropped() -> None:
    with running_server("--keepalive-time-ms", "300", "--keepalive-timeout-ms", "300") as server:
        with grpc.insecure_channel(server.target) as channel, silent_caller(server) as silent:
            grpc.channel_ready_future(channel).result(20)
            begun = time.monotonic()
            answering = callers(server) - {silent.getsockname()[1]}
            kinds = frames(silent)
            assert time.monotonic() - begun < 10
            assert PING in kinds
            assert GOAWAY in kinds
            assert len(answering) == 1
            assert callers(server) == answering, "who does answer stays"
        server.settle()
