"""Models change under traffic, as callers meet it: a real server, real gRPC, nobody fails."""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from bundle_copies import SHIPPED, copy_bundle, damage, version, wrong_goldens
from google.rpc import error_details_pb2, status_pb2
from running import ROOT, RunningServer, running_server
from traffic import Traffic

import dragoman
from dragoman.v1 import models_pb2, models_pb2_grpc, translation_pb2, translation_pb2_grpc

CALLERS, SECONDS, SWAPS = 16, 10.0, 5
PAIR: Any = {"source_language": "en", "target_language": "zh-TW"}
LINES = (ROOT / "loadtest" / "sentences.txt").read_text(encoding="utf-8").splitlines()
SENTENCES = [line.split("\t")[0] for line in LINES][:120]
LONG = " ".join(SENTENCES[:100])  # tokenised in a thread: its request reaches the engine late


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the servers of this file load models from."""
    folder = tmp_path_factory.mktemp("models")
    for number in range(SWAPS):
        copy_bundle(folder / f"v{number}", **version(number))
    copy_bundle(folder / "second", name="second", source_language="fr")
    damage(copy_bundle(folder / "damaged"))
    copy_bundle(folder / "odd", **wrong_goldens())
    (folder / "out").symlink_to(SHIPPED)
    return folder


@pytest.fixture
def open_server(root: Path) -> Iterator[RunningServer]:
    """A server whose models may be changed."""
    flags = "--model-admin", "--model-root", str(root), "--golden-check", "strict"
    with running_server(*flags) as server:
        yield server


@pytest.fixture
def client(open_server: RunningServer) -> Iterator[dragoman.Client]:
    with dragoman.Client(open_server.target) as connected:
        yield connected


def reserved(server: RunningServer) -> float:
    return server.sample("dragoman_kv_cache_bytes")


def wait_until_ended(server: RunningServer, count: int) -> None:
    """As many models as that have been retired and have given their memory back."""
    deadline = time.monotonic() + 30
    while sum(" ended after " in line for line in server.log) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


Told = tuple[str, list[int]]
"""A translation, and the codes of its warnings."""


def told(translation: translation_pb2.Translation) -> Told:
    return translation.text, [warning.code for warning in translation.warnings]


def again(answer: Told) -> bool:
    """Whether a whole answer is another than the first attempt, which is what a stream sends."""
    _, codes = answer
    return not {
        translation_pb2.WARNING_CODE_RETRIED,
        translation_pb2.WARNING_CODE_DEGENERATE_OUTPUT,
    }.isdisjoint(codes)


class Caller:
    """Calls one after the other without retries, and checks every answer."""

    def __init__(
        self, target: str, number: int, whole: dict[str, Told], streamed: dict[str, Told]
    ) -> None:
        self.target, self.number = target, number
        self.expected, self.expected_streams = whole, streamed
        self.digests: set[str] = set()
        self.calls = 0

    async def run(self, stop: asyncio.Event) -> None:
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
        async with grpc.aio.insecure_channel(self.target, options) as channel:
            stub: Any = translation_pb2_grpc.TranslationServiceStub(channel)
            sentences = itertools.cycle(SENTENCES[self.number :] + SENTENCES[: self.number])
            while not stop.is_set():
                self.calls += 1
                if self.number == 0:
                    await self.whole(stub, [LONG])
                elif self.number % 4 == 0:
                    await self.streamed(stub, next(sentences))
                else:
                    texts = [next(sentences) for _ in range(1 + self.number % 3)]
                    await self.whole(stub, texts)

    async def whole(self, stub: Any, texts: list[str]) -> None:
        answer = await stub.Translate(translation_pb2.TranslateRequest(texts=texts, **PAIR))
        assert list(map(told, answer.translations)) == [self.expected[text] for text in texts]
        self.digests.add(answer.model.digest)

    async def streamed(self, stub: Any, text: str) -> None:
        request = translation_pb2.TranslateStreamRequest(text=text, **PAIR)
        events = [event async for event in stub.TranslateStream(request)]
        pieces = "".join(event.delta.text for event in events[:-1])
        result = events[-1].result.translation
        assert pieces == result.text
        assert told(result) == self.expected_streams[text]
        self.digests.add(events[-1].result.model.digest)


async def expected_answers(target: str) -> tuple[dict[str, Told], dict[str, Told], str]:
    """Of each text before anything changes: whole, and as a stream; and who gave them.

    A stream is the whole answer but where that was tried again: what is sent is final, and it says
    so.
    """
    texts = [*SENTENCES, LONG]
    async with grpc.aio.insecure_channel(target) as channel:
        stub: Any = translation_pb2_grpc.TranslationServiceStub(channel)
        answer = await stub.Translate(translation_pb2.TranslateRequest(texts=texts, **PAIR))
        whole = dict(zip(texts, map(told, answer.translations), strict=True))
        streamed = dict(whole)
        for text in SENTENCES:
            if not again(whole[text]):
                continue
            request = translation_pb2.TranslateStreamRequest(text=text, **PAIR)
            *_, last = [event async for event in stub.TranslateStream(request)]
            streamed[text] = told(last.result.translation)
            final = {
                translation_pb2.WARNING_CODE_DEGENERATE_OUTPUT,
                translation_pb2.WARNING_CODE_PLACEHOLDER_LOST,
                translation_pb2.WARNING_CODE_PLACEHOLDER_PLACED,
            }
            assert streamed[text] == whole[text] or not final.isdisjoint(streamed[text][1])
    return whole, streamed, answer.model.digest


async def test_swaps_loads_and_unloads_under_load_fail_nobody_and_change_no_answer(
    open_server: RunningServer,
) -> None:
    async with dragoman.AsyncClient(open_server.target) as client:
        whole, streamed, before = await expected_answers(open_server.target)
        tried_again = sum(map(again, map(whole.__getitem__, SENTENCES)))
        assert tried_again <= len(SENTENCES) / 10
        callers = [Caller(open_server.target, index, whole, streamed) for index in range(CALLERS)]
        stop, end = asyncio.Event(), time.monotonic() + SECONDS
        running = asyncio.gather(*(caller.run(stop) for caller in callers))
        digests = {before}
        for number in range(SWAPS):
            await asyncio.sleep(SECONDS / 10)
            loaded = await client.load_model(f"v{number}")
            assert loaded.replaced_digest == before
            before = loaded.model.digest
            digests.add(before)
            await client.load_model("second")
            await asyncio.sleep(SECONDS / 20)
            french = await client.translate(
                "I love you.", source_language="fr", target_language="zh-TW"
            )
            assert french.model.name == "second"
            await client.unload_model("second")
        await asyncio.sleep(end - time.monotonic())
        stop.set()
        await running
    assert set().union(*(caller.digests for caller in callers)) == digests
    calls = sum(caller.calls for caller in callers)
    counted = open_server.sample("dragoman_requests_total")
    assert counted == open_server.sample("dragoman_requests_total", code="OK")
    assert counted == calls + 1 + tried_again + 4 * SWAPS
    assert open_server.sample("dragoman_ready") == 1
    print(f"{calls} calls, none failed; {tried_again} sentences were tried again")


async def test_an_unload_under_load_finishes_what_began_and_refuses_the_rest(
    open_server: RunningServer,
) -> None:
    before = reserved(open_server)
    async with dragoman.AsyncClient(open_server.target) as client:
        await client.load_model("second")
        assert reserved(open_server) == 2 * before
        ask: Any = {"source_language": "fr", "target_language": "zh-TW"}
        running = [
            asyncio.ensure_future(client.translate(SENTENCES * 2, **ask)),
            asyncio.ensure_future(client.translate(LONG * 4, **ask)),
        ]
        while not open_server.sample("dragoman_sequences_running", model="second"):
            await asyncio.sleep(0.005)
        unloaded = await client.unload_model("second")
        assert not any(task.done() for task in running)
        with pytest.raises(dragoman.UnknownModelError):
            await client.translate("I love you.", **ask)
        with pytest.raises(dragoman.UnknownModelError):
            await client.translate("I love you.", target_language="zh-TW", model="second")
        many, long = await asyncio.gather(*running)
        assert len(many) == len(SENTENCES) * 2
        assert {item.model.digest for item in [*many, long]} == {unloaded.digest}
        assert [model.name for model in await client.list_models()] == ["en-zh-TW"]
    wait_until_ended(open_server, 1)
    assert reserved(open_server) == before
    assert 'model="second"' not in open_server.metrics()


def test_a_bundle_that_cannot_be_used_is_one_line_and_the_old_model_serves_on(
    open_server: RunningServer, client: dragoman.Client, root: Path
) -> None:
    before = client.list_models()
    for path, word in (("damaged", "SHA-256"), ("odd", "golden"), ("nothing", "no such")):
        with pytest.raises(dragoman.FailedPreconditionError, match=word) as caught:
            client.load_model(path)
        assert "\n" not in str(caught.value)
        assert str(root) not in str(caught.value)
    with pytest.raises(dragoman.FailedPreconditionError, match="last model"):
        client.unload_model("en-zh-TW")
    assert client.list_models() == before
    assert client.translate("I love you.", target_language="zh-TW").text == "我愛你。"
    assert client.is_ready()


async def test_bad_bundles_are_refused_under_traffic_and_nobody_notices(
    open_server: RunningServer,
) -> None:
    refusals = 0
    async with (
        Traffic(open_server.target).flowing() as account,
        dragoman.AsyncClient(open_server.target) as client,
    ):
        before = await client.list_models()
        for path in ("damaged", "odd", "nothing") * 2:
            with pytest.raises(dragoman.FailedPreconditionError):
                await client.load_model(path)
            refusals += 1
        assert await client.list_models() == before
    print(account.row(f"{refusals} bad bundles loaded into a server at work"))
    assert account.sent > 50
    assert account.right == account.sent, account.reasons[:5]


def test_the_status_names_the_condition(open_server: RunningServer) -> None:
    with grpc.insecure_channel(open_server.target) as channel:
        stub = models_pb2_grpc.ModelServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.LoadModel(models_pb2.LoadModelRequest(path="damaged"))
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    packed = dict(error.trailing_metadata())["grpc-status-details-bin"]
    failure = error_details_pb2.PreconditionFailure()
    assert status_pb2.Status.FromString(packed).details[0].Unpack(failure)
    assert (failure.violations[0].type, failure.violations[0].subject) == ("BUNDLE", "damaged")


@pytest.mark.parametrize("path", ["..", "../x", "out", "/etc", str(SHIPPED), "", "a\nb"])
def test_no_path_leads_out_of_the_model_root(client: dragoman.Client, path: str) -> None:
    with pytest.raises(dragoman.InvalidRequestError, match=r"^path: "):
        client.load_model(path)


def test_a_server_that_was_not_told_to_changes_nothing(server: RunningServer) -> None:
    with dragoman.Client(server.target) as client:
        for call in (lambda: client.load_model("x"), lambda: client.unload_model("en-zh-TW")):
            with pytest.raises(dragoman.UnauthenticatedError, match="model_admin"):
                call()
        assert len(client.list_models()) == 1


def command(server: RunningServer, *arguments: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("DRAGOMAN_")}
    return subprocess.run(
        [sys.executable, "-m", "dragoman", "models", *arguments, "--server", server.target],
        capture_output=True, text=True, timeout=60, cwd=ROOT, check=False, env=clean,
    )  # fmt: skip


def test_the_command_loads_and_unloads(open_server: RunningServer) -> None:
    loaded = command(open_server, "--load", "second")
    assert (loaded.returncode, loaded.stderr) == (0, "")
    name, pair, _, _, said = loaded.stdout.rstrip("\n").split("\t")
    assert (name, pair, said) == ("second", "fr -> zh-TW", "loaded")
    swapped = command(open_server, "--load", "second").stdout
    assert "\tloaded, replaces " in swapped
    assert len(command(open_server).stdout.splitlines()) == 2
    assert command(open_server, "--unload", "second").stdout.endswith("\tunloaded\n")
    failed = command(open_server, "--load", "damaged")
    assert failed.returncode == 1
    assert failed.stderr.startswith("dragoman models: damaged/decoder.onnx: ")
    assert failed.stderr.count("\n") == 1
    assert command(open_server, "--load", "second", "--unload", "second").returncode == 2


def test_a_server_starts_with_several_models_and_drains_them_all(root: Path) -> None:
    with running_server("--bundle", str(root / "second")) as server:
        with dragoman.Client(server.target) as client, ThreadPoolExecutor(2) as pool:
            assert [model.name for model in client.list_models()] == ["en-zh-TW", "second"]
            running = [
                pool.submit(
                    client.translate, SENTENCES, source_language=language, target_language="zh-TW"
                )
                for language in ("en", "fr")
            ]
            for name in ("en-zh-TW", "second"):
                while not server.sample("dragoman_sequences_running", model=name):
                    time.sleep(0.005)
            assert server.stop() == 0
            english, french = (task.result(30) for task in running)
        assert [item.text for item in english] == [item.text for item in french]
        assert [item.model.name for item in (english[0], french[0])] == ["en-zh-TW", "second"]


def test_two_bundles_of_one_name_are_one_line_and_exit_2(root: Path) -> None:
    flags = ["--bundle", str(SHIPPED), "--bundle", str(root / "v0")]
    ports = ["--port", "0", "--metrics-port", "0", "--http-port", "0", "--log-level", "error"]
    done = subprocess.run(
        [sys.executable, "-m", "server", *flags, *ports],
        capture_output=True, text=True, timeout=60, cwd=ROOT, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "are both named en-zh-TW" in done.stderr


def test_swaps_leave_no_threads_and_a_bounded_memory_behind(
    open_server: RunningServer, client: dragoman.Client
) -> None:
    process = psutil.Process(open_server.process.pid)
    threads, megabytes = [], []
    for number in range(12):
        client.translate(SENTENCES, target_language="zh-TW")
        client.load_model(f"v{number % SWAPS}")
        wait_until_ended(open_server, number + 1)
        threads.append(process.num_threads())
        megabytes.append(open_server.resident_megabytes())
    print(f"threads {threads}, resident MB {[round(value) for value in megabytes]}")
    assert max(threads) <= min(threads) + 2  # gRPC's own come and go; a model has two
    assert max(megabytes[6:]) < max(megabytes[:3]) + 150
