"""How matrices are stored and multiplied: one class a precision.

All are batch-invariant: the result of a row does not depend on the rows beside it.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor

from export.builder import MICROSOFT, GraphBuilder, stored_array
from export.calibration import Calibration, Range
from export.network import Matrix

Floats = NDArray[np.float32]

# Processors without VNNI add two products of the kernel's u8 x s8 multiplication in 16 bits.
# Seven bits on one side just fit (255 x 64 x 2): the same ids on every x86 machine.
_WEIGHT_LIMIT = 63
# A table that is only looked up has all eight.
_TABLE_LIMIT = 127
_DAMPING = 0.01
_SMALLEST_SCALE = 1e-10
_BLOCK_BYTES = 1 << 24
"""Of a matrix that is rounded at once: a table of a gigabyte would be in memory several times."""
_COLUMNS = 64
"""Rounded one after the other before those to the right of them are corrected, in one product."""


class Precision(Protocol):
    """What a graph needs of a number format."""

    floats: type[np.floating[Any]]
    """What it computes in between matrices."""
    own_projection: bool
    """The matrix of the logits is stored apart from an embedding that it is tied to, anyway, and
    can be of another size."""

    def linear(
        self,
        graph: GraphBuilder,
        x: str,
        layers: list[Matrix],
        output: str | None = None,
    ) -> str:
        """Several layers of the same input [R, K] side by side; floats [R, N].

        Args:
            graph: where the nodes go.
            x: the input's name.
            layers: their outputs are joined in this order.
            output: the result's name, if it must have one.
        """

    def embedding(self, graph: GraphBuilder, table: Tensor, ids: str, scale: float) -> str:
        """Rows ``ids`` of table [V, M], times scale; floats, the shape of ids and M."""


class Float32:
    """Everything in float32."""

    floats: type[np.floating[Any]] = np.float32
    own_projection = False

    def linear(
        self,
        graph: GraphBuilder,
        x: str,
        layers: list[Matrix],
        output: str | None = None,
    ) -> str:
        """One Gemm; the weight stays as it is, so that a tied embedding can share it."""
        weight, bias = joined(layers)
        parts = [weight] if bias is None else [weight, bias]
        inputs = [x, *(graph.constant(part, self.floats) for part in parts)]
        return graph.node("Gemm", inputs, transB=1, output=output)

    def embedding(self, graph: GraphBuilder, table: Tensor, ids: str, scale: float) -> str:
        """Gather and multiply."""
        rows = graph.node("Gather", [graph.constant(stored_array(table), self.floats), ids])
        return self._scaled(graph, rows, scale)

    def _scaled(self, graph: GraphBuilder, rows: str, scale: float) -> str:
        if scale == 1.0:
            return rows
        return graph.node("Mul", [rows, graph.constant(self.floats(scale))])


class Float16(Float32):
    """Everything in float16, for CUDA, whose kernels add up in float32.

    That holds for products of matrices, for attention's softmax and for layer normalisation; what
    is rounded is what they read and write.
    """

    floats = np.float16


class _Int8:
    """Weights int8 with a scale an output channel."""

    floats: type[np.floating[Any]] = np.float32
    own_projection = False  # of calibrated networks, whose matrices are known by what they are

    def embedding(self, graph: GraphBuilder, table: Tensor, ids: str, scale: float) -> str:
        """Gather int8 rows and their scales."""
        matrix, scales = quantise(stored_array(table), _TABLE_LIMIT)
        rows = graph.node("Gather", [graph.constant(matrix), ids])
        floats = graph.node("Cast", [rows], to=1)
        of_rows = graph.node("Gather", [graph.constant((scales * scale)[:, None]), ids])
        return graph.node("Mul", [floats, of_rows])


class Int8(_Int8):
    """Activations uint8 at a scale fixed by calibration: two nodes a matrix, bias included."""

    def __init__(self, calibration: Calibration) -> None:
        """Take what was measured, and remember what is quantised already."""
        self._calibration = calibration
        self._values: dict[tuple[int, str, Range], str] = {}

    def linear(
        self,
        graph: GraphBuilder,
        x: str,
        layers: list[Matrix],
        output: str | None = None,
    ) -> str:
        """Quantise x, multiply integers, scale back and add the bias."""
        weight, bias = joined(layers)
        matrix, scales = rounded(weight, self._calibration.moments[layers[0]])
        seen = self._calibration.inputs[layers[0]]
        scale, zero = _scale(seen)
        key = id(graph), x, seen
        if key not in self._values:
            self._values[key] = graph.node(
                "QuantizeLinear", [x, graph.constant(scale), graph.constant(zero)]
            )
        inputs = _factors(graph, self._values[key], (scale, zero), matrix, scales)
        inputs += [] if bias is None else [graph.constant(bias, np.float32)]
        outputs: list[str] | int = [output] if output else 1
        return graph.nodes("MatMulIntegerToFloat", inputs, outputs, domain=MICROSOFT)[0]


class Int8Rows(_Int8):
    """Activations uint8 with a scale a row, found at every step.

    For networks whose activations vary too much for a fixed scale. One scale for the whole batch
    (``DynamicQuantizeMatMul``) would make a row's result depend on its neighbours.
    """

    own_projection = True

    def __init__(self) -> None:
        """Remember which activations are quantised already: several matrices may read one."""
        self._rows: dict[tuple[int, str], tuple[str, str]] = {}
        self._middles: dict[int, str] = {}

    def linear(
        self,
        graph: GraphBuilder,
        x: str,
        layers: list[Matrix],
        output: str | None = None,
    ) -> str:
        """Quantise the rows of x [R, K], multiply integers, scale back."""
        weight, bias = joined(layers)
        matrix, scales = quantise(weight)
        row_values, row_scales = self._quantise_rows(graph, x)
        inputs = _factors(graph, row_values, (np.float32(1.0), np.uint8(128)), matrix, scales)
        (product,) = graph.nodes("MatMulIntegerToFloat", inputs, 1, domain=MICROSOFT)
        if bias is None:
            return graph.node("Mul", [product, row_scales], output=output)
        scaled = graph.node("Mul", [product, row_scales])
        return graph.node("Add", [scaled, graph.constant(bias, np.float32)], output=output)

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
            middle = self._middle(graph, flat)
            values = graph.node("QuantizeLinear", [x, flat, middle], axis=0)
            self._rows[key] = values, scales
        return self._rows[key]

    def _middle(self, graph: GraphBuilder, scales: str) -> str:
        """The zero point of every row [R]; once a graph, whose matrices all have as many rows."""
        if id(graph) not in self._middles:
            self._middles[id(graph)] = graph.node(
                "ConstantOfShape",
                [graph.node("Shape", [scales])],
                value=numpy_helper.from_array(np.array([128], np.uint8)),
            )
        return self._middles[id(graph)]


def _factors(
    graph: GraphBuilder,
    values: str,
    format_: tuple[np.float32, np.uint8],
    matrix: NDArray[np.int8],
    scales: Floats,
) -> list[str]:
    """What MatMulIntegerToFloat reads: uint8 values of a scale and zero point, int8 weights."""
    scale, zero = format_
    return [
        values,
        graph.transposed(matrix),
        graph.constant(scale),
        graph.constant(scales),
        graph.constant(zero),
        graph.constant(np.zeros(len(scales), np.int8)),
    ]


def joined(layers: list[Matrix]) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Weights [N, K] and biases [N] of layers that read the same input, side by side.

    All of them have a bias, or none; floats as they are stored.
    """
    weights = [stored_array(layer.weight) for layer in layers]
    biases = [stored_array(layer.bias) for layer in layers if layer.bias is not None]
    weight = np.concatenate(weights) if len(weights) > 1 else weights[0]  # no copy of a large one
    return weight, np.concatenate(biases) if biases else None


