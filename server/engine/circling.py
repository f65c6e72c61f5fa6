"""Beams that go round in circles: how what they found is judged, and when they are given up.

A beam's hypotheses change at every step, so that none is watched as it grows. What it has found is
looked at when it is done, by the same measure as an output that does not branch; its likeliest
hypothesis every few steps as well, for loops are likely and a beam runs on for the others.
"""

from __future__ import annotations

from collections.abc import Iterable

from server.engine.beam import Beam
from server.engine.guard import Watch
from server.engine.request import Sequence

_EVERY = 8
"""Steps from one look at the likeliest hypothesis to the next: a look goes over all its tokens."""


def judge(beams: Iterable[Beam], rows: int) -> None:
    """Give up the beams whose likeliest hypothesis goes round in circles.

    A beam that is done by now, by this or by itself, has its best hypothesis cut there and marked.

    Args:
        beams: of one engine.
        rows: that took part in the step; beams on later ones were paused, on none dropped.
    """
    for beam in beams:
        sequence = beam.sequence
        if not sequence.guarded or not sequence.slots or sequence.slots[0] >= rows:
            continue
        if (
            not beam.done
            and not beam.steps % _EVERY
            and _stop(sequence, beam.likeliest) is not None
        ):
            beam.give_up()
        if beam.done and beam.hypotheses:
            stop = _stop(sequence, beam.hypotheses[0].ids)
            if stop is not None:
                beam.cut_best(stop)


def _stop(sequence: Sequence, ids: list[int]) -> int | None:
    """After how many tokens an output would have been stopped that does not branch."""
    watch, least = Watch(sequence.source_ids), sequence.parameters.min_tokens
    return next(
        (steps for steps, token in enumerate(ids, 1) if watch.step(token) and steps >= least), None
    )
