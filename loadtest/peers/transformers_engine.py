"""The ``transformers`` package as a contender: its own model, its own ``generate``."""

from __future__ import annotations

from typing import Any

import torch
import transformers

from loadtest.peers.contender import Setup
from loadtest.peers.static_engine import StaticEngine
from loadtest.peers.workload import Ids


class TransformersEngine(StaticEngine):
    """Eager PyTorch; rows that have ended are computed along."""

    def __init__(self, setup: Setup) -> None:
        """Read a checkpoint."""
        super().__init__()
        torch.set_num_threads(setup.threads)
        self._network: Any = self.loaded(setup)
        config = self._network.config
        self.eos: int = config.eos_token_id
        self._pad: int = config.pad_token_id
        self._start: int = config.decoder_start_token_id

    def loaded(self, setup: Setup) -> Any:  # noqa: ANN401  the package has no types
        """What has ``generate``."""
        network = transformers.AutoModelForSeq2SeqLM.from_pretrained(
            setup.model, dtype=torch.float32, local_files_only=True, use_safetensors=True
        )
        return network.eval()

    @torch.inference_mode()
    def generate(self, sources: Ids, max_tokens: int) -> Ids:
        """As declared."""
        longest = max(map(len, sources))
        ids = torch.tensor([row + [self._pad] * (longest - len(row)) for row in sources])
        found = self._network.generate(
            input_ids=ids,
            attention_mask=(ids != self._pad).long(),
            do_sample=False,
            num_beams=1,
            max_new_tokens=max_tokens,
            max_length=None,
            decoder_start_token_id=self._start,
            eos_token_id=self.eos,
            pad_token_id=self._pad,
            bad_words_ids=None,
            forced_eos_token_id=None,
        )
        rows: Ids = found[:, 1:].tolist()
        return [row[: row.index(self.eos)] if self.eos in row else row for row in rows]
