"""Work in the event loop takes turns."""

from __future__ import annotations

import asyncio
import time

from server.text.pace import Pace, Turns


async def test_there_is_one_turn_a_round_in_the_order_of_asking() -> None:
    turns, rounds, taken = Turns(), [0], []

    async def count() -> None:
        while True:
            rounds[0] += 1
            await asyncio.sleep(0)

    async def work(number: int) -> None:
        await turns.take()
        taken.append((number, rounds[0]))

    counter = asyncio.ensure_future(count())
    await asyncio.gather(*(work(number) for number in range(6)))
    counter.cancel()
    assert [number for number, _ in taken] == list(range(6))
    assert len({when for _, when in taken}) == 6


async def test_who_leaves_while_waiting_takes_no_turn() -> None:
    turns, taken = Turns(), []

    async def work(number: int) -> None:
        await turns.take()
        taken.append(number)

    tasks = [asyncio.ensure_future(work(number)) for number in range(4)]
    await asyncio.sleep(0)
    tasks[2].cancel()
    await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
    assert taken == [0, 1, 3]
    await asyncio.wait_for(turns.take(), 5)


async def test_long_work_gives_turns_and_rests_while_somebody_goes_first() -> None:
    turns, pressed = [0], [False]

    async def count() -> None:
        while True:
            turns[0] += 1
            await asyncio.sleep(0)

    async def work(seconds: float) -> tuple[float, float]:
        """Rounds a pause that another had, and seconds that the interpreter was free."""
        pace, before, free, pauses = Pace(lambda: pressed[0]), turns[0], 0.0, 0
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(0.0001)  # noqa: ASYNC251  it is the work
            start = time.monotonic()
            await pace.pause()
            free += time.monotonic() - start
            pauses += 1
        return (turns[0] - before) / pauses, free

    counter = asyncio.ensure_future(count())
    rounds, _ = await work(0.05)
    assert 0 < rounds < 1, "not at each pause"
    counter.cancel()
    pressed[0] = True
    _, rested = await work(0.05)
    assert rested > 0.01
