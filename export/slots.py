"""The graph that copies rows of keys and values on the device, so that none passes the host.

On a CPU numpy does this. On a GPU it is one run: who leaves, which hypothesis goes on, and what the
encoder has found all move at once, since everything is read before anything is written.
"""

from __future__ import annotations

import numpy as np
import onnx

from export.builder import INT64, GraphBuilder
from export.graphs import KINDS, CacheType


def slots_graph(cache: CacheType) -> onnx.ModelProto:
    """Rows of one array [2L, N, H, P, D] to places in another, with longer rows or equal ones.

    ``cache`` [2L, M, H, Q, D] is input and output, bound to the same memory; ``rows`` [K] says what
    is read, ``places`` [2L, K, 2] where it goes, and ``pads`` [10] holds Q - P, the zeros behind
    each row.
    """
    graph, kind = GraphBuilder(), KINDS[cache]
    source = graph.input("source", kind, ["A", "N", "H", "P", "D"])
    rows = graph.input("rows", INT64, ["K"])
    pads = graph.input("pads", INT64, [10])
    places = graph.input("places", INT64, ["A", "K", 2])
    into = graph.input("cache", kind, ["A", "M", "H", "Q", "D"])
    read = graph.node("Gather", [source, rows], axis=1)
    zero = graph.constant(np.zeros((), onnx.helper.tensor_dtype_to_np_dtype(kind)))
    padded = graph.node("Pad", [read, pads, zero])
    graph.node("ScatterND", [into, places, padded], output="cache_out")
    graph.output("cache_out", kind, ["A", "M", "H", "Q", "D"])
    return graph.model("slots")
