"""``translate-corpus`` beside the engine alone, on the same lines, in turns.

    python -m loadtest.corpus --sentences FILE [--count 8000] [--rounds 3]

The engine has the whole queue at once and writes nothing; the corpus is read in parts,
written and journalled. Start-up is counted for neither.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from loadtest.throughput import read_sentences, run_engine
from server.bulk.formats import Part, Text
from server.bulk.journal import Account, Journal, Plan, fingerprint
from server.bulk.run import Job, run_here
from server.bulk.translator import Decoding
from server.settings import Settings


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


def main() -> None:
    """Print both speeds and their ratio, medians."""
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
    engine, corpus = [], []
    for _ in range(options.rounds):
        runs = asyncio.run(run_engine(settings, sentences, []))
        engine.append(runs[0].tokens_per_second)
        corpus.append(run_corpus(settings, sentences, options.part_bytes))
    ratio = statistics.median(one / other for one, other in zip(corpus, engine, strict=True))
    print(f"engine, the whole queue at once: {statistics.median(engine):,.0f} target tokens/s")
    print(f"translate-corpus:                {statistics.median(corpus):,.0f} target tokens/s")
    print(f"translate-corpus / engine:       {ratio:.3f} (median of {options.rounds} rounds)")


if __name__ == "__main__":
    main()
