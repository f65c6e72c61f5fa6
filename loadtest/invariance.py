"""Whether what a sentence becomes depends on who is decoded beside it. It must not.

    python -m loadtest.invariance [--bundle DIR] [--sentences FILE] [--compositions 10000]

Every sentence is first translated alone, and its scores kept. Then sentences come and go at random,
in batches of any size, and each output is compared with its own: ids, and log-probabilities to
the bit. A composition is one sentence in one such company. Exit status 1 if any differs.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path

import numpy as np

from loadtest.throughput import read_sentences
from server.bundle import SOURCE_TOKENIZER, open_bundle
from server.engine.engine import Engine
from server.engine.request import DecodingParameters, Sequence, default_max_tokens
from server.live_model import engines_of
from server.metrics import Metrics
from server.settings import Settings
from server.text.tokenizer import Tokenizer

_PARAMETERS = DecodingParameters(log_probs=True)
Output = tuple[list[int], list[float]]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.invariance", description=__doc__)
    parser.add_argument("--bundle", type=Path, default=Path("bundles/en-zh-TW"))
    parser.add_argument("--sentences", type=Path, default=Path("loadtest/sentences.txt"))
    parser.add_argument("--count", type=int, default=500, help="different sentences")
    parser.add_argument("--compositions", type=int, default=10_000)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    bundle = open_bundle(options.bundle)
    (engine,) = engines_of(bundle, Settings(slots=options.slots, engines=1), Metrics())
    tokenizer = Tokenizer(bundle.read(SOURCE_TOKENIZER), SOURCE_TOKENIZER)
    longest = bundle.manifest.shape.max_source_tokens - 1
    sources = [
        np.array([*tokenizer.encode(text)[:longest], bundle.manifest.tokens.eos], np.int64)
        for text in read_sentences(options.sentences, options.count)
    ]
    alone = [_output(_run(engine, [source])[0]) for source in sources]
    start = time.monotonic()
    found = _compositions(engine, sources, random.Random(options.seed), options)  # noqa: S311
    ids = sum(output[0] != alone[index][0] for index, output in found)
    scores = sum(output != alone[index] for index, output in found)
    print(
        f"{len(found)} compositions of {len(sources)} sentences, {time.monotonic() - start:.0f} s: "
        f"{ids} with other ids, {scores} with another log-probability"
    )
    return 1 if scores else 0


def _compositions(
    engine: Engine, sources: list[np.ndarray], draw: random.Random, options: argparse.Namespace
) -> list[tuple[int, Output]]:
    """Sentences that came and went at random: which, and what became of each."""
    running: list[tuple[int, Sequence]] = []
    pace = 1.0
    while len(running) < options.compositions or engine.has_unfinished:
        if draw.random() < 0.02:  # noqa: PLR2004  now a trickle, now a flood
            pace = draw.choice([0.05, 0.3, 1.0, 4.0, 12.0])
        for _ in range(min(int(draw.expovariate(1 / pace)), 2 * options.slots)):
            if len(running) < options.compositions:
                index = draw.randrange(len(sources))
                sequence = _sequence(sources[index], bulk=draw.random() < 0.5)  # noqa: PLR2004
                running.append((index, sequence))
                engine.add(sequence)
        engine.step()
    return [(index, _output(sequence)) for index, sequence in running]


def _run(engine: Engine, sources: list[np.ndarray]) -> list[Sequence]:
    sequences = [_sequence(source, bulk=False) for source in sources]
    for sequence in sequences:
        engine.add(sequence)
    while engine.has_unfinished:
        engine.step()
    return sequences


def _sequence(source: np.ndarray, *, bulk: bool) -> Sequence:
    return Sequence(
        source_ids=source,
        max_tokens=min(default_max_tokens(len(source)), 192),
        arrived=time.monotonic(),
        parameters=_PARAMETERS,
        bulk=bulk,
    )


def _output(sequence: Sequence) -> Output:
    return sequence.target_ids, sequence.token_log_probs


if __name__ == "__main__":
    sys.exit(main())
