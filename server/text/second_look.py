"""Sentences that came out as no translation should are tried once more, with other options."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from server.engine.request import Sequence
from server.errors import Overloaded, ShuttingDown
from server.metrics import Metrics
from server.text.degeneration import Degeneration, add_cost, again, cut_loop, degeneration
from server.text.pace import Pace
from server.text.prepared import Prepared
from server.text.sentence_cache import KEPT
from server.text.single_flight import Runner
from server.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class _Found:
    """A sentence of a text that came out wrong, and how."""

    text: Prepared
    index: int
    kind: Degeneration


class SecondLook:
    """Looks at what one model's engine has translated."""

    def __init__(
        self,
        engine: Runner,
        target: Tokenizer,
        metrics: Metrics,
        *,
        language_ids: tuple[int, ...] = (),
        other_script: bool,
    ) -> None:
        """Set what looks at one pair of languages.

        Args:
            engine: decodes again.
            target: reads outputs.
            metrics: where what was found is counted.
            language_ids: what every output begins with, in a model of many languages.
            other_script: whether the languages are written in different scripts.
        """
        self._engine = engine
        self._target = target
        self._metrics = metrics
        self._language_ids = language_ids
        self._other_script = other_script

    async def look(
        self, texts: list[Prepared], pace: Pace, *, limited: bool, streamed: bool
    ) -> None:
        """Replace what is better the second time; cut the loops out of what is not.

        What a stream has sent is final: there they are only counted.

        Args:
            texts: whose sequences have ended and were translated; they are changed in place.
            pace: of the request.
            limited: whether the caller set limits of tokens.
            streamed: whether the texts have been sent.
        """
        found = []
        for text in texts:
            for index, sequence in enumerate(text.sequences):
                kind = self._kind(text, index, sequence, text.translations[index], limited=limited)
                if kind is not None:
                    self._metrics.degenerate_outputs.labels(kind.value).inc()
                    found.append(_Found(text, index, kind))
                await pace.pause()
        seconds = await self._decode_again(found) if found and not streamed else []
        for place, one in enumerate(found):
            first = one.text.sequences[one.index]
            second = seconds[place] if seconds else None
            if second is not None and self._better(one, second, limited=limited):
                add_cost(first, second)
                one.text.sequences[one.index] = second
                self._tell(one)
                one.text.retried += 1
                continue
            if second is not None:
                add_cost(second, first)
            one.text.degenerate.append(one.kind)
            if not streamed:
                cut_loop(first)
                self._tell(one)

    def _tell(self, one: _Found) -> None:
        """What a sentence has become."""
        sequence = one.text.sequences[one.index]
        one.text.translations[one.index] = self._target.decode(sequence.target_ids)

    async def _decode_again(self, found: list[_Found]) -> list[Sequence]:
        """Second attempts, as many as were found; none if there is no room or time for them."""
        seconds = [again(one.text.sequences[one.index]) for one in found]
        try:
            async with contextlib.aclosing(self._engine.generate(seconds)) as progress:
                async for _ in progress:
                    pass
        except (Overloaded, ShuttingDown):
            self._metrics.retries.labels("refused").inc(len(seconds))
            return []
        return seconds

    def _better(self, one: _Found, second: Sequence, *, limited: bool) -> bool:
        """Whether a second attempt is to be given: nothing is wrong with it."""
        if second.finish_reason not in KEPT:
            self._metrics.retries.labels("failed").inc()
            return False
        translation = self._target.decode(second.target_ids)
        better = self._kind(one.text, one.index, second, translation, limited=limited) is None
        self._metrics.retries.labels("better" if better else "no better").inc()
        return better

    def _kind(
        self,
        text: Prepared,
        index: int,
        sequence: Sequence,
        translation: str,
        *,
        limited: bool,
    ) -> Degeneration | None:
        return degeneration(
            sequence,
            text.source(index),
            translation,
            language_ids=self._language_ids,
            other_script=self._other_script,
            limited=limited,
        )
