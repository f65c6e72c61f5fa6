"""Servers for the tests: one that many share, and the shipped model inside the test's own loop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import grpc
import pytest
from running import BUNDLE, RunningServer, running_server

from dragoman.v1 import translation_pb2_grpc
from server.api.door import Door
from server.api.models import ModelService
from server.api.translation import TranslationService
from server.bundle import Bundle, open_bundle
from server.engine.async_engine import AsyncEngine
from server.live_model import build_engine
from server.metrics import Metrics
from server.settings import Settings
from server.text.catalogue import Catalogue
from server.text.pipeline import TranslationPipeline


@pytest.fixture(scope="session")
def server() -> Iterator[RunningServer]:
    """A server with default settings and the shipped model."""
    with running_server() as running:
        yield running


@pytest.fixture(scope="session")
def bundle() -> Bundle:
    return open_bundle(BUNDLE)


@dataclass
class InnerServer:
    """The same parts inside the test's event loop, where a slot can be looked at."""

    engine: AsyncEngine
    pipeline: TranslationPipeline
    metrics: Metrics
    door: Door
    stub: translation_pb2_grpc.TranslationServiceAsyncStub


@pytest.fixture
async def inner(bundle: Bundle, request: pytest.FixtureRequest) -> AsyncIterator[InnerServer]:
    """Settings may come by ``@pytest.mark.parametrize("inner", [{...}], indirect=True)``."""
    turned = getattr(request, "param", {})
    settings = Settings(bundle=BUNDLE, port=0, **{"engines": 1, "slots": 4} | turned)
    metrics = Metrics()
    engine = build_engine(bundle, settings, metrics)
    pipeline = TranslationPipeline(bundle, engine, settings.slots)
    catalogue = Catalogue([pipeline])
    door = Door(
        TranslationService(catalogue, settings),
        ModelService(catalogue, settings.provider),
        settings,
        metrics,
    )
    await door.start()
    engine.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{door.port}") as channel:
        stub: translation_pb2_grpc.TranslationServiceAsyncStub = (
            translation_pb2_grpc.TranslationServiceStub(channel)
        )
        yield InnerServer(engine, pipeline, metrics, door, stub)
    await engine.drain(grace_seconds=0.0)
    await door.stop(grace_seconds=0.0)
