"""Half an hour of everything at once: is memory flat, is every slot given back.

    python -m loadtest.soak [--bundle DIR] [--minutes 30] [--callers 16] [--no-checks]

Callers take turns at random between single sentences, calls of 16, beams, samples, streams, bulk
calls, calls that are left half way, calls with deadlines too short for them, and nonsense. The
server checks its slots after every step, unless told not to. Goals: resident memory within 2 % of
what it was after warm-up; the same greedy translation of a sentence each time; no error but those
that were asked for; and when all is over no sentence running and no slot taken.

The cache of keys and values is reserved at the start and becomes resident where sentences reach. So
that this is not taken for a leak, long sentences fill every slot to its last position before.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import statistics
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import dragoman
from dragoman import Beam, Decoding, Greedy, Priority, Sampling
from loadtest.throughput import Served, read_sentences, served
from server.bundle import open_bundle
from server.settings import Settings

GROWTH_GOAL = 0.02
_WARM_UP = 1 / 6
"""Of the time, but no longer than the next."""
_LONGEST_WARM_UP_SECONDS = 300.0
_SAMPLES = 240
_BULK_SENTENCES = 300
_LONG_SENTENCES, _LONG_WORDS = 256, 70
"""Twice the slots of two engines; about 100 source tokens."""
_SETTLE_SECONDS = 15.0
_TARGET = "zh-TW"
_GAUGE = re.compile(r"^(dragoman_\w+)(?:\{([^}]*)\})? ([\d.e+-]+)$", re.MULTILINE)
# Refusals are part of the load; so is the end of who has left or was short of time.
_EXPECTED = {"OverloadedError", "CancelledError"}
Task = Callable[["Caller"], Awaitable[None]]


@dataclass(slots=True)
class Tally:
    """What came of the calls."""

    done: Counter[str] = field(default_factory=Counter)
    """By kind."""
    errors: Counter[str] = field(default_factory=Counter)
    """By kind and error, those that were not asked for."""
    translations: dict[str, str] = field(default_factory=dict)
    """Of each sentence, greedy, the first that came."""
    changed: int = 0
    """Greedy translations that were others than the first of their sentence."""
    memory: list[tuple[float, float]] = field(default_factory=list)
    """Seconds from the start, and resident megabytes."""


class Caller:
    """One of those who call, each with its own choices."""

    def __init__(self, client: dragoman.AsyncClient, sentences: list[str], seed: int) -> None:
        """Set what it calls with."""
        self.client, self.sentences = client, sentences
        self.random = random.Random(seed)  # noqa: S311  the same choices each time
        self.tally = Tally()

    def some(self, count: int) -> list[str]:
        """So many sentences in a row."""
        start = self.random.randrange(len(self.sentences) - count)
        return self.sentences[start : start + count]

    async def translate(self, count: int, decoding: Decoding | None = None) -> None:
        """Greedy unless said otherwise, and then compared with what came before."""
        asked = self.some(count)
        answers = await self.client.translate(
            asked, target_language=_TARGET, decoding=decoding or Decoding(), timeout_seconds=120
        )
        if decoding is not None and not isinstance(decoding.strategy, Greedy):
            return
        for sentence, answer in zip(asked, answers, strict=True):
            known = self.tally.translations.setdefault(sentence, answer.text)
            self.tally.changed += known != answer.text


async def _single(caller: Caller) -> None:
    await caller.translate(1)


async def _sixteen(caller: Caller) -> None:
    await caller.translate(16, Decoding(bypass_cache=caller.random.random() < 0.5))  # noqa: PLR2004


async def _bulk(caller: Caller) -> None:
    await caller.translate(_BULK_SENTENCES, Decoding(priority=Priority.BULK, bypass_cache=True))


async def _beam(caller: Caller) -> None:
    size = caller.random.choice([2, 4, 8])
    await caller.translate(4, Decoding(strategy=Beam(size=size, candidates=2), bypass_cache=True))


async def _sample(caller: Caller) -> None:
    seed = caller.random.choice([None, 1, 2])
    strategy = Sampling(temperature=1.2, top_k=50, top_p=0.9, seed=seed)
    await caller.translate(4, Decoding(strategy=strategy, no_repeat_ngram_size=3))


async def _stream(caller: Caller) -> None:
    await _read_stream(caller, to_the_end=True)


async def _left_stream(caller: Caller) -> None:
    await _read_stream(caller, to_the_end=False)


async def _read_stream(caller: Caller, *, to_the_end: bool) -> None:
    text = " ".join(caller.some(4))
    events = caller.client.translate_stream(text, target_language=_TARGET, timeout_seconds=60)
    async for _ in events:
        if not to_the_end:
            await events.aclose()
            return


async def _left(caller: Caller) -> None:
    """A call that is given up after a moment."""
    call = asyncio.ensure_future(caller.translate(16, Decoding(bypass_cache=True)))
    await asyncio.sleep(caller.random.uniform(0.0, 0.2))
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)


async def _short_of_time(caller: Caller) -> None:
    seconds = caller.random.uniform(0.001, 0.2)
    with_time = caller.client.translate(
        caller.some(8), target_language=_TARGET, timeout_seconds=seconds
    )
    try:
        await with_time
    except dragoman.DeadlineExceededError:
        return


async def _nonsense(caller: Caller) -> None:
    try:
        await caller.client.translate(["", " "], target_language=_TARGET)
    except dragoman.InvalidRequestError:
        return
    msg = "an empty text was translated"
    raise AssertionError(msg)


_KINDS: dict[Task, int] = {
    _single: 30, _sixteen: 12, _beam: 8, _sample: 8, _stream: 8, _left_stream: 6, _left: 8,
    _short_of_time: 8, _nonsense: 4, _bulk: 2,
}  # fmt: skip


def main() -> int:
    """Run, print, and say by the exit code whether all goals were met."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.soak", description=__doc__)
    parser.add_argument("--bundle", type=Path, default=Path("bundles/en-zh-TW"))
    parser.add_argument("--sentences", type=Path, default=Path("loadtest/sentences.txt"))
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--callers", type=int, default=16)
    parser.add_argument("--no-checks", action="store_true",
        help="do not check the slots after every step")  # fmt: skip
    options = parser.parse_args()
    # A small memory for sentences, so that it is full, and at work, before warm-up ends.
    arguments = ["--sentence-cache-bytes", "200000"]
    if not options.no_checks:
        arguments.append("--check-integrity")
    with served(options.bundle, *arguments) as server:
        tally = asyncio.run(_soak(server, options))
        left = _settled(server)
    return _print(tally, left, options)


