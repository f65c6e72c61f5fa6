"""The file beside the graphs that holds their constants, each once, written as they come.

A protobuf message ends at 2 GB, and all that is in it is in memory several times. ONNX Runtime maps
this file, and both graphs share what is in it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

_PAGE = 4096  # what is mapped begins at a page
SMALLEST = 1024
"""Bytes of an array from which it is kept here."""
_BLOCK = 1 << 22
"""Values that are turned into another kind at once."""


class WeightsFile:
    """Arrays in a file; a context manager that closes it."""

    def __init__(self, path: Path) -> None:
        """Begin the file anew."""
        self._name = path.name
        self._file = path.open("wb")
        self._places: dict[bytes, tuple[int, int]] = {}

    def __enter__(self) -> Self:
        """The file, open."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self._file.close()

    def tensor(
        self, array: NDArray[Any], name: str, content: bytes, kind: np.dtype[Any]
    ) -> TensorProto:
        """A tensor of that name whose values are in the file.

        Args:
            array: what it holds; not kept.
            name: in its graph.
            content: of :func:`digest`.
            kind: what it is stored as.
        """
        if content not in self._places:
            self._file.write(bytes(-self._file.tell() % _PAGE))
            self._places[content] = self._file.tell(), array.size * kind.itemsize
            values = array.reshape(-1)
            for start in range(0, len(values), _BLOCK):
                part = values[start : start + _BLOCK].astype(kind, copy=False)
                self._file.write(part.view(np.uint8).data)
        tensor = TensorProto(name=name, data_location=TensorProto.EXTERNAL, dims=array.shape)
        tensor.data_type = onnx.helper.np_dtype_to_tensor_dtype(kind)
        offset, length = self._places[content]
        for key, value in (("location", self._name), ("offset", offset), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))
        return tensor


def digest(array: NDArray[Any], kind: np.dtype[Any]) -> bytes:
    """What makes two arrays one: shape, values, their kind and the kind that they are stored as."""
    header = repr((array.dtype.name, kind.name, array.shape))
    found = hashlib.blake2b(header.encode(), digest_size=32)
    found.update(array.reshape(-1).view(np.uint8).data)
    return found.digest()
