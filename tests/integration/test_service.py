"""The service as its callers meet it: a real server, real gRPC, the shipped model."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from running import RunningServer, running_server
from unlike import unlike_sentences

from dragoman.v1 import models_pb2, models_pb2_grpc, translation_pb2, translation_pb2_grpc
from server.bundle import Bundle

PARAGRAPH = (
    "I have a dog. Its name is Max.\n\n  He likes to play in the park.\n\tDo you like dogs?\n"
)


@pytest.fixture(scope="module")
def stub(server: RunningServer) -> Any:
    with grpc.insecure_channel(server.target) as channel:
        yield translation_pb2_grpc.TranslationServiceStub(channel)


def ask(*texts: str, **decoding: object) -> translation_pb2.TranslateRequest:
    return translation_pb2.TranslateRequest(
        texts=texts,
        source_language="en",
        target_language="zh-TW",
        decoding=translation_pb2.DecodingOptions(**decoding),  # type: ignore[arg-type]
    )


def ask_stream(text: str, **decoding: object) -> translation_pb2.TranslateStreamRequest:
    return translation_pb2.TranslateStreamRequest(
        text=text,
        source_language="en",
        target_language="zh-TW",
        decoding=translation_pb2.DecodingOptions(**decoding),  # type: ignore[arg-type]
    )


def test_i_love_you(stub: Any) -> None:
    response = stub.Translate(ask("I love you."))
    assert response.translations[0].text == "我愛你。"


def test_as_many_results_as_texts_in_their_order(stub: Any) -> None:
    texts = ["Good morning.", "I love you.", "How are you?", "I love you."]
    alone = [stub.Translate(ask(text)).translations[0].text for text in texts]
    assert [item.text for item in stub.Translate(ask(*texts)).translations] == alone


def test_every_answer_explains_itself(stub: Any, bundle: Bundle) -> None:
    request = ask("I love you.")
    request.bypass_cache = True
    response = stub.Translate(request)
    item = response.translations[0]
    assert response.model.name == bundle.manifest.name
    assert response.model.digest == bundle.digest
    assert item.finish_reason == translation_pb2.FINISH_REASON_EOS
    assert item.usage.source_tokens > 0
    assert item.usage.target_tokens > 0
    assert item.timing.decode_steps == item.usage.target_tokens + 1
    assert item.timing.mean_batch_rows >= 1
    assert 0 < item.timing.mean_batch_occupancy_ratio <= 1
    parts = item.timing.queue_time_ns, item.timing.encode_time_ns, item.timing.decode_time_ns
    assert all(part > 0 for part in parts)
    assert item.timing.total_time_ns >= max(parts)


def test_a_stream_joined_is_the_unary_answer(stub: Any) -> None:
    messages = list(stub.TranslateStream(ask_stream(PARAGRAPH)))
    *deltas, last = messages
    assert all(message.WhichOneof("event") == "delta" for message in deltas)
    assert last.WhichOneof("event") == "result"
    joined = "".join(message.delta.text for message in deltas)
    assert joined == last.result.translation.text
    assert joined == stub.Translate(ask(PARAGRAPH)).translations[0].text
    order = [message.delta.sentence_index for message in deltas]
    assert order == sorted(order)
    assert len(deltas) > 4  # it came in pieces


def test_layout_is_kept(stub: Any) -> None:
    text = stub.Translate(ask(PARAGRAPH)).translations[0].text
    lines = text.split("\n")
    assert [
        line.startswith(mark) for line, mark in zip(lines, ["", "", "  ", "\t", ""], strict=True)
    ]
    assert lines[1] == ""
    assert "\t" in text
    assert text.endswith("\n")


def test_scores_add_up(stub: Any) -> None:
    item = stub.Translate(ask("I love you. Good night.", include_scores=True)).translations[0]
    assert len(item.sentences) == 2
    for sentence in item.sentences:
        values = [token.log_probability for token in sentence.tokens]
        assert all(value <= 0 for value in values)
        assert sentence.log_probability == pytest.approx(sum(values), abs=1e-4)
        assert sentence.score == pytest.approx(sum(values) / len(values), abs=1e-4)
        assert sentence.tokens[-1].piece == "</s>"
    assert item.sentences[1].source_start == 12
    assert "".join(sentence.text for sentence in item.sentences) == item.text
    assert not stub.Translate(ask("I love you.")).translations[0].sentences


def test_a_target_prefix_begins_the_translation(stub: Any) -> None:
    text = stub.Translate(ask("I love you.", target_prefix="親愛的")).translations[0].text
    assert text.startswith("親愛的")


def test_token_limits_are_kept(stub: Any) -> None:
    long = "My brother and I went to the station early in the morning to meet our uncle."
    cut = stub.Translate(ask(long, max_output_tokens=3)).translations[0]
    assert cut.usage.target_tokens == 3
    assert cut.finish_reason == translation_pb2.FINISH_REASON_LENGTH
    assert cut.warnings[0].code == translation_pb2.WARNING_CODE_OUTPUT_TRUNCATED
    stretched = stub.Translate(ask("Yes.", min_output_tokens=9)).translations[0]
    assert stretched.usage.target_tokens >= 9


def sampling(**values: object) -> translation_pb2.SamplingDecoding:
    return translation_pb2.SamplingDecoding(**values)  # type: ignore[arg-type]


def test_the_same_seed_gives_the_same_text_alone_and_in_a_crowd(stub: Any) -> None:
    sentence = "Where did you go last night?"
    request = ask(sentence, sampling=sampling(seed=5, temperature=1.5))
    alone = stub.Translate(request).translations[0].text
    crowd = [stub.Translate.future(ask(one)) for one in unlike_sentences(20, "at night")]
    mine = [stub.Translate.future(request) for _ in range(3)]
    assert {call.result().translations[0].text for call in mine} == {alone}
    for call in crowd:
        call.result()
    others = {
        stub.Translate(ask(sentence, sampling=sampling(seed=seed, temperature=1.5)))
        .translations[0].text for seed in range(8)
    }  # fmt: skip
    assert len(others) > 1


def test_sampling_among_one_token_is_greedy(stub: Any) -> None:
    greedy = stub.Translate(ask("It is raining.")).translations[0].text
    one = stub.Translate(ask("It is raining.", sampling=sampling(top_k=1))).translations[0].text
    assert one == greedy


def test_health_answers_for_every_service(server: RunningServer) -> None:
    with grpc.insecure_channel(server.target) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        for name in ("", "dragoman.v1.TranslationService", "dragoman.v1.ModelService"):
            answer = health.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as caught:
            health.Check(health_pb2.HealthCheckRequest(service="no.such.Service"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_reflection_lists_the_services_and_describes_them(server: RunningServer) -> None:
    with grpc.insecure_channel(server.target) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert {
            "dragoman.v1.TranslationService", "dragoman.v1.ModelService", "grpc.health.v1.Health",
        } <= set(database.get_services())  # fmt: skip
        file = database.FindFileContainingSymbol("dragoman.v1.TranslationService")
        assert {method.name for method in file.service[0].method} == {
            "Translate", "TranslateStream", "TranslateBulk", "DetectLanguage", "Analyze",
        }  # fmt: skip


def test_models_are_listed_and_described(server: RunningServer, bundle: Bundle) -> None:
    with grpc.insecure_channel(server.target) as channel:
        models = models_pb2_grpc.ModelServiceStub(channel)
        (model,) = models.ListModels(models_pb2.ListModelsRequest()).models
        assert model.name == "en-zh-TW"
        assert model.digest == bundle.digest
        assert (model.source_language, model.target_language) == ("en", "zh-TW")
        assert model.provider == "CPUExecutionProvider"
        assert model.requested_provider == "auto"
        assert {score.metric for score in model.scores} >= {"BLEU"}
        assert models.GetModel(models_pb2.GetModelRequest(name="en-zh-TW")).model == model
        with pytest.raises(grpc.RpcError) as caught:
            models.GetModel(models_pb2.GetModelRequest(name="nobody"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_metrics_show_the_requests(server: RunningServer, stub: Any) -> None:
    before = server.sample("dragoman_requests_total", method="Translate", code="OK")
    stub.Translate(ask("I love you."))
    after = server.sample("dragoman_requests_total", method="Translate", code="OK")
    assert after == before + 1
    assert server.sample("dragoman_ready") == 1


def test_sigterm_finishes_what_runs_refuses_the_rest_and_exits_0() -> None:
    with running_server() as running, grpc.insecure_channel(running.target) as channel:
        stub = translation_pb2_grpc.TranslationServiceStub(channel)
        health: Any = health_pb2_grpc.HealthStub(channel)
        busy = stub.Translate.future(ask(*unlike_sentences(600, "in the room")))
        while running.sample("dragoman_sequences_running") == 0:
            time.sleep(0.005)
        seen: list[int] = []

        def watch() -> None:
            try:
                updates = health.Watch(health_pb2.HealthCheckRequest())
                seen.extend(update.status for update in updates)
            except grpc.RpcError:
                return

        watcher = threading.Thread(target=watch)
        watcher.start()
        while not seen:
            time.sleep(0.005)
        running.process.send_signal(signal.SIGTERM)
        while health_pb2.HealthCheckResponse.NOT_SERVING not in seen:
            time.sleep(0.005)
        with pytest.raises(grpc.RpcError) as refused:
            stub.Translate(ask("Too late."))
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert len(busy.result(timeout=30).translations) == 600
        assert running.process.wait(30) == 0
        watcher.join(5)


def test_after_sigterm_it_serves_on_until_balancers_have_heard_of_it() -> None:
    with (
        running_server(DRAGOMAN_DRAIN_DELAY_SECONDS="1.5") as running,
        grpc.insecure_channel(running.target) as channel,
    ):
        stub = translation_pb2_grpc.TranslationServiceStub(channel)
        health: Any = health_pb2_grpc.HealthStub(channel)
        began = time.monotonic()
        running.process.send_signal(signal.SIGTERM)
        status = health_pb2.HealthCheckResponse.SERVING
        while status == health_pb2.HealthCheckResponse.SERVING:
            status = health.Check(health_pb2.HealthCheckRequest()).status
        assert status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert len(stub.Translate(ask("I love you.")).translations) == 1
        assert running.process.wait(30) == 0
        assert time.monotonic() - began > 1.5


def test_a_damaged_bundle_is_one_line_and_exit_2(tmp_path: Path) -> None:
    with (
        pytest.raises(AssertionError, match="no such bundle"),
        running_server(bundle=tmp_path / "nothing"),
    ):
        pass


async def test_a_client_that_leaves_in_mid_stream_frees_its_slots(inner: Any) -> None:
    text = " ".join(unlike_sentences(8, "in the garden"))
    call = inner.stub.TranslateStream(ask_stream(text, min_output_tokens=100))
    await call.read()
    pool = inner.engine._engines[0].scheduler.pool
    assert pool.used == 4
    call.cancel()
    for _ in range(200):
        if pool.used == 0 and not inner.engine.waiting:
            break
        await asyncio.sleep(0.01)
    assert pool.used == 0
    inner.engine._engines[0].scheduler.check_integrity()
    cancelled = inner.metrics.registry.get_sample_value(
        "dragoman_cancellations_total", {"reason": "cancelled"}
    )
    assert cancelled == 8


async def test_a_deadline_ends_the_work_and_frees_the_slot(inner: Any) -> None:
    text = " ".join(unlike_sentences(40, "in the garden"))
    with pytest.raises(grpc.RpcError) as caught:
        await inner.stub.Translate(ask(text, min_output_tokens=100), timeout=0.15)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    pool = inner.engine._engines[0].scheduler.pool
    for _ in range(200):
        if pool.used == 0:
            break
        await asyncio.sleep(0.01)
    assert pool.used == 0
    response = await inner.stub.Translate(ask("I love you."))
    assert response.translations[0].text == "我愛你。"


@pytest.mark.parametrize("inner", [{"max_queue_sentences": 4}], indirect=True)
async def test_a_full_queue_refuses_with_a_delay_and_computes_nothing(inner: Any) -> None:
    text = " ".join(unlike_sentences(40, "in the garden"))
    busy = asyncio.ensure_future(inner.stub.Translate(ask(text, min_output_tokens=60)))
    while inner.engine.waiting < 4:
        await asyncio.sleep(0.005)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await inner.stub.Translate(ask("One more. And another."))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    trailing = dict(caught.value.trailing_metadata() or ())
    assert int(trailing["grpc-retry-pushback-ms"]) > 0
    assert "grpc-status-details-bin" in trailing
    rejected = inner.metrics.registry.get_sample_value(
        "dragoman_rejections_total", {"reason": "queue_full"}
    )
    assert rejected == 1
    assert (await busy).translations[0].text


async def test_a_client_that_never_reads_holds_nobody_up_and_makes_nothing_grow(inner: Any) -> None:
    text = " ".join(unlike_sentences(200, "in the garden"))
    silent = inner.stub.TranslateStream(ask_stream(text))
    await asyncio.sleep(0.05)
    for _ in range(5):
        response = await inner.stub.Translate(ask("I love you."), timeout=30)
        assert response.translations[0].text == "我愛你。"
    silent.cancel()


async def test_what_cannot_be_done_in_time_is_refused_at_once_with_a_delay(inner: Any) -> None:
    text = " ".join(unlike_sentences(400, "in the garden"))
    busy = asyncio.ensure_future(inner.stub.Translate(ask(text, min_output_tokens=60)))
    while not inner.engine._admission.rate:
        await asyncio.sleep(0.01)
    start = time.monotonic()
    late = ask("One more.", min_output_tokens=1)
    late.priority = translation_pb2.PRIORITY_BULK
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await inner.stub.Translate(late, timeout=0.3)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert time.monotonic() - start < 0.25
    trailing = dict(caught.value.trailing_metadata() or ())
    assert int(trailing["grpc-retry-pushback-ms"]) > 0
    rejected = inner.metrics.registry.get_sample_value(
        "dragoman_rejections_total", {"reason": "deadline"}
    )
    assert rejected == 1
    # Another class, and another tenant, have no such queue before them.
    urgent = await inner.stub.Translate(ask("I love you."), timeout=5)
    assert urgent.translations[0].text == "我愛你。"
    metadata = (("dragoman-tenant", "somebody else"),)
    other = await inner.stub.Translate(late, timeout=5, metadata=metadata)
    assert other.translations[0].text
    assert not busy.done()
    busy.cancel()
