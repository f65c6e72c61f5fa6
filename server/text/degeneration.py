"""Outputs that no translation is: loops, nothing at all, copies, far too short or long ones."""

from __future__ import annotations

import dataclasses
from enum import Enum

import langcodes

from server.engine.guard import without_loop
from server.engine.request import FinishReason, Sequence

# A sentence of so many tokens does not become one of an eighth of them.
_LONG_SOURCE, _SHORTEST_SHARE = 24, 8
# One that was still going on at so many times its source was going nowhere.
_LONGEST_SHARE = 1.5
# Names and codes are rightly copied; a sentence is not.
_COPIED_WORDS = 4


# What a sentence is tried again with that came out as no translation should.
_RETRY_NGRAM, _RETRY_PENALTY = 3, 1.2


class Degeneration(Enum):
    """Kinds of output that are tried again."""

    LOOP = "loop"
    EMPTY = "empty"
    SHORT = "short"
    LONG = "long"
    COPY = "copy"


def degeneration(
    sequence: Sequence,
    source: str,
    translation: str,
    *,
    language_ids: tuple[int, ...] = (),
    other_script: bool,
    limited: bool,
) -> Degeneration | None:
    """What is wrong with a finished sentence, if anything is.

    Args:
        sequence: the sentence in the engine.
        source: its text.
        translation: its translation.
        language_ids: what its output begins with to name the language; more is the caller's.
        other_script: whether the languages are written in different scripts.
        limited: whether the caller set limits of tokens; then any length is in order.
    """
    if sequence.finish_reason is FinishReason.DEGENERATE:
        return Degeneration.LOOP
    named = len(language_ids)
    if len(sequence.parameters.prefix_ids) > named:
        return None  # begun by the caller, who may want what we would not
    if not translation.strip():
        return Degeneration.EMPTY
    if not limited and (kind := _wrong_length(sequence, named)) is not None:
        return kind
    words = [word for word in source.split() if word.isalpha()]
    if other_script and len(words) >= _COPIED_WORDS and translation.strip() == source.strip():
        return Degeneration.COPY
    return None


def _wrong_length(sequence: Sequence, named: int) -> Degeneration | None:
    source, target = sequence.source_length - 1, len(sequence.target_ids) - named
    if sequence.finish_reason is FinishReason.LENGTH:
        return Degeneration.LONG if target > _LONGEST_SHARE * source else None
    short = source >= _LONG_SOURCE and target * _SHORTEST_SHARE < source
    return Degeneration.SHORT if short else None


def scripts_differ(one: str, other: str) -> bool:
    """Whether two languages, by their codes, are written in different scripts."""
    scripts = {langcodes.Language.get(code).maximize().script for code in (one, other)}
    return len(scripts) > 1


def again(sequence: Sequence) -> Sequence:
    """The same sentence with other options."""
    parameters = dataclasses.replace(
        sequence.parameters,
        no_repeat_ngram=sequence.parameters.no_repeat_ngram or _RETRY_NGRAM,
        repetition_penalty=max(sequence.parameters.repetition_penalty, _RETRY_PENALTY),
    )
    second = sequence.anew(parameters)
    second.again = True
    return second


def cut_loop(sequence: Sequence) -> None:
    """Take the loop that a sequence ends in out of it, with all that is known of those tokens."""
    ids = without_loop(sequence.target_ids)
    if len(ids) == len(sequence.target_ids):
        return
    # New lists: those of a sentence that was decoded once belong to all who asked for it.
    sequence.target_ids = ids
    sequence.token_log_probs = sequence.token_log_probs[: len(ids)]
    sequence.attention = sequence.attention[: len(ids)]
    sequence.head_attention = sequence.head_attention[: len(ids)]


def add_cost(other: Sequence, given: Sequence) -> None:
    """Have the attempt that is given tell what both have cost, from when the first was admitted."""
    given.cached = other.cached and given.cached
    given.encode_seconds += other.encode_seconds
    given.steps += other.steps
    given.batch_rows_sum += other.batch_rows_sum
    admitted = [one.admitted for one in (other, given) if one.admitted is not None]
    given.admitted = min(admitted, default=None)
    ended = [one.finished for one in (other, given) if one.finished is not None]
    given.finished = max(ended, default=None)
