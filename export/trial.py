"""Matrices of graphs that are run where they are made, to compare, and thrown away.

They say what the others say, slower, and for less memory: a checkpoint in 16 bits is half as large
as its float32 graphs, and as what ONNX Runtime makes of float16 ones on a CPU, which has no product
in float16.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from export.builder import FLOAT, FLOAT16, GraphBuilder, stored_array
from export.network import Matrix
from export.precision import Float16, Float32, joined

_PART_BYTES = 1 << 24
"""Of a matrix that is float32 at once."""


class AsStored(Float32):
    """Float32, of weights that are in the file as the checkpoint has them."""

    def linear(
        self,
        graph: GraphBuilder,
        x: str,
        layers: list[Matrix],
        output: str | None = None,
    ) -> str:
        """Made float32 whenever they are read."""
        weight, bias = joined(layers)
        if weight.dtype == np.float32:
            return super().linear(graph, x, layers, output)
        return _in_parts(graph, x, graph.constant(weight), weight.shape, bias, output)

    def embedding(self, graph: GraphBuilder, table: Tensor, ids: str, scale: float) -> str:
        """Gather, make float32, multiply."""
        array = stored_array(table)
        return _looked_up(graph, graph.constant(array), ids, np.float32(scale))


class Float16InParts(Float16):
    """As Float16; products in float32, of what was rounded to float16."""

    def linear(
        self,
        graph: GraphBuilder,
        x: str,
        layers: list[Matrix],
        output: str | None = None,
    ) -> str:
        """From float16 to float32 and back."""
        weight, bias = joined(layers)
        stored = graph.constant(weight, np.float16)
        bias = None if bias is None else bias.astype(np.float16)
        x = graph.node("Cast", [x], to=FLOAT)
        found = _in_parts(graph, x, stored, weight.shape, bias)
        return graph.node("Cast", [found], to=FLOAT16, output=output)

    def embedding(self, graph: GraphBuilder, table: Tensor, ids: str, scale: float) -> str:
        """From float16 to float32 and back: else the whole table would be made float32 first."""
        stored = graph.constant(stored_array(table), np.float16)
        rows = _looked_up(graph, stored, ids, np.float32(np.float16(scale)))
        return graph.node("Cast", [rows], to=FLOAT16)


def _looked_up(graph: GraphBuilder, stored: str, ids: str, scale: np.float32) -> str:
    """Rows of a table of other floats, in float32, times a scale."""
    rows = graph.node("Cast", [graph.node("Gather", [stored, ids])], to=FLOAT)
    return graph.node("Mul", [rows, graph.constant(scale)])


def _in_parts(
    graph: GraphBuilder,
    x: str,
    stored: str,
    shape: tuple[int, ...],
    bias: NDArray[Any] | None,
    output: str | None = None,
) -> str:
    """A product in float32 with a matrix of other floats: a Gemm a part, side by side."""
    size, width = shape
    # What depends on constants alone is computed first, or when the graph is loaded: all matrices
    # at once. So the last column, which may lie beyond the end, depends on x.
    last = graph.node("Shape", [x], start=0, end=1)
    last = graph.node("Add", [last, graph.integers(width)])
    count = max(1, _PART_BYTES // (4 * width))
    starts = range(0, size, count)
    parts = []
    for start in starts:
        ends = graph.node("Concat", [graph.integers(start + count), last], axis=0)
        rows = graph.node("Slice", [stored, graph.integers(start, 0), ends])
        inputs = [x, graph.node("Cast", [rows], to=FLOAT)]
        if bias is not None:
            inputs.append(graph.constant(bias[start : start + count], np.float32))
        name = output if len(starts) == 1 else None
        parts.append(graph.node("Gemm", inputs, transB=1, output=name))
    return parts[0] if len(parts) == 1 else graph.node("Concat", parts, axis=1, output=output)
