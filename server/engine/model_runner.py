"""The network behind the engine: two ONNX graphs over the slots of a cache pool."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from server.bundle import DECODER, ENCODER, Bundle, Manifest
from server.engine.kv_cache import CacheShape, KVCachePool
from server.engine.logits import BLOCK, Logits
from server.engine.provider import HOST, load_session
from server.engine.request import FloatArray, Sequence
from server.errors import ModelFailure


class ModelRunner(Protocol):
    """What the engine needs of a network; tests fake it in a few lines."""

    def encode(self, sequences: list[Sequence]) -> None:
        """Prefill: put the cross-attention keys and values of each into its slot.

        Raises:
            ModelFailure: the graph failed.
        """

    def decode(self, rows: int) -> Logits:
        """Advance slots 0..rows-1 by one position; the logits of what comes next.

        Reads the pool's tokens and positions and extends its self-attention cache in place;
        cost per row is O(T + S) (Vaswani et al. 2017, section 3.1, with cached keys).

        Raises:
            ModelFailure: the graph failed.
        """

    def source_keys(self, slot: int) -> FloatArray:
        """A copy of the cross-attention's keys that a slot has: float32 [L, H, S, D]."""

    def queries(self, rows: list[int]) -> FloatArray:
        """A copy of what these rows looked with in the last step: float32 [R, L, H, D]."""


@dataclass(frozen=True, slots=True)
class Sessions:
    """The graphs of one bundle, loaded once and run by every engine; weights are shared."""

    encoder: onnxruntime.InferenceSession
    decoder: onnxruntime.InferenceSession


def cache_shape(manifest: Manifest, slots: int) -> CacheShape:
    """The cache that a model's graphs work on."""
    shape = manifest.shape
    return CacheShape(
        layers=shape.decoder_layers,
        slots=slots,
        heads=shape.heads,
        head_size=shape.head_size,
        target_positions=shape.max_target_tokens,
        source_positions=shape.max_source_tokens,
        kind=manifest.cache_type,
    )


def load_sessions(bundle: Bundle, intra_op_threads: int = 1, *, packed: bool = True) -> Sessions:
    """The bundle's graphs, ready to run.

    Args:
        bundle: which.
        intra_op_threads: ONNX Runtime's, inside one run.
        packed: whether matrices may be kept in the order in which they are multiplied.

    Raises:
        BundleError: ONNX Runtime cannot load a graph.
    """
    encoder, decoder = (
        load_session(bundle.folder / name, HOST, threads=intra_op_threads, packed=packed)
        for name in (ENCODER, DECODER)
    )
    return Sessions(encoder, decoder)


