"""Label-smoothed cross-entropy (Vaswani et al. 2017, section 5.4; Szegedy et al. 2016)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Loss:
    """Sums over the tokens that count; divide by ``tokens`` for means."""

    smoothed: Tensor
    """What is minimised: cross-entropy against the smoothed distribution, a scalar."""
    negative_log_likelihood: Tensor
    """Cross-entropy against the true tokens, a scalar; exp of its mean is perplexity."""
    tokens: int


def label_smoothed_loss(logits: Tensor, labels: Tensor, pad_id: int, smoothing: float) -> Loss:
    """Cross-entropy against q: q(true) = 1 - s and q(other) = s / (V - 1).

    PyTorch's ``label_smoothing=`` gives the true class 1 - s + s / V instead.

    Args:
        logits: float [N, V].
        labels: int64 [N]; positions equal to ``pad_id`` do not count.
        pad_id: the padding label.
        smoothing: s, in [0, 1).
    """
    counts = labels != pad_id
    apply: Any = _SmoothedCrossEntropy.apply  # torch leaves it untyped
    smoothed, likelihood = apply(logits, labels, counts, smoothing)
    return Loss(smoothed, likelihood, tokens=int(counts.sum()))


class _SmoothedCrossEntropy(torch.autograd.Function):
    """Both sums, with the gradient p - q made in place of the log-probabilities.

    Autograd's own chain keeps four more tensors of [N, V]; on a CPU that was a fifth of a step.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        logits: Tensor,
        labels: Tensor,
        counts: Tensor,
        smoothing: float,
    ) -> tuple[Tensor, Tensor]:
        log_probs = logits.log_softmax(dim=-1, dtype=torch.float32)  # (N, V)
        true = log_probs.gather(-1, labels[:, None]).squeeze(-1)
        other = smoothing / (logits.shape[-1] - 1)
        rows = (1.0 - smoothing) * true + other * (log_probs.sum(dim=-1) - true)
        gradient = log_probs.exp_().sub_(other)
        correction = torch.full_like(true, other - (1.0 - smoothing))
        gradient.scatter_add_(-1, labels[:, None], correction[:, None])
        gradient.mul_(counts[:, None])
        ctx.save_for_backward(gradient.to(logits.dtype))
        weights = counts.float()
        likelihood = -(true * weights).sum()
        ctx.mark_non_differentiable(likelihood)
        return -(rows * weights).sum(), likelihood

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor, None, None, None]:  # noqa: ANN401
        (gradient,) = ctx.saved_tensors
        return gradient * outputs[0], None, None, None
