"""What each sentence must become: translated alone, before any load."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dragoman
from server.bundle import open_bundle
from server.live_model import build_engine
from server.metrics import Metrics
from server.settings import Settings
from server.text.pipeline import TranslationPipeline
from server.text.request import TranslationRequest


@dataclass(frozen=True, slots=True)
class Reference:
    """The right answer of each sentence.

    A stream's may be another: what it has sent is final, where a unary call may have tried a
    degenerate sentence again.
    """

    unary: list[str]
    streamed: list[str]


def offline(bundle: Path, sentences: list[str]) -> Reference:
    """By our engine, without network and neighbours, in a process of its own that then ends."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(_offline, bundle, sentences).result()


def _offline(bundle: Path, sentences: list[str]) -> Reference:
    logging.disable()
    return asyncio.run(_alone(bundle, sentences))


async def _alone(folder: Path, sentences: list[str]) -> Reference:
    bundle = open_bundle(folder)
    settings = Settings(bundle=(folder,), engines=1)
    engine = build_engine(bundle, settings, Metrics())
    engine.start()
    pipeline = TranslationPipeline(bundle, engine, settings.slots)
    found = Reference([], [])
    for sentence in sentences:
        request = TranslationRequest(
            texts=[sentence],
            field_names=["texts[0]"],
            arrived=time.monotonic(),
            protect=True,  # as callers have it who say nothing
        )
        (result,) = await pipeline.translate(request)
        found.unary.append(result.text)
        async with contextlib.aclosing(pipeline.stream(request)) as events:
            *_, last = [event async for event in events]
        found.streamed.append(last.text)
    await engine.drain(grace_seconds=5.0)
    return found


def by_server(
    target: str,
    sentences: list[str],
    target_language: str,
    *,
    streams: bool,
    tls: dragoman.Tls | None = None,
    source_language: str = "en",
) -> Reference:
    """By the server itself, a sentence at a time: what it says when nobody else asks."""
    found = Reference([], [])
    ask: dict[str, Any] = {
        "source_language": source_language,
        "target_language": target_language,
        "timeout_seconds": 60,
    }
    with dragoman.Client(target, tls=tls) as client:
        for sentence in sentences:
            found.unary.append(client.translate(sentence, **ask).text)
            if streams:
                *_, last = client.translate_stream(sentence, **ask)
                found.streamed.append(last.text)
    return found


def digest_of_server(target: str, tls: dragoman.Tls | None = None) -> str | None:
    """The digest of its only model; None if it has several."""
    with dragoman.Client(target, tls=tls) as client:
        models = client.list_models()
    return models[0].digest if len(models) == 1 else None
