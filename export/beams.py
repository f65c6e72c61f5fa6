"""The graphs that beam search asks: no weights, one of each for all models.

    python -m export.beams

writes ``server/engine/log_sums.onnx`` and ``branching.onnx``, which are committed; a test sees that
they are these.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx

from export.builder import BOOL, DOUBLE, FLOAT, INT64, GraphBuilder
from server.engine import branching, log_sums
from server.engine.logits import BLOCK
from server.engine.provider import weightless_graph

_INPUTS: dict[str, tuple[int, list[str | int]]] = {
    "logits": (FLOAT, ["B", "V"]),
    "block_maxima": (FLOAT, ["B", "N"]),
    "slots": (INT64, ["G", "K"]),
    "before": (DOUBLE, ["G", "K"]),
    "log_sums": (DOUBLE, ["G", "K"]),
    "last": (INT64, ["G", 1]),
    "end": (INT64, [1]),
}
_OUTPUTS: dict[str, tuple[int, list[str | int]]] = {
    "ended": (INT64, ["G", "K"]),
    "found": (INT64, [2, "G", "C"]),
    "found_scores": (DOUBLE, [2, "G", "C"]),
    "next": (INT64, [5, "G", "K"]),
    "next_scores": (DOUBLE, [2, "G", "K"]),
}
"""Kind and shape; what is in them says ``server/engine/branching.py``."""


def log_sums_graph() -> onnx.ModelProto:
    """Logits [B, V] and the largest of each block to the largest of a row and sum(exp).

    The sum is that of exp(logit - largest), which the largest token's softmax is one over: that
    operator goes over a row once for the sum, alone, and needs no array in between. The logarithm
    of a sum is not taken here: the operator rounds rows at the end of a batch, which fill no
    vector, in another way than those before.
    """
    graph = GraphBuilder()
    logits = graph.input("logits", FLOAT, ["B", "V"])
    maxima = graph.input("block_maxima", FLOAT, ["B", "N"])
    last = graph.integers(1)
    graph.node("ReduceMax", [maxima, last], keepdims=1, output="highest")
    graph.output("highest", FLOAT, ["B", 1])
    shares = graph.reshape(graph.node("Softmax", [logits], axis=1), 0, -1, BLOCK)
    block = graph.node("ArgMax", [maxima], axis=1, keepdims=1)
    there = graph.node("GatherND", [shares, block], batch_dims=1)
    largest = graph.node("ReduceMax", [there, last], keepdims=1)
    graph.node("Reciprocal", [largest], output="sums")
    graph.output("sums", FLOAT, ["B", 1])
    return graph.model("log_sums")


def branching_graph() -> onnx.ModelProto:
    """A step of G beams of K hypotheses: the 2K likeliest extensions, and who goes on where.

    All that Python would hold the interpreter's lock for. Equal extensions come in the order of
    their parents and tokens, which is what TopK promises and why the blocks are put in order: no
    extension is passed over for one that is not before it. Totals are added up in float64.
    """
    graph = GraphBuilder()
    for name, of_name in _INPUTS.items():
        graph.input(name, *of_name)
    _Branching(graph).build()
    return graph.model("branching")


class _Branching:
    """The parts of the graph; ``C`` = 2K candidates of a beam."""

    def __init__(self, graph: GraphBuilder) -> None:
        self.graph = graph
        self.beams = graph.node("Shape", ["slots"], start=1)  # K
        self.count = graph.node("Add", [self.beams, self.beams])
        self.block = graph.integers(BLOCK)

    def build(self) -> None:
        """All nodes and outputs."""
        graph = self.graph
        totals, parents, tokens = self._extensions()
        own = graph.node("GatherElements", ["before", parents], axis=1)
        log_probs = graph.node("Sub", [totals, own])
        there = graph.node("Not", [graph.node("IsInf", [totals])])
        ends = graph.node("Cast", [graph.node("Equal", [tokens, "end"])], to=INT64)
        ends = graph.node("Cast", [graph.node("Max", [ends, "last"])], to=BOOL)
        ended = graph.node("And", [ends, there])
        first = graph.integers(0)
        kept = graph.node("Slice", [ended, first, self.beams, graph.integers(1)])
        going = graph.node("And", [graph.node("Not", [ends]), there])
        chosen = self._first_of(going, self.beams)
        of_chosen = {
            name: graph.node("GatherElements", [values, chosen], axis=1)
            for name, values in (
                ("going", going),
                ("parents", parents),
                ("tokens", tokens),
                ("totals", totals),
                ("log_probs", log_probs),
            )
        }
        slots, copied = self._places(of_chosen["parents"], of_chosen["going"])
        self._output("ended", self._as_integers(kept))
        self._output("found", self._stacked(parents, tokens))
        self._output("found_scores", self._stacked(totals, log_probs))
        going = self._as_integers(of_chosen["going"])
        stacked = of_chosen["parents"], of_chosen["tokens"], slots, copied, going
        self._output("next", self._stacked(*stacked))
        self._output("next_scores", self._stacked(of_chosen["totals"], of_chosen["log_probs"]))

    def _extensions(self) -> tuple[str, str, str]:
        """Totals, parents and tokens [G, C]; what is missing is -inf.

        The largest of a block says what its best extension comes to: those of the C best blocks
        are the only ones that can be among the C best of all.
        """
        graph = self.graph
        offsets = graph.node("Sub", ["before", "log_sums"])
        maxima = graph.node("Cast", [graph.node("Gather", ["block_maxima", "slots"])], to=DOUBLE)
        best = graph.node("Add", [maxima, graph.node("Unsqueeze", [offsets, graph.integers(2)])])
        best = graph.reshape(best, 0, -1)  # G, K * N
        few = graph.node("Min", [self.count, graph.node("Shape", [best], start=1)])
        found = graph.nodes("TopK", [best, few], 2)[1]
        found = graph.nodes("TopK", [found, few], 2, largest=0)[0]
        width = graph.node("Shape", ["block_maxima"], start=1)  # N
        parents = graph.node("Div", [found, width])
        blocks = graph.node("Mod", [found, width])
        of_blocks = graph.node("GatherElements", ["slots", parents], axis=1)
        places = graph.node("Add", [graph.node("Mul", [of_blocks, width]), blocks])
        values = graph.node("Gather", [graph.reshape("logits", -1, BLOCK), places])
        own = graph.node("GatherElements", [offsets, parents], axis=1)
        own = graph.node("Unsqueeze", [own, graph.integers(2)])
        totals = graph.node("Add", [graph.node("Cast", [values], to=DOUBLE), own])
        totals, at = graph.nodes("TopK", [graph.reshape(totals, 0, -1), self.count], 2)
        block = graph.node("Div", [at, self.block])
        tokens = graph.node("GatherElements", [blocks, block], axis=1)
        tokens = graph.node("Mul", [tokens, self.block])
        tokens = graph.node("Add", [tokens, graph.node("Mod", [at, self.block])])
        return totals, graph.node("GatherElements", [parents, block], axis=1), tokens

    def _places(self, parents: str, going: str) -> tuple[str, str]:
        """The slot of each child [G, K], and whether it needs a parent's cache.

        A parent's first child stays where the parent was; others take the slots of those without
        children. A child that is none only gets a slot.
        """
        graph, last = self.graph, self.graph.integers(2)
        one = graph.node("Unsqueeze", [parents, last])
        other = graph.node("Unsqueeze", [parents, graph.integers(1)])
        same = self._as_integers(graph.node("Equal", [one, other]))
        earlier = graph.node("Trilu", [same, graph.integers(-1)], upper=0)
        earlier = graph.node("ReduceMax", [earlier, last], keepdims=0)
        later = graph.node("Cast", [earlier], to=BOOL)
        stays = graph.node("And", [going, graph.node("Not", [later])])
        # Of each place, whether a child stays there; row by row as many are free as move.
        ranks = graph.node("Range", [self._scalar(0), self._k(), self._scalar(1)])
        at = graph.node("Equal", [other, graph.node("Unsqueeze", [ranks, graph.integers(0, 2)])])
        at = graph.node("And", [at, graph.node("Unsqueeze", [stays, graph.integers(1)])])
        taken = graph.node("ReduceMax", [self._as_integers(at), last], keepdims=0)
        free = graph.nodes("TopK", [taken, self.beams], 2, largest=0)[1]
        moves = graph.node("Not", [stays])
        number = graph.node("CumSum", [self._as_integers(moves), self._scalar(1)], exclusive=1)
        moved = graph.node("GatherElements", [free, number], axis=1)
        places = graph.node("Where", [stays, parents, moved])
        slots = graph.node("GatherElements", ["slots", places], axis=1)
        copied = graph.node("And", [going, moves])
        return slots, self._as_integers(copied)

    def _first_of(self, flags: str, count: str) -> str:
        """The places of the first ``count`` that are true, then of those that are not."""
        return self.graph.nodes("TopK", [self._as_integers(flags), count], 2)[1]

    def _as_integers(self, flags: str) -> str:
        return self.graph.node("Cast", [flags], to=INT64)

    def _scalar(self, value: int) -> str:
        return self.graph.constant(np.array(value, np.int64))

    def _k(self) -> str:
        return self.graph.node("Squeeze", [self.beams])

    def _stacked(self, *parts: str) -> str:
        first = self.graph.integers(0)
        rows = [self.graph.node("Unsqueeze", [part, first]) for part in parts]
        return self.graph.node("Concat", rows, axis=0)

    def _output(self, name: str, value: str) -> None:
        """Let a value be an output under a name of its own."""
        self.graph.node("Identity", [value], output=name)
        self.graph.output(name, *_OUTPUTS[name])


def main() -> int:
    """Write them."""
    for name, graph in (
        (log_sums.GRAPH, log_sums_graph()),
        (branching.GRAPH, branching_graph()),
    ):
        Path(str(weightless_graph(name))).write_bytes(graph.SerializeToString())
    return 0


if __name__ == "__main__":
    sys.exit(main())
