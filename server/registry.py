"""Which models are live: load, swap and unload them under traffic, one change after the other.

Each model has engines, a cache and threads of its own; all share the cores, as the operating
system deals them out. What a change costs at most is one model more than are live: the next
change waits until what the last one retired has ended.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from server.bundle import MANIFEST, Bundle, open_bundle
from server.engine.provider import NAMES
from server.errors import (
    BundleError,
    FailedPrecondition,
    InvalidRequest,
    ProviderUnavailable,
    SettingsFault,
    ShuttingDown,
)
from server.live_model import LiveModel, check_goldens
from server.memory import return_freed_memory
from server.metrics import Metrics
from server.settings import Settings
from server.text.catalogue import Catalogue
from server.text.sentence_cache import SentenceCache

logger = logging.getLogger(__name__)

_LONGEST_NAME = 100

Answer = TypeVar("Answer")
Change = Callable[[], Awaitable[Answer]]
"""Changes the live models; returns what its caller is told."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a load has done."""

    bundle: Bundle
    replaced_digest: str | None
    """Digest of the model of the same name that it replaced."""


class ModelRegistry:
    """The live models. Made and used in one event loop."""

    def __init__(
        self,
        catalogue: Catalogue,
        settings: Settings,
        metrics: Metrics,
        announce: Callable[[bool], Awaitable[object]],
    ) -> None:
        """Begin without models.

        Args:
            catalogue: where models are published to take requests.
            settings: of the engines; where bundles may lie and how many may be live.
            metrics: what the models hold.
            announce: tells health whether a request can be served at all.
        """
        self._catalogue = catalogue
        self._settings = settings
        self._metrics = metrics
        self._announce = announce
        self._cache = SentenceCache(settings.sentence_cache_bytes, metrics)
        self._live: dict[str, LiveModel] = {}
        self._retired: LiveModel | None = None  # takes no more requests, but still has some
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._leaving = False  # balancers are told to send nothing more
        self._closing = False

    @property
    def serving(self) -> bool:
        """Whether there is a model that a request can be given to, and works."""
        return not self._leaving and any(model.healthy for model in self._live.values())

    async def start(self, folders: Sequence[Path]) -> None:
        """Load the server's first models; none takes requests before all are ready.

        Raises:
            BundleError: one cannot be used.
            SettingsFault: they are too many, or two have one name.
        """
        async with self._turn:
            bundles = [await asyncio.to_thread(open_bundle, folder) for folder in folders]
            self._check_first(bundles)
            models: list[LiveModel] = []
            try:
                for bundle in bundles:
                    models.append(await self._bring_up(bundle))  # noqa: PERF401  for the except
            except BaseException:
                await asyncio.gather(*(model.drain(0.0) for model in models))
                raise
            await self._acquaint(models)
            for model in models:
                self._publish(model)
            await self._tell()

    async def load(self, path: str) -> Loaded:
        """The bundle at ``path``, inside the model root, takes requests.

        Where a model of its name is live, it takes that one's place: requests that had begun
        finish on the old one, which then ends. If it fails, everything is as it was. Once its
        turn has come the change is carried out, even if the caller leaves.

        Raises:
            InvalidRequest: the path is none, or leads out of the model root.
            FailedPrecondition: the bundle cannot be used, or too many models are live.
            ShuttingDown: the server drains.
        """
        folder = _inside(self._settings.model_root, path)
        try:
            return await self._in_turn(functools.partial(self._load, folder))
        except (BundleError, ProviderUnavailable) as error:
            # Where the root lies on this machine is not the caller's business.
            reason = str(error).replace(f"{self._settings.model_root.resolve()}{os.sep}", "")
            raise FailedPrecondition("BUNDLE", path, reason) from error

    async def unload(self, name: str) -> Bundle:
        """The model takes no more requests; it ends when those that had begun have finished.

        Raises:
            UnknownModel: none has that name.
            FailedPrecondition: it is the last one; without it nothing could be served.
            ShuttingDown: the server drains.
        """
        return await self._in_turn(functools.partial(self._unload, name))

    async def close(self, grace_seconds: float, *, delay_seconds: float = 0.0) -> None:
        """Say so, refuse what is new, let what runs finish; all models have ended.

        Args:
            grace_seconds: for what runs.
            delay_seconds: until anything is refused, for balancers to hear that we leave. Without
                it they send requests to a server that may be gone when they arrive.
        """
        self._leaving = True
        await self._tell()
        await asyncio.sleep(delay_seconds)
        self._closing = True
        models = [*self._live.values(), *([self._retired] if self._retired else [])]
        await asyncio.gather(*(model.drain(grace_seconds) for model in models))
        if self._tasks:  # a load that was under way sees that it comes too late
            await asyncio.wait(self._tasks, timeout=grace_seconds)

    async def _load(self, folder: Path) -> Loaded:
        bundle = await asyncio.to_thread(open_bundle, folder)
        self._check_room(bundle.manifest.name)
        model = await self._bring_up(bundle)
        await self._acquaint([model])
        if self._closing:
            await model.drain(0.0)
            self._check_open()
        old = self._publish(model)
        self._retired = old
        await self._tell()
        return Loaded(bundle, old.bundle.digest if old else None)

    async def _unload(self, name: str) -> Bundle:
        bundle = self._catalogue.named(name).bundle
        if len(self._live) == 1:
            msg = "it is the last model, and without one nothing can be served; load another first"
            raise FailedPrecondition("LAST_MODEL", name, msg)
        self._catalogue.remove(name)
        self._metrics.model_info.remove(name)
        self._retired = self._live.pop(name)
        await self._tell()
        logger.info("model %s %s takes no more requests", name, bundle.digest[:12])
        return bundle

    async def _bring_up(self, bundle: Bundle) -> LiveModel:
        """The model, running and warm, but known to nobody.

        Raises:
            BundleError: it cannot be loaded, or its golden sentences come out wrong.
        """
        _check_name(bundle)
        # Reading the weights releases the interpreter: what runs goes on.
        failed = functools.partial(self._failed, bundle)
        model = await asyncio.to_thread(
            LiveModel, bundle, self._settings, self._metrics, self._cache, failed
        )
        model.start()
        try:
            await check_goldens(model.pipeline, self._settings)
        except BaseException:
            await model.drain(0.0)
            raise
        return model

    async def _acquaint(self, models: list[LiveModel]) -> None:
        """Let new models know the others' languages before the search for pivots asks for them."""
        if not self._settings.pivot_languages:
            return
        known = [model.pairs for model in self._catalogue]
        for model in models:
            pairs = model.pipeline.pairs
            await asyncio.to_thread(pairs.meet, [*known])
            known.append(pairs)

    def _publish(self, model: LiveModel) -> LiveModel | None:
        """Give it the requests of its name from now on; returns whom it replaced."""
        manifest, digest = model.bundle.manifest, model.bundle.digest
        old = self._live.get(model.name)
        self._live[model.name] = model
        self._catalogue.put(model.pipeline)
        self._metrics.model_info.labels(model.name).info(
            {
                "digest": digest,
                "precision": manifest.precision,
                "provider": NAMES[manifest.provider],
                "requested_provider": self._settings.provider,
                "source_language": manifest.source_language,
                "target_language": manifest.target_language,
            }
        )
        replaced = f", instead of {old.bundle.digest[:12]}" if old else ""
        logger.info("model %s %s takes requests%s", model.name, digest[:12], replaced)
        return old

    def _failed(self, bundle: Bundle) -> None:
        """Two steps of a model in a row have failed."""
        model = self._live.get(bundle.manifest.name)
        if model is not None and model.bundle is bundle:
            model.healthy = False
            logger.error("model %s is unhealthy; loading it anew may help", model.name)
            self._spawn(self._tell())

    async def _tell(self) -> None:
        await self._announce(self.serving)

    async def _in_turn(self, change: Change[Answer]) -> Answer:
        """Make a change when those before it have ended; answered before the retired one ends."""
        self._check_open()
        await self._turn.acquire()  # who leaves while waiting has changed nothing
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._spawn(self._carry_out(change, answer))
        return await asyncio.shield(answer)

    async def _carry_out(self, change: Change[Answer], answer: asyncio.Future[Answer]) -> None:
        try:
            self._check_open()
            answer.set_result(await change())
        except Exception as error:  # noqa: BLE001  whatever it is, it is the caller's
            if isinstance(error, BundleError | ProviderUnavailable):
                logger.warning("the models are as they were: %s", error)
            answer.set_exception(error)
            answer.exception()  # nobody may be left to hear it
        try:
            await self._end_retired()
        finally:
            self._turn.release()

    async def _end_retired(self) -> None:
        """Wait until the model that a change retired has ended, and its memory is free."""
        if self._retired is None:
            return
        began = time.monotonic()
        name, digest = self._retired.name, self._retired.bundle.digest
        await self._retired.retire(self._settings.unload_grace_seconds)
        self._retired = None
        await asyncio.to_thread(return_freed_memory)
        logger.info("model %s %s ended after %.1f s", name, digest[:12], time.monotonic() - began)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        """Run it beside us; a task that nobody holds may vanish."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _check_open(self) -> None:
        if self._closing:
            msg = "the server is shutting down"
            raise ShuttingDown(msg, retry_after_seconds=1.0)

    def _check_first(self, bundles: list[Bundle]) -> None:
        limit = self._settings.max_models
        if len(bundles) > limit:
            msg = f"bundle: {len(bundles)} are given, max_models is {limit}"
            raise SettingsFault(msg)
        folders: dict[str, Path] = {}
        for bundle in bundles:
            name = bundle.manifest.name
            if name in folders:
                msg = f"bundle: {folders[name]} and {bundle.folder} are both named {name}"
                raise SettingsFault(msg)
            folders[name] = bundle.folder

    def _check_room(self, name: str) -> None:
        limit = self._settings.max_models
        if name not in self._live and len(self._live) >= limit:
            msg = f"{limit} models are live, as many as may be; unload one first"
            raise FailedPrecondition("MAX_MODELS", name, msg)


def _check_name(bundle: Bundle) -> None:
    """Raise BundleError if the name cannot stand in a log line, a label and a request."""
    name = bundle.manifest.name
    if not (0 < len(name) <= _LONGEST_NAME and name.isprintable()):
        msg = f"{bundle.folder / MANIFEST}: name: must be 1 to {_LONGEST_NAME} printable characters"
        raise BundleError(msg)


def _inside(root: Path, path: str) -> Path:
    """The directory that a caller means, all links followed.

    Raises:
        InvalidRequest: it is not inside the root, or no path at all.
        FailedPrecondition: no directory is there.
    """
    if not path:
        raise InvalidRequest("path", "is missing")
    if not path.isprintable():
        raise InvalidRequest("path", "holds characters that cannot be printed")
    if Path(path).is_absolute():
        raise InvalidRequest("path", "is absolute; it must be relative to the model root")
    try:
        folder = (root / path).resolve()
        is_there = folder.is_dir()
    except (OSError, RuntimeError) as error:  # a name that is too long; links in a circle
        raise InvalidRequest("path", "cannot be followed") from error
    if not folder.is_relative_to(root.resolve()):
        raise InvalidRequest("path", "leads out of the model root")
    if not is_there:
        msg = "no such bundle directory inside the model root"
        raise FailedPrecondition("BUNDLE", path, msg)
    return folder
