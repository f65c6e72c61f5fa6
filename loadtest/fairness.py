"""What a bulk call does to those who wait for a single sentence.

    python -m loadtest.fairness [--bundle DIR] [--rounds 5]

Single sentences arrive at random times (Poisson, open loop) in both halves of each round: alone,
and while calls of 2,000 sentences run one after another. Goal: their 95th percentile stays
within twice of what it is alone.

The bulk calls come from a process of their own: reading 2,000 answers takes a client 30 ms, in
which it would read no other.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import random
import statistics
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import dragoman
from loadtest.throughput import read_sentences, served

GOAL = 2.0
BULK_SENTENCES = 2000


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.fairness", description=__doc__)
    parser.add_argument("--bundle", type=Path, default=Path("bundles/en-zh-TW"))
    parser.add_argument("--sentences", type=Path, default=Path("loadtest/sentences.txt"))
    parser.add_argument("--rate", type=float, default=10.0, help="single sentences a second")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each half of a round")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with served(options.bundle, "--max-texts", "4096") as server:
        asyncio.run(_measure(server.target, options))
    return 0


async def _measure(target: str, options: argparse.Namespace) -> None:
    sentences = read_sentences(options.sentences, BULK_SENTENCES)
    rounds = []
    bulk = _Bulk(target, sentences)
    async with dragoman.AsyncClient(target) as client:
        await bulk.calls()
        for _ in range(options.rounds):
            alone = await _interactive(client, sentences, options)
            bulk_alone = statistics.mean(await bulk.calls())
            bulk.start()
            among = await _interactive(client, sentences, options)
            bulk_among = statistics.mean(await bulk.calls())
            rounds.append((_percentile(alone), _percentile(among), bulk_alone, bulk_among))
            print(
                f"95 % within {rounds[-1][0] * 1e3:.1f} ms alone, {rounds[-1][1] * 1e3:.1f} ms "
                f"beside bulk; bulk call {bulk_alone:.2f} s alone, {bulk_among:.2f} s beside them",
                flush=True,
            )
    ratio = statistics.median(among / alone for alone, among, _, _ in rounds)
    cost = statistics.median(among / alone for _, _, alone, among in rounds)
    print(f"95th percentile beside bulk: {ratio:.2f} x that alone (goal at most {GOAL:g})")
    print(f"bulk call beside {options.rate:g} single sentences a second: {cost:.2f} x alone")


async def _interactive(
    client: dragoman.AsyncClient, sentences: list[str], options: argparse.Namespace
) -> list[float]:
    """Latencies of sentences that arrive whether or not earlier ones are answered."""
    latencies: list[float] = []

    async def one(sentence: str, due: float) -> None:
        await client.translate(sentence, target_language="zh-TW")
        latencies.append(time.monotonic() - due)

    draw, tasks = random.Random(0), []  # noqa: S311  the same arrivals each time
    due = time.monotonic()
    for number in range(int(options.rate * options.seconds)):
        due += draw.expovariate(options.rate)
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        tasks.append(asyncio.ensure_future(one(sentences[number % len(sentences)], due)))
    await asyncio.gather(*tasks)
    return latencies


class _Bulk:
    """A process that makes calls of many sentences, one after another."""

    def __init__(self, target: str, sentences: list[str]) -> None:
        """Start it; it ends with this one."""
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        context.Process(target=_call_bulk, args=(target, sentences, theirs), daemon=True).start()
        self._started = False

    def start(self) -> None:
        """Have it call until somebody asks what became of it."""
        self._pipe.send(None)
        self._started = True

    async def calls(self) -> list[float]:
        """Seconds of each call since the start, the last one to its end; or of one now."""
        if not self._started:
            self._pipe.send(None)
        self._pipe.send(None)
        self._started = False
        times: list[float] = await asyncio.to_thread(self._pipe.recv)
        return times


def _call_bulk(target: str, sentences: list[str], pipe: Connection) -> None:
    """What the process does: at a message it begins to call, at the next it reports.

    It ends when there is nobody left to send one.
    """
    with dragoman.Client(target) as client, contextlib.suppress(EOFError):
        while True:
            pipe.recv()
            times: list[float] = []
            while not (times and pipe.poll()):
                start = time.monotonic()
                client.translate(sentences, target_language="zh-TW", timeout_seconds=120)
                times.append(time.monotonic() - start)
            pipe.recv()
            pipe.send(times)


def _percentile(values: list[float], share: float = 0.95) -> float:
    return sorted(values)[int(share * (len(values) - 1))]


if __name__ == "__main__":
    sys.exit(main())
