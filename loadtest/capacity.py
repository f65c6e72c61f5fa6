"""About how much a server does: callers who ask for the next thing once they have the last.

No load test (nobody waits for a slow server here, so latencies mean little), but where the search
for a rate begins, and which of two shapes of a server is the better one.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import grpc

from dragoman.connection import call_metadata
from loadtest.generator import TRANSLATE, Load, connect

CALLERS = 64
_CALL_SECONDS = 30.0


def capacity(load: Load, callers: int = CALLERS) -> float:
    """Answers a second to so many callers at once, for ``load.seconds``, in a process of its own.

    Raises:
        ConnectionError: no call was answered.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        found = pool.submit(_measure, load, callers).result()
    if not found:
        msg = f"no call to {load.target} was answered"
        raise ConnectionError(msg)
    return found


def _measure(load: Load, callers: int) -> float:
    return asyncio.run(_answers(load, callers)) / load.seconds


async def _answers(load: Load, callers: int) -> int:
    """How many came in time."""
    messages = itertools.cycle(load.messages())
    key = call_metadata(None)
    async with connect(load, [("grpc.enable_retries", 0)]) as channel:
        call: Any = channel.unary_unary(TRANSLATE)
        end = time.monotonic() + load.seconds

        async def ask() -> int:
            answered = 0
            while time.monotonic() < end:
                try:
                    await call(next(messages), timeout=_CALL_SECONDS, metadata=key)
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.01)
                    continue
                answered += time.monotonic() < end
            return answered

        return sum(await asyncio.gather(*(ask() for _ in range(callers))))
