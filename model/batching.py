"""Which sentences stand together in a batch, and in what order batches come.

An epoch's plan depends on the seed and the epoch's number alone, so a run that resumes
rebuilds it and goes on at the batch where it stopped.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.tokenizer import BOS_ID, EOS_ID, PAD_ID

Ids = NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class TokenisedPair:
    """Ids of both sides, without begin and end."""

    source: Ids
    target: Ids


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded tensors of one batch, int64."""

    source: Tensor
    """[B, S], each row ends in EOS."""
    target_in: Tensor
    """[B, T], each row starts with BOS."""
    target_out: Tensor
    """[B, T], ``target_in`` one step ahead, each row ends in EOS."""

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        return Batch(self.source.to(device), self.target_in.to(device), self.target_out.to(device))


@dataclass(frozen=True, slots=True)
class WeightedSource:
    """Pairs and how many times an epoch shows each of them (0.1 = every tenth)."""

    pairs: list[TokenisedPair]
    weight: float


def plan_epoch(
    sources: list[WeightedSource], batch_tokens: int, seed: int, epoch: int
) -> list[list[TokenisedPair]]:
    """The batches of an epoch, sentences of like length together, in random order.

    The cost of a batch is what is computed, padding included: rows times the longest side
    (begin or end counted), and is at most ``batch_tokens`` for every batch of two rows or more.
    """
    random = np.random.default_rng((seed, epoch))
    chosen: list[TokenisedPair] = []
    for source in sources:
        whole, part = divmod(source.weight, 1.0)
        chosen.extend(source.pairs * int(whole))
        extra = random.choice(len(source.pairs), round(part * len(source.pairs)), replace=False)
        chosen.extend(source.pairs[index] for index in extra)
    # Random order first: the sort is stable, so equal lengths come mixed.
    order = random.permutation(len(chosen))
    chosen = [chosen[index] for index in order]
    chosen.sort(key=lambda pair: (max(pair.source.size, pair.target.size), pair.target.size))
    batches: list[list[TokenisedPair]] = []
    for pair in chosen:
        longest = max(pair.source.size, pair.target.size) + 1
        if batches and (len(batches[-1]) + 1) * longest <= batch_tokens:
            batches[-1].append(pair)
        else:
            batches.append([pair])
    return [batches[index] for index in random.permutation(len(batches))]


def collate(pairs: list[TokenisedPair]) -> Batch:
    """Pad the pairs of a batch to its longest and add begin and end."""
    return Batch(
        source=_pad([[*pair.source, EOS_ID] for pair in pairs]),
        target_in=_pad([[BOS_ID, *pair.target] for pair in pairs]),
        target_out=_pad([[*pair.target, EOS_ID] for pair in pairs]),
    )


def _pad(rows: list[list[int]]) -> Tensor:
    table = np.full((len(rows), max(map(len, rows))), PAD_ID, dtype=np.int64)
    for index, row in enumerate(rows):
        table[index, : len(row)] = row
    return torch.from_numpy(table)
