"""What the server measures. No text, key or address is ever a label."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

# Translation lives between a cached answer (1 ms) and a long document (a minute).
LATENCY = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
STEP = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
RATIO = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class Metrics:
    """All collectors of one server, on a registry of their own."""

    def __init__(self) -> None:
        """Register everything at zero."""
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._requests()
        self._latencies()
        self._batches()

    def _requests(self) -> None:
        self.requests = self._counter(
            "requests", "Requests ended, by method and gRPC status code.", "method", "code"
        )
        self.requests_in_flight = self._gauge(
            "requests_in_flight", "Requests being served.", "method"
        )
        self.request_duration = self._histogram(
            "request_duration_seconds", "From a request's arrival to its end.", LATENCY, "method"
        )
        self.rejections = self._counter(
            "rejections", "Requests refused before anything was computed, by reason.", "reason"
        )
        self.cancellations = self._counter(
            "cancellations",
            "Sentences dropped before their end because their caller left or the deadline passed.",
            "reason",
        )
        self.sequences = self._counter(
            "sequences", "Sentences ended in the engine, by reason.", "reason"
        )
        self.source_tokens = self._counter("source_tokens", "Tokens read by the encoder.")
        self.target_tokens = self._counter("target_tokens", "Tokens written by the decoder.")

    def _latencies(self) -> None:
        self.queue_duration = self._histogram(
            "queue_duration_seconds", "A sentence's wait for a place in the batch.", LATENCY
        )
        self.time_to_first_token = self._histogram(
            "time_to_first_token_seconds",
            "From a sentence's arrival in the engine to its first token.",
            LATENCY,
        )
        self.inter_token_latency = self._histogram(
            "inter_token_latency_seconds",
            "Mean time between two tokens of a sentence, one observation a sentence.",
            LATENCY,
        )
        self.encoder_step_duration = self._histogram(
            "encoder_step_duration_seconds", "One run of the encoder over a batch.", STEP
        )
        self.decoder_step_duration = self._histogram(
            "decoder_step_duration_seconds", "One step of the decoder over a batch.", STEP
        )

    def _batches(self) -> None:
        self.batch_rows = self._histogram("batch_rows", "Sentences in a step of the decoder.", ROWS)
        self.batch_occupancy = self._histogram(
            "batch_occupancy_ratio", "Share of an engine's rows that a step used.", RATIO
        )
        self.kv_cache_usage = self._gauge(
            "kv_cache_usage_ratio", "Share of an engine's cache slots in use.", "engine"
        )
        self.kv_cache_bytes = self._gauge(
            "kv_cache_bytes", "Memory reserved for keys and values, over all engines."
        )
        self.sequences_running = self._gauge(
            "sequences_running", "Sentences being decoded.", "engine"
        )
        self.sequences_waiting = self._gauge(
            "sequences_waiting", "Sentences waiting for a place in a batch."
        )
        self.model_info = Info(
            "dragoman_model", "The models that are loaded.", ["model"], registry=self.registry
        )
        self.ready = self._gauge("ready", "1 while the server takes requests.")

    def exposition(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"dragoman_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"dragoman_{name}", text, labels, registry=self.registry)

    def _histogram(
        self, name: str, text: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(f"dragoman_{name}", text, labels, buckets=buckets, registry=self.registry)
