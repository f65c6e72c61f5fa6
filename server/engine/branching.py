"""A step of many beams at once: their likeliest extensions, which end, which go on, and where.

Done by ONNX Runtime, in a graph without weights: two dozen calls of numpy on arrays as small as
these keep the interpreter from the other threads for longer than the work takes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from server.engine.provider import weightless_session
from server.engine.request import FloatArray

Ints = NDArray[np.int64]
Doubles = NDArray[np.float64]

GRAPH = "branching.onnx"
"""Written by ``export/beams.py``."""
_OUTPUTS = ["ended", "found", "found_scores", "next", "next_scores"]


class Branching(NamedTuple):
    """What became of G beams of K hypotheses."""

    ended: Ints
    """[G, K], which of the K likeliest extensions are ends; 0 or 1."""
    found: Ints
    """[2, G, 2K], parent (its rank in the beam) and token of the likeliest extensions, best first;
    equal ones by parent and token. Half of them may be ends, and there are still enough to go on
    with."""
    found_scores: Doubles
    """[2, G, 2K], log-probability of the whole, -inf for what is missing, and of its token."""
    going: Ints
    """[5, G, K], parent, token, slot of those that go on, whether the slot needs the parent's
    cache, and whether there is one: if not, it only has a slot."""
    going_scores: Doubles
    """[2, G, K], as ``found_scores``."""


class Step(NamedTuple):
    """What G beams of K hypotheses are asked."""

    slots: Ints
    """[G, K], rows of the logits, the likeliest hypothesis first."""
    before: Doubles
    """[G, K], log-probability of each hypothesis; -inf for none."""
    log_sums: Doubles
    """[G, K], log(sum(exp(logits))) of the model's own."""
    last: Ints
    """[G, 1], 1 where all extensions end, for there may be no more tokens."""


def branch(logits: FloatArray, maxima: FloatArray, step: Step, end: int) -> Branching:
    """Take a step.

    Args:
        logits: [B, V] in blocks; what may not be chosen is -inf.
        maxima: [B, N], the largest of each block.
        step: the beams.
        end: the token that ends a text.
    """
    feed = {"logits": logits, "block_maxima": maxima, "end": np.array([end])} | step._asdict()
    return Branching(*weightless_session(GRAPH).run(_OUTPUTS, feed))
