"""What was protected is verified; a sentence that lost something is decoded once more."""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from dataclasses import dataclass

import numpy as np

from server.engine.request import Sequence
from server.errors import Overloaded, ShuttingDown
from server.metrics import Metrics
from server.text.degeneration import add_cost
from server.text.form import Form
from server.text.numerals import says
from server.text.pace import Pace
from server.text.placing import Rendered
from server.text.prepared import Prepared
from server.text.renderer import Renderer
from server.text.request import Outcome
from server.text.sentence_cache import KEPT
from server.text.single_flight import Runner
from server.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class _Lacking:
    """A sentence of a text whose output lacks something, and how it is asked for again."""

    text: Prepared
    index: int
    form: Form
    sequence: Sequence


class Keeping:
    """Puts back what one model's sentences had taken out, and sees to it that all is there."""

    def __init__(
        self,
        engine: Runner,
        source: Tokenizer,
        renderer: Renderer,
        metrics: Metrics,
        *,
        eos_id: int,
        max_source_tokens: int,
    ) -> None:
        """Set what decodes again and what a sentence may be as long as."""
        self._engine = engine
        self._source = source
        self._renderer = renderer
        self._count = metrics.placeholders.labels
        self._eos_id = eos_id
        self._max_source_tokens = max_source_tokens

    async def keep(self, texts: list[Prepared], pace: Pace, *, streamed: bool) -> None:
        """Fill the outputs of texts whose sequences have ended and were translated.

        What a stream has sent is final: what is left of it is not decoded again.

        Args:
            texts: whose sequences have ended and were translated; they are changed in place.
            pace: of the request.
            streamed: whether the texts have been sent.
        """
        lacking: list[_Lacking] = []
        for text in texts:
            if text.settled:
                _fill(text)
                continue
            lacking += await self._look(text, pace, again=not streamed)
        if lacking and await self._decode(lacking):
            for one in lacking:
                self._second(one)
                await pace.pause()
        outcomes = Counter(one for text in texts for found in text.outcomes for one in found)
        for outcome, count in outcomes.items():
            self._count(outcome.value).inc(count)

    async def _look(self, text: Prepared, pace: Pace, *, again: bool) -> list[_Lacking]:
        """Render a text's sentences; returns those to ask for again."""
        text.outputs, text.outcomes = list(text.translations), []
        lacking: list[_Lacking] = []
        for index in range(len(text.forms)):
            found = self._first(text, index)
            if found is not None and again:
                lacking.append(found)
            await pace.pause()
        return lacking

    async def settle(self, text: Prepared) -> None:
        """Make the outputs of a streamed text's sentences that have ended, in order.

        One with placeholders is sent only now, so that it may be decoded again like any other.
        """
        if not text.forms:
            return
        text.outputs = text.outputs or [""] * len(text.sequences)
        while text.settled < len(text.sequences):
            index = text.settled
            if text.sequences[index].finish_reason is None:
                return
            again, form = self._first(text, index), text.forms[index]
            wanted = again is not None and form is not None and form.whole
            if again is not None and wanted and await self._decode([again]):
                self._second(again)
            text.settled += 1

    def _first(self, text: Prepared, index: int) -> _Lacking | None:
        """Render a sentence; returns how to ask again if it lacks something."""
        form, sequence = text.forms[index], text.sequences[index]
        if form is None:
            text.outcomes.append([])
            return None
        rendered = self._renderer.of_sequence(form, sequence)
        text.outputs[index] = rendered.text
        worded = _worded(form, rendered)
        text.outcomes.append([*rendered.outcomes, *worded])
        if rendered.whole and Outcome.LOST not in worded:
            return None
        again = form.again()
        ids = self._source.encode(again.text)
        if len(ids) >= self._max_source_tokens:
            return None
        parameters = dataclasses.replace(sequence.parameters, attention=True)
        asked = sequence.anew(parameters, np.array([*ids, self._eos_id], np.int64))
        asked.again = True
        return _Lacking(text, index, again, asked)

    async def _decode(self, lacking: list[_Lacking]) -> bool:
        """Run the second attempts; False if there is no room or time for them."""
        sequences = [one.sequence for one in lacking]
        try:
            async with contextlib.aclosing(self._engine.generate(sequences)) as progress:
                async for _ in progress:
                    pass
        except (Overloaded, ShuttingDown):
            return False
        return True

    def _second(self, one: _Lacking) -> None:
        """Take a second attempt, unless it is none or the first lacks less."""
        if one.sequence.finish_reason not in KEPT or not one.sequence.target_ids:
            return
        rendered = self._renderer.of_sequence(one.form, one.sequence)
        first = one.text.outcomes[one.index]
        outcomes: list[Outcome] = [
            Outcome.RETRIED if outcome is Outcome.KEPT else outcome for outcome in rendered.outcomes
        ]
        if _badness(outcomes) > _badness(first):
            return
        add_cost(one.text.sequences[one.index], one.sequence)
        one.text.sequences[one.index] = one.sequence
        one.text.forms[one.index] = one.form
        one.text.outputs[one.index] = rendered.text
        one.text.outcomes[one.index] = outcomes
        one.text.retried += 1


def _fill(text: Prepared) -> None:
    """Give a settled text the outputs of the sentences that had nothing to keep."""
    for index, form in enumerate(text.forms):
        if form is None:
            text.outputs[index] = text.translations[index]


def _badness(outcomes: list[Outcome]) -> tuple[int, int]:
    return outcomes.count(Outcome.LOST), outcomes.count(Outcome.PLACED)


def _worded(form: Form, rendered: Rendered) -> list[Outcome]:
    """What became of the numbers that the model was let write."""
    return [Outcome.KEPT if says(one.value, rendered.text) else Outcome.LOST for one in form.worded]
