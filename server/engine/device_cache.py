"""The slots' keys and values where the graphs run: on a GPU, at addresses that never change.

Who leaves and which hypotheses go on is decided on the host and noted; before the next step all of
it moves at once, on the device. What a slot is to hold is always something that another slot held
when the last step ended, so notes can be joined: a move of a move is one move.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from server.engine.kv_cache import CacheShape, KVCachePool
from server.engine.provider import Device

Slots: TypeAlias = "list[int] | NDArray[np.int64]"


class DeviceCachePool(KVCachePool):
    """A pool whose columns are on the host and whose keys and values are on a device."""

    def __init__(
        self, shape: CacheShape, session: onnxruntime.InferenceSession, device: Device
    ) -> None:
        """Reserve everything.

        Args:
            shape: sizes.
            session: of the bundle's ``slots.onnx``, on the device.
            device: where.
        """
        self._session, self._device = session, device
        self._targets: dict[int, int] = {}
        self._sources: dict[int, int] = {}
        super().__init__(shape)

    def _reserve(self) -> None:
        """Reserve the keys and values on the device; zeros, since what is not valid is masked."""
        shape = self.shape
        heads = (2 * shape.layers, shape.slots, shape.heads)
        self.target = self.array((*heads, shape.target_positions, shape.head_size), shape.kind)
        """[2L, N, H, T, D], keys of layer l at 2l, values at 2l + 1."""
        self.source = self.array((*heads, shape.source_positions, shape.head_size), shape.kind)
        """[2L, N, H, S, D], likewise."""
        row = (2 * shape.layers, 1, shape.heads, shape.source_positions, shape.head_size)
        self._row = self.array(row, shape.kind)

    def array(self, shape: tuple[int, ...], kind: str | type[np.generic]) -> onnxruntime.OrtValue:
        """Zeros on the device."""
        zeros = np.zeros(shape, kind)
        if self._device.kind == "cpu":  # memory of ONNX Runtime's own, as on any device
            found = onnxruntime.OrtValue.ortvalue_from_shape_and_type(
                list(shape), zeros.dtype.type, "cpu", 0
            )
            found.update_inplace(zeros)
            return found
        return onnxruntime.OrtValue.ortvalue_from_numpy(
            zeros, self._device.kind, self._device.number
        )

    def start(self, slot: int, source_length: int, first_token: int) -> None:
        """As declared; what was to be moved there is not wanted any more."""
        super().start(slot, source_length, first_token)
        self._targets.pop(slot, None)
        self._sources.pop(slot, None)

    def _copy(self, slot: int, to: int) -> None:
        _note(self._targets, [slot], [to])
        _note(self._sources, [slot], [to])

    def copy_target(self, sources: Slots, slots: Slots) -> None:
        """As declared."""
        _note(self._targets, np.asarray(sources).tolist(), np.asarray(slots).tolist())

    def reset(self) -> None:
        """As declared."""
        super().reset()
        self._targets.clear()
        self._sources.clear()

    def settle(self) -> None:
        """Carry out what was noted."""
        for array, notes in ((self.target, self._targets), (self.source, self._sources)):
            if notes:
                self._move(array, list(notes.values()), array, list(notes))
                notes.clear()

    def fill(self, found: onnxruntime.OrtValue, rows: list[int], slots: list[int]) -> None:
        """Put rows of what the encoder found, on the device, into the slots' source side."""
        self.settle()
        self._move(found, rows, self.source, slots)

    def source_keys(self, slot: int) -> NDArray[np.float32]:
        """The source side's keys of a slot, on the host: [L, H, S, D], S its source tokens."""
        self.settle()
        self._move(self.source, [slot], self._row, [0])
        keys = self._row.numpy()[::2, 0, :, : int(self.source_lengths[slot])]
        found: NDArray[np.float32] = keys.astype(np.float32)
        return found

    def _move(
        self,
        source: onnxruntime.OrtValue,
        rows: list[int],
        into: onnxruntime.OrtValue,
        places: list[int],
    ) -> None:
        """Copy rows between arrays, or within one."""
        sides = 2 * self.shape.layers
        indices = np.empty((sides, len(places), 2), np.int64)
        indices[:, :, 0] = np.arange(sides)[:, None]
        indices[:, :, 1] = places
        pads = np.zeros(10, np.int64)
        pads[8] = into.shape()[3] - source.shape()[3]
        binding = self._session.io_binding()
        binding.bind_ortvalue_input("source", source)
        binding.bind_ortvalue_input("cache", into)
        binding.bind_cpu_input("rows", np.array(rows, np.int64))
        binding.bind_cpu_input("pads", pads)
        binding.bind_cpu_input("places", indices)
        binding.bind_ortvalue_output("cache_out", into)
        self._session.run_with_iobinding(binding)


def _note(notes: dict[int, int], sources: list[int], slots: list[int]) -> None:
    """Note that slots are to hold what others are to hold, all at once."""
    held = [notes.get(source, source) for source in sources]
    for slot, source in zip(slots, held, strict=True):
        if slot == source:
            notes.pop(slot, None)
        else:
            notes[slot] = source