class OrtModelRunner:
    """Runs a bundle's graphs over one pool. Not for two threads at once; sessions may be shared."""

    def __init__(self, bundle: Bundle, sessions: Sessions, pool: KVCachePool) -> None:
        """Lay out the logits; bindings are made at first use, one a batch size."""
        self._sessions = sessions
        self._pool = pool
        self._pad_id = bundle.manifest.tokens.pad
        shape, vocabulary = pool.shape, bundle.manifest.shape.target_vocab_size
        slots = shape.slots
        blocks = -(-vocabulary // BLOCK)
        self._logits = np.zeros((slots, blocks * BLOCK), np.float32)
        self._maxima = np.zeros((slots, blocks), np.float32)
        width = shape.heads * shape.head_size
        self._queries = np.zeros((shape.layers, slots, width), np.float32)
        # The graph takes the index of the last source token, and these two as scalars.
        self._last_source = np.zeros(slots, np.int32)
        self._self_total = np.ones((), np.int32)
        self._cross_total = np.ones((), np.int32)
        self._bindings: dict[int, onnxruntime.IOBinding] = {}

    def encode(self, sequences: list[Sequence]) -> None:
        """As the protocol says; one encoder run, padded to the longest."""
        longest = max(sequence.source_length for sequence in sequences)
        ids = np.full((len(sequences), longest), self._pad_id, np.int64)
        mask = np.zeros(ids.shape, np.int32)
        for row, sequence in enumerate(sequences):
            ids[row, : sequence.source_length] = sequence.source_ids
            mask[row, : sequence.source_length] = 1
        try:
            (cross_kv,) = self._sessions.encoder.run(
                ["cross_kv"], {"source_ids": ids, "source_mask": mask}
            )
        except Exception as error:
            msg = "the encoder failed"
            raise ModelFailure(msg) from error
        for row, sequence in enumerate(sequences):
            length = sequence.source_length
            for slot in sequence.slots:
                self._pool.cross_kv[:, slot, :, :length] = cross_kv[:, row, :, :length]

    def decode(self, rows: int) -> Logits:
        """As the protocol says; nothing is copied, all arrays are bound in place."""
        pool = self._pool
        if rows == 1:  # the same, for a third of the time
            source = pool.source_lengths[0]
            self._self_total[...], self._cross_total[...] = pool.positions[0] + 1, source
            self._last_source[0] = source - 1
        else:
            self._self_total[...] = pool.positions[:rows].max() + 1
            self._cross_total[...] = pool.source_lengths[:rows].max()
            np.subtract(pool.source_lengths[:rows], 1, out=self._last_source[:rows])
        try:
            self._sessions.decoder.run_with_iobinding(self._binding(rows))
        except Exception as error:
            msg = "the decoder failed"
            raise ModelFailure(msg) from error
        return Logits(self._logits[:rows], self._maxima[:rows])

    def source_keys(self, slot: int) -> FloatArray:
        """As the protocol says."""
        length = int(self._pool.source_lengths[slot])
        keys: FloatArray = self._pool.cross_kv[::2, slot, :, :length].astype(np.float32)
        return keys

    def queries(self, rows: list[int]) -> FloatArray:
        """As the protocol says."""
        shape = self._pool.shape
        chosen = self._queries[:, rows].swapaxes(0, 1)
        return chosen.reshape(len(rows), shape.layers, shape.heads, shape.head_size)

    def _binding(self, rows: int) -> onnxruntime.IOBinding:
        """Inputs and outputs of a batch of this size, over the first rows of every array."""
        binding = self._bindings.get(rows)
        if binding is not None:
            return binding
        binding = self._sessions.decoder.io_binding()
        pool, shape = self._pool, self._pool.shape
        for name, array in (
            ("tokens", pool.tokens),
            ("positions", pool.positions),
            ("source_lengths", self._last_source),
        ):
            _bind(binding, name, array, (rows,))
        _bind(binding, "self_total", self._self_total, ())
        _bind(binding, "cross_total", self._cross_total, ())
        for layer in range(shape.layers):
            for side, kind in enumerate(("key", "value")):
                for name, cache in (("self", pool.self_kv), ("cross", pool.cross_kv)):
                    array = cache[2 * layer + side]
                    # Past and present are the same memory: the step writes in place.
                    place = f"{name}_{kind}_{layer}", array, (rows, *array.shape[1:])
                    _bind(binding, *place)
                    _bind_output(binding, f"{place[0]}_out", *place[1:])
            queries = self._queries[layer]
            _bind_output(binding, f"cross_query_{layer}", queries, (rows, queries.shape[1]))
        for name, scores in (("logits", self._logits), ("block_maxima", self._maxima)):
            _bind_output(binding, name, scores, (rows, scores.shape[1]))
        self._bindings[rows] = binding
        return binding


def _bind(
    binding: onnxruntime.IOBinding, name: str, array: NDArray[np.generic], shape: tuple[int, ...]
) -> None:
    binding.bind_input(name, "cpu", 0, array.dtype.type, shape, array.ctypes.data)


def _bind_output(
    binding: onnxruntime.IOBinding, name: str, array: NDArray[np.generic], shape: tuple[int, ...]
) -> None:
    binding.bind_output(name, "cpu", 0, array.dtype.type, shape, array.ctypes.data)
