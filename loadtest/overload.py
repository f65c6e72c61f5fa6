"""What becomes of deadlines when three times as much is asked as can be done.

    python -m loadtest.overload [--bundle DIR] [--factor 3] [--seconds 15]

First the capacity is measured with callers that wait for their answers; then requests arrive at
random times (Poisson, open loop) at a multiple of it, each with a deadline. Goals: of what is
accepted at most 1 % misses its deadline, and refusals come within 50 ms.

The server has a process of its own. This one only sends bytes that were made before, and notes how
late it was itself: where its own lag is as long as what it measures, the figure is the lag's.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import uvloop

from dragoman.v1 import translation_pb2
from loadtest.throughput import read_sentences, served

MISSED_GOAL, REFUSAL_GOAL_SECONDS = 0.01, 0.05
_METHOD = "/dragoman.v1.TranslationService/Translate"
_CALLERS = 32
_CAPACITY_SECONDS = 5.0
_TICK_SECONDS = 0.005
_OUTCOMES = {
    grpc.StatusCode.RESOURCE_EXHAUSTED: "refused",
    grpc.StatusCode.DEADLINE_EXCEEDED: "missed",
}
Call = Callable[..., Awaitable[bytes]]


@dataclass(slots=True)
class Flood:
    """What came of the requests."""

    outcomes: Counter[str] = field(default_factory=Counter)
    refusals: list[float] = field(default_factory=list)
    """Seconds from when each was sent."""
    sent_late: list[float] = field(default_factory=list)
    """Seconds after each was due."""
    lags: list[float] = field(default_factory=list)
    """By how much this process came too late to a timer that ticked all the while."""


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.overload", description=__doc__)
    parser.add_argument("--bundle", type=Path, default=Path("bundles/en-zh-TW"))
    parser.add_argument("--sentences", type=Path, default=Path("loadtest/sentences.txt"))
    parser.add_argument("--texts", type=int, default=16, help="sentences of a request")
    parser.add_argument("--factor", type=float, default=3.0)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--deadline", type=float, default=1.0, help="seconds")
    options = parser.parse_args()
    with served(options.bundle) as server:
        uvloop.run(_measure(server.target, options))
    return 0


async def _measure(target: str, options: argparse.Namespace) -> None:
    requests = _requests(read_sentences(options.sentences, 2000), options.texts)
    # Not our client: it would try again what was refused.
    plain = [("grpc.enable_retries", 0)]
    async with grpc.aio.insecure_channel(target, options=plain) as channel:
        await channel.channel_ready()
        call: Call = channel.unary_unary(_METHOD)
        capacity = await _capacity(call, requests)
        print(f"capacity {capacity:.0f} requests of {options.texts} sentences a second", flush=True)
        flood = await _flood(call, requests, options, capacity)
    _print(flood, options, capacity)


def _print(flood: Flood, options: argparse.Namespace, capacity: float) -> None:
    outcomes = flood.outcomes
    accepted = outcomes["answered"] + outcomes["missed"]
    missed = outcomes["missed"] / max(1, accepted)
    offered = sum(outcomes.values())
    print(
        f"offered {offered} ({offered / options.seconds:.0f}/s, {options.factor:g} x), accepted "
        f"{accepted}, refused {outcomes['refused']}, other errors {outcomes['other']}"
    )
    print(f"accepted that missed their deadline: {missed:.2%} (goal at most {MISSED_GOAL:.0%})")
    print(f"refusals: {_shares(flood.refusals)} (goal {REFUSAL_GOAL_SECONDS * 1e3:.0f}), counted "
          "from when they were sent")  # fmt: skip
    print(f"this process: its own lag {_shares(flood.lags)}; requests were sent late "
          f"{_shares(flood.sent_late)}")  # fmt: skip
    goodput = outcomes["answered"] / options.seconds / capacity
    print(f"answered in time: {goodput:.0%} of capacity")


def _shares(seconds: list[float]) -> str:
    if not seconds:
        return "none"
    ordered = sorted(seconds)
    middle, last = (ordered[int(share * (len(ordered) - 1))] * 1e3 for share in (0.5, 0.99))
    return f"half within {middle:.1f} ms, 99 % within {last:.1f} ms"


async def _capacity(call: Call, requests: list[bytes]) -> float:
    """Requests a second from callers that wait."""
    done, start = 0, time.monotonic()

    async def work(number: int) -> None:
        nonlocal done
        while time.monotonic() - start < _CAPACITY_SECONDS:
            await call(requests[number % len(requests)])
            done += 1
            number += _CALLERS

    await asyncio.gather(*(work(number) for number in range(_CALLERS)))
    return done / (time.monotonic() - start)


async def _flood(
    call: Call, requests: list[bytes], options: argparse.Namespace, capacity: float
) -> Flood:
    """Send at random times whatever becomes of it."""
    flood = Flood()

    async def one(number: int) -> None:
        start = time.monotonic()
        try:
            await call(requests[number % len(requests)], timeout=options.deadline)
        except grpc.aio.AioRpcError as error:
            outcome = _OUTCOMES.get(error.code(), "other")
            if outcome == "refused":
                flood.refusals.append(time.monotonic() - start)
        else:
            outcome = "answered"
        flood.outcomes[outcome] += 1

    draw, tasks = random.Random(0), []  # noqa: S311  the same arrivals each time
    rate = capacity * options.factor
    ticker = asyncio.ensure_future(_tick(flood.lags))
    due = time.monotonic()
    for number in range(int(rate * options.seconds)):
        due += draw.expovariate(rate)
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        flood.sent_late.append(max(0.0, time.monotonic() - due))
        tasks.append(asyncio.ensure_future(one(number)))
    await asyncio.gather(*tasks)
    ticker.cancel()
    return flood


async def _tick(lags: list[float]) -> None:
    while True:
        due = time.monotonic() + _TICK_SECONDS
        await asyncio.sleep(_TICK_SECONDS)
        lags.append(time.monotonic() - due)


def _requests(sentences: list[str], count: int) -> list[bytes]:
    """The bytes of requests of so many sentences each."""
    return [
        translation_pb2.TranslateRequest(
            texts=sentences[start : start + count], source_language="en", target_language="zh-TW"
        ).SerializeToString()
        for start in range(0, len(sentences) - count + 1, count)
    ]


if __name__ == "__main__":
    sys.exit(main())
