"""PyTorch as a contender: the network in eager mode, as ``transformers``' ``generate`` runs one."""

from __future__ import annotations

import torch
from torch import Tensor

from loadtest.peers.contender import Setup
from loadtest.peers.static_engine import StaticEngine
from loadtest.peers.workload import Ids
from model.checkpoint import load_weights
from model.tokenizer import BOS_ID, EOS_ID, PAD_ID
from model.transformer import KeyValue, padding_mask


class TorchEngine(StaticEngine):
    """Keys and values are concatenated at every step; rows that have ended are computed along."""

    def __init__(self, setup: Setup) -> None:
        """Read the weights."""
        super().__init__()
        torch.set_num_threads(setup.threads)
        self._device = torch.device(setup.device)
        floats = torch.float16 if setup.precision == "float16" else torch.float32
        self._model = load_weights(setup.model)[0].to(self._device, floats)

    @torch.inference_mode()
    def generate(self, sources: Ids, max_tokens: int) -> Ids:
        """As declared."""
        longest = max(map(len, sources))
        padded = [ids + [PAD_ID] * (longest - len(ids)) for ids in sources]
        source = torch.tensor(padded, device=self._device)
        mask = padding_mask(source, PAD_ID)
        cross = self._model.cross_keys_values(self._model.encode(source, mask))
        tokens = torch.full((len(sources), 1), BOS_ID, device=self._device)
        ended = torch.zeros(len(sources), dtype=torch.bool, device=self._device)
        cache: list[KeyValue] | None = None
        steps: list[Tensor] = []
        for _ in range(max_tokens):
            logits, cache = self._model.decode(tokens, cross, mask, cache)
            tokens = logits[:, -1].argmax(dim=-1, keepdim=True).masked_fill(ended[:, None], PAD_ID)
            steps.append(tokens)
            ended |= tokens[:, 0] == EOS_ID
            if ended.all():
                break
        rows = torch.cat(steps, dim=1).tolist()
        return [row[: row.index(EOS_ID)] if EOS_ID in row else row for row in rows]
