"""Where a row looked: the cross-attention's weights, worked out beside the graph for who asks."""

from __future__ import annotations

import numpy as np

from server.engine.request import FloatArray


def attention_weights(keys: FloatArray, queries: FloatArray) -> FloatArray:
    """softmax(q k / sqrt(D)) over the source (Vaswani et al. 2017, section 3.2.1).

    Args:
        keys: float32 [L, H, S, D], of the row's source.
        queries: float32 [L, H, D], that the last step has left.

    Returns:
        float32 [L, H, S]; every head's weights sum to 1.
    """
    scores = (keys @ queries[..., None])[..., 0] / np.sqrt(np.float32(keys.shape[-1]))
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    normalised: FloatArray = weights / weights.sum(axis=-1, keepdims=True)
    return normalised
