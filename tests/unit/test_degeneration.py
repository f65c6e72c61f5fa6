"""What counts as no translation, what is made of it, and what both attempts have cost."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable

import numpy as np
import pytest

from server.engine.request import DecodingParameters, FinishReason, Flow, Sequence
from server.errors import Overloaded
from server.metrics import Metrics
from server.text.degeneration import (
    Degeneration,
    add_cost,
    again,
    cut_loop,
    degeneration,
    scripts_differ,
)
from server.text.pace import Pace
from server.text.prepared import Prepared
from server.text.second_look import SecondLook
from server.text.segmenter import Span

EOS, LENGTH, DEGENERATE = FinishReason.EOS, FinishReason.LENGTH, FinishReason.DEGENERATE


def ended(
    reason: FinishReason, target: int, source: int = 10, prefix: tuple[int, ...] = ()
) -> Sequence:
    sequence = Sequence(
        source_ids=np.arange(source + 1, dtype=np.int64),
        max_tokens=200,
        arrived=0.0,
        parameters=DecodingParameters(prefix_ids=prefix),
    )
    sequence.target_ids = list(range(target))
    sequence.finish(reason, 1.0)
    return sequence


@pytest.mark.parametrize(
    ("sequence", "translation", "limited", "kind"),
    [
        (ended(EOS, 9), "很好", False, None),
        (ended(DEGENERATE, 9), "很好", True, Degeneration.LOOP),
        (ended(DEGENERATE, 9, prefix=(1,)), "很好", False, Degeneration.LOOP),
        (ended(EOS, 0), " ", False, Degeneration.EMPTY),
        (ended(EOS, 0, prefix=(1,)), "", False, None),
        (ended(LENGTH, 36), "很好", False, Degeneration.LONG),
        (ended(LENGTH, 36), "很好", True, None),
        (ended(LENGTH, 120, source=100), "很好", False, None),  # the model's limit, not a wrong
        (ended(EOS, 3, source=40), "很好", False, Degeneration.SHORT),
        (ended(EOS, 3, source=40), "很好", True, None),
        (ended(EOS, 3, source=20), "很好", False, None),
        (ended(EOS, 9), "one two three four", False, Degeneration.COPY),
    ],
)
def test_kinds(
    sequence: Sequence, translation: str, limited: bool, kind: Degeneration | None
) -> None:
    source = "one two three four"
    assert degeneration(sequence, source, translation, other_script=True, limited=limited) is kind


@pytest.mark.parametrize(
    ("sequence", "translation", "kind"),
    [
        (ended(EOS, 10, prefix=(7,)), "很好", None),
        (ended(EOS, 1, prefix=(7,)), "", Degeneration.EMPTY),
        (ended(EOS, 1, prefix=(7, 8)), "", None),
        (ended(LENGTH, 37, prefix=(7,)), "很好", Degeneration.LONG),
        (ended(LENGTH, 16, prefix=(7,)), "很好", None),  # 15 without the language
        (ended(EOS, 5, source=40, prefix=(7,)), "很好", Degeneration.SHORT),
        (ended(EOS, 5, source=40, prefix=(7, 8)), "很好", None),
        (ended(EOS, 10, prefix=(7,)), "one two three four", Degeneration.COPY),
        (ended(EOS, 10, prefix=(7, 8)), "one two three four", None),
        (ended(DEGENERATE, 10, prefix=(7, 8)), "很好", Degeneration.LOOP),
    ],
)
def test_the_token_of_a_language_is_no_beginning_that_a_caller_wants(
    sequence: Sequence, translation: str, kind: Degeneration | None
) -> None:
    source = "one two three four"
    found = degeneration(
        sequence, source, translation, language_ids=(7,), other_script=True, limited=False
    )
    assert found is kind


def test_names_and_codes_may_be_copied() -> None:
    for text in ("Paris", "MX-5 2024 4x4 A1", "foo() bar() baz() 1+1"):
        assert degeneration(ended(EOS, 9), text, text, other_script=True, limited=False) is None


def test_scripts() -> None:
    assert scripts_differ("en", "zh-TW")
    assert not scripts_differ("en", "de")


def test_a_loop_is_cut_with_what_is_known_of_its_tokens() -> None:
    sequence = ended(DEGENERATE, 0)
    shared = [5, 6, *[7, 8] * 10]
    sequence.target_ids = shared
    sequence.token_log_probs = [-float(place) for place in range(22)]
    sequence.attention = [np.zeros(3, np.float32)] * 22
    cut_loop(sequence)
    assert sequence.target_ids == [5, 6, 7, 8]
    assert sequence.token_log_probs == [0.0, -1.0, -2.0, -3.0]
    assert len(sequence.attention) == 4
    assert len(shared) == 22


def test_the_second_attempt_is_decoded_otherwise_and_tells_the_cost_of_both() -> None:
    first = ended(DEGENERATE, 20)
    first.steps, first.batch_rows_sum, first.admitted, first.encode_seconds = 20, 40, 1.0, 0.5
    second = again(first)
    assert (second.parameters.no_repeat_ngram, second.parameters.repetition_penalty) == (3, 1.2)
    assert second.number != first.number
    second.steps, second.batch_rows_sum, second.admitted, second.encode_seconds = 5, 5, 2.0, 0.25
    add_cost(first, second)
    assert (second.steps, second.batch_rows_sum) == (25, 45)
    assert (second.admitted, second.encode_seconds) == (1.0, 0.75)
    third = again(first)
    third.steps, third.admitted = 4, 9.0
    third.finish(EOS, 9.5)
    add_cost(third, first)  # the first is given after all
    assert (first.steps, first.admitted, first.finished) == (24, 1.0, 9.5)


class Letters:
    """One letter a token."""

    def decode(self, ids: list[int]) -> str:
        return "".join(chr(97 + token % 26) for token in ids)


class Retried:
    """Runs the second attempts as it is told."""

    def __init__(self, end: Callable[[Sequence], None]) -> None:
        self.end = end
        self.asked: list[Sequence] = []

    def refuse_if_late(self, deadline: float | None, flow: Flow, cost: int) -> None:
        """Never."""

    async def generate(self, sequences: list[Sequence]) -> AsyncGenerator[None, None]:
        self.asked += sequences
        for sequence in sequences:
            self.end(sequence)
        yield


def well(sequence: Sequence) -> None:
    sequence.target_ids = [1, 2, 3]
    sequence.finish(EOS, 2.0)


def loops(sequence: Sequence) -> None:
    sequence.target_ids = [4] * 20
    sequence.finish(DEGENERATE, 2.0)


def fails(sequence: Sequence) -> None:
    sequence.finish(FinishReason.ERROR, 2.0)


def refuses(sequence: Sequence) -> None:
    msg = "full"
    raise Overloaded(msg, retry_after_seconds=1.0)


@pytest.mark.parametrize(
    ("end", "streamed", "ids", "outcome"),
    [
        (well, False, [1, 2, 3], "better"),
        (loops, False, [5, 6], "no better"),
        (fails, False, [5, 6], "failed"),
        (refuses, False, [5, 6], "refused"),
        (well, True, [5, *[6] * 20], None),
    ],
)
async def test_what_is_better_is_given(
    end: Callable[[Sequence], None], streamed: bool, ids: list[int], outcome: str | None
) -> None:
    metrics, engine = Metrics(), Retried(end)
    look = SecondLook(engine, Letters(), metrics, other_script=True)  # type: ignore[arg-type]
    bad, good = ended(DEGENERATE, 0), ended(EOS, 9)
    bad.target_ids = [5, *[6] * 20]
    text = Prepared("Ab. Cd.", [Span(0, 3), Span(4, 7)], [bad, good], split=False)
    text.translations = [Letters().decode(one.target_ids) for one in text.sequences]
    with contextlib.suppress(StopAsyncIteration):
        await look.look([text], Pace(), limited=False, streamed=streamed)
    assert text.sequences[0].target_ids == ids
    assert text.sequences[1] is good
    assert text.translations == [Letters().decode(one.target_ids) for one in text.sequences]
    assert text.retried == (outcome == "better")
    assert text.degenerate == ([] if outcome == "better" else [Degeneration.LOOP])
    assert len(engine.asked) == (not streamed)
    sample = metrics.registry.get_sample_value
    assert sample("dragoman_degenerate_outputs_total", {"kind": "loop"}) == 1
    if outcome:
        assert sample("dragoman_retries_total", {"outcome": outcome}) == 1
