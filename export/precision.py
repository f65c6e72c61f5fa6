"""How matrices are stored and multiplied: one class a precision.

Both are batch-invariant: the result of a row does not depend on the rows beside it.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from onnx import numpy_helper

from export.builder import MICROSOFT, GraphBuilder

Floats = NDArray[np.float32]

# Weights use 7 of their 8 bits. Processors without VNNI add two products of the kernel's u8 x s8
# multiplication in 16 bits, and 255 x 64 x 2 just fits: the same ids on every x86 machine.
_WEIGHT_LIMIT = 63
_SMALLEST_SCALE = 1e-10


class Precision(Protocol):
    """What a graph needs of a number format."""

    def linear(
        self,
        graph: GraphBuilder,
        x: str,
        weight: Floats,
        bias: Floats,
        output: str | None = None,
    ) -> str:
        """X [R, K] times weight [N, K] transposed, plus bias [N]; the name of float32 [R, N]."""

    def embedding(self, graph: GraphBuilder, table: Floats, ids: str, scale: float) -> str:
        """Rows ``ids`` of table [V, M], times scale; float32, the shape of ids and M."""


class Float32:
    """Everything in float32."""

    def linear(
        self,
        graph: GraphBuilder,
        x: str,
        weight: Floats,
        bias: Floats,
        output: str | None = None,
    ) -> str:
        """One Gemm; the weight stays as it is, so that a tied embedding can share it."""
        inputs = [x, graph.constant(weight), graph.constant(bias)]
        return graph.node("Gemm", inputs, transB=1, output=output)

    def embedding(self, graph: GraphBuilder, table: Floats, ids: str, scale: float) -> str:
        """Gather and multiply."""
        rows = graph.node("Gather", [graph.constant(table), ids])
        return graph.node("Mul", [rows, graph.constant(np.float32(scale))])


class Int8:
    """Weights int8 with a scale an output channel, activations uint8 with a scale a row.

    One activation scale for the whole batch (``DynamicQuantizeMatMul``) would be about 15 % faster
    and would make a row's result depend on its neighbours.
    """

    def __init__(self) -> None:
        """Remember which activations are quantised already: several matrices may read one."""
        self._rows: dict[tuple[int, str], tuple[str, str]] = {}

    def linear(
        self,
        graph: GraphBuilder,
        x: str,
        weight: Floats,
        bias: Floats,
        output: str | None = None,
    ) -> str:
        """Quantise the rows of x, multiply integers, scale back."""
        matrix, scales = quantise(weight)
        row_values, row_scales = self._quantise_rows(graph, x)
        inputs = [
            row_values,
            graph.transposed(matrix),
            graph.constant(np.float32(1.0)),
            graph.constant(scales),
            graph.constant(np.uint8(128)),
            graph.constant(np.zeros(len(scales), np.int8)),
        ]
        (product,) = graph.nodes("MatMulIntegerToFloat", inputs, 1, domain=MICROSOFT)
        scaled = graph.node("Mul", [product, row_scales])
        return graph.node("Add", [scaled, graph.constant(bias)], output=output)

    def embedding(self, graph: GraphBuilder, table: Floats, ids: str, scale: float) -> str:
        """Gather int8 rows and their scales."""
        matrix, scales = quantise(table)
        rows = graph.node("Gather", [graph.constant(matrix), ids])
        floats = graph.node("Cast", [rows], to=1)
        of_rows = graph.node("Gather", [graph.constant((scales * scale)[:, None]), ids])
        return graph.node("Mul", [floats, of_rows])

    def _quantise_rows(self, graph: GraphBuilder, x: str) -> tuple[str, str]:
        """Uint8 values [R, K] around 128 and scales float32 [R, 1] of x."""
        key = id(graph), x
        if key not in self._rows:
            one = graph.integers(1)
            highest = graph.node("ReduceMax", [graph.node("Abs", [x]), one], keepdims=1)
            scales = graph.node("Mul", [highest, graph.constant(np.float32(1 / 127))])
            # A row of zeros would divide by zero.
            scales = graph.node("Max", [scales, graph.constant(np.float32(_SMALLEST_SCALE))])
            flat = graph.node("Squeeze", [scales, one])
            middle = graph.node(
                "ConstantOfShape",
                [graph.node("Shape", [flat])],
                value=numpy_helper.from_array(np.array([128], np.uint8)),
            )
            values = graph.node("QuantizeLinear", [x, flat, middle], axis=0)
            self._rows[key] = values, scales
        return self._rows[key]


def quantise(weight: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Int8 [N, K] and a float32 scale [N] for each row of a matrix [N, K]."""
    scales = np.maximum(np.abs(weight).max(axis=1), _SMALLEST_SCALE) / _WEIGHT_LIMIT
    values = np.round(weight / scales[:, None]).clip(-_WEIGHT_LIMIT, _WEIGHT_LIMIT)
    return values.astype(np.int8), scales.astype(np.float32)


PRECISIONS: dict[str, type[Float32 | Int8]] = {"fp32": Float32, "int8": Int8}
