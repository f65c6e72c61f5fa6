"""A real server with keys and quotas: who gets in, and what the others are told."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from grpc_status import rpc_status
from running import BUNDLE, ROOT, RunningServer, running_server, wait_for
from unlike import unlike_sentences

import dragoman
from dragoman.v1 import models_pb2, models_pb2_grpc, translation_pb2, translation_pb2_grpc
from server.access.key_command import add_key


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    file = tmp_path_factory.mktemp("keys") / "keys.toml"
    limits = {
        "web": {},
        "small": {"characters_per_minute": 40},
        "alone": {"concurrent_requests": 1},
        "tokens": {"tokens_per_minute": 5},
    }
    found: dict[str, Any] = {name: add_key(file, name, limit, admin=False)
                             for name, limit in limits.items()}  # fmt: skip
    found["ops"] = add_key(file, "ops", {}, admin=True)
    return found | {"file": file}


@pytest.fixture(scope="module")
def locked(keys: dict[str, Any]) -> Iterator[RunningServer]:
    flags = ["--key-file", str(keys["file"]), "--no-open-reflection", "--model-admin"]
    with running_server(*flags) as running:
        yield running


def ask(server: RunningServer, key: str | None, text: str = "I love you.") -> str:
    with dragoman.Client(server.target, api_key=key) as client:
        return client.translate(text, target_language="zh-TW").text


def test_only_known_keys_translate(locked: RunningServer, keys: dict[str, Any]) -> None:
    assert ask(locked, keys["web"]) == "我愛你。"
    with pytest.raises(dragoman.UnauthenticatedError, match="asks for a key"):
        ask(locked, None)
    with pytest.raises(dragoman.UnauthenticatedError, match="not known"):
        ask(locked, keys["web"] + "x")
    assert locked.sample("dragoman_rejections_total", reason="unauthenticated") == 2


def test_the_client_takes_the_key_from_the_environment(
    locked: RunningServer, keys: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRAGOMAN_API_KEY", keys["web"])
    assert ask(locked, None) == "我愛你。"


def test_every_method_asks_for_a_key_also_before_it_reads_a_message(locked: RunningServer) -> None:
    names = [
        f"/{service.full_name}/{method.name}"
        for module in (translation_pb2, models_pb2)
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    ]
    assert len(names) >= 6
    channel: Any
    with grpc.insecure_channel(locked.target) as channel:
        for name in names:
            for message in (b"", b"\xff\xff garbage"):
                with pytest.raises(grpc.RpcError) as caught:
                    list(channel.unary_stream(name)(message, timeout=10))
                assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED, name


def test_health_is_open_and_reflection_as_the_setting_says(
    locked: RunningServer, server: RunningServer, keys: dict[str, Any]
) -> None:
    with grpc.insecure_channel(locked.target) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        assert health.Check(health_pb2.HealthCheckRequest()).status == 1
        with pytest.raises(grpc.RpcError) as caught:
            ProtoReflectionDescriptorDatabase(channel).get_services()
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED

        def named(details: Any, call: Any) -> Any:
            metadata = [("authorization", f"Bearer {keys['web']}")]
            return call[0](details._replace(metadata=metadata), call[1])

        class WithKey(grpc.StreamStreamClientInterceptor):
            def intercept_stream_stream(
                self, continuation: Any, details: Any, requests: Any
            ) -> Any:
                return named(details, (continuation, requests))

        opened = grpc.intercept_channel(channel, WithKey())
        found = ProtoReflectionDescriptorDatabase(opened).get_services()
        assert "dragoman.v1.TranslationService" in found
    with grpc.insecure_channel(server.target) as channel:
        assert ProtoReflectionDescriptorDatabase(channel).get_services()


def test_looking_at_a_text_counts_as_much_as_translating_it(
    locked: RunningServer, keys: dict[str, Any]
) -> None:
    text = "What is it?"
    key = add_key(keys["file"], "looker", {"characters_per_day": 4 * len(text)}, admin=False)
    wait_for(lambda: ask(locked, key, text), dragoman.UnauthenticatedError)
    with dragoman.Client(locked.target, api_key=key) as client:
        client.detect_language(text)
        client.analyze(text, target_language="zh-TW")
        with pytest.raises(dragoman.InvalidRequestError):
            client.analyze([""], target_language="zh-TW")  # refused, and not counted
        client.detect_language(text)
        with pytest.raises(dragoman.QuotaExceededError):
            client.detect_language(text)
        with pytest.raises(dragoman.QuotaExceededError):
            client.analyze(text, target_language="zh-TW")


def test_a_quota_is_refused_with_whose_it_is_and_when_to_come_again(
    locked: RunningServer, keys: dict[str, Any]
) -> None:
    with grpc.insecure_channel(locked.target) as channel:
        stub = translation_pb2_grpc.TranslationServiceStub(channel)
        metadata = (("authorization", f"Bearer {keys['small']}"),)
        fields: dict[str, Any] = {"source_language": "en", "target_language": "zh-TW"}
        request = translation_pb2.TranslateRequest(texts=["Good morning to you all."], **fields)
        stub.Translate(request, metadata=metadata)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Translate(request, metadata=metadata)
    status = rpc_status.from_call(caught.value)  # type: ignore[arg-type]
    assert status is not None
    failure, info = error_details_pb2.QuotaFailure(), error_details_pb2.RetryInfo()
    assert status.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    assert status.details[0].Unpack(failure)
    assert status.details[1].Unpack(info)
    assert failure.violations[0].subject == "key:small"
    assert "40 characters a minute" in failure.violations[0].description
    assert 0 < info.retry_delay.ToSeconds() <= 60
    assert ask(locked, keys["web"], "Good morning to you all.")
    with pytest.raises(dragoman.QuotaExceededError) as ours:
        ask(locked, keys["small"], "This one is longer than forty characters, and never fits.")
    assert ours.value.retry_after_seconds is None
    assert locked.sample("dragoman_rejections_total", reason="quota") >= 2


def test_a_refused_request_costs_no_characters(locked: RunningServer, tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    key = add_key(file, "one", {"characters_per_minute": 30}, admin=False)
    with (
        running_server("--key-file", str(file)) as server,
        dragoman.Client(server.target, api_key=key) as client,
    ):
        for _ in range(5):
            with pytest.raises(dragoman.UnknownModelError):
                client.translate("Good morning, everybody.", target_language="fr")
        client.translate("Good morning, everybody.", target_language="zh-TW")


def test_tokens_are_counted_after_and_streams_count_too(
    locked: RunningServer, keys: dict[str, Any]
) -> None:
    with dragoman.Client(locked.target, api_key=keys["tokens"]) as client:
        list(client.translate_stream("I would like a cup of tea.", target_language="zh-TW"))
        with pytest.raises(dragoman.QuotaExceededError, match="5 tokens a minute") as caught:
            client.translate("I love you.", target_language="zh-TW")
    assert caught.value.retry_after_seconds is not None


def test_requests_side_by_side_end_with_their_stream_or_its_cancellation(
    locked: RunningServer, keys: dict[str, Any]
) -> None:
    text = " ".join(unlike_sentences(200, "today"))
    with dragoman.Client(locked.target, api_key=keys["alone"]) as client:
        stream = client.translate_stream(text, target_language="zh-TW")
        next(stream)
        with pytest.raises(dragoman.QuotaExceededError, match="1 requests of 'alone'"):
            client.translate("I love you.", target_language="zh-TW")
        stream.close()
        deadline = time.monotonic() + 5
        while True:
            try:
                client.translate("I love you.", target_language="zh-TW")
            except dragoman.QuotaExceededError:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            else:
                break


def test_models_are_changed_by_keys_that_may_and_no_others(
    locked: RunningServer, keys: dict[str, Any]
) -> None:
    with grpc.insecure_channel(locked.target) as channel:
        stub = models_pb2_grpc.ModelServiceStub(channel)
        codes = {}
        for name in ("web", "ops"):
            metadata = (("authorization", f"Bearer {keys[name]}"),)
            with pytest.raises(grpc.RpcError) as caught:
                stub.UnloadModel(models_pb2.UnloadModelRequest(name="none"), metadata=metadata)
            codes[name] = caught.value.code()
    assert codes == {
        "web": grpc.StatusCode.PERMISSION_DENIED,
        "ops": grpc.StatusCode.NOT_FOUND,
    }


def test_no_key_is_in_the_log_or_the_metrics(locked: RunningServer, keys: dict[str, Any]) -> None:
    ask(locked, keys["web"])
    with pytest.raises(dragoman.UnauthenticatedError):
        ask(locked, "canary-of-a-key")
    told = "".join(locked.log) + locked.metrics()
    for secret in [keys["web"], keys["ops"], "canary-of-a-key"]:
        assert secret not in told


def test_keys_change_without_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    first = add_key(file, "first", {}, admin=False)
    with running_server("--key-file", str(file)) as server:
        second = add_key(file, "second", {}, admin=False)
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: ask(server, second), dragoman.UnauthenticatedError)
        file.write_text("[keys")
        server.process.send_signal(signal.SIGHUP)
        server.wait_for_log("is no TOML")
        assert ask(server, first) == "我愛你。"
        assert server.stop() == 0


@pytest.mark.parametrize(
    ("host", "warned"), [("0.0.0.0", True), ("127.0.0.1", False), ("localhost", False)]
)
def test_an_open_port_that_others_reach_is_warned_of(host: str, warned: bool) -> None:
    words = "whoever reaches this port may translate"
    # READY names the host that was given, so the log is read here and not by running_server.
    command = [sys.executable, "-m", "server", "--bundle", str(BUNDLE), "--port", "0", "--host",
               host, "--metrics-port", "0", "--no-http", "--metrics-host", "127.0.0.1"]  # fmt: skip
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if "READY" in line:
                time.sleep(0.2)
                process.terminate()
        assert process.wait(30) == 0
    assert (words in "".join(lines)) is warned
    assert ("in the clear" in "".join(lines)) is warned
