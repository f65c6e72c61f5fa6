"""A bundle's graphs with everything on the device: caches, bindings, and, on CUDA, whole steps.

A step crosses the border twice: a few numbers a row go in, the chosen tokens come out; logits
follow where somebody wants them. Rows are padded up to a few sizes of batch, each bound once over
the first rows of the same arrays, so that ONNX Runtime can record a step of each size as a CUDA
graph and replay it. The same class runs on a CPU, which is how it is tested and how an export for
CUDA is verified.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from server.bundle import DECODER, ENCODER, SLOTS, Bundle
from server.engine.device_cache import DeviceCachePool
from server.engine.logits import BLOCK, Logits
from server.engine.model_runner import cache_shape
from server.engine.provider import Device, load_session
from server.engine.request import FloatArray, Sequence
from server.errors import ModelFailure


def buckets(slots: int) -> list[int]:
    """The sizes of batch that steps have: powers of two, and all slots."""
    sizes = [1 << power for power in range(slots.bit_length())]
    return [size for size in sizes if size < slots] + [slots]


class DeviceLogits(Logits):
    """Logits that stay on the device as long as the likeliest tokens are all that is asked."""

    def __init__(self, likeliest: NDArray[np.int64], fetch: Callable[[], FloatArray]) -> None:
        """Take what has come already.

        Args:
            likeliest: [B].
            fetch: brings the logits [B, V], V a multiple of BLOCK, in memory that may be changed.
        """
        self._likeliest: NDArray[np.int64] | None = likeliest
        self._fetch = fetch
        self._rows = len(likeliest)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  whatever the others look at
        """Bring the logits as soon as anything else is asked."""
        if name.startswith("__") or self._likeliest is None:
            raise AttributeError(name)
        self._likeliest = None
        values = self._fetch()
        super().__init__(values, values.reshape(len(values), -1, BLOCK).max(axis=2))
        return getattr(self, name)

    def __len__(self) -> int:
        """Rows."""
        return self._rows

    def argmax(self) -> NDArray[np.int64]:
        """The likeliest token of each row."""
        return super().argmax() if self._likeliest is None else self._likeliest

    def best(self) -> int:
        """The likeliest token of the only row."""
        return int(self.argmax()[0])


@dataclass(frozen=True, slots=True)
class _Step:
    """A step over so many rows."""

    binding: onnxruntime.IOBinding
    options: onnxruntime.RunOptions
    likeliest: onnxruntime.OrtValue
    logits: onnxruntime.OrtValue
    queries: list[onnxruntime.OrtValue]


class DeviceModelRunner:
    """Runs a bundle over a pool of its own. For one thread: recorded steps belong to it."""

    def __init__(self, bundle: Bundle, slots: int, device: Device) -> None:
        """Load the graphs and reserve everything; bindings are made at first use.

        Raises:
            BundleError: ONNX Runtime cannot load a graph.
            ProviderUnavailable: it loads one somewhere else.
        """
        folder, self._device = bundle.folder, device
        self._encoder = load_session(folder / ENCODER, device)
        self._decoder = load_session(folder / DECODER, device, graphs=True, strict=True)
        shape = cache_shape(bundle.manifest, slots)
        self.pool = DeviceCachePool(
            shape, load_session(folder / SLOTS, device, strict=True), device
        )
        self._pad_id = bundle.manifest.tokens.pad
        self._vocabulary = -(-bundle.manifest.shape.target_vocab_size // BLOCK) * BLOCK
        # Recorded with the step, so what is given is the most there can be.
        self._self_total = np.array(shape.target_positions, np.int32)
        self._cross_total = np.array(shape.source_positions, np.int32)
        self._columns = {
            "tokens": _Column(self.pool, np.int64),
            "positions": _Column(self.pool, np.int32),
            "source_lengths": _Column(self.pool, np.int32),
        }
        self._buckets = buckets(slots)
        self._steps: dict[int, _Step] = {}
        self._last: _Step | None = None
        self._recorded = not device.graphs

    def encode(self, sequences: list[Sequence]) -> None:
        """As ``ModelRunner`` says; one run, and what it found goes to its slots on the device."""
        longest = max(sequence.source_length for sequence in sequences)
        ids = np.full((len(sequences), longest), self._pad_id, np.int64)
        mask = np.zeros(ids.shape, np.int32)
        for row, sequence in enumerate(sequences):
            ids[row, : sequence.source_length] = sequence.source_ids
            mask[row, : sequence.source_length] = 1
        rows = [row for row, sequence in enumerate(sequences) for _ in sequence.slots]
        slots = [slot for sequence in sequences for slot in sequence.slots]
        try:
            binding = self._encoder.io_binding()
            binding.bind_cpu_input("source_ids", ids)
            binding.bind_cpu_input("source_mask", mask)
            binding.bind_output("cross_kv", self._device.kind, self._device.number)
            self._encoder.run_with_iobinding(binding)
            self.pool.fill(binding.get_outputs()[0], rows, slots)
        except Exception as error:
            msg = "the encoder failed"
            raise ModelFailure(msg) from error

    def decode(self, rows: int) -> Logits:
        """As ``ModelRunner`` says; the rows beside them are computed along and change nothing.

        A row of a sequence that is paused writes again what it wrote or will write; a row of
        nobody writes where whoever comes begins.
        """
        try:
            self.pool.settle()
            self._upload()
            if not self._recorded:
                self._record()
            step = self._run(next(size for size in self._buckets if size >= rows))
            self._last = step
            likeliest = step.likeliest.numpy()[:rows].copy()
        except Exception as error:
            msg = "the decoder failed"
            raise ModelFailure(msg) from error

        def fetch() -> FloatArray:
            values: FloatArray = step.logits.numpy()[:rows].copy()
            return values

        return DeviceLogits(likeliest, fetch)

    def source_keys(self, slot: int) -> FloatArray:
        """As ``ModelRunner`` says; they are copied to the host."""
        return self.pool.source_keys(slot)

    def queries(self, rows: list[int]) -> FloatArray:
        """As ``ModelRunner`` says."""
        assert self._last is not None, "queries are asked for after a step"
        shape = self.pool.shape
        chosen = np.stack([query.numpy()[rows] for query in self._last.queries], axis=1)
        found: FloatArray = chosen.astype(np.float32)
        return found.reshape(len(rows), shape.layers, shape.heads, shape.head_size)

    def _upload(self) -> None:
        """Give the device every slot's token and lengths; a slot of nobody has position 0."""
        pool, used = self.pool, self.pool.used
        for name, values in (
            ("tokens", pool.tokens),
            ("positions", pool.positions),
            ("source_lengths", pool.source_lengths - 1),  # the graph takes the last one's index
        ):
            current = values.copy()
            current[used:] = self._pad_id if name == "tokens" else 0
            self._columns[name].set(current)

    def _record(self) -> None:
        """Run every size once, so that nobody waits for a recording later.

        All memory that outlives a run is taken before: a recorded step goes on writing to what it
        had for itself then.
        """
        self._steps = {size: self._bound(size) for size in self._buckets}
        for size in self._buckets:
            self._run(size)
        self._recorded = True

    def _run(self, size: int) -> _Step:
        if size not in self._steps:
            self._steps[size] = self._bound(size)
        step = self._steps[size]
        self._decoder.run_with_iobinding(step.binding, step.options)
        return step

    def _bound(self, size: int) -> _Step:
        """Inputs and outputs of a step, over the first rows of every array."""
        pool, shape, place = self.pool, self.pool.shape, (self._device.kind, self._device.number)
        binding = self._decoder.io_binding()
        for name, column in self._columns.items():
            binding.bind_input(name, *place, column.kind, [size], column.array.data_ptr())
        for name, total in (("self_total", self._self_total), ("cross_total", self._cross_total)):
            binding.bind_input(name, "cpu", 0, np.int32, [], total.ctypes.data)
        kind = np.dtype(shape.kind)
        for name, cache in (("self", pool.target), ("cross", pool.source)):
            dimensions = [size, *cache.shape()[2:]]
            side = int(np.prod(cache.shape()[1:])) * kind.itemsize
            for layer in range(shape.layers):
                for number, part in enumerate(("key", "value")):
                    where = cache.data_ptr() + (2 * layer + number) * side
                    # Past and present are the same memory: the step writes in place.
                    bound = *place, kind.type, dimensions, where
                    binding.bind_input(f"{name}_{part}_{layer}", *bound)
                    binding.bind_output(f"{name}_{part}_{layer}_out", *bound)
        width = shape.heads * shape.head_size
        floats = np.float16 if shape.kind == "float16" else np.float32
        outputs = {
            "likeliest": pool.array((size,), np.int64),
            "logits": pool.array((size, self._vocabulary), np.float32),
        } | {
            f"cross_query_{layer}": pool.array((size, width), floats)
            for layer in range(shape.layers)
        }
        for name, output in outputs.items():
            binding.bind_ortvalue_output(name, output)
        likeliest, logits, *queries = outputs.values()
        return _Step(binding, self._options(size), likeliest, logits, queries)

    def _options(self, size: int) -> onnxruntime.RunOptions:
        options = onnxruntime.RunOptions()
        if self._device.graphs:  # one recording a size
            options.add_run_config_entry("gpu_graph_id", str(size))
        return options


class _Column:
    """A number a slot, on the device."""

    def __init__(self, pool: DeviceCachePool, kind: type[np.generic]) -> None:
        self.kind = kind
        self.array = pool.array((pool.shape.slots,), kind)
        self._held: NDArray[Any] | None = None

    def set(self, values: NDArray[Any]) -> None:
        """Copy them there, unless it holds them."""
        if self._held is None or not np.array_equal(self._held, values):
            self.array.update_inplace(values)
            self._held = values
