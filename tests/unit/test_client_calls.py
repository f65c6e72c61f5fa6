"""Both clients against a server that does as it is told: retries, errors, streams, cancelling."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Self

import grpc
import pytest

import dragoman
from dragoman import AsyncClient, Client, Delta, Translation
from dragoman.v1 import models_pb2, models_pb2_grpc, translation_pb2, translation_pb2_grpc

MODEL = translation_pb2.ModelReference(name="echo", digest="ab")
Failure = tuple[grpc.StatusCode, str, tuple[tuple[str, Any], ...]]


@dataclass
class Echo(translation_pb2_grpc.TranslationServiceServicer, models_pb2_grpc.ModelServiceServicer):
    """Translates to capitals, after the failures it was told."""

    target: str = ""
    failures: list[Failure] = field(default_factory=list)
    calls: int = 0
    metadata: dict[str, Any] = field(default_factory=dict)
    remaining: float | None = None
    answers: int | None = None
    """As many, whatever was asked."""
    hold: threading.Event | None = None
    """A stream waits for it after its first delta."""
    ended: threading.Event = field(default_factory=threading.Event)
    with_result: bool = True

    def fail(self, code: grpc.StatusCode, message: str = "no", **metadata: str) -> None:
        trailing = tuple((key.replace("_", "-"), value) for key, value in metadata.items())
        self.failures.append((code, message, trailing))

    def _enter(self, context: grpc.ServicerContext) -> None:
        self.calls += 1
        self.metadata = dict(context.invocation_metadata())
        self.remaining = context.time_remaining()
        if self.failures:
            code, message, trailing = self.failures.pop(0)
            context.set_trailing_metadata(trailing)
            context.abort(code, message)

    def Translate(self, request: Any, context: Any) -> translation_pb2.TranslateResponse:  # noqa: N802
        self._enter(context)
        texts = [text.upper() for text in request.texts][: self.answers]
        results = [translation_pb2.Translation(text=text) for text in texts]
        return translation_pb2.TranslateResponse(translations=results, model=MODEL)

    def TranslateBulk(self, request_iterator: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        raise NotImplementedError

    def DetectLanguage(self, request: Any, context: Any) -> Any:  # noqa: N802
        raise NotImplementedError

    def Analyze(self, request: Any, context: Any) -> Any:  # noqa: N802
        raise NotImplementedError

    def TranslateStream(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        context.add_callback(self.ended.set)
        self._enter(context)
        for index, character in enumerate(request.text.upper()):
            delta = translation_pb2.TextDelta(text=character, sentence_index=index)
            yield translation_pb2.TranslateStreamResponse(delta=delta)
            if self.hold is not None:
                self.hold.wait(10)
        yield translation_pb2.TranslateStreamResponse()  # an event that we do not know
        if self.with_result:
            result = translation_pb2.StreamResult(
                translation=translation_pb2.Translation(text=request.text.upper()), model=MODEL
            )
            yield translation_pb2.TranslateStreamResponse(result=result)

    def ListModels(self, request: Any, context: Any) -> models_pb2.ListModelsResponse:  # noqa: N802
        self._enter(context)
        return models_pb2.ListModelsResponse(models=[models_pb2.Model(name="echo")])

    def GetModel(self, request: Any, context: Any) -> models_pb2.GetModelResponse:  # noqa: N802
        self._enter(context)
        return models_pb2.GetModelResponse(model=models_pb2.Model(name=request.name))

    def LoadModel(self, request: Any, context: Any) -> models_pb2.LoadModelResponse:  # noqa: N802
        self._enter(context)
        replaced = "0" * 64 if request.path == "again" else None
        model = models_pb2.Model(name=request.path)
        return models_pb2.LoadModelResponse(model=model, replaced_digest=replaced)

    def UnloadModel(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._enter(context)
        return models_pb2.UnloadModelResponse(model=models_pb2.Model(name=request.name))


@pytest.fixture
def echo() -> Iterator[Echo]:
    servicer = Echo()
    server = grpc.server(ThreadPoolExecutor(4))
    translation_pb2_grpc.add_TranslationServiceServicer_to_server(servicer, server)
    models_pb2_grpc.add_ModelServiceServicer_to_server(servicer, server)
    servicer.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield servicer
    if servicer.hold is not None:
        servicer.hold.set()
    server.stop(0).wait()


class Synchronous:
    """The synchronous client behind the asynchronous one's face, to be tested by the same tests."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.client = Client(*arguments, **options)

    async def __aenter__(self) -> Self:
        self.client.__enter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        self.client.close()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.client, name)

        async def call(*arguments: Any, **options: Any) -> Any:
            return await asyncio.to_thread(method, *arguments, **options)

        return call

    def translate_stream(self, *arguments: Any, **options: Any) -> AsyncIterator[Any]:
        inner = self.client.translate_stream(*arguments, **options)

        async def events() -> AsyncIterator[Any]:
            try:
                while (event := await asyncio.to_thread(next, inner, None)) is not None:
                    yield event
            finally:
                inner.close()

        return events()


