"""What attention adds to its scores by how far a key is from the query, as nodes.

A network of relative positions (Shaw et al. 2018; T5, Raffel et al. 2020, section 2.1) has it in
place of positions in the embedding. The same for all layers, it is made once a run.
"""

from __future__ import annotations

import numpy as np

from export.builder import INT64, GraphBuilder


def encoder_bias(graph: GraphBuilder, table: str, length: str) -> str:
    """[1, H, S, S] of a table [2P - 1, H]; ``length`` [1] is S."""
    zero, one = (graph.constant(np.array(value, np.int64)) for value in (0, 1))
    places = graph.node("Range", [zero, graph.node("Squeeze", [length]), one])
    keys = graph.node("Unsqueeze", [places, graph.integers(0)])
    queries = graph.node("Unsqueeze", [places, graph.integers(1)])
    size = graph.node("Shape", [table], start=0, end=1)
    middle = graph.node("Div", [size, graph.integers(2)])
    steps = graph.node("Add", [graph.node("Sub", [keys, queries]), middle])  # S, S
    found = graph.node("Gather", [table, steps])  # S, S, H
    turned = graph.node("Transpose", [found], perm=[2, 0, 1])
    return graph.node("Unsqueeze", [turned, graph.integers(0)])


def decoder_bias(graph: GraphBuilder, table: str, positions: str, total: str) -> str:
    """[B, H, 1, T] of a table [P, H] for queries at ``positions`` int32 [B]; T is ``total``.

    What comes after a row's position is not looked at, so its value is whatever is at hand.
    """
    zero, one = (graph.constant(np.array(value, np.int64)) for value in (0, 1))
    keys = graph.node("Range", [zero, graph.node("Cast", [total], to=INT64), one])
    queries = graph.node("Cast", [positions], to=INT64)
    queries = graph.node("Unsqueeze", [queries, graph.integers(1)])
    steps = graph.node("Sub", [queries, keys])  # B, T
    steps = graph.node("Max", [steps, zero])
    found = graph.node("Gather", [table, steps])  # B, T, H
    turned = graph.node("Transpose", [found], perm=[0, 2, 1])
    return graph.node("Unsqueeze", [turned, graph.integers(2)])