def quantise(weight: NDArray[Any], limit: int = _WEIGHT_LIMIT) -> tuple[NDArray[np.int8], Floats]:
    """Int8 [N, K] and a float32 scale [N] for each row of a matrix [N, K], each to the nearest.

    The matrix may be of any floats.
    """
    scales = np.empty(len(weight), np.float32)
    values = np.empty(weight.shape, np.int8)
    count = max(1, _BLOCK_BYTES // max(1, 4 * weight.shape[1]))
    for start in range(0, len(weight), count):
        rows = slice(start, start + count)
        block = weight[rows].astype(np.float32, copy=False)
        scales[rows] = _row_scales(block, limit)
        values[rows] = np.round(block / scales[rows, None]).clip(-limit, limit)
    return values, scales


def rounded(weight: Floats, moment: Floats) -> tuple[NDArray[np.int8], Floats]:
    """As :func:`quantise`, but rounded so that the outputs err least, not the weights.

    What rounding one column does to the outputs is made good by those that come after it, as far
    as their inputs go together (GPTQ, Frantar et al. 2023, section 3; columns with large inputs
    first).

    Args:
        weight: [N, K].
        moment: [K, K], mean of x x^T over the inputs.
    """
    scales = _row_scales(weight, _WEIGHT_LIMIT)
    order = np.argsort(-np.diag(moment), kind="stable")
    left = (weight / scales[:, None])[:, order].astype(np.float64)
    damped = moment[np.ix_(order, order)].astype(np.float64)
    damped += _DAMPING * np.mean(np.diag(damped)) * np.eye(len(order)) + _SMALLEST_SCALE
    factor = np.linalg.cholesky(np.linalg.inv(damped)).T  # upper
    values = np.empty(weight.shape, np.int8)
    for start in range(0, len(order), _COLUMNS):
        block = slice(start, start + _COLUMNS)
        values[:, order[block]], errors = _rounded_block(left[:, block], factor[block, block])
        left[:, start + _COLUMNS :] -= errors @ factor[block, start + _COLUMNS :]
    return values, scales


def _rounded_block(
    left: NDArray[np.float64], factor: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Whole numbers for some columns [N, C], changed meanwhile, and what those after them pay for.

    Args:
        left: what is to be rounded.
        factor: [C, C], of these columns, upper.
    """
    values, errors = np.empty_like(left), np.empty_like(left)
    for column in range(left.shape[1]):
        nearest = np.round(left[:, column]).clip(-_WEIGHT_LIMIT, _WEIGHT_LIMIT)
        values[:, column] = nearest
        errors[:, column] = error = (left[:, column] - nearest) / factor[column, column]
        left[:, column + 1 :] -= np.outer(error, factor[column, column + 1 :])
    return values, errors


def _row_scales(weight: Floats, limit: int) -> Floats:
    scales: Floats = np.maximum(np.abs(weight).max(axis=1), _SMALLEST_SCALE) / np.float32(limit)
    return scales.astype(np.float32)


def _scale(seen: Range) -> tuple[np.float32, np.uint8]:
    """Scale and zero point of a range in 8 bits; all of them for what is never negative."""
    return (np.float32(seen.high / 127), np.uint8(128)) if seen.signed else (
        np.float32(seen.high / 255), np.uint8(0))  # fmt: skip


def precision_of(name: str, calibration: Calibration) -> Precision:
    """The number format of that name, for one graph."""
    match name:
        case "int8":
            return Int8(calibration)
        case "int8-rows":
            return Int8Rows()
        case "fp16":
            return Float16()
        case _:
            return Float32()


PRECISIONS = ("fp32", "int8", "int8-rows", "fp16")
