"""Batches as those make them whose engine takes nothing smaller: static, and on the fly."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, suppress
from typing import Generic

from loadtest.peers.contender import Batching, Result

MAX_DELAY_SECONDS = 0.005


def static_batches(lengths: list[int], order: list[int], batching: Batching) -> list[list[int]]:
    """Cut ``order`` into batches; sorted ones begin with the longest, so that none ends alone.

    Args:
        lengths: of every sentence, by its index.
        order: the indices to translate.
        batching: size and order.
    """
    if batching.sort:
        order = sorted(order, key=lambda index: lengths[index], reverse=True)
    batches: list[list[int]] = []
    longest = 0
    for index in order:
        longest = max(longest, lengths[index])
        rows = len(batches[-1]) + 1 if batches else 1
        cost = rows * longest if batching.unit == "tokens" else rows
        if batches and cost <= batching.size:
            batches[-1].append(index)
        else:
            batches.append([index])
            longest = lengths[index]
    return batches


def in_order(
    order: list[int], batches: list[list[int]], results: list[list[Result]]
) -> list[Result]:
    """The results of batches, as ``order`` asked for them."""
    found = {
        index: result
        for batch, of_batch in zip(batches, results, strict=True)
        for index, result in zip(batch, of_batch, strict=True)
    }
    return [found[index] for index in order]


async def closed_loop(
    translate: Callable[[int], Awaitable[Result]], order: list[int], callers: int
) -> list[Result]:
    """All sentences, each caller taking the next as soon as its last is answered."""
    waiting = iter(order)
    found: dict[int, Result] = {}

    async def caller() -> None:
        for index in waiting:
            found[index] = await translate(index)

    await asyncio.gather(*(caller() for _ in range(callers)))
    return [found[index] for index in order]


class DynamicBatcher(AbstractAsyncContextManager["DynamicBatcher[Result]"], Generic[Result]):
    """Single sentences of many callers as batches, the way model servers do it.

    A free worker takes what waits once that fills a batch or its first sentence has waited for
    :data:`MAX_DELAY_SECONDS`. While all workers are busy, the next batch grows.
    """

    def __init__(
        self, translate: Callable[[list[int]], list[Result]], *, size: int, workers: int
    ) -> None:
        """Set the engine and the shape.

        Args:
            translate: a batch; called from as many threads at once as there are workers.
            size: most sentences of a batch.
            workers: batches at once.
        """
        self._translate = translate
        self._size = size
        self._workers = workers
        self._waiting: deque[tuple[int, float, asyncio.Future[Result]]] = deque()
        self._some = asyncio.Event()
        self._full = asyncio.Event()
        self._collecting = asyncio.Lock()
        self._pool = ThreadPoolExecutor(workers)
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> DynamicBatcher[Result]:
        """Start the workers."""
        self._tasks = [asyncio.create_task(self._work()) for _ in range(self._workers)]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop them; nothing may wait any more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._pool.shutdown()

    async def translate(self, index: int) -> Result:
        """One sentence, in company."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((index, time.monotonic(), future))
        self._signal()
        return await future

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            async with self._collecting:
                batch = await self._collect()
            indices = [index for index, _, _ in batch]
            try:
                results = await loop.run_in_executor(self._pool, self._translate, indices)
            except Exception as error:  # noqa: BLE001  it goes to those who wait for it
                for _, _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, _, future), result in zip(batch, results, strict=True):
                if not future.done():  # who left has cancelled it
                    future.set_result(result)

    async def _collect(self) -> list[tuple[int, float, asyncio.Future[Result]]]:
        await self._some.wait()
        left = self._waiting[0][1] + MAX_DELAY_SECONDS - time.monotonic()
        if left > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._full.wait(), left)
        rows = min(self._size, len(self._waiting))
        batch = [self._waiting.popleft() for _ in range(rows)]
        self._signal()
        return batch

    def _signal(self) -> None:
        """Say what waits now."""
        for event, least in ((self._some, 1), (self._full, self._size)):
            if len(self._waiting) >= least:
                event.set()
            else:
                event.clear()
