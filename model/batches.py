"""The stream of batches that a run takes, the same however often it is stopped."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from model.batching import Batch, EpochPlan, TokenisedPair, WeightedSource, collate, plan_epoch
from model.checkpoint import Position
from model.config import ConfigError, TrainingSettings
from model.tokenizer import Tokenizer


class BatchStream:
    """Batches by position. What is drawn for a batch depends on seed, epoch and its place alone."""

    def __init__(
        self,
        sources: list[WeightedSource],
        settings: TrainingSettings,
        tokenizers: tuple[Tokenizer, Tokenizer],
        max_positions: int,
    ) -> None:
        """Begin nowhere; every call says where it is."""
        self._sources, self._settings, self._tokenizers = sources, settings, tokenizers
        self._longest = max_positions - 1  # begin or end takes a position
        self._tagged = any(source.tag is not None for source in sources)
        self._plan: tuple[int, EpochPlan] | None = None

    def take(
        self, position: Position, count: int, share: slice = slice(None)
    ) -> tuple[Position, list[Batch]]:
        """The next ``count`` batches.

        Args:
            position: where the run is.
            count: how far it moves, in batches.
            share: which of them are wanted; the others are not made.

        Returns:
            The position after them, and the batches wanted.

        Raises:
            ConfigError: an epoch has no pair.
        """
        places = []
        for _ in range(count):
            if position.batch >= len(self._planned(position.epoch)):
                position = dataclasses.replace(position, epoch=position.epoch + 1, batch=0)
            places.append((position.epoch, position.batch))
            position = dataclasses.replace(position, batch=position.batch + 1)
        return position, [self._batch(*place) for place in places[share]]

    def _planned(self, epoch: int) -> EpochPlan:
        """The epoch's batches, planned once."""
        if self._plan is None or self._plan[0] != epoch:
            settings = self._settings
            plan = plan_epoch(self._sources, settings.batch_tokens, settings.seed, epoch)
            if not len(plan):
                msg = "corpus.sources: with these weights an epoch has no pair"
                raise ConfigError(msg)
            self._plan = epoch, plan
        return self._plan[1]

    def _batch(self, epoch: int, place: int) -> Batch:
        plan = self._planned(epoch)
        pairs: Sequence[TokenisedPair] = plan[place]
        random = np.random.default_rng((self._settings.seed, epoch, place, 1))
        settings = self._settings
        if settings.sampling_alpha and random.random() < settings.sampling_share:
            pairs = self._sampled(pairs, seed=int(random.integers(1 << 31)))
        if self._tagged:
            sources = [source for source, _ in plan.places(place)]
            pairs = self._with_tags(pairs, sources, random)
        return collate(pairs)

    def _sampled(self, pairs: Sequence[TokenisedPair], seed: int) -> list[TokenisedPair]:
        """The same sentences in other subwords; those that get too long stay as they are."""
        alpha = self._settings.sampling_alpha
        sides = [
            tokenizer.resampled([getattr(pair, side) for pair in pairs], alpha, seed)
            for tokenizer, side in zip(self._tokenizers, ("source", "target"), strict=True)
        ]
        drawn = [TokenisedPair(one, other) for one, other in zip(*sides, strict=True)]
        return [
            new if max(new.source.size, new.target.size) < self._longest else
            TokenisedPair(old.source, old.target)
            for old, new in zip(pairs, drawn, strict=True)
        ]  # fmt: skip

    def _with_tags(
        self, pairs: Sequence[TokenisedPair], sources: list[int], random: np.random.Generator
    ) -> list[TokenisedPair]:
        """Some of the sentences of tagged sources behind their tag."""
        wanted = random.random(len(pairs)) < self._settings.tag_share
        result = []
        for pair, number, tagged in zip(pairs, sources, wanted.tolist(), strict=True):
            tag = self._sources[number].tag
            if tag is None or not tagged or pair.source.size >= self._longest:
                result.append(pair)
                continue
            links = pair.links
            if links is not None:
                links = links + np.array([1, 0], np.uint16)  # every source place moves on
            source = np.concatenate([np.array([tag], np.uint16), pair.source])
            result.append(TokenisedPair(source, pair.target, links))
        return result
