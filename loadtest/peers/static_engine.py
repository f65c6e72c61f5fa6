"""What the contenders have in common that know nothing but whole batches, one at a time."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod

from loadtest.peers.batching import DynamicBatcher, closed_loop, in_order, static_batches
from loadtest.peers.contender import Batching
from loadtest.peers.workload import Ids


class StaticEngine(ABC):
    """Batches that last as long as their longest row; greedy."""

    def __init__(self) -> None:
        """Start with no sentences."""
        self._sources: Ids = []
        self._limits: list[int] = []

    @abstractmethod
    def generate(self, sources: Ids, max_tokens: int) -> Ids:
        """Target ids of one batch, without end, at most ``max_tokens`` steps."""

    def take(self, sources: Ids, limits: list[int]) -> None:
        """As the protocol says."""
        self._sources, self._limits = sources, limits

    def queue(self, order: list[int], batching: Batching, beams: int) -> Ids:
        """As the protocol says.

        Raises:
            ValueError: more than one beam.
        """
        if beams > 1:
            msg = "greedy only"
            raise ValueError(msg)
        batches = static_batches(list(map(len, self._sources)), order, batching)
        return in_order(order, batches, [self._translate(batch) for batch in batches])

    def callers(self, order: list[int], batching: Batching, count: int) -> Ids:
        """As the protocol says, behind a dynamic batcher."""
        return asyncio.run(self._callers(order, batching.size, count))

    def ids(self, result: list[int]) -> list[int]:
        """As the protocol says."""
        return result

    def close(self) -> None:  # noqa: B027  there is nothing to do, and that is no gap
        """As the protocol says: its threads end with the process."""

    async def _callers(self, order: list[int], size: int, count: int) -> Ids:
        async with DynamicBatcher(self._translate, size=size, workers=1) as batcher:
            return await closed_loop(batcher.translate, order, count)

    def _translate(self, indices: list[int]) -> Ids:
        limits = [self._limits[index] for index in indices]
        found = self.generate([self._sources[index] for index in indices], max(limits))
        return [ids[:limit] for ids, limit in zip(found, limits, strict=True)]
