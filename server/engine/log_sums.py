"""log(sum(exp(logits))) of rows: what turns their logits into log-probabilities.

Done by ONNX Runtime, in a graph without weights: numpy takes three times as long, and keeps the
interpreter from the other threads meanwhile.
"""

from __future__ import annotations

import math

import numpy as np

from server.engine.provider import weightless_session
from server.engine.request import FloatArray

GRAPH = "log_sums.onnx"
"""Written by ``export/beams.py``."""
_OUTPUTS = ["highest", "sums"]


def log_sums(logits: FloatArray, maxima: FloatArray) -> FloatArray:
    """log(sum(exp(logits))) of each row [B], whatever stands beside it.

    Args:
        logits: [B, V] in blocks.
        maxima: [B, N], the largest of each block.
    """
    feed = {"logits": logits, "block_maxima": maxima}
    highest, sums = weightless_session(GRAPH).run(_OUTPUTS, feed)
    return _log_sums(highest[:, 0], sums[:, 0])


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
