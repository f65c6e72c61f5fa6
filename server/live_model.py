"""A model that runs: its bundle, its engines on their threads, the pipeline in front of them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import time
from collections.abc import Callable, Iterator

from server.bundle import Bundle
from server.cgroup import core_limit
from server.engine.async_engine import AsyncEngine
from server.engine.device_runner import DeviceModelRunner
from server.engine.engine import Engine
from server.engine.kv_cache import KVCachePool
from server.engine.model_runner import ModelRunner, OrtModelRunner, cache_shape, load_sessions
from server.engine.provider import Device, choose
from server.engine.scheduler import Policy, Scheduler
from server.engine.search import Search
from server.errors import BundleError, DragomanError
from server.metrics import Metrics
from server.settings import Settings
from server.text.pipeline import TranslationPipeline
from server.text.request import TranslationRequest
from server.text.sentence_cache import SentenceCache
from server.text.single_flight import SingleFlight

logger = logging.getLogger(__name__)


class LiveModel:
    """One version of a model, from its memory being reserved to its threads having ended."""

    def __init__(
        self,
        bundle: Bundle,
        settings: Settings,
        metrics: Metrics,
        cache: SentenceCache,
        on_unhealthy: Callable[[], object] = lambda: None,
    ) -> None:
        """Read the weights and reserve the cache; takes a while, and any thread may do it.

        Args:
            bundle: what to run.
            settings: engines, slots and limits.
            metrics: where its load is shown until :meth:`drain` has ended.
            cache: keeps its translations; :meth:`drain` takes them out.
            on_unhealthy: called, in the event loop, after two steps in a row have failed.

        Raises:
            BundleError: ONNX Runtime or SentencePiece cannot load a file.
            ProviderUnavailable: it cannot run where it is asked to.
        """
        self.bundle = bundle
        self.healthy = True
        self.engine = build_engine(bundle, settings, metrics, on_unhealthy)
        self._cache = cache
        self.pipeline = TranslationPipeline(
            bundle,
            SingleFlight(self.engine, cache, metrics, digest=bundle.digest)
            if cache.enabled
            else self.engine,
            settings.slots,
            metrics=metrics,
            guard=settings.degeneration_guard,
            interactive_sentences=settings.interactive_sentences,
        )
        self._metrics = metrics

    @property
    def name(self) -> str:
        """The name that callers know it by."""
        return self.bundle.manifest.name

    def start(self) -> None:
        """Start the engines' threads; call it in the event loop."""
        self._metrics.models.add(self.name, self.engine.load)
        self.engine.start()

    async def retire(self, grace_seconds: float) -> None:
        """Let everybody finish who was let in, then stop; nobody may be let in any more."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.pipeline.settled(), grace_seconds)
        await self.drain(grace_seconds)

    async def drain(self, grace_seconds: float) -> None:
        """Refuse what is new, let what runs finish, end the rest; the threads have ended."""
        await self.engine.drain(grace_seconds)
        self._cache.forget(self.bundle.digest)
        self._metrics.models.remove(self.engine.load)


def build_engine(
    bundle: Bundle,
    settings: Settings,
    metrics: Metrics,
    on_unhealthy: Callable[[], object] = lambda: None,
) -> AsyncEngine:
    """The engines of a bundle: shared sessions, a cache pool and a thread each.

    Raises:
        BundleError: ONNX Runtime cannot load its graphs.
        ProviderUnavailable: they cannot run where they are asked to.
    """
    engines = engines_of(bundle, settings, metrics)
    logger.info(
        "%s: %d engines of %d slots, %.1f MB of keys and values",
        bundle.manifest.name,
        len(engines),
        settings.slots,
        sum(engine.scheduler.pool.shape.nbytes for engine in engines) / 1e6,
    )
    return AsyncEngine(
        engines,
        metrics,
        max_waiting=settings.max_queue_sentences,
        on_unhealthy=on_unhealthy,
    )


def engines_of(bundle: Bundle, settings: Settings, metrics: Metrics) -> list[Engine]:
    """The engines of a bundle, no threads yet; on a CPU weights are shared.

    Raises:
        BundleError: ONNX Runtime cannot load its graphs.
        ProviderUnavailable: they cannot run where they are asked to.
    """
    name = bundle.manifest.name
    device = device_for(bundle, settings)
    logger.info(
        "%s: runs on %s (provider %s, %s graphs)",
        name,
        device.provider,
        settings.provider,
        bundle.manifest.precision,
    )
    runners = _host_runners if device.kind == "cpu" else _device_runners
    return [
        _one_engine(f"{name}-{number}", bundle, pool, runner, settings, metrics)
        for number, (pool, runner) in enumerate(runners(bundle, settings, device))
    ]


def device_for(bundle: Bundle, settings: Settings) -> Device:
    """Where a bundle runs.

    Raises:
        ProviderUnavailable: not where it is asked to, or that is not there.
    """
    return Device(
        kind=choose(bundle.manifest, settings.provider),
        number=settings.device_id,
        memory_limit_bytes=settings.gpu_mem_limit,
        graphs=settings.cuda_graphs,
    )


def _host_runners(
    bundle: Bundle, settings: Settings, _: Device
) -> Iterator[tuple[KVCachePool, ModelRunner]]:
    """One a core, all over the same sessions."""
    sessions = load_sessions(bundle, settings.engine_threads)
    for _number in range(settings.engines or max(1, available_cores() // settings.engine_threads)):
        pool = KVCachePool(cache_shape(bundle.manifest, settings.slots))
        yield pool, OrtModelRunner(bundle, sessions, pool)


def _device_runners(
    bundle: Bundle, settings: Settings, device: Device
) -> Iterator[tuple[KVCachePool, ModelRunner]]:
    """One, unless more are asked for; a recorded step has one user, so each has its sessions."""
    for _ in range(settings.engines or 1):
        runner = DeviceModelRunner(bundle, settings.slots, device)
        yield runner.pool, runner


def _one_engine(
    name: str,
    bundle: Bundle,
    pool: KVCachePool,
    runner: ModelRunner,
    settings: Settings,
    metrics: Metrics,
) -> Engine:
    tokens = bundle.manifest.tokens
    policy = Policy(
        max_encode_tokens=settings.max_encode_tokens,
        window=settings.window,
        min_encode_rows=max(1, settings.slots // 4),
    )
    scheduler = Scheduler(pool, policy, bos_id=tokens.bos, eos_id=tokens.eos)
    search = Search(pool, eos_id=tokens.eos, never=tokens.never)
    return Engine(name, scheduler, runner, search, metrics, checked=settings.check_integrity)


def available_cores() -> int:
    """Cores this process may use, which in a container are fewer than the machine has.

    A quota counts as the whole cores in it: one thread more would be stopped in every period.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, int(min(cores or 1, core_limit() or math.inf)))


