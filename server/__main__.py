"""``dragoman serve``: settings -> bundles -> engines -> doors. The only place that wires."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Callable

from prometheus_client import start_http_server

from server.api.door import Door
from server.api.models import ModelService
from server.api.translation import TranslationService
from server.bundle import Bundle, open_bundle
from server.engine.async_engine import AsyncEngine
from server.engine.engine import Engine
from server.engine.kv_cache import CacheShape, KVCachePool
from server.engine.model_runner import PROVIDER, OrtModelRunner, Sessions, load_sessions
from server.engine.scheduler import Scheduler
from server.engine.search import Search
from server.errors import BundleError, PortTaken, StartupError
from server.metrics import Metrics
from server.settings import Settings, read_settings
from server.text.catalogue import Catalogue
from server.text.pipeline import TranslationPipeline
from server.text.request import TranslationRequest

logger = logging.getLogger("dragoman")


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; 0 after a clean drain, 2 if the server cannot start."""
    started = time.monotonic()
    try:
        settings = read_settings(sys.argv[1:] if arguments is None else arguments)
        logging.basicConfig(
            level=settings.log_level.upper(),
            format="%(asctime)s %(levelname)s %(name)s %(message)s",
        )
        for line in settings.lines():
            logger.info("setting %s", line)
        asyncio.run(serve(settings, started))
    except StartupError as error:
        print(f"dragoman serve: {error}", file=sys.stderr)
        return 2
    return 0


async def serve(settings: Settings, started: float) -> None:
    """Start, say READY, wait for a signal, drain.

    Raises:
        StartupError: a bundle is faulty or a port is taken.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    metrics = Metrics()
    bundle = open_bundle(settings.bundle)
    unhealthy: list[Callable[[], object]] = []
    engine = build_engine(
        bundle, settings, metrics, on_unhealthy=lambda: [call() for call in unhealthy]
    )
    pipeline = TranslationPipeline(bundle, engine, settings.slots)
    catalogue = Catalogue([pipeline])
    door = Door(
        TranslationService(catalogue, settings),
        ModelService(catalogue, PROVIDER),
        settings,
        metrics,
    )
    unhealthy.append(lambda: loop.create_task(door.set_serving(serving=False)))
    metrics_port = _serve_metrics(settings, metrics)
    await door.start()
    engine.start()
    await check_goldens(pipeline, settings)
    metrics.model_info.labels(bundle.manifest.name).info(
        {
            "digest": bundle.digest,
            "precision": bundle.manifest.precision,
            "provider": PROVIDER,
            "source_language": bundle.manifest.source_language,
            "target_language": bundle.manifest.target_language,
        }
    )
    await door.set_serving(serving=True)
    logger.info(
        "READY in %.2f s: %s on %s:%d, metrics on %s:%d",
        time.monotonic() - started,
        bundle.manifest.name,
        settings.host,
        door.port,
        settings.host,
        metrics_port,
    )
    await stop.wait()
    await drain(door, engine, settings)


async def drain(door: Door, engine: AsyncEngine, settings: Settings) -> None:
    """NOT_SERVING first, then finish what runs, then stop."""
    logger.info("draining, at most %.0f s", settings.grace_seconds)
    await door.set_serving(serving=False)
    await engine.drain(settings.grace_seconds)
    # All sequences have ended; what is left is to send the last answers.
    await door.stop(grace_seconds=5.0)
    logger.info("drained")


def build_engine(
    bundle: Bundle,
    settings: Settings,
    metrics: Metrics,
    on_unhealthy: Callable[[], object] = lambda: None,
) -> AsyncEngine:
    """The engines of a bundle: shared sessions, a cache pool and a thread each.

    Raises:
        BundleError: ONNX Runtime cannot load its graphs.
    """
    sessions = load_sessions(bundle, settings.engine_threads)
    count = settings.engines or max(1, available_cores() // settings.engine_threads)
    engines = [
        _one_engine(str(number), bundle, sessions, settings, metrics) for number in range(count)
    ]
    total = sum(engine.scheduler.pool.shape.nbytes for engine in engines)
    metrics.kv_cache_bytes.set(total)
    logger.info(
        "%d engines of %d slots, %.1f MB of keys and values", count, settings.slots, total / 1e6
    )
    return AsyncEngine(
        engines,
        metrics,
        max_waiting=settings.max_queue_sentences,
        on_unhealthy=on_unhealthy,
    )


def _one_engine(
    name: str, bundle: Bundle, sessions: Sessions, settings: Settings, metrics: Metrics
) -> Engine:
    shape, tokens = bundle.manifest.shape, bundle.manifest.tokens
    pool = KVCachePool(
        CacheShape(
            layers=shape.decoder_layers,
            slots=settings.slots,
            heads=shape.heads,
            head_size=shape.head_size,
            target_positions=shape.max_target_tokens,
            source_positions=shape.max_source_tokens,
        )
    )
    scheduler = Scheduler(
        pool,
        max_encode_tokens=settings.max_encode_tokens,
        window=settings.window,
        bos_id=tokens.bos,
        eos_id=tokens.eos,
    )
    search = Search(eos_id=tokens.eos, never={tokens.pad, tokens.bos, tokens.unk})
    return Engine(name, scheduler, OrtModelRunner(bundle, sessions, pool), search, metrics)


def available_cores() -> int:
    """Cores this process may use, which in a container are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


async def check_goldens(pipeline: TranslationPipeline, settings: Settings) -> None:
    """Warm up by translating the bundle's golden sentences, and compare.

    Raises:
        BundleError: one came out differently and ``golden_check`` is strict.
    """
    if settings.golden_check == "off":
        return
    goldens = pipeline.bundle.manifest.goldens
    request = TranslationRequest(
        texts=[golden.source for golden in goldens],
        field_names=[f"goldens[{index}]" for index in range(len(goldens))],
        arrived=time.monotonic(),
    )
    results = await pipeline.translate(request)
    wrong = [
        index
        for index, (golden, result) in enumerate(zip(goldens, results, strict=True))
        if golden.target != result.text
    ]
    if not wrong:
        logger.info("%d golden sentences came out as exported", len(goldens))
        return
    msg = (
        f"{pipeline.bundle.folder}: {len(wrong)} of {len(goldens)} golden sentences came out "
        f"differently than where the bundle was exported (goldens {wrong})"
    )
    if settings.golden_check == "strict":
        raise BundleError(msg)
    logger.warning("%s", msg)


def _serve_metrics(settings: Settings, metrics: Metrics) -> int:
    """Serve /metrics on its own port; returns the port."""
    try:
        server, _ = start_http_server(
            settings.metrics_port, addr=settings.host, registry=metrics.registry
        )
    except OSError as error:
        msg = f"cannot listen on {settings.host}:{settings.metrics_port} ({error.strerror})"
        raise PortTaken(msg) from error
    return int(server.server_port)


if __name__ == "__main__":
    sys.exit(main())