@pytest.fixture(params=[Synchronous, AsyncClient], ids=["sync", "async"])
async def client(request: pytest.FixtureRequest, echo: Echo) -> AsyncIterator[Any]:
    async with request.param(echo.target) as connected:
        yield connected


async def test_a_text_gives_a_translation_and_a_list_gives_a_list(client: Any) -> None:
    one = await client.translate("a", target_language="zh-TW")
    assert isinstance(one, Translation)
    assert (one.text, one.model.name) == ("A", "echo")
    for texts in (["a", "b"], ("a", "b")):
        many = await client.translate(texts, target_language="zh-TW")
        assert [item.text for item in many] == ["A", "B"]


async def test_a_stream_is_its_deltas_and_then_the_translation(client: Any) -> None:
    events = [event async for event in client.translate_stream("ab", target_language="zh-TW")]
    assert events[:-1] == [Delta("A", 0), Delta("B", 1)]
    assert isinstance(events[-1], Translation)
    assert events[-1].text == "AB"


async def test_models(client: Any) -> None:
    assert [model.name for model in await client.list_models()] == ["echo"]
    assert (await client.get_model("small")).name == "small"


async def test_models_are_changed(client: Any) -> None:
    loaded = await client.load_model("en-fr")
    assert (loaded.model.name, loaded.replaced_digest) == ("en-fr", None)
    assert (await client.load_model("again")).replaced_digest == "0" * 64
    assert (await client.unload_model("en-fr")).name == "en-fr"
    for call in (client.load_model, client.unload_model):
        with pytest.raises(dragoman.InvalidRequestError):
            await call("\ud800")


async def test_a_call_carries_a_deadline_unless_it_is_told_not_to(client: Any, echo: Echo) -> None:
    await client.translate("a", target_language="zh-TW")
    assert echo.remaining is not None
    assert 50 < echo.remaining < 61  # gRPC rounds up what it sends
    await client.translate("a", target_language="zh-TW", timeout_seconds=None)
    assert echo.remaining is None or echo.remaining > 1e6


@pytest.mark.parametrize("kind", [Synchronous, AsyncClient])
async def test_the_key_goes_with_every_call(kind: Any, echo: Echo) -> None:
    async with kind(echo.target, api_key="k") as client:
        await client.translate("a", target_language="zh-TW")
        assert echo.metadata.pop("authorization") == "Bearer k"
        _ = [event async for event in client.translate_stream("a", target_language="zh-TW")]
        assert echo.metadata.pop("authorization") == "Bearer k"
        await client.list_models()
        assert echo.metadata.pop("authorization") == "Bearer k"
        await client.get_model("echo")
        assert echo.metadata.pop("authorization") == "Bearer k"


async def test_unavailable_is_tried_again_unseen(client: Any, echo: Echo) -> None:
    for _ in range(2):
        echo.fail(grpc.StatusCode.UNAVAILABLE, grpc_retry_pushback_ms="10")
    assert (await client.translate("a", target_language="zh-TW")).text == "A"
    assert echo.calls == 3
    echo.fail(grpc.StatusCode.UNAVAILABLE, grpc_retry_pushback_ms="10")
    assert [model.name for model in await client.list_models()] == ["echo"]
    echo.fail(grpc.StatusCode.UNAVAILABLE, grpc_retry_pushback_ms="10")
    events = [event async for event in client.translate_stream("a", target_language="zh-TW")]
    assert len(events) == 2


async def test_a_retry_waits_as_long_as_the_server_asks(client: Any, echo: Echo) -> None:
    echo.fail(grpc.StatusCode.UNAVAILABLE, grpc_retry_pushback_ms="600")
    start = time.monotonic()
    await client.translate("a", target_language="zh-TW")
    assert echo.calls == 2
    assert time.monotonic() - start >= 0.55  # the service config alone would wait 0.1 s at most


async def test_after_four_attempts_unavailable_is_an_error(client: Any, echo: Echo) -> None:
    for _ in range(9):
        echo.fail(grpc.StatusCode.UNAVAILABLE, "warming up", grpc_retry_pushback_ms="20")
    with pytest.raises(dragoman.UnavailableError, match="warming up") as caught:
        await client.translate("a", target_language="zh-TW")
    assert caught.value.retry_after_seconds == 0.02
    assert echo.calls == 4


