"""Our engine as a contender: as ``dragoman serve`` builds it, without text and network."""

from __future__ import annotations

import asyncio
import time

import numpy as np

from loadtest.peers.batching import closed_loop
from loadtest.peers.contender import Batching, Setup
from loadtest.peers.workload import Ids
from server.bundle import open_bundle
from server.engine.request import GREEDY, DecodingParameters, FinishReason, Sequence
from server.live_model import build_engine
from server.metrics import Metrics
from server.settings import Settings

_WELL = {FinishReason.EOS, FinishReason.LENGTH}


class DragomanEngine:
    """The server's engines in this process, in an event loop that runs while they are asked."""

    def __init__(self, setup: Setup) -> None:
        """Start them."""
        settings = Settings(
            bundle=(setup.model,),
            engines=setup.workers,
            engine_threads=setup.threads,
            max_queue_sentences=1_000_000,
        )
        self._loop = asyncio.new_event_loop()
        self._engine = build_engine(open_bundle(setup.model), settings, Metrics())
        self._loop.run_until_complete(self._start())
        self._sources: list[np.ndarray[tuple[int], np.dtype[np.int64]]] = []
        self._limits: list[int] = []

    def take(self, sources: Ids, limits: list[int]) -> None:
        """As the protocol says."""
        self._sources = [np.array(ids, np.int64) for ids in sources]
        self._limits = limits

    def queue(self, order: list[int], batching: Batching, beams: int) -> list[Sequence]:  # noqa: ARG002
        """As the protocol says; it makes its batches itself."""
        parameters = DecodingParameters(strategy="beam", beams=beams) if beams > 1 else GREEDY
        sequences = [self._sequence(index, parameters) for index in order]
        self._loop.run_until_complete(self._run(sequences))
        return sequences

    def callers(self, order: list[int], batching: Batching, count: int) -> list[Sequence]:  # noqa: ARG002
        """As the protocol says; it makes its batches itself."""
        return self._loop.run_until_complete(closed_loop(self._one, order, count))

    def ids(self, result: Sequence) -> list[int]:
        """As the protocol says.

        Raises:
            RuntimeError: the engine gave the sentence up.
        """
        if result.finish_reason not in _WELL:
            msg = f"a sentence ended in {result.finish_reason}"
            raise RuntimeError(msg)
        return result.target_ids

    def close(self) -> None:
        """As the protocol says."""
        self._loop.run_until_complete(self._engine.drain(grace_seconds=1.0))
        self._loop.close()

    async def _start(self) -> None:
        self._engine.start()

    async def _one(self, index: int) -> Sequence:
        sequence = self._sequence(index, GREEDY)
        await self._run([sequence])
        return sequence

    async def _run(self, sequences: list[Sequence]) -> None:
        async for _ in self._engine.generate(sequences):
            pass

    def _sequence(self, index: int, parameters: DecodingParameters) -> Sequence:
        return Sequence(
            source_ids=self._sources[index],
            max_tokens=self._limits[index],
            arrived=time.monotonic(),
            parameters=parameters,
        )