async def _soak(server: Served, options: argparse.Namespace) -> Tally:
    sentences = read_sentences(options.sentences, 1000)
    tally = Tally()
    async with dragoman.AsyncClient(server.target) as client:
        tally.memory.append((0.0, server.resident_megabytes()))
        await _fill(client, sentences, _longest(options.bundle))
        print(f"resident memory with all slots filled: {server.resident_megabytes():.0f} MB "
              f"({tally.memory[0][1]:.0f} MB before)", flush=True)  # fmt: skip
        start = time.monotonic()
        end = start + options.minutes * 60

        async def work(number: int) -> None:
            caller = Caller(client, sentences, number)
            caller.tally = tally
            while time.monotonic() < end:
                (kind,) = caller.random.choices(list(_KINDS), list(_KINDS.values()))
                await _one(kind, caller)

        async def watch() -> None:
            while time.monotonic() < end:
                tally.memory.append((time.monotonic() - start, server.resident_megabytes()))
                await asyncio.sleep(options.minutes * 60 / _SAMPLES)

        await asyncio.gather(watch(), *(work(number) for number in range(options.callers)))
    return tally


def _longest(bundle: Path) -> int:
    """Target tokens that a sentence may have."""
    limit = Settings(bundle=(bundle,)).max_output_tokens
    return min(limit, open_bundle(bundle).manifest.shape.max_target_tokens)


