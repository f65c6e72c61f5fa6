"""``dragoman serve``: settings -> bundles -> engines -> doors. The only place that wires."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import signal
import sys
import time
from collections.abc import Sequence

import uvloop

from server import log
from server.access.gate import Gate
from server.api import deepl, google, libretranslate
from server.api.desk import Desk
from server.api.door import Door
from server.api.http import Front
from server.api.http_door import HttpDoor
from server.api.metrics_port import serve_metrics
from server.api.models import ModelService
from server.api.translation import TranslationService
from server.api.web.front import Page
from server.errors import SettingsFault, StartupError
from server.metrics import Metrics
from server.registry import ModelRegistry
from server.settings import Settings, read_settings
from server.text.catalogue import Catalogue
from server.text.translator import Translator
from server.tracing import Tracer

logger = logging.getLogger("dragoman")


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; 0 after a clean drain, 2 if the server cannot start."""
    started = time.monotonic()
    try:
        settings = read_settings(sys.argv[1:] if arguments is None else arguments)
        log.set_up(settings)
        for line in settings.lines():
            logger.info("setting %s", line)
        uvloop.run(serve(settings, started))
    except StartupError as error:
        print(f"dragoman serve: {error}", file=sys.stderr)
        return 2
    return 0


async def serve(settings: Settings, started: float) -> None:
    """Start, say READY, wait for a signal, drain.

    Raises:
        StartupError: a bundle is faulty, two have one name, or a port is taken.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    metrics = Metrics()
    gate = Gate(settings.key_file)
    tracer = None
    if settings.otlp_endpoint is not None:
        tracer = Tracer(settings.otlp_endpoint, settings.trace_sample_ratio)
    catalogue = Catalogue()
    desk = Desk(Translator(catalogue, settings.pivot_languages), settings)

    async def set_serving(serving: bool) -> None:  # noqa: FBT001  the registry calls it
        for each in doors:
            await each.set_serving(serving=serving)

    registry = ModelRegistry(catalogue, settings, metrics, set_serving)
    door = Door(
        TranslationService(catalogue, settings),
        ModelService(
            catalogue, settings.provider, _admin(registry, settings), settings.pivot_languages
        ),
        settings,
        metrics,
        gate,
        tracer,
    )
    if google.installed():
        door.add(google.SERVICE, google.GoogleTranslation(desk))
    doors: list[Door | HttpDoor] = [door]
    http = _http_door([*_apis(desk), Page(desk, metrics).front()], settings, door)
    if http is not None:
        doors.append(http)
    loop.add_signal_handler(signal.SIGHUP, gate.reload)
    metrics_port = serve_metrics(settings, metrics, _metrics_host(settings))
    for each in doors:
        await each.start()
    try:
        await registry.start(settings.bundle)
    except StartupError:
        await _stop(doors, grace_seconds=0.0)
        raise
    logger.info(
        "READY in %.2f s: %s on %s:%d, metrics on %s:%d%s",
        time.monotonic() - started,
        ", ".join(pipeline.bundle.manifest.name for pipeline in catalogue),
        settings.host,
        door.port,
        _metrics_host(settings),
        metrics_port,
        "" if http is None else f" and HTTP on {settings.host}:{http.port}",
    )
    _warn_if_open(settings)
    await stop.wait()
    await drain(doors, registry, settings)
    if tracer is not None:
        await asyncio.to_thread(tracer.close)


async def drain(
    doors: Sequence[Door | HttpDoor], registry: ModelRegistry, settings: Settings
) -> None:
    """NOT_SERVING first, then finish what runs, then stop."""
    delay, grace = settings.drain_delay_seconds, settings.grace_seconds
    logger.info("draining in %.0f s, at most %.0f s", delay, grace)
    await registry.close(grace, delay_seconds=delay)
    # All sequences have ended; what is left is to send the last answers.
    await _stop(doors, grace_seconds=5.0)
    logger.info("drained")


async def _stop(doors: Sequence[Door | HttpDoor], grace_seconds: float) -> None:
    async with asyncio.TaskGroup() as group:
        for each in doors:
            group.create_task(each.stop(grace_seconds))


def _apis(desk: Desk) -> list[Front]:
    """The APIs of others that it speaks."""
    return [deepl.front(desk), libretranslate.front(desk)]


def _http_door(fronts: Sequence[Front], settings: Settings, door: Door) -> HttpDoor | None:
    """The HTTP side; None where it is switched off."""
    return HttpDoor(fronts, door.watcher, settings) if settings.http else None


def _admin(registry: ModelRegistry, settings: Settings) -> ModelRegistry | None:
    """The registry, where callers may change it.

    Raises:
        SettingsFault: they may, but there is no place to load from.
    """
    if not settings.model_admin:
        return None
    if not settings.model_root.is_dir():
        msg = f"model_root: {settings.model_root} is no directory"
        raise SettingsFault(msg)
    return registry


def _metrics_host(settings: Settings) -> str:
    return settings.metrics_host or settings.host


def _warn_if_open(settings: Settings) -> None:
    """Say what whoever reaches the port may do, where others than this machine can."""
    if _is_loopback(settings.host):
        return
    if settings.key_file is None and settings.tls_client_ca is None:
        logger.warning(
            "%s: whoever reaches this port may translate%s; --key-file or --tls-client-ca asks "
            "who they are",
            settings.host,
            " and change models" if settings.model_admin else "",
        )
    if settings.tls_certificate is None:
        logger.warning(
            "%s: texts%s cross the network in the clear; --tls-certificate and --tls-key encrypt",
            settings.host,
            "" if settings.key_file is None else " and keys",
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.startswith("unix:"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


if __name__ == "__main__":
    sys.exit(main())
