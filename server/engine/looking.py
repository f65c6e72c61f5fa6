"""Where sequences that asked for it have looked: noted at every step, worked out once at the end.

A step leaves its queries, which are copied for all rows that asked in one stroke. The source's
keys are kept from the start, so that nothing hangs on who has the slot in the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from server.engine.attention import attention_weights
from server.engine.beam import Beam
from server.engine.model_runner import ModelRunner
from server.engine.request import FloatArray, Sequence


@dataclass(slots=True)
class _Look:
    """What is kept of one sequence until it ends."""

    keys: FloatArray
    """[L, H, S, D]"""
    queries: list[FloatArray] = field(default_factory=list)
    """[L, H, D] a step; none of one that branches."""


class Looking:
    """The attention of one engine's sequences. Most ask for none, and cost nothing."""

    def __init__(self, runner: ModelRunner) -> None:
        """Set the network that looks."""
        self._runner = runner
        self._looks: dict[int, _Look] = {}

    def start(self, sequence: Sequence) -> None:
        """Take up a sequence that has just been encoded, if it asks."""
        if sequence.parameters.attention:
            self._looks[sequence.number] = _Look(self._runner.source_keys(sequence.slots[0]))

    def step(self, owners: list[Sequence], beams: Mapping[int, Beam]) -> None:
        """Note where each row has looked in the step that is being taken.

        Args:
            owners: the sequence of each row.
            beams: the hypotheses of each sequence that branches, by its number; what these look at
                changes places with them, so it is worked out at once.
        """
        rows = self._looks and [
            row for row, owner in enumerate(owners) if owner.number in self._looks
        ]
        if not rows:
            return
        queries = self._runner.queries(rows)
        for row, of_row in zip(rows, queries, strict=True):
            number = owners[row].number
            look, beam = self._looks[number], beams.get(number)
            if beam is None:
                look.queries.append(of_row)
            else:
                (weights,) = attention_weights(look.keys, of_row[None])
                beam.looked(row, weights.mean(axis=(0, 1)))

    def finish(self, sequence: Sequence) -> None:
        """Give a sequence that has ended what it asked for; one that branched has it already."""
        look = self._looks.pop(sequence.number, None)
        if look is None or not look.queries:
            return
        weights = attention_weights(look.keys, np.stack(look.queries))
        sequence.attention = list(weights.mean(axis=(1, 2)))
        if sequence.parameters.head_attention:
            sequence.head_attention = list(weights)

    def forget(self, sequence: Sequence) -> None:
        """It has ended, and nobody asks any more."""
        self._looks.pop(sequence.number, None)
