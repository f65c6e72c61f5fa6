"""CTranslate2 as a contender. Its tokens are those that a converted model lists, by their ids.

Our own conversion names them by their ids; those of others have a tokenizer's pieces.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import site
from pathlib import Path
from typing import Any

import ctranslate2

from loadtest.peers.batching import DynamicBatcher, closed_loop, in_order, static_batches
from loadtest.peers.contender import Batching, Setup
from loadtest.peers.workload import Ids
from model.tokenizer import BOS_ID, EOS_ID, PAD_ID, UNK_ID

UNKNOWN = "<unk>"
_SPECIAL = {PAD_ID: "<pad>", BOS_ID: "<s>", EOS_ID: "</s>", UNK_ID: UNKNOWN}
SPECIAL_IDS = {name: token for token, name in _SPECIAL.items()}


class CTranslate2Engine:
    """One translator."""

    def __init__(self, setup: Setup) -> None:
        """Load a converted model."""
        self._workers = setup.workers
        if setup.device == "cuda":
            _load_cublas()
        self._translator = ctranslate2.Translator(
            str(setup.model),
            device=setup.device,
            compute_type=setup.precision,
            inter_threads=setup.workers,
            intra_threads=setup.threads,
        )
        self._words = _vocabulary(setup.model, "source")
        self._ids = {word: token for token, word in enumerate(_vocabulary(setup.model, "target"))}
        self._sources: list[list[str]] = []
        self._lengths: list[int] = []
        self._limits: list[int] = []

    def take(self, sources: Ids, limits: list[int]) -> None:
        """As the protocol says."""
        self._sources = [[self._words[token] for token in ids] for ids in sources]
        self._lengths = list(map(len, sources))
        self._limits = limits

    def queue(self, order: list[int], batching: Batching, beams: int) -> list[list[str]]:
        """As the protocol says.

        Where all have the same limit, CTranslate2 sorts and cuts the queue itself. It has no limit
        for each row, so where they differ it is given batches of like limits.
        """
        if batching.sort and self._same_limit(order):
            return self._finish(order, self._submit(order, batching, beams))
        batches = static_batches(self._lengths, order, batching)
        whole = Batching(0)
        submitted = [self._submit(batch, whole, beams) for batch in batches]
        results = [self._finish(*pair) for pair in zip(batches, submitted, strict=True)]
        return in_order(order, batches, results)

    def callers(self, order: list[int], batching: Batching, count: int) -> list[list[str]]:
        """As the protocol says, behind a dynamic batcher."""
        return asyncio.run(self._callers(order, batching.size, count))

    def ids(self, result: list[str]) -> list[int]:
        """As the protocol says."""
        return [self._ids[word] for word in result]

    def close(self) -> None:
        """As the protocol says."""
        self._translator.unload_model()

    async def _callers(self, order: list[int], size: int, count: int) -> list[list[str]]:
        def translate(batch: list[int]) -> list[list[str]]:
            return self._finish(batch, self._submit(batch, Batching(0), 1))

        async with DynamicBatcher(translate, size=size, workers=self._workers) as batcher:
            return await closed_loop(batcher.translate, order, count)

    def _submit(self, indices: list[int], batching: Batching, beams: int) -> list[Any]:
        """Start translating; a future each. A batch size of 0 is one batch."""
        limits = [self._limits[index] for index in indices]
        options: dict[str, Any] = {}
        if beams == 1 and not self._same_limit(indices):
            options["callback"] = lambda step: step.step + 1 >= limits[step.batch_id]
        futures: list[Any] = self._translator.translate_batch(
            [self._sources[index] for index in indices],
            beam_size=beams,
            max_batch_size=batching.size,
            batch_type="tokens" if batching.unit == "tokens" else "examples",
            max_input_length=0,
            max_decoding_length=max(limits),
            asynchronous=True,
            **options,
        )
        return futures

    def _finish(self, indices: list[int], futures: list[Any]) -> list[list[str]]:
        """Wait; beams, which no callback stops, are cut where their own limit is."""
        return [
            future.result().hypotheses[0][: self._limits[index]]
            for index, future in zip(indices, futures, strict=True)
        ]

    def _same_limit(self, indices: list[int]) -> bool:
        return len({self._limits[index] for index in indices}) == 1


def _load_cublas() -> None:
    """Load the cuBLAS of CUDA 12 from its package, where CTranslate2 would not look for it."""
    for place in map(Path, site.getsitepackages()):
        for name in ("libcublasLt.so.12", "libcublas.so.12"):
            for library in sorted(place.glob(f"nvidia/*/lib/{name}")):
                ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


def _vocabulary(model: Path, side: str) -> list[str]:
    """The words of ids 0, 1, 2 ... as the model's folder has them."""
    own, shared = model / f"{side}_vocabulary.json", model / "shared_vocabulary.json"
    found: list[str] = json.loads((own if own.exists() else shared).read_text(encoding="utf-8"))
    return found


def words(ids: list[int]) -> list[str]:
    """The tokens of ids."""
    return [_SPECIAL.get(token, str(token)) for token in ids]
