"""``translate-corpus`` beside the engine alone, on the same lines, in turns.

    python -m loadtest.corpus --sentences FILE [--count 8000] [--rounds 3]

The engine has the whole queue at once, sorted by length as ``translate-corpus`` sorts each part,
with the same options, and writes nothing; the corpus is read in parts, written and journalled.
Start-up is counted for neither. A third figure is the queue in the order of the file.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from loadtest.throughput import read_sentences
from server.bulk.formats import Part, Text
from server.bulk.journal import Account, Journal, Plan, fingerprint
from server.bulk.run import Job, run_here
from server.bulk.translator import Decoding
from server.bundle import open_bundle
from server.live_model import build_engine
from server.metrics import Metrics
from server.settings import Settings
from server.text.pipeline import TranslationPipeline
from server.text.request import TranslationRequest


def run_corpus(settings: Settings, sentences: list[str], part_bytes: int) -> float:
    """Target tokens a second from the first line read to the output in its place."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "in.txt"
        source.write_text("".join(f"{line}\n" for line in sentences), encoding="utf-8")
        size = source.stat().st_size
        plan = Plan(source.name, size, fingerprint(source), part_bytes, "", "", {})
        journal, total = Journal(Path(folder) / "out.txt", plan), Account()
        parts = Text().parts(source, part_bytes)
        job = Job(settings, Decoding(), source, Text(), journal)
        started = 0.0

        def begin() -> None:
            nonlocal started
            started = time.monotonic()

        def done(_: Part, account: Account) -> None:
            total.add(account)

        with journal.opened():
            run_here(job, parts, done, begin)
            journal.finish(parts, Text())
        return total.target_tokens / (time.monotonic() - started)


async def run_engine(settings: Settings, sentences: list[str]) -> float:
    """Target tokens a second of pipeline and engines, all sentences given at once."""
    bundle, metrics = open_bundle(settings.bundle[0]), Metrics()
    engine = build_engine(bundle, settings, metrics)
    engine.start()
    pipeline = TranslationPipeline(bundle, engine, settings.slots, metrics=metrics)
    started = time.monotonic()
    request = TranslationRequest(
        texts=sentences,
        field_names=[f"texts[{index}]" for index in range(len(sentences))],
        arrived=started,
        bulk=True,
    )
    results = await pipeline.translate(request)
    seconds = time.monotonic() - started
    await engine.drain(grace_seconds=5.0)
    return sum(result.target_tokens for result in results) / seconds


def main() -> None:
    """Print the speeds and their ratios, medians of rounds in which they take turns."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.corpus", description=__doc__)
    parser.add_argument("--bundle", type=Path, default=Path("bundles/en-zh-TW"))
    parser.add_argument("--sentences", type=Path, default=Path("loadtest/sentences.txt"))
    parser.add_argument("--count", type=int, default=8000)
    parser.add_argument("--part-bytes", type=int, default=1 << 18)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    sentences = read_sentences(options.sentences, options.count)
    settings = Settings(
        bundle=(options.bundle,), max_queue_sentences=options.count, sentence_cache_bytes=0
    )
    ordered = sorted(sentences, key=len, reverse=True)
    speeds: dict[str, list[float]] = {"sorted": [], "corpus": [], "as they come": []}
    for number in range(options.rounds):
        turns: list[tuple[str, Callable[[], float]]] = [
            ("sorted", lambda: asyncio.run(run_engine(settings, ordered))),
            ("corpus", lambda: run_corpus(settings, sentences, options.part_bytes)),
            ("as they come", lambda: asyncio.run(run_engine(settings, sentences))),
        ]
        for name, run in turns[number % 3 :] + turns[: number % 3]:
            speeds[name].append(run())
    for name, told in (
        ("sorted", "engine, the whole queue sorted by length"),
        ("as they come", "engine, the whole queue as it comes"),
        ("corpus", "translate-corpus"),
    ):
        print(f"{told + ':':42}{statistics.median(speeds[name]):>9,.0f} target tokens/s")
    for name in ("sorted", "as they come"):
        pairs = zip(speeds["corpus"], speeds[name], strict=True)
        ratios = sorted(one / other for one, other in pairs)
        print(
            f"translate-corpus / engine {name + ':':16}{statistics.median(ratios):.3f} "
            f"({ratios[0]:.3f}-{ratios[-1]:.3f}), {options.rounds} rounds"
        )


if __name__ == "__main__":
    main()
