"""What the server measures. No text, key or address is ever a label."""

from __future__ import annotations

import itertools
from collections import Counter as Totals
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version

import onnxruntime
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from server.cgroup import memory_limit_bytes

# Translation lives between a cached answer (1 ms) and a long document (a minute).
LATENCY = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
STEP = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
RATIO = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)

# Every value of a label that is known beforehand. They are shown at zero from the start: a rate
# does not see the first event of a series that came into being with it.
REASONS = {
    "rejections": (
        "invalid", "unauthenticated", "quota", "too_many_requests", "queue_full", "deadline",
        "door", "shutting_down",
    ),
    "cancellations": ("cancelled", "deadline"),
    "sequences": ("eos", "length", "degenerate", "cancelled", "deadline", "error", "shutdown"),
    "degenerate_outputs": ("loop", "empty", "short", "long", "copy"),
    "retries": ("better", "no better", "failed", "refused"),
    "sentence_cache_requests": ("hit", "join", "miss"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ModelLoad:
    """What a live model holds at one moment."""

    running: list[int]
    """Sentences being decoded, by engine."""
    slots_used: list[int]
    """Cache slots in use, by engine."""
    slots: list[int]
    """Cache slots there are, by engine."""
    waiting: int
    """Sentences that no engine has taken yet."""
    tokens_waiting: int
    """What these cost, in tokens read and written, about."""
    kv_cache_bytes: int
    """Reserved for keys and values, over all engines."""


class ModelGauges(Collector):
    """Gauges of the live models, read from them when they are scraped.

    Two versions of a model live side by side while the older one drains: what they hold is added
    up under the one name, and what is gone leaves no series behind.
    """

    def __init__(self) -> None:
        """Begin without models."""
        self._models: list[tuple[str, Callable[[], ModelLoad]]] = []

    def add(self, model: str, read: Callable[[], ModelLoad]) -> None:
        """Show a model; ``read`` is called in the thread that scrapes."""
        self._models = [*self._models, (model, read)]

    def remove(self, read: Callable[[], ModelLoad]) -> None:
        """Show it no longer."""
        self._models = [entry for entry in self._models if entry[1] != read]

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The gauges as they stand."""
        reserved: Totals[tuple[str, ...]] = Totals()
        waiting: Totals[tuple[str, ...]] = Totals()
        tokens: Totals[tuple[str, ...]] = Totals()
        running: Totals[tuple[str, ...]] = Totals()
        used: Totals[tuple[str, ...]] = Totals()
        slots: Totals[tuple[str, ...]] = Totals()
        for model, read in self._models:
            load = read()
            reserved[model,] += load.kv_cache_bytes
            waiting[model,] += load.waiting
            tokens[model,] += load.tokens_waiting
            for number, rows in enumerate(load.running):
                running[model, str(number)] += rows
                used[model, str(number)] += load.slots_used[number]
                slots[model, str(number)] += load.slots[number]
        usage = {labels: used[labels] / count for labels, count in slots.items()}
        yield _family("sequences_waiting", "Sentences waiting for a place in a batch.", waiting)
        yield _family("tokens_waiting", "Tokens that these will take, about.", tokens)
        yield _family("sequences_running", "Sentences being decoded.", running, "engine")
        yield _family(
            "kv_cache_usage_ratio", "Share of an engine's cache slots in use.", usage, "engine"
        )
        yield _family("kv_cache_bytes", "Memory reserved for a model's keys and values.", reserved)


def _family(
    name: str, text: str, values: Mapping[tuple[str, ...], float], *more: str
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"dragoman_{name}", text, labels=["model", *more])
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family


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
        self._process()

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
        self.degenerate_outputs = self._counter(
            "degenerate_outputs", "Sentences that came out as no translation should.", "kind"
        )
        self.retries = self._counter(
            "retries", "Sentences decoded again because of that, by outcome.", "outcome"
        )
        self.placeholders = self._counter(
            "placeholders",
            "Placeholders and terms in sentences, by what became of them.",
            "outcome",
        )
        self.sentence_cache_requests = self._counter(
            "sentence_cache_requests",
            "Sentences answered from memory (hit), by one in flight (join), or decoded (miss).",
            "outcome",
        )
        self.sentence_cache_bytes = self._gauge(
            "sentence_cache_bytes", "Memory that kept translations take, about."
        )
        self.sentence_cache_evictions = self._counter(
            "sentence_cache_evictions", "Kept translations that made room for later ones."
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
        self.models = ModelGauges()
        self.registry.register(self.models)
        self.model_info = Info(
            "dragoman_model", "The models that take requests.", ["model"], registry=self.registry
        )
        self._ready = self._gauge("ready", "1 while the server takes requests.")
        self.serving = False
        """The same, for probes."""

    def _process(self) -> None:
        """What the process is and what it may use; what it uses is in ``process_*``."""
        self._gauge(
            "memory_limit_bytes", "Memory the process may use: its container's limit, or all."
        ).set(memory_limit_bytes())
        build = Info("dragoman_build", "The versions that run.", registry=self.registry)
        build.info({"version": version("dragoman"), "onnxruntime": onnxruntime.__version__})

    def expect(self, methods: Iterable[str], codes: Iterable[str]) -> None:
        """Show requests of these methods with these status codes, none so far."""
        for method, code in itertools.product(methods, codes):
            self.requests.labels(method, code)

    def set_serving(self, *, serving: bool) -> None:
        """Show whether the server takes requests."""
        self.serving = serving
        self._ready.set(1 if serving else 0)

    def exposition(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        counter = Counter(f"dragoman_{name}", text, labels, registry=self.registry)
        for reason in REASONS.get(name, ()):
            counter.labels(reason)
        return counter

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"dragoman_{name}", text, labels, registry=self.registry)

    def _histogram(
        self, name: str, text: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(f"dragoman_{name}", text, labels, buckets=buckets, registry=self.registry)
