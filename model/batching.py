"""Which sentences stand together in a batch, and in what order batches come.

An epoch's plan depends on the seed and the epoch's number alone, so a run that resumes
rebuilds it and goes on at the batch where it stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    links: NDArray[np.uint16] | None = None
    """Word alignment [N, 2]: place in the source, place in the target; None if not made."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded tensors of one batch, int64."""

    source: Tensor
    """[B, S], each row ends in EOS."""
    target_in: Tensor
    """[B, T], each row starts with BOS."""
    target_out: Tensor
    """[B, T], ``target_in`` one step ahead, each row ends in EOS."""
    links: Tensor | None = None
    """[N, 3]: row, target place, source place of each link; None if any row has none made."""

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        links = None if self.links is None else self.links.to(device)
        return Batch(
            self.source.to(device), self.target_in.to(device), self.target_out.to(device), links
        )


@dataclass(frozen=True, slots=True)
class WeightedSource:
    """Pairs and how many times an epoch shows each of them (0.1 = every tenth)."""

    pairs: Sequence[TokenisedPair]
    weight: float
    tag: int | None = None
    """Id that stands before some of its sources: the domain."""

    def lengths(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Tokens of each pair's sides; those that know them by heart are asked."""
        known = getattr(self.pairs, "lengths", None)
        if known is not None:
            found: tuple[NDArray[np.int32], NDArray[np.int32]] = known()
            return found
        counts = [(pair.source.size, pair.target.size) for pair in self.pairs]
        table = np.array(counts, np.int32).reshape(-1, 2)
        return table[:, 0], table[:, 1]


class EpochPlan(Sequence[list[TokenisedPair]]):
    """The batches of an epoch; pairs are fetched when a batch is asked for."""

    def __init__(
        self, sources: list[WeightedSource], places: NDArray[np.int64], borders: list[int]
    ) -> None:
        """Take up the plan.

        Args:
            sources: where the pairs are.
            places: int64 [N, 2], source and pair of each sentence, batch after batch.
            borders: where each batch begins in ``places``, and its end.
        """
        self._sources, self._places, self._borders = sources, places, borders
        self._order: NDArray[np.int64] = np.arange(len(borders) - 1)

    def shuffle(self, random: np.random.Generator) -> None:
        """Put the batches in random order."""
        self._order = random.permutation(len(self))

    def __len__(self) -> int:
        """How many batches."""
        return len(self._borders) - 1

    def __getitem__(self, index):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN204
        """The pairs of a batch."""
        return [self._sources[source].pairs[pair] for source, pair in self.places(index)]

    def places(self, index: int) -> list[tuple[int, int]]:
        """Source and pair of each sentence of a batch."""
        batch = int(self._order[index])
        rows = self._places[self._borders[batch] : self._borders[batch + 1]]
        return [(source, pair) for source, pair in rows.tolist()]


def plan_epoch(
    sources: list[WeightedSource], batch_tokens: int, seed: int, epoch: int
) -> EpochPlan:
    """The batches of an epoch, sentences of like length together, in random order.

    The cost of a batch is what is computed, padding included: rows times the longest side
    (begin or end counted), and is at most ``batch_tokens`` for every batch of two rows or more.
    """
    random = np.random.default_rng((seed, epoch))
    chosen = []
    for number, source in enumerate(sources):
        whole, part = divmod(source.weight, 1.0)
        count = len(source.pairs)
        extra = random.choice(count, round(part * count), replace=False)
        pairs = np.concatenate([np.tile(np.arange(count), int(whole)), extra])
        chosen.append(np.stack([np.full_like(pairs, number), pairs], axis=1))
    places = np.concatenate(chosen)
    # Random order first: the sort is stable, so equal lengths come mixed.
    places = places[random.permutation(len(places))]
    ours, theirs = _lengths(sources, places)
    longest = np.maximum(ours, theirs)
    order = np.lexsort((theirs, longest))
    plan = EpochPlan(sources, places[order], _borders(longest[order] + 1, batch_tokens))
    plan.shuffle(random)
    return plan


def _lengths(
    sources: list[WeightedSource], places: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    ours, theirs = np.zeros(len(places), np.int32), np.zeros(len(places), np.int32)
    for number, source in enumerate(sources):
        here = places[:, 0] == number
        if here.any():
            source_lengths, target_lengths = source.lengths()
            pairs = places[here, 1]
            ours[here], theirs[here] = source_lengths[pairs], target_lengths[pairs]
    return ours, theirs


def _borders(lengths: NDArray[np.int32], batch_tokens: int) -> list[int]:
    """Where batches begin in rows sorted by length, so that each is as large as it may be."""
    borders = [0]
    while borders[-1] < len(lengths):
        start = borders[-1]
        window = lengths[start : start + max(1, batch_tokens // int(lengths[start]))]
        cost = np.arange(1, len(window) + 1) * window  # rising: it is sorted
        borders.append(start + max(1, int(np.searchsorted(cost, batch_tokens, side="right"))))
    return borders


def collate(pairs: Sequence[TokenisedPair]) -> Batch:
    """Pad the pairs of a batch to its longest and add begin and end."""
    return Batch(
        source=_pad([[*pair.source, EOS_ID] for pair in pairs]),
        target_in=_pad([[BOS_ID, *pair.target] for pair in pairs]),
        target_out=_pad([[*pair.target, EOS_ID] for pair in pairs]),
        links=_links(pairs),
    )


def _links(pairs: Sequence[TokenisedPair]) -> Tensor | None:
    tables = []
    for row, pair in enumerate(pairs):
        if pair.links is None:
            return None
        # The target's token t is the output of step t.
        source, target = pair.links[:, 0].astype(np.int64), pair.links[:, 1].astype(np.int64)
        tables.append(np.stack([np.full_like(source, row), target, source], axis=1))
    return torch.from_numpy(np.concatenate(tables))


def _pad(rows: list[list[int]]) -> Tensor:
    table = np.full((len(rows), max(map(len, rows))), PAD_ID, dtype=np.int64)
    for index, row in enumerate(rows):
        table[index, : len(row)] = row
    return torch.from_numpy(table)
