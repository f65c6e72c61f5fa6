"""Float32 graphs that are run where they are made, to compare with, and thrown away.

They say what those that are served say, for less memory: a checkpoint in 16 bits is half as large
as its float32 graphs.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from export.builder import FLOAT, GraphBuilder, stored_array
from export.network import Matrix
from export.precision import Float32, joined

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
        """Made float32 whenever they are read: a Gemm a part, and their outputs side by side."""
        weight, bias = joined(layers)
        if weight.dtype == np.float32:
            return super().linear(graph, x, layers, output)
        stored, (size, width) = graph.constant(weight), weight.shape
        # What depends on constants alone is computed first, or when the graph is loaded: all
        # matrices at once. So the last column, which may lie beyond the end, depends on x.
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

    def embedding(self, graph: GraphBuilder, table: Tensor, ids: str, scale: float) -> str:
        """Gather, make float32, multiply."""
        rows = graph.node("Gather", [graph.constant(stored_array(table)), ids])
        return self._scaled(graph, graph.node("Cast", [rows], to=FLOAT), scale)
