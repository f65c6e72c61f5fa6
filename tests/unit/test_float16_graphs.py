"""Graphs for CUDA: every operator has a kernel there, for the types that it is given."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto
from random_models import SETTINGS, SOURCES, random_model, trained

from export import bundle as writer
from export.bundle import ExportSettings, write_graphs
from export.graphs import decoder_graph, encoder_graph
from export.precision import Float16
from export.slots import slots_graph
from export.trained import network_of
from export.verify import Exported, ExportError, stepwise_difference
from model.train import TrainingData
from server.bundle import Bundle

FP16 = dataclasses.replace(SETTINGS, precision="fp16", cache="float16")
HALF, FLOAT, INT32, INT64 = (
    TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64,
)  # fmt: skip
# ONNX Runtime, docs/OperatorKernels.md, "Operators implemented by CUDAExecutionProvider", opset 21:
# what the data (the first input) may be.
KERNELS = {
    "Add": {HALF, FLOAT}, "Cast": {HALF}, "ArgMax": {HALF, FLOAT}, "Gather": {HALF},
    "Gemm": {HALF}, "GroupQueryAttention": {HALF}, "LayerNormalization": {HALF},
    "Mul": {HALF}, "MultiHeadAttention": {HALF}, "Pad": {HALF, FLOAT}, "Relu": {HALF},
    "Reshape": {HALF}, "ScatterND": {HALF}, "Slice": {HALF}, "Split": {HALF},
    "Transpose": {HALF},
}  # fmt: skip
# Sizes of the encoder's batch, which ONNX Runtime computes on the host for any provider.
SIZES = {"Shape": {INT64}, "Slice": {INT64}, "Concat": {INT64}}


def graphs(norm: str) -> dict[str, onnx.ModelProto]:
    model = random_model(norm=norm)
    return {
        "encoder": encoder_graph(network_of(model), Float16(), "float16", 24),
        "decoder": decoder_graph(network_of(model), Float16(), "float16", 40),
        "slots": slots_graph("float16"),
    }


def kinds(model: onnx.ModelProto) -> dict[str, int]:
    """The type of every value; those of ONNX Runtime's own operators are those of their inputs."""
    graph = model.graph
    found = {one.name: one.type.tensor_type.elem_type for one in (*graph.input, *graph.output)}
    found |= {one.name: one.data_type for one in graph.initializer}
    for node in graph.node:
        kind = found[node.input[0]]
        if node.op_type in {"Shape", "ArgMax"}:
            kind = INT64
        if node.op_type == "Cast":
            kind = next(one.i for one in node.attribute if one.name == "to")
        for name in node.output:
            found.setdefault(name, kind)
    return found


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_no_operator_lacks_a_kernel_on_cuda(norm: str) -> None:
    for name, model in graphs(norm).items():
        found = kinds(model)
        for node in model.graph.node:
            kind = found[node.input[0]]
            allowed = KERNELS.get(node.op_type, set())
            if name == "encoder":
                allowed = allowed | SIZES.get(node.op_type, set())
            assert kind in allowed, f"{name}: {node.op_type} of {TensorProto.DataType.Name(kind)}"


def test_all_weights_are_stored_in_float16() -> None:
    for model in graphs("post").values():
        big = [one for one in model.graph.initializer if len(one.dims) > 1]
        assert {one.data_type for one in big} <= {HALF}


def test_the_step_leaves_logits_in_float32_and_the_likeliest_token() -> None:
    model = graphs("post")["decoder"]
    outputs = {one.name: one.type.tensor_type.elem_type for one in model.graph.output}
    assert outputs["logits"] == FLOAT
    assert outputs["likeliest"] == INT64
    assert outputs["self_key_0_out"] == outputs["cross_query_0"] == HALF
    assert "block_maxima" not in outputs


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_either_norm_and_a_vocabulary_that_fills_its_blocks_stay_near_torch(
    norm: str, toy: TrainingData, tmp_path: Path
) -> None:
    model = random_model(7, norm=norm, target_vocab_size=64)
    whole = trained(model, toy)
    write_graphs(whole, [], tmp_path, FP16)
    exported = Exported(Bundle(tmp_path, writer._manifest(whole, FP16, [], []), digest=""))
    highest, mean = stepwise_difference(model, exported, SOURCES)
    assert highest < 0.25
    assert mean < 0.02


@pytest.mark.parametrize(("precision", "cache"), [("fp16", "int8"), ("int8", "float16")])
def test_a_cache_that_the_attention_cannot_read_is_refused(
    precision: str, cache: str, toy: TrainingData, tmp_path: Path
) -> None:
    settings: ExportSettings = dataclasses.replace(SETTINGS, precision=precision, cache=cache)  # type: ignore[arg-type]
    with pytest.raises(ExportError, match=f"precision {precision} has no cache of {cache}"):
        writer.write_bundle(trained(random_model(), toy), toy.validation, tmp_path / "x", settings)
