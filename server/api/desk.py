"""What the drop-in APIs share: texts to translate, within the limits, against the quota."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import langcodes

from server.access.gate import current_visit
from server.api.convert import check_texts
from server.engine.request import GREEDY
from server.errors import InvalidRequest, NotReady
from server.settings import Settings
from server.text.language import Guess
from server.text.request import MediaType, TextResult, TranslationRequest
from server.text.translator import Translator

_SMALLEST_BEAM = 4


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Texts, and what they are to become."""

    texts: list[str]
    field: str
    """What the API calls its texts, for errors."""
    source: str
    """BCP-47; "" = find out, for each."""
    target: str
    """BCP-47."""
    media_type: MediaType = MediaType.PLAIN
    alternatives: int = 0
    model: str = ""
    arrived: float
    deadline: float | None
    """Monotonic seconds."""
    tenant: str = ""
    """Used where no key says whose work it is."""


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """What became of one text."""

    text: str
    detected: Guess | None
    """The language that was found, if none was named; None for a text that is blank."""
    alternatives: list[str]
    result: TextResult | None
    """How it came about; None for a blank text, which comes back as it is."""


class Desk:
    """Takes orders of any API to the models."""

    def __init__(self, translator: Translator, settings: Settings) -> None:
        """Set the models and the limits."""
        self.translator = translator
        self.settings = settings
        self.asks_for_keys = settings.key_file is not None

    async def translate(self, order: Order) -> list[Answer]:
        """An answer a text, in their order.

        Raises:
            InvalidRequest: names the first text or option that is not acceptable.
            DragomanError: as the translator's.
        """
        names = [f"{order.field}[{index}]" for index in range(len(order.texts))]
        check_texts(order.texts, names, self.settings)
        visit = current_visit.get()
        filled = [index for index, text in enumerate(order.texts) if text.strip()]
        answers = [Answer(text, None, [], None) for text in order.texts]
        if not filled:
            return answers
        visit.charge(sum(len(text) for text in order.texts))
        request = TranslationRequest(
            texts=[order.texts[index] for index in filled],
            field_names=[names[index] for index in filled],
            arrived=order.arrived,
            deadline=order.deadline,
            source_language=order.source,
            target_language=order.target,
            model=order.model,
            media_type=order.media_type,
            protect=True,
            tenant=visit.tenant or order.tenant,
        )
        results = await self.translator.translate(self._with_beam(request, order.alternatives))
        for index, result in zip(filled, results, strict=True):
            visit.spend(result.source_tokens + result.target_tokens)
            others = list(_alternatives(result, order.alternatives))
            answers[index] = Answer(result.text, result.detected, others, result)
        return answers

    async def detect(
        self, texts: list[str], field: str, media_type: MediaType = MediaType.PLAIN, most: int = 3
    ) -> list[list[Guess]]:
        """What each text may be in, likeliest first; none for a text without letters.

        Raises:
            InvalidRequest: a text is not within the limits.
        """
        check_texts(texts, [f"{field}[{index}]" for index in range(len(texts))], self.settings)
        current_visit.get().charge(sum(map(len, texts)))
        return await self.translator.detect(texts, media_type, most)

    def pairs(self) -> list[tuple[str, str]]:
        """Source and target of everything that can be translated, straight or by way of another.

        Raises:
            NotReady: the first models are still being loaded.
        """
        catalogue = self.translator.catalogue
        found = {
            (source, target)
            for each in catalogue
            for source in each.pairs.sources
            for target in each.pairs.targets
            if source != target
        }
        for route in catalogue.pivoted(self.translator.pivots):
            found.add((route[0].pair.source_language, route[-1].pair.target_language))
        if not found:
            msg = "the server is still loading its models"
            raise NotReady(msg, retry_after_seconds=1.0)
        return sorted(found)

    def most_alternatives(self) -> int:
        """How many other translations of a text may be asked for."""
        return min(self.settings.max_beams, self.settings.slots) - 1

    def _with_beam(self, request: TranslationRequest, alternatives: int) -> TranslationRequest:
        """The request, with as many hypotheses as other translations are wanted."""
        most = self.most_alternatives()
        if not 0 <= alternatives <= most:
            raise InvalidRequest("alternatives", f"must be 0 to {most}")
        if not alternatives:
            return request
        # The best is the translation itself, and others may be the same words.
        size = min(max(_SMALLEST_BEAM, alternatives + 1), most + 1)
        return dataclasses.replace(
            request,
            decoding=dataclasses.replace(GREEDY, strategy="beam", beams=size, length_penalty=1.0),
            candidates=size,
        )


def language_name(code: str) -> str:
    """A language's name in English: ``Chinese (Taiwan)``."""
    return langcodes.Language.get(code).display_name("en")


def _alternatives(result: TextResult, most: int) -> Iterator[str]:
    """Other translations of a text, likelier first, no two the same.

    One has the next best hypothesis of every sentence that has one, and so on.
    """
    if not most:
        return
    seen = {result.text}
    others = [
        [one.text for one in sentence.candidates if one.text != sentence.text]
        for sentence in result.sentences
    ]
    for rank in range(max(map(len, others), default=0)):
        text = _replaced(result, [each[rank] if rank < len(each) else None for each in others])
        if text not in seen:
            seen.add(text)
            yield text
        if len(seen) > most:
            return


def _replaced(result: TextResult, sentences: Sequence[str | None]) -> str:
    """The text with other sentences in place of its own, and its layout."""
    parts: list[str] = []
    place = 0
    for sentence, other in zip(result.sentences, sentences, strict=True):
        start = result.text.find(sentence.text, place)
        if start < 0:
            continue  # it was put together from pieces: it stays
        parts += [result.text[place:start], sentence.text if other is None else other]
        place = start + len(sentence.text)
    return "".join([*parts, result.text[place:]])
