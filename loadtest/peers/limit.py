"""How near a decoder step is to what its matrix products alone would cost.

    python -m loadtest.peers.limit [--bundle DIR] [--rows 1 8 32 64] [--json FILE]

The graph of a bundle's decoder is run as the server runs it, on one thread; beside it, in turn, a
graph with nothing but its matrix products (``MatMulIntegerToFloat`` of an int8 bundle, ``Gemm`` of
one in float32) on the very values that the step gives them. The share of the two is what no better
engine around the same products could gain. Last comes ONNX Runtime's own profile of the step.
"""

from __future__ import annotations

import argparse
import collections
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper

from loadtest.machine import describe
from server.bundle import DECODER, Bundle, open_bundle
from server.errors import BundleError

PRODUCTS = ("MatMulIntegerToFloat", "DynamicQuantizeMatMul", "MatMulNBits", "Gemm", "MatMul")
GOAL = 0.8
_SOURCE_TOKENS, _TARGET_TOKENS = 24, 12
"""Of every row: a sentence of medium length, half done."""

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Limit:
    """A decoder step of some rows."""

    rows: int
    step_milliseconds: float
    products_milliseconds: float
    profile: dict[str, float]
    """Operator to its share of the time inside operators."""

    @property
    def share(self) -> float:
        """The products' share of the step."""
        return self.products_milliseconds / self.step_milliseconds


def measure(bundle: Bundle, rows: int, repeats: int) -> Limit:
    """Time the step and its products in turn, and profile the step.

    Args:
        bundle: the model.
        rows: sentences of the batch.
        repeats: of each; the median counts, in CPU time, since one thread does it all.
    """
    graph = onnx.load(str(bundle.folder / DECODER))
    feeds = step_inputs(bundle, rows)
    step = _session(graph)
    products = products_of(graph)
    values = _values(graph, [one.name for one in products.graph.input], feeds)
    run_step, run_products = _bound(step, feeds), _bound(_session(products), values)
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(repeats + 1):
        for run, found in zip((run_step, run_products), times, strict=True):
            start = time.thread_time()
            run()
            if number:  # the first warms up
                found.append(time.thread_time() - start)
    whole, part = (1e3 * statistics.median(found) for found in times)
    return Limit(rows, whole, part, _profile(graph, feeds, repeats))


def step_inputs(bundle: Bundle, rows: int) -> Arrays:
    """What a step of ``rows`` sentences half done reads; the caches hold any values."""
    random = np.random.default_rng(1)
    shape = bundle.manifest.shape
    heads = rows, shape.heads
    longest = {"self": shape.max_target_tokens, "cross": shape.max_source_tokens}
    wanted = {"self": _TARGET_TOKENS, "cross": _SOURCE_TOKENS}
    held = {name: min(wanted[name], length - 1) for name, length in longest.items()}
    feeds: Arrays = {
        "tokens": random.integers(4, shape.target_vocab_size, rows),
        "positions": np.full(rows, held["self"], np.int32),
        "source_lengths": np.full(rows, held["cross"] - 1, np.int32),
        "self_total": np.array(held["self"] + 1, np.int32),
        "cross_total": np.array(held["cross"], np.int32),
    }
    for layer in range(shape.decoder_layers):
        for name, length in longest.items():
            for kind in ("key", "value"):
                values = random.normal(size=(*heads, length, shape.head_size))
                cache = values * 30 if bundle.manifest.cache_type == "int8" else values
                feeds[f"{name}_{kind}_{layer}"] = cache.astype(bundle.manifest.cache_type)
    return feeds


