"""Builds ONNX graphs node by node.

The graphs are written by hand, not traced: every operator that serving runs stands in
``graphs.py`` and is there for a measured reason.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import DTypeLike, NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from export.weights import SMALLEST, WeightsFile, digest

MICROSOFT = "com.microsoft"
OPSET = 21
_IR_VERSION = 10

FLOAT, INT64, INT32 = TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT32
INT8, FLOAT16 = TensorProto.INT8, TensorProto.FLOAT16
DOUBLE, BOOL = TensorProto.DOUBLE, TensorProto.BOOL
Array = NDArray[Any] | np.generic
_BFLOAT16 = helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16)  # NumPy itself has none


class GraphBuilder:
    """Nodes and constants of one graph; every value is known by its name."""

    def __init__(self, weights: WeightsFile | None = None) -> None:
        """Start empty.

        Args:
            weights: where large constants go; None = into the graph.
        """
        self._weights = weights
        self._nodes: list[onnx.NodeProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._constants: list[TensorProto] = []
        self._known: dict[bytes, str] = {}
        self._count = 0

    def input(self, name: str, kind: int, shape: list[str | int]) -> str:
        """Declare an input of the graph; its name."""
        self._inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def output(self, name: str, kind: int, shape: list[str | int]) -> str:
        """Declare that the value of this name, made by some node, is an output."""
        self._outputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def constant(self, value: Array, kind: DTypeLike | None = None) -> str:
        """A constant; equal ones are stored once, which is what tied weights are.

        Args:
            value: what it holds.
            kind: what it is stored as, if not as it is; a large one is turned into that part by
                part, when it is written.
        """
        array = np.asarray(value, order="C")
        kind = array.dtype if kind is None else np.dtype(kind)
        key = digest(array, kind)
        if key not in self._known:
            name = f"constant_{len(self._constants)}"
            self._known[key] = name
            if self._weights is None or array.size * kind.itemsize < SMALLEST:
                array = array.astype(kind, copy=False)
                self._constants.append(numpy_helper.from_array(array, name))
            else:
                self._constants.append(self._weights.tensor(array, name, key, kind))
        return self._known[key]

    def transposed(self, matrix: NDArray[Any]) -> str:
        """The transpose of a constant.

        A matrix that is stored already, such as a tied embedding, is not stored a second time:
        the node that turns it is folded away when ONNX Runtime loads the graph.
        """
        if digest(np.asarray(matrix, order="C"), matrix.dtype) in self._known:
            return self.node("Transpose", [self.constant(matrix)], perm=[1, 0])
        return self.constant(matrix.T)

    def integers(self, *values: int) -> str:
        """A constant int64 vector."""
        return self.constant(np.array(values, np.int64))

    def node(
        self,
        operator: str,
        inputs: list[str],
        *,
        output: str | None = None,
        **attributes: Any,  # noqa: ANN401
    ) -> str:
        """A node of the standard operators with one output; its name."""
        return self.nodes(operator, inputs, [output or self._name(operator)], **attributes)[0]

    def nodes(
        self,
        operator: str,
        inputs: list[str],
        outputs: list[str] | int,
        *,
        domain: str = "",
        **attributes: Any,  # noqa: ANN401  whatever ONNX takes
    ) -> list[str]:
        """A node with several outputs, or of another domain; their names."""
        if isinstance(outputs, int):
            outputs = [self._name(operator) for _ in range(outputs)]
        self._nodes.append(
            helper.make_node(
                operator, inputs, outputs, name=self._name(operator), domain=domain, **attributes
            )
        )
        return outputs

    def reshape(self, x: str, *shape: int) -> str:
        """View x in another shape; -1 is what is left."""
        return self.node("Reshape", [x, self.integers(*shape)])

    def model(self, name: str) -> onnx.ModelProto:
        """The finished graph; checked, if it is complete without a file of weights."""
        graph = helper.make_graph(self._nodes, name, self._inputs, self._outputs, self._constants)
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)],
            ir_version=_IR_VERSION,
            producer_name="dragoman",
        )
        if self._weights is None:
            onnx.checker.check_model(model)
        return model

    def _name(self, operator: str) -> str:
        self._count += 1
        return f"{operator}_{self._count}"


def stored_array(tensor: Tensor) -> NDArray[Any]:
    """A weight in the floats that it is kept in, not copied."""
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().view(_BFLOAT16)
    array: NDArray[Any] = tensor.numpy()
    return array


def array_of(tensor: Tensor) -> NDArray[np.float32]:
    """A weight as float32."""
    array: NDArray[np.float32] = tensor.detach().float().numpy()
    return array