async def check_goldens(pipeline: TranslationPipeline, settings: Settings) -> None:
    """Warm up by translating the bundle's golden sentences, and compare.

    Raises:
        BundleError: one could not be translated, or came out differently and ``golden_check``
            is strict.
    """
    if settings.golden_check == "off":
        return
    goldens = pipeline.bundle.manifest.goldens
    languages = goldens[0].source_language, goldens[0].target_language
    pipeline = pipeline.between(pipeline.pairs.nearest(*languages)[1])
    request = TranslationRequest(
        texts=[golden.source for golden in goldens],
        field_names=[f"goldens[{index}]" for index in range(len(goldens))],
        arrived=time.monotonic(),
        bypass_cache=True,
    )
    try:
        results = await pipeline.translate(request)
    except DragomanError as error:
        msg = f"{pipeline.bundle.folder}: its golden sentences cannot be translated: {error}"
        raise BundleError(msg) from error
    wrong = [
        index
        for index, (golden, result) in enumerate(zip(goldens, results, strict=True))
        if golden.target != result.text
    ]
    if not wrong:
        name = pipeline.bundle.manifest.name
        logger.info("%s: %d golden sentences came out as exported", name, len(goldens))
        return
    msg = (
        f"{pipeline.bundle.folder}: {len(wrong)} of {len(goldens)} golden sentences came out "
        f"differently than where the bundle was exported (goldens {wrong})"
    )
    if settings.golden_check == "strict":
        raise BundleError(msg)
    logger.warning("%s", msg)