def products_of(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The matrix products of a graph by themselves: constants stay, other inputs are given."""
    constant = _constant_nodes(graph)
    known = {one.name for one in graph.graph.initializer}
    known |= {name for node in constant for name in node.output}
    nodes = [node for node in graph.graph.node if node.op_type in PRODUCTS and node not in constant]
    given = dict.fromkeys(
        name for node in nodes for name in node.input if name and name not in known
    )
    needed = {name for node in [*nodes, *constant] for name in node.input}
    types = _types(graph)
    made = helper.make_graph(
        [*constant, *nodes],
        "products",
        [helper.make_tensor_value_info(name, types[name], None) for name in given],
        [
            helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
            for node in nodes
            for name in node.output
        ],
        [one for one in graph.graph.initializer if one.name in needed],
    )
    return helper.make_model(made, opset_imports=graph.opset_import, ir_version=graph.ir_version)


def _constant_nodes(graph: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Nodes that read constants alone, which are folded away when the graph is loaded."""
    known = {one.name for one in graph.graph.initializer}
    found = []
    for node in graph.graph.node:  # in the order in which they run
        if node.input and all(name in known for name in node.input if name):
            found.append(node)
            known |= set(node.output)
    return found


def _types(graph: onnx.ModelProto) -> dict[str, int]:
    """Element types of all values that the standard operators make."""
    inferred = onnx.shape_inference.infer_shapes(graph).graph
    values = [*inferred.value_info, *inferred.input, *inferred.output]
    return {one.name: one.type.tensor_type.elem_type for one in values}


def _values(graph: onnx.ModelProto, names: list[str], feeds: Arrays) -> Arrays:
    """What the step computes under these names."""
    opened = onnx.ModelProto()
    opened.CopyFrom(graph)
    types = _types(graph)
    present = {one.name for one in opened.graph.output}
    opened.graph.output.extend(
        helper.make_tensor_value_info(name, types[name], None)
        for name in names
        if name not in present
    )
    return dict(zip(names, _session(opened).run(names, feeds), strict=True))


def _session(graph: onnx.ModelProto, *, profile: str = "") -> onnxruntime.InferenceSession:
    """As the server loads it, one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if profile:
        options.enable_profiling = True
        options.profile_file_prefix = profile
    return onnxruntime.InferenceSession(
        graph.SerializeToString(),
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=["SkipLayerNormFusion"],
    )


def _bound(session: onnxruntime.InferenceSession, feeds: Arrays) -> Callable[[], None]:
    """A run that copies nothing: caches grow in place, other outputs stay where they are."""
    binding = session.io_binding()
    sizes = session.run(None, feeds)
    arrays = {name: np.ascontiguousarray(array) for name, array in feeds.items()}
    for name, array in arrays.items():
        binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
    for output, like in zip(session.get_outputs(), sizes, strict=True):
        cache = output.name.removesuffix("_out")
        name = cache if cache in arrays else output.name
        array = arrays.setdefault(name, np.empty_like(like))
        binding.bind_output(output.name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)

    def run(kept: Arrays = arrays) -> None:
        assert kept  # the arrays live as long as the binding
        session.run_with_iobinding(binding)

    return run


def _profile(graph: onnx.ModelProto, feeds: Arrays, repeats: int) -> dict[str, float]:
    """Operators by their share, largest first."""
    with tempfile.TemporaryDirectory() as folder:
        session = _session(graph, profile=f"{folder}/profile")
        run = _bound(session, feeds)
        for _ in range(repeats):
            run()
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    spent: collections.Counter[str] = collections.Counter()
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            spent[event["args"]["op_name"]] += event["dur"]
    whole = sum(spent.values())
    return {name: duration / whole for name, duration in spent.most_common()}


def main() -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.peers.limit", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--bundle", type=Path, default=Path("bundles/en-zh-TW"))
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32, 64])
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    try:
        bundle = open_bundle(options.bundle)
    except BundleError as error:
        print(f"loadtest.peers.limit: {error}", file=sys.stderr)
        return 2
    machine = describe()
    for name, value in machine.items():
        print(f"{name}: {value}")
    print(f"\n{'rows':>5}{'step ms':>10}{'products ms':>13}{'share':>8}  (goal {GOAL:.0%})")
    limits = [measure(bundle, rows, options.repeats) for rows in options.rows]
    for limit in limits:
        print(
            f"{limit.rows:>5}{limit.step_milliseconds:>10.3f}"
            f"{limit.products_milliseconds:>13.3f}{limit.share:>8.0%}"
        )
    for limit in limits:
        shares = ", ".join(f"{name} {share:.1%}" for name, share in limit.profile.items())
        print(f"profile of {limit.rows} rows: {shares}")
    if options.json:
        found = {
            "machine": machine,
            "bundle": str(options.bundle),
            "limits": [asdict(one) | {"share": one.share} for one in limits],
        }
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
