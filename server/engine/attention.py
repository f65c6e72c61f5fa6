"""Where a row looked: the cross-attention's weights, worked out beside the graph for who asks."""

from __future__ import annotations

import numpy as np

from server.engine.request import FloatArray


def attention_weights(keys: FloatArray, queries: FloatArray) -> FloatArray:
    """softmax(q k / sqrt(D)) over the source (Vaswani et al. 2017, section 3.2.1).

    Args:
        keys: float32 [L, H, S, D], of a sequence's source.
        queries: float32 [T, L, H, D], that each of its steps has left.

    Returns:
        float32 [T, L, H, S]; every head's weights sum to 1.
    """
    scores = queries.transpose(1, 2, 0, 3) @ keys.swapaxes(2, 3)  # (L, H, T, S)
    scores /= np.sqrt(np.float32(keys.shape[-1]))
    scores -= scores.max(axis=-1, keepdims=True)
    weights: FloatArray = np.exp(scores, out=scores)
    weights /= weights.sum(axis=-1, keepdims=True)
    return weights.transpose(2, 0, 1, 3)