async def test_overload_is_the_callers_to_handle_and_says_when(client: Any, echo: Echo) -> None:
    echo.fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", grpc_retry_pushback_ms="1500")
    with pytest.raises(dragoman.OverloadedError, match="full") as caught:
        await client.translate("a", target_language="zh-TW")
    assert caught.value.retry_after_seconds == 1.5
    assert echo.calls == 1


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, dragoman.InvalidRequestError),
        (grpc.StatusCode.NOT_FOUND, dragoman.UnknownModelError),
        (grpc.StatusCode.UNAUTHENTICATED, dragoman.UnauthenticatedError),
        (grpc.StatusCode.PERMISSION_DENIED, dragoman.UnauthenticatedError),
        (grpc.StatusCode.FAILED_PRECONDITION, dragoman.FailedPreconditionError),
        (grpc.StatusCode.INTERNAL, dragoman.ServerError),
        (grpc.StatusCode.CANCELLED, dragoman.CancelledError),
    ],
)
async def test_every_method_raises_our_errors(
    client: Any, echo: Echo, code: grpc.StatusCode, kind: type[Exception]
) -> None:
    async def stream() -> None:
        async for _ in client.translate_stream("a", target_language="zh-TW"):
            pass

    calls = [
        lambda: client.translate("a", target_language="zh-TW"),
        stream,
        client.list_models,
        lambda: client.get_model("echo"),
        lambda: client.load_model("echo"),
        lambda: client.unload_model("echo"),
    ]
    for call in calls:
        echo.fail(code, "why", x_request_id="r1")
        with pytest.raises(kind, match="why") as caught:
            await call()
        assert caught.value.request_id == "r1"  # type: ignore[attr-defined]


async def test_a_deadline_that_passes_is_an_error(client: Any, echo: Echo) -> None:
    echo.hold = threading.Event()
    events = client.translate_stream("ab", target_language="zh-TW", timeout_seconds=0.3)
    with pytest.raises(dragoman.DeadlineExceededError):
        _ = [event async for event in events]


async def test_a_server_that_cannot_be_reached_is_unavailable() -> None:
    async with AsyncClient("127.0.0.1:1") as client:
        with pytest.raises(dragoman.UnavailableError):
            await client.translate("a", target_language="zh-TW")


async def test_an_answer_of_another_length_is_an_error(client: Any, echo: Echo) -> None:
    echo.answers = 1
    with pytest.raises(dragoman.ServerError, match="1 translations came back for 2 texts"):
        await client.translate(["a", "b"], target_language="zh-TW")
    echo.answers = 0
    with pytest.raises(dragoman.ServerError, match="0 translations"):
        await client.translate("a", target_language="zh-TW")


async def test_a_stream_without_a_result_is_an_error(client: Any, echo: Echo) -> None:
    echo.with_result = False
    with pytest.raises(dragoman.ServerError, match="without a result"):
        _ = [event async for event in client.translate_stream("a", target_language="zh-TW")]


async def test_a_faulty_stream_request_fails_before_it_is_iterated(client: Any) -> None:
    with pytest.raises(dragoman.InvalidRequestError, match=r"^text: "):
        client.translate_stream("\ud800", target_language="zh-TW")


def test_leaving_the_loop_cancels_the_call(echo: Echo) -> None:
    echo.hold = threading.Event()
    with Client(echo.target) as client:
        for event in client.translate_stream("abc", target_language="zh-TW"):
            assert event == Delta("A", 0)
            break
        assert echo.ended.wait(5)


async def test_leaving_the_asynchronous_loop_cancels_the_call(echo: Echo) -> None:
    echo.hold = threading.Event()
    async with AsyncClient(echo.target) as client:
        stream = client.translate_stream("abc", target_language="zh-TW")
        async with contextlib.aclosing(stream) as events:
            async for event in events:
                assert event == Delta("A", 0)
                break
        assert await asyncio.to_thread(echo.ended.wait, 5)


async def test_cancelling_the_task_cancels_the_call(echo: Echo) -> None:
    echo.hold = threading.Event()
    arrived = asyncio.Event()

    async def read(connected: AsyncClient) -> None:
        async for _ in connected.translate_stream("abc", target_language="zh-TW"):
            arrived.set()

    async with AsyncClient(echo.target) as connected:
        task = asyncio.create_task(read(connected))
        await arrived.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(echo.ended.wait, 5)


def test_many_threads_share_a_client(echo: Echo) -> None:
    with Client(echo.target) as client, ThreadPoolExecutor(8) as pool:
        texts = [f"text {number}" for number in range(100)]
        found = pool.map(lambda text: client.translate(text, target_language="zh-TW").text, texts)
        assert list(found) == [text.upper() for text in texts]


def test_closing_ends_calls_in_flight(echo: Echo) -> None:
    echo.hold = threading.Event()
    client = Client(echo.target)
    stream = client.translate_stream("abc", target_language="zh-TW")
    next(stream)
    threading.Timer(0.1, client.close).start()
    with pytest.raises(dragoman.CancelledError):
        next(stream)


async def test_a_server_without_health_service_cannot_say(client: Any) -> None:
    with pytest.raises(dragoman.ServerError):
        await client.is_ready()


async def test_no_server_is_not_ready() -> None:
    started = time.monotonic()
    with Client("127.0.0.1:1") as client:
        assert not client.is_ready()
    async with AsyncClient("127.0.0.1:1") as asynchronous:
        assert not await asynchronous.is_ready()
    assert time.monotonic() - started < 10
