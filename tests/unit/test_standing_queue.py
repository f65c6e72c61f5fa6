"""Calls that wait where nobody sees them are refused early, and only while they do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from dragoman.v1 import translation_pb2 as pb
from server.access.gate import Gate
from server.access.key_command import add_key
from server.api.interceptors import Observer
from server.api.standing_queue import StandingQueue
from server.api.watch import Watcher
from server.metrics import Metrics
from server.settings import Settings

TRANSLATE = "/dragoman.v1.TranslationService/Translate"
STREAM = "/dragoman.v1.TranslationService/TranslateStream"
MODELS = "/dragoman.v1.ModelService/ListModels"


def anybody() -> str:
    return ""


def stand(queue: StandingQueue, tenant: str = "") -> None:
    """Let it see an overload, and calls for so long that their queue has not been empty."""
    queue.refused()
    for _ in range(9):
        queue.sheds(lambda: tenant)
    queue._empty_last -= 1.0


async def test_a_queue_that_stays_under_overload_is_shed_until_it_has_been_empty() -> None:
    queue = StandingQueue()
    queue.refused()
    time.sleep(0.03)  # noqa: ASYNC251  no round of the loop: nothing shows that it is empty
    assert [queue.sheds(anybody) for _ in range(9)] == [False] * 8 + [True]
    until = time.monotonic() + 5.0
    before = queue._empty_last
    while queue._empty_last == before and time.monotonic() < until:
        await asyncio.sleep(0.002)
    assert not queue.sheds(anybody)


async def test_a_pause_in_which_the_loop_had_no_turns_is_no_sign_of_an_empty_queue() -> None:
    queue = StandingQueue()
    stand(queue)
    for _ in range(4):  # a call after every slow round
        time.sleep(0.01)  # noqa: ASYNC251
        assert queue.sheds(anybody)
        await asyncio.sleep(0)


async def test_without_overload_nothing_is_shed_however_long_calls_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queue, clock = StandingQueue(), [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    for _ in range(100):
        clock[0] += 0.001
        assert not queue.sheds(anybody)
    queue.refused()
    clock[0] += 0.5
    assert [queue.sheds(anybody) for _ in range(9)][-1]
    clock[0] += 0.6  # the overload is over
    assert not queue.sheds(anybody)


async def test_who_comes_alone_after_a_refusal_is_let_in() -> None:
    queue = StandingQueue()
    queue.refused()
    for _ in range(12):
        await asyncio.sleep(0.025)
        assert not queue.sheds(anybody)


async def test_who_sends_little_is_not_refused_for_the_flood_of_another() -> None:
    queue = StandingQueue()
    stand(queue, "loud")
    shed = {"loud": 0, "quiet": 0}
    for number in range(500):
        whose = "loud" if number % 10 else "quiet"
        shed[whose] += queue.sheds(lambda whose=whose: whose)  # type: ignore[misc]
    assert shed["loud"] == 450
    assert shed["quiet"] <= 1  # until somebody has sent more


@asynccontextmanager
async def door(
    metrics: Metrics, key_file: Path | None = None
) -> AsyncIterator[tuple[str, Watcher]]:
    """A server that answers anything, behind the interceptor."""

    async def one(request: pb.TranslateRequest, _: object) -> bytes:
        return b"".join(text.encode() for text in request.texts)

    async def several(request: pb.TranslateRequest, _: object) -> AsyncIterator[bytes]:
        for text in request.texts:
            yield text.encode()

    read = pb.TranslateRequest.FromString
    watcher = Watcher(metrics, Settings(), Gate(key_file), None)
    server = grpc.aio.server(interceptors=[Observer(watcher, open_reflection=True)])
    translation: dict[str, Any] = {
        "Translate": grpc.unary_unary_rpc_method_handler(one, read),
        "TranslateStream": grpc.unary_stream_rpc_method_handler(several, read),
    }
    models: dict[str, Any] = {"ListModels": grpc.unary_unary_rpc_method_handler(one, read)}
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler("dragoman.v1.TranslationService", translation),
            grpc.method_handlers_generic_handler("dragoman.v1.ModelService", models),
        )
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}", watcher
    finally:
        await server.stop(None)


async def test_at_a_standing_queue_who_has_a_deadline_is_refused_and_told_when_to_come() -> None:
    metrics = Metrics()
    request = pb.TranslateRequest(texts=["a", "b"]).SerializeToString()
    async with door(metrics) as (target, watcher), grpc.aio.insecure_channel(target) as channel:
        translate: Any = channel.unary_unary(TRANSLATE)
        stream: Any = channel.unary_stream(STREAM)
        list_models: Any = channel.unary_unary(MODELS)
        assert await translate(request, timeout=10) == b"ab"
        watcher.queue._look_later = lambda: None  # type: ignore[method-assign]
        stand(watcher.queue)
        assert await translate(request) == b"ab"
        assert [part async for part in stream(request)] == [b"a", b"b"]
        assert await list_models(request, timeout=10) == b"ab"
        for call in (translate(request, timeout=10), anext(aiter(stream(request, timeout=10)))):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call
            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            trailing = dict(refused.value.trailing_metadata())
            assert trailing["x-request-id"]
            assert trailing["grpc-retry-pushback-ms"] == "500"
            status = status_pb2.Status.FromString(trailing["grpc-status-details-bin"])
            assert status.details[0].Is(error_details_pb2.RetryInfo.DESCRIPTOR)
    read = metrics.registry.get_sample_value
    assert read("dragoman_rejections_total", {"reason": "door"}) == 2
    labels = {"method": "Translate", "code": "RESOURCE_EXHAUSTED"}
    assert read("dragoman_requests_total", labels) == 1
    assert read("dragoman_requests_in_flight", {"method": "Translate"}) == 0


async def test_at_a_standing_queue_who_has_no_known_key_is_told_that(tmp_path: Path) -> None:
    metrics, keys = Metrics(), tmp_path / "keys.toml"
    known = add_key(keys, "web", {}, admin=False)
    request = pb.TranslateRequest(texts=["a"]).SerializeToString()
    async with (
        door(metrics, keys) as (target, watcher),
        grpc.aio.insecure_channel(target) as channel,
    ):
        translate: Any = channel.unary_unary(TRANSLATE)
        watcher.queue._look_later = lambda: None  # type: ignore[method-assign]
        for tenant in ("web", ""):  # nobody sends less than the mean
            stand(watcher.queue, tenant)

        async def refused(key: str | None, seconds: float | None) -> grpc.aio.AioRpcError:
            headers = () if key is None else (("x-api-key", key),)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await translate(request, timeout=seconds, metadata=headers)
            assert dict(caught.value.trailing_metadata())["x-request-id"]
            return caught.value

        assert (await refused(known, 10)).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        for seconds in (10, None):
            for key, words in ((None, "asks for a key"), ("dgm_unknown", "not known")):
                told = await refused(key, seconds)
                assert told.code() is grpc.StatusCode.UNAUTHENTICATED
                assert words in str(told.details())
                assert "grpc-retry-pushback-ms" not in dict(told.trailing_metadata())
            watched = metrics.registry.get_sample_value(
                "dragoman_request_duration_seconds_count", {"method": "Translate"}
            )
            assert watched == (None if seconds else 2)  # refused before a watch was begun
    read = metrics.registry.get_sample_value
    assert read("dragoman_rejections_total", {"reason": "door"}) == 1
    assert read("dragoman_rejections_total", {"reason": "unauthenticated"}) == 4
