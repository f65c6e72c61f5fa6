"""What becomes of deadlines when three times as much is asked as can be done.

    python -m loadtest.overload [--bundle DIR] [--factor 3] [--seconds 15]

First the capacity is measured with callers that wait for their answers; then requests arrive at
random times (Poisson, open loop) at a multiple of it, each with a deadline. Goals: of what is
accepted at most 1 % misses its deadline, and refusals come within 50 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TypeAlias

import grpc

from dragoman.v1 import translation_pb2, translation_pb2_grpc
from loadtest.throughput import read_sentences, served

MISSED_GOAL, REFUSAL_GOAL_SECONDS = 0.01, 0.05
_CALLERS = 32
Stub: TypeAlias = "translation_pb2_grpc.TranslationServiceAsyncStub"
_OUTCOMES = {
    grpc.StatusCode.RESOURCE_EXHAUSTED: "refused",
    grpc.StatusCode.DEADLINE_EXCEEDED: "missed",
}


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
        asyncio.run(_measure(server.target, options))
    return 0


async def _measure(target: str, options: argparse.Namespace) -> None:
    sentences = read_sentences(options.sentences, 2000)
    # Not our client: it would try again what was refused.
    plain = [("grpc.enable_retries", 0)]
    async with grpc.aio.insecure_channel(target, options=plain) as channel:
        client: Stub = translation_pb2_grpc.TranslationServiceStub(channel)
        await channel.channel_ready()
        capacity = await _capacity(client, sentences, options)
        print(f"capacity {capacity:.0f} requests of {options.texts} sentences a second", flush=True)
        outcomes, refusals, late = await _flood(client, sentences, options, capacity)
    accepted = outcomes["answered"] + outcomes["missed"]
    missed = outcomes["missed"] / max(1, accepted)
    offered = sum(outcomes.values())
    print(
        f"offered {offered} ({offered / options.seconds:.0f}/s, {options.factor:g} x), accepted "
        f"{accepted}, refused {outcomes['refused']}, other errors {outcomes['other']}"
    )
    print(f"accepted that missed their deadline: {missed:.2%} (goal at most {MISSED_GOAL:.0%})")
    if refusals:
        middle, last = (refusals[int(share * (len(refusals) - 1))] for share in (0.5, 0.99))
        print(
            f"refusals: half within {middle * 1e3:.1f} ms, 99 % within {last * 1e3:.1f} ms "
            f"(goal {REFUSAL_GOAL_SECONDS * 1e3:.0f}), counted from when they were sent"
        )
    goodput = outcomes["answered"] / options.seconds / capacity
    print(f"answered in time: {goodput:.0%} of capacity; requests were sent up to "
          f"{late * 1e3:.0f} ms late")  # fmt: skip


async def _capacity(
    client: Stub,
    sentences: list[str],
    options: argparse.Namespace,
) -> float:
    """Requests a second from callers that wait."""
    done, start = 0, time.monotonic()

    async def work(number: int) -> None:
        nonlocal done
        while time.monotonic() - start < 5.0:  # noqa: PLR2004  long enough
            await client.Translate(_request(sentences, options.texts, number))
            done += 1
            number += _CALLERS

    await asyncio.gather(*(work(number) for number in range(_CALLERS)))
    return done / (time.monotonic() - start)


async def _flood(
    client: Stub,
    sentences: list[str],
    options: argparse.Namespace,
    capacity: float,
) -> tuple[Counter[str], list[float], float]:
    """Outcomes, sorted seconds to each refusal, and how late we sent at worst."""
    outcomes: Counter[str] = Counter()
    refusals: list[float] = []
    late = 0.0

    async def one(number: int) -> None:
        request, start = _request(sentences, options.texts, number), time.monotonic()
        try:
            await client.Translate(request, timeout=options.deadline)
        except grpc.aio.AioRpcError as error:
            outcome = _OUTCOMES.get(error.code(), "other")
            if outcome == "refused":
                refusals.append(time.monotonic() - start)
        else:
            outcome = "answered"
        outcomes[outcome] += 1

    draw, tasks = random.Random(0), []  # noqa: S311  the same arrivals each time
    rate = capacity * options.factor
    due = time.monotonic()
    for number in range(int(rate * options.seconds)):
        due += draw.expovariate(rate)
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        late = max(late, time.monotonic() - due)
        tasks.append(asyncio.ensure_future(one(number)))
    await asyncio.gather(*tasks)
    return outcomes, sorted(refusals), late


def _request(sentences: list[str], count: int, number: int) -> translation_pb2.TranslateRequest:
    start = number * count % (len(sentences) - count)
    return translation_pb2.TranslateRequest(
        texts=sentences[start : start + count], source_language="en", target_language="zh-TW"
    )


if __name__ == "__main__":
    sys.exit(main())
