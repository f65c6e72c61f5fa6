"""The graph that beam search asks for its candidates: no weights, one for all models.

    python -m export.likeliest

writes ``server/engine/likeliest.onnx``, which is committed; a test sees that it is this one.
"""

from __future__ import annotations

import sys
from pathlib import Path

import onnx

from export.builder import FLOAT, INT64, GraphBuilder
from server.engine.likeliest import GRAPH
from server.engine.logits import BLOCK


def likeliest_graph() -> onnx.ModelProto:
    """Logits [B, V] and the largest of each block to sum(exp) and the largest few of each row.

    The logarithm of a sum is not taken here: the operator rounds rows at the end of a batch, which
    fill no vector, in another way than those before.

    Equal ones come in the order of their tokens, which is what the operators promise and why the
    blocks are put in order: no token is passed over for one that is not before it.
    """
    graph = GraphBuilder()
    logits = graph.input("logits", FLOAT, ["B", "V"])
    maxima = graph.input("block_maxima", FLOAT, ["B", "N"])
    count = graph.input("count", INT64, [1])
    few = graph.node("Min", [count, graph.node("Shape", [maxima], start=1)])  # of blocks
    last = graph.integers(1)
    graph.node("ReduceMax", [maxima, last], keepdims=1, output="highest")
    graph.output("highest", FLOAT, ["B", 1])
    # Much quicker than ReduceLogSumExp.
    powers = graph.node("Exp", [graph.node("Sub", [logits, "highest"])])
    graph.node("ReduceSum", [powers, last], keepdims=1, output="sums")
    graph.output("sums", FLOAT, ["B", 1])
    _, found = graph.nodes("TopK", [maxima, few], 2)
    blocks, _ = graph.nodes("TopK", [found, few], 2, largest=0)
    places = graph.node("Unsqueeze", [blocks, graph.integers(-1)])
    values = graph.node("GatherND", [graph.reshape(logits, 0, -1, BLOCK), places], batch_dims=1)
    graph.nodes("TopK", [graph.reshape(values, 0, -1), count], ["values", "places"])
    graph.output("values", FLOAT, ["B", "C"])
    width = graph.integers(BLOCK)
    at = graph.node("Div", ["places", width])
    first = graph.node("Mul", [graph.node("GatherElements", [blocks, at], axis=1), width])
    inside = graph.node("Mod", ["places", width])
    graph.node("Add", [first, inside], output="tokens")
    graph.output("tokens", INT64, ["B", "C"])
    return graph.model("likeliest")


def main() -> int:
    """Write it."""
    Path(str(GRAPH)).write_bytes(likeliest_graph().SerializeToString())
    return 0


if __name__ == "__main__":
    sys.exit(main())
