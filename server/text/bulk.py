"""Any number of texts over one call: a window of them in work, results as they are ready."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from server.errors import DragomanError, Overloaded
from server.text.request import TextResult

_SHORTEST_WAIT_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Item:
    """A text, and the caller's name for it."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class Done:
    """What became of an item."""

    item: Item
    outcome: TextResult | DragomanError | None
    """None = it holds nothing to translate and comes back as it is."""


Translate = Callable[[Item], Awaitable[TextResult]]


async def translated(
    items: AsyncIterator[Item], translate: Translate, *, window: int, in_order: bool
) -> AsyncGenerator[Done, None]:
    """What became of each item, as they are ready or in their order.

    No item is read while ``window`` are in work or wait to be taken: who reads slowly is sent
    slowly, and who sends fast is held. An item that finds the line full waits for its turn; one
    that cannot be translated is one that ends so. Closing the iterator drops what is in work.

    Raises:
        Whatever ``items`` raises; results of those before it come first.
    """
    room = asyncio.Semaphore(window)
    ready: asyncio.Queue[asyncio.Task[Done] | BaseException | None] = asyncio.Queue()
    running: set[asyncio.Task[Done]] = set()

    async def read() -> None:
        error: Exception | None = None
        try:
            # The next one is read when there is room for it, not before.
            while await room.acquire() and (item := await anext(items, None)) is not None:
                task = asyncio.get_running_loop().create_task(_one(item, translate))
                running.add(task)
                if in_order:
                    ready.put_nowait(task)
                else:
                    task.add_done_callback(ready.put_nowait)
        except Exception as fault:  # noqa: BLE001  it is the caller's, and raised to them
            error = fault
        if running and not in_order:
            await asyncio.wait(running)
        ready.put_nowait(error)

    reader = asyncio.get_running_loop().create_task(read())
    try:
        while (one := await ready.get()) is not None:
            if isinstance(one, BaseException):
                raise one
            done = await one
            running.discard(one)
            yield done
            room.release()
    finally:
        reader.cancel()
        for task in running:
            task.cancel()
        await asyncio.gather(reader, *running, return_exceptions=True)


async def _one(item: Item, translate: Translate) -> Done:
    if not item.text.strip():
        return Done(item, None)
    while True:
        try:
            return Done(item, await translate(item))
        except Overloaded as error:
            # The window is the caller's queue: it is served when others have been.
            await asyncio.sleep(max(_SHORTEST_WAIT_SECONDS, error.retry_after_seconds))
        except DragomanError as error:
            return Done(item, error)
