"""A registry over the shipped bundle and copies of it, inside the test's own loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from bundle_copies import SHIPPED, copy_bundle

from server.metrics import Metrics
from server.registry import ModelRegistry
from server.settings import Settings
from server.text.catalogue import Catalogue
from server.text.pipeline import TranslationPipeline
from server.text.request import TextResult, TranslationRequest

NAME = "en-zh-TW"
SENTENCE = "There are old trees in the garden."


class Rig:
    def __init__(self, root: Path, **turned: Any) -> None:
        values: dict[str, Any] = {"engines": 1, "slots": 4, "golden_check": "strict"} | turned
        self.settings = Settings(bundle=(SHIPPED,), model_root=root, **values)
        self.root = root
        self.metrics = Metrics()
        self.catalogue = Catalogue()
        self.announced: list[bool] = []
        self.registry = ModelRegistry(self.catalogue, self.settings, self.metrics, self.hear)

    async def hear(self, serving: bool) -> None:
        self.announced.append(serving)

    def copy(self, folder: str, **changes: Any) -> str:
        copy_bundle(self.root / folder, **changes)
        return folder

    def digests(self) -> dict[str, str]:
        return {p.bundle.manifest.name: p.bundle.digest for p in self.catalogue}

    def series(self) -> set[str]:
        """The models that any sample of the metrics names."""
        return {
            sample.labels["model"]
            for family in self.metrics.registry.collect()
            for sample in family.samples
            if "model" in sample.labels
        }

    async def settle(self) -> None:
        """Wait until nothing is being loaded, and what was retired has ended."""
        async with asyncio.timeout(30):
            while self.registry._turn.locked():
                await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def rig(root: Path, **turned: Any) -> AsyncIterator[Rig]:
    made = Rig(root, **turned)
    await made.registry.start([SHIPPED])
    try:
        yield made
    finally:
        await made.registry.close(grace_seconds=0.0)
        assert not engine_threads()


def engine_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("engine-")]


async def translate(pipeline: TranslationPipeline, *texts: str) -> list[TextResult]:
    names = [f"texts[{index}]" for index in range(len(texts))]
    return await pipeline.translate(
        TranslationRequest(texts=list(texts), field_names=names, arrived=time.monotonic())
    )


def busy(pipeline: TranslationPipeline, count: int = 60) -> asyncio.Task[list[TextResult]]:
    """A request that takes a while."""
    texts = [f"There are {number} old trees in the garden." for number in range(count)]
    return asyncio.ensure_future(translate(pipeline, *texts))
