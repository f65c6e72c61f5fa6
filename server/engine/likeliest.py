"""The likeliest few tokens of rows, and what turns their logits into log-probabilities.

Done by ONNX Runtime, in a graph without weights: numpy takes three times as long, and keeps the
interpreter from the other threads meanwhile.
"""

from __future__ import annotations

import functools
import math
from importlib import resources
from typing import NamedTuple

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from server.engine.request import FloatArray

GRAPH = resources.files(__package__) / "likeliest.onnx"
"""Written by ``export/likeliest.py``."""
_OUTPUTS = ["highest", "sums", "values", "tokens"]


class Likeliest(NamedTuple):
    """Of B rows, C tokens each."""

    log_sums: FloatArray
    """[B], log(sum(exp(logits)))."""
    values: FloatArray
    """[B, C], the largest logits, best first; equal ones by token."""
    tokens: NDArray[np.int64]
    """[B, C], whose they are."""

    def of(self, rows: NDArray[np.int64]) -> Likeliest:
        """Of these rows, in the shape that they are given in."""
        return Likeliest(self.log_sums[rows], self.values[rows], self.tokens[rows])


def likeliest(logits: FloatArray, maxima: FloatArray, count: int) -> Likeliest:
    """The ``count`` likeliest tokens of each row.

    Args:
        logits: [B, V] in blocks.
        maxima: [B, N], the largest of each block.
        count: C; where there are fewer tokens, they are all.
    """
    count = min(count, logits.shape[1])
    feed = {"logits": logits, "block_maxima": maxima, "count": np.array([count], np.int64)}
    highest, sums, values, tokens = _session().run(_OUTPUTS, feed)
    return Likeliest(_log_sums(highest[:, 0], sums[:, 0]), values, tokens)


def _log_sums(highest: FloatArray, sums: FloatArray) -> FloatArray:
    """log(sum(exp(logits))) of each row, whatever stands beside it.

    One after the other: vectors of rows have an end, where operators round in another way.

    Args:
        highest: [B], each row's largest logit.
        sums: [B], sum(exp(logits - highest)).
    """
    logs = np.fromiter(map(math.log, sums.tolist()), np.float64, len(sums))
    result: FloatArray = (logs + highest).astype(np.float32)
    return result


@functools.cache
def _session() -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        GRAPH.read_bytes(), options, providers=["CPUExecutionProvider"]
    )
