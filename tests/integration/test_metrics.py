"""What /metrics shows: every family of SPEC row O1 that has a feature behind it, and no text."""

from __future__ import annotations

import contextlib
from typing import Any
from urllib.request import urlopen

import grpc
from prometheus_client.parser import text_string_to_metric_families
from running import running_server

from dragoman.v1 import translation_pb2, translation_pb2_grpc

FAMILIES = {
    "dragoman_requests": "counter", "dragoman_requests_in_flight": "gauge",
    "dragoman_request_duration_seconds": "histogram", "dragoman_rejections": "counter",
    "dragoman_cancellations": "counter", "dragoman_sequences": "counter",
    "dragoman_source_tokens": "counter", "dragoman_target_tokens": "counter",
    "dragoman_queue_duration_seconds": "histogram",
    "dragoman_time_to_first_token_seconds": "histogram",
    "dragoman_inter_token_latency_seconds": "histogram",
    "dragoman_encoder_step_duration_seconds": "histogram",
    "dragoman_decoder_step_duration_seconds": "histogram",
    "dragoman_batch_rows": "histogram", "dragoman_batch_occupancy_ratio": "histogram",
    "dragoman_kv_cache_usage_ratio": "gauge", "dragoman_kv_cache_bytes": "gauge",
    "dragoman_sequences_running": "gauge", "dragoman_sequences_waiting": "gauge",
    "dragoman_sentence_cache_requests": "counter", "dragoman_sentence_cache_bytes": "gauge",
    "dragoman_sentence_cache_evictions": "counter",
    "dragoman_degenerate_outputs": "counter", "dragoman_retries": "counter",
    "dragoman_tokens_waiting": "gauge", "dragoman_memory_limit_bytes": "gauge",
    "dragoman_build": "info", "dragoman_model": "info", "dragoman_ready": "gauge",
    "process_resident_memory_bytes": "gauge", "process_cpu_seconds": "counter",
}  # fmt: skip


def test_the_metrics_parse_add_up_and_hold_no_text() -> None:
    canary = "Zanzibar the canary sings at midnight."
    with running_server() as server, grpc.insecure_channel(server.target) as channel:
        stub = translation_pb2_grpc.TranslationServiceStub(channel)
        ask: dict[str, Any] = {"source_language": "en", "target_language": "zh-TW"}
        texts = [canary, "I love you.", "Good morning."]
        answer = stub.Translate(translation_pb2.TranslateRequest(texts=texts, **ask))
        list(stub.TranslateStream(translation_pb2.TranslateStreamRequest(text=canary, **ask)))
        with contextlib.suppress(grpc.RpcError):
            stub.Translate(translation_pb2.TranslateRequest(texts=[""], **ask))
        with urlopen(server.metrics_url, timeout=5) as response:
            assert response.headers["Content-Type"].startswith("text/plain")
            text = response.read().decode()
        log = "".join(server.log)
    families = {family.name: family for family in text_string_to_metric_families(text)}
    for name, kind in FAMILIES.items():
        found = families.get(name) or families.get(f"{name}_info")
        assert found is not None, name
        assert found.documentation, name
        if kind != "info":
            assert found.type == kind, name

    def value(name: str, **labels: str) -> float:
        return sum(
            sample.value
            for family in families.values()
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    zeroes = [
        (sample.name, sample.labels)
        for family in families.values()
        for sample in family.samples
        if sample.value == 0
    ]
    assert value("dragoman_requests_total", method="Translate", code="OK") == 1
    assert value("dragoman_requests_total", method="Translate", code="INVALID_ARGUMENT") == 1
    assert value("dragoman_requests_total", method="TranslateStream", code="OK") == 1
    assert value("dragoman_rejections_total", reason="invalid") == 1
    assert value("dragoman_request_duration_seconds_count", method="Translate") == 2
    assert value("dragoman_requests_in_flight") == 0
    # Three texts and eight golden sentences at start; the stream is answered from memory.
    assert value("dragoman_sequences_total") == 11
    assert value("dragoman_time_to_first_token_seconds_count") == 11
    assert value("dragoman_queue_duration_seconds_count") == 11
    steps = value("dragoman_decoder_step_duration_seconds_count")
    assert value("dragoman_batch_rows_count") == steps > 0
    assert value("dragoman_target_tokens_total") == value("dragoman_batch_rows_sum")
    assert value("dragoman_sentence_cache_requests_total", outcome="hit") == 1
    assert value("dragoman_sentence_cache_requests_total", outcome="miss") == 3
    assert value("dragoman_sentence_cache_bytes") > 0
    assert value("dragoman_kv_cache_usage_ratio") == 0
    assert value("dragoman_ready") == 1
    assert value("dragoman_tokens_waiting") == 0
    assert 0 < value("process_resident_memory_bytes") < value("dragoman_memory_limit_bytes")
    # Shown before the first one happens, so that a rate sees it.
    for name, labels in (
        ("dragoman_requests_total", {"method": "GetModel", "code": "INTERNAL"}),
        ("dragoman_rejections_total", {"reason": "queue_full"}),
        ("dragoman_sequences_total", {"reason": "error"}),
    ):
        assert (name, labels) in zeroes
    assert value("dragoman_model_info", model="en-zh-TW", precision="int8") == 1
    ran = {"provider": "CPUExecutionProvider", "requested_provider": "auto"}
    assert value("dragoman_model_info", model="en-zh-TW", **ran) == 1
    buckets = [
        float(sample.labels["le"])
        for sample in families["dragoman_request_duration_seconds"].samples
        if sample.name.endswith("_bucket") and sample.labels["method"] == "Translate"
    ]
    assert buckets[0] == 0.001
    assert buckets[-2] == 60.0
    told = [canary, *(item.text for item in answer.translations)]
    for words in [*told, "Zanzibar", "127.0.0.1:"]:
        assert words not in text
    for words in [*told, "Zanzibar"]:
        assert words not in log
