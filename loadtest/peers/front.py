"""An engine behind a gRPC front: the same protocol, sentences and tokens for all of them.

    python -m loadtest.peers.front --way batcher --model DIR --batch 32 [--front bare] [--port 0]

``--front service`` is our own: sentences, placeholders, limits, deadlines, metrics, all that a call
to our server costs. ``--front bare`` does none of that (``loadtest/peers/bare.py``). Behind it runs

``batcher``     what model servers do: a free worker takes a full batch, or what there is once the
                first sentence has waited for 5 ms; a worker a core;
``each``        a call at a time: each sentence alone, as soon as a worker is free; a worker a core;
``serial``      LibreTranslate's way: one sentence after another, all cores for each. Greedy here,
                which is kinder to it than its own beam of four;
``dragoman``    our engines, as our server has them.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any, Literal, get_args

import ctranslate2
import uvloop

from loadtest.peers.bare import BareFront
from loadtest.peers.batching import DynamicBatcher
from loadtest.peers.ctranslate2_engine import SPECIAL_IDS, words
from server.api.door import Door
from server.api.models import ModelService
from server.api.translation import TranslationService
from server.bundle import Bundle, open_bundle
from server.engine.request import FinishReason, Flow, Sequence
from server.live_model import available_cores, build_engine
from server.metrics import Metrics
from server.settings import Settings
from server.text.catalogue import Catalogue
from server.text.pipeline import TranslationPipeline
from server.text.single_flight import Runner

Way = Literal["batcher", "each", "serial", "dragoman"]
Front = Literal["service", "bare"]


class CTranslate2Runner:
    """Runs sequences as our engine would be asked to, greedy."""

    def __init__(self, model: Path, way: Way, batch: int, precision: str) -> None:
        """Load a converted model."""
        cores = available_cores()
        workers, threads = (1, cores) if way == "serial" else (cores, 1)
        self._translator = ctranslate2.Translator(
            str(model), compute_type=precision, inter_threads=workers, intra_threads=threads
        )
        self._asked: dict[int, Sequence] = {}
        self.batcher: DynamicBatcher[list[str]] = DynamicBatcher(
            self._translate, size=batch if way == "batcher" else 1, workers=workers
        )

    def refuse_if_late(self, deadline: float | None, flow: Flow, cost: int) -> None:
        """Nothing is refused."""

    def seconds(self, sequences: list[Sequence]) -> None:
        """Nobody knows."""

    async def generate(self, sequences: list[Sequence]) -> AsyncGenerator[None, None]:
        """Run them; yields when all have ended."""
        await asyncio.gather(*(self._one(sequence) for sequence in sequences))
        yield

    async def _one(self, sequence: Sequence) -> None:
        self._asked[sequence.number] = sequence
        try:
            found = await self.batcher.translate(sequence.number)
        finally:
            del self._asked[sequence.number]
        ids = [SPECIAL_IDS[word] if word in SPECIAL_IDS else int(word) for word in found]
        whole = len(ids) < sequence.max_tokens
        sequence.target_ids = ids[: sequence.max_tokens]
        sequence.finish(FinishReason.EOS if whole else FinishReason.LENGTH, time.monotonic())

    def _translate(self, numbers: list[int]) -> list[list[str]]:
        """In a worker's thread. Who left meanwhile is asked for no more."""
        found: dict[int, list[str]] = {}
        asked = {number: one for number in numbers if (one := self._asked.get(number))}
        if asked:
            results: list[Any] = self._translator.translate_batch(
                [words(one.source_ids.tolist()) for one in asked.values()],
                beam_size=1,
                max_batch_size=0,
                max_input_length=0,
                # One limit a batch is all that it knows; longer rows are cut afterwards.
                max_decoding_length=max(one.max_tokens for one in asked.values()),
            )
            found = {
                number: result.hypotheses[0] for number, result in zip(asked, results, strict=True)
            }
        return [found.get(number, []) for number in numbers]


@contextlib.asynccontextmanager
async def _engine(
    options: argparse.Namespace, bundle: Bundle, settings: Settings
) -> AsyncIterator[Runner]:
    """What runs the sentences, while it runs."""
    if options.way == "dragoman":
        ours = build_engine(bundle, settings, Metrics())
        ours.start()
        yield ours
        await ours.drain(grace_seconds=1.0)
        return
    peer = CTranslate2Runner(options.model, options.way, options.batch, options.precision)
    async with peer.batcher:
        yield peer


def _front(bundle: Bundle, engine: Runner, settings: Settings) -> Door:
    """Our own, which never says that it serves: nobody asks."""
    # Its outputs are given as they are: nothing is decoded a second time.
    pipeline = TranslationPipeline(bundle, engine, settings.slots, guard=False)
    catalogue, metrics = Catalogue([pipeline]), Metrics()
    services = TranslationService(catalogue, settings), ModelService(catalogue, "CTranslate2")
    return Door(*services, settings, metrics)


async def serve(options: argparse.Namespace) -> None:
    """Serve until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    settings = Settings(bundle=(options.bundle,), port=options.port)
    bundle = open_bundle(options.bundle)
    async with _engine(options, bundle, settings) as engine:
        front: Door | BareFront = (
            BareFront(bundle, engine, f"{settings.host}:{settings.port}")
            if options.front == "bare"
            else _front(bundle, engine, settings)
        )
        await front.start()
        print(f"READY in 0.0 s: {options.way} on 127.0.0.1:{front.port},", file=sys.stderr)
        await stop.wait()
        await front.stop(grace_seconds=1.0)


def main() -> int:
    """Serve."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.peers.front", description=__doc__)
    parser.add_argument("--model", type=Path, help="converted for CTranslate2")
    parser.add_argument("--bundle", type=Path, default=Path("bundles/en-zh-TW"),
        help="whose tokenizers and limits count")  # fmt: skip
    parser.add_argument("--way", choices=get_args(Way), required=True)
    parser.add_argument("--front", choices=get_args(Front), default="service")
    parser.add_argument("--batch", type=int, default=32, help="most sentences of a batch")
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    if options.model is None and options.way != "dragoman":
        parser.error(f"--way {options.way} needs --model")
    uvloop.run(serve(options))
    return 0


if __name__ == "__main__":
    sys.exit(main())
