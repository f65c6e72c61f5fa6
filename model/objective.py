"""What training minimises, as one module: translation, and where wanted alignment beside it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.attention import watched
from model.batching import Batch
from model.config import AlignmentSettings
from model.loss import label_smoothed_loss
from model.tokenizer import PAD_ID
from model.transformer import DecoderLayer, Transformer, padding_mask

_LEAST = 1e-9  # a weight of 0 has no logarithm


class Objective(nn.Module):
    """The network with its loss behind it, so that DDP sees one forward pass."""

    def __init__(
        self, network: Transformer, smoothing: float, alignment: AlignmentSettings
    ) -> None:
        """Wrap the network; its parameters stay its own."""
        super().__init__()
        self.network = network
        self._smoothing, self._alignment = smoothing, alignment

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Sums over the batch: the smoothed loss of translation, and that of alignment."""
        mask = padding_mask(batch.source, PAD_ID)
        guided = self._alignment.weight > 0 and batch.links is not None
        layer = self.network.decoder[self._alignment.layer]
        assert isinstance(layer, DecoderLayer)
        with watched([layer.cross] if guided else []) as seen:
            logits = self.network(batch.source, batch.target_in, mask)
        translation = label_smoothed_loss(
            logits.flatten(0, 1), batch.target_out.flatten(), PAD_ID, self._smoothing
        ).smoothed
        if not guided or batch.links is None:
            return translation, translation.new_zeros(())
        weights = seen[0][:, self._alignment.head]  # (B, T, S)
        return translation, alignment_loss(weights, batch.links)


def alignment_loss(weights: Tensor, links: Tensor) -> Tensor:
    """Cross-entropy of attention against the links of each target token, summed.

    Garg et al. 2019, section 4.2, equation 5: a target token with several links shares itself
    out evenly; one without any does not count.

    Args:
        weights: attention of one head, [B, T, S].
        links: int64 [N, 3], row, target place, source place.
    """
    rows, targets, sources = links.unbind(dim=1)
    fan_out = torch.zeros(weights.shape[:2], device=weights.device)
    fan_out.index_put_((rows, targets), torch.ones_like(rows, dtype=torch.float), accumulate=True)
    log = weights[rows, targets, sources].float().clamp_min(_LEAST).log()
    return -(log / fan_out[rows, targets]).sum()