async def _fill(client: dragoman.AsyncClient, sentences: list[str], tokens: int) -> None:
    """Have every slot reach its last positions."""
    words = [word.strip(".?!,;:") for sentence in sentences for word in sentence.split()]
    texts = [" ".join(words[start : start + _LONG_WORDS]) for start in range(_LONG_SENTENCES)]
    longest = Decoding(min_output_tokens=tokens, max_output_tokens=tokens, bypass_cache=True)
    await client.translate(texts, target_language=_TARGET, decoding=longest, timeout_seconds=600)


async def _one(kind: Task, caller: Caller) -> None:
    name = kind.__name__.strip("_")
    try:
        await kind(caller)
    except (dragoman.DragomanError, AssertionError) as error:
        if type(error).__name__ not in _EXPECTED:
            caller.tally.errors[f"{name}: {type(error).__name__} {error}"] += 1
        else:
            caller.tally.done[f"{name} refused"] += 1
            await asyncio.sleep(0.05)
    else:
        caller.tally.done[name] += 1


def _settled(server: Served) -> dict[str, float]:
    """What is still held a while after the last call, by metric; empty if all was given back."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    while left := _held(server):
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)
    return left


def _held(server: Served) -> dict[str, float]:
    with urllib.request.urlopen(server.metrics) as answer:
        text = answer.read().decode()
    names = {"dragoman_sequences_waiting", "dragoman_sequences_running",
        "dragoman_kv_cache_usage_ratio", "dragoman_requests_in_flight"}  # fmt: skip
    found: dict[str, float] = {}
    for name, labels, value in _GAUGE.findall(text):
        failed = name == "dragoman_sequences_total" and 'reason="error"' in labels
        if (name in names or failed) and float(value):
            found[f"{name}{{{labels}}}"] = float(value)
    return found


def _print(tally: Tally, left: dict[str, float], options: argparse.Namespace) -> int:
    calls = ", ".join(f"{kind} {count}" for kind, count in sorted(tally.done.items()))
    print(f"{options.minutes:g} minutes, {options.callers} callers; calls: {calls}")
    print(f"greedy translations that were others than before: {tally.changed} (goal 0)")
    print(f"errors that were not asked for: {sum(tally.errors.values())} (goal 0)")
    for error, count in tally.errors.most_common(10):
        print(f"  {count} x {error}")
    growth = _growth(tally, options.minutes * 60)
    print(f"held after the end: {left or 'nothing'} (goal nothing)")
    good = not left and not tally.errors and not tally.changed and abs(growth) <= GROWTH_GOAL
    return 0 if good else 1


def _growth(tally: Tally, seconds: float) -> float:
    """Of resident memory, from after warm-up to the end; printed too."""
    warm = min(_LONGEST_WARM_UP_SECONDS, _WARM_UP * seconds)
    after = [megabytes for when, megabytes in tally.memory if when >= warm]
    fifth = max(1, len(after) // 5)
    first, last = statistics.median(after[:fifth]), statistics.median(after[-fifth:])
    growth = last / first - 1
    tenths = [after[number * len(after) // 10] for number in range(10)]
    print(f"resident memory after warm-up, MB: {', '.join(f'{one:.0f}' for one in tenths)}")
    print(
        f"resident memory: {tally.memory[0][1]:.0f} MB at the start, {first:.0f} MB after "
        f"{warm:.0f} s of warm-up, {last:.0f} MB at the end, {max(after):.0f} MB at most: "
        f"{growth:+.1%} (goal within {GROWTH_GOAL:.0%})"
    )
    return growth


if __name__ == "__main__":
    sys.exit(main())
