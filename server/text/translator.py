"""What every door calls: finds the language, chooses the models, pivots, explains.

Unary is the stream collected: below, each model's pipeline has one path for both.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncGenerator, Sequence

from server.engine.request import FinishReason
from server.errors import InvalidRequest, UnknownModel
from server.text.analysis import analysis
from server.text.catalogue import Catalogue, check_code
from server.text.language import Guess, detect
from server.text.languages import same_language
from server.text.markup import Markup
from server.text.pipeline import TranslationPipeline
from server.text.request import (
    Delta,
    MediaType,
    TextAnalysis,
    TextResult,
    TextWarning,
    TranslationRequest,
    WarningKind,
)

_CANDIDATES = 5
# Below this a caller is told that the language was a guess.
_SURE = 0.5
# Above this the language is believed, though no model reads it; below, one that can be read.
_CERTAIN = 0.8
_INLINE_CHARACTERS = 4000

Route = tuple[TranslationPipeline, ...]


class Translator:
    """Translates whatever the models in a catalogue can, alone or one after the other."""

    def __init__(self, catalogue: Catalogue, pivots: Sequence[str] = ()) -> None:
        """Set the models, and the languages by way of which pairs without a model go."""
        self.catalogue = catalogue
        self.pivots = tuple(pivots)

    async def translate(self, request: TranslationRequest) -> list[TextResult]:
        """One result a text, in order.

        Raises:
            InvalidRequest: a language cannot be found, or as :meth:`stream`.
            UnknownModel: no way leads from a text's language to the target.
            DragomanError: as the pipeline's.
        """
        if request.source_language:
            return await self._through(request)
        guesses = await self._guesses(request)
        groups: dict[str, list[int]] = {}
        for index, guess in enumerate(guesses):
            groups.setdefault(guess.language, []).append(index)
        results: dict[int, TextResult] = {}
        parts = [_part(request, language, places) for language, places in groups.items()]
        for part in parts:  # who is refused is refused before anything is computed
            self.check(part)
        tasks = [self._through(part) for part in parts]
        try:
            # One call, one fate: if one language's texts fail, the others' are dropped.
            async with asyncio.TaskGroup() as group:
                running = [group.create_task(task) for task in tasks]
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        for places, task in zip(groups.values(), running, strict=True):
            for index, result in zip(places, task.result(), strict=True):
                results[index] = _detected(result, guesses[index])
        return [results[index] for index in range(len(request.texts))]

    def check(self, request: TranslationRequest) -> None:
        """Nothing, if there is a way for these languages; any may be one that is not named yet.

        Raises:
            InvalidRequest: a code is missing or no BCP-47 code.
            UnknownModel: no way leads there.
        """
        check_code("target_language", request.target_language)
        if request.source_language and not _is_there(request):
            self._route(request)

    async def stream(self, request: TranslationRequest) -> AsyncGenerator[Delta | TextResult, None]:
        """Deltas of the one text as they come, then its result.

        Joined, the deltas are the text of the result. Closing the iterator early cancels.

        Raises:
            InvalidRequest: there is nothing to translate, or an option does not fit.
            UnknownModel: no way leads from the text's language to the target.
            DragomanError: as the pipeline's.
        """
        guess = None
        if not request.source_language:
            (guess,) = await self._guesses(request)
            request = dataclasses.replace(request, source_language=guess.language)
        if _is_there(request):
            yield Delta(request.texts[0], 0)
            yield _detected(_unchanged(request.texts[0], request), guess)
            return
        route = self._route(request)
        first: TextResult | None = None
        if len(route) > 1:
            (first,) = await route[0].translate(request)
            request = _leg(request, route[0], [first.text])
            route = self._route(request)
        async with contextlib.aclosing(route[-1].stream(request)) as events:
            async for event in events:
                if isinstance(event, Delta):
                    yield event
                    continue
                result = event if first is None else _merged(first, event)
                yield _detected(result, guess)

    async def detect(
        self, texts: Sequence[str], media_type: MediaType, most: int
    ) -> list[list[Guess]]:
        """What each text may be in, likeliest first."""
        if sum(map(len, texts)) <= _INLINE_CHARACTERS:
            return [detect(_plain(text, media_type), most) for text in texts]
        return await asyncio.to_thread(
            lambda: [detect(_plain(text, media_type), most) for text in texts]
        )

    async def analyze(self, request: TranslationRequest) -> list[TextAnalysis]:
        """What each text is made of and would cost; nothing is translated.

        Raises:
            InvalidRequest: a language cannot be found, or there is nothing to translate.
            UnknownModel: no way leads from a text's language to the target.
        """
        guesses = [Guess(request.source_language, 1.0)] * len(request.texts)
        if not request.source_language:
            guesses = await self._guesses(request)
        found = []
        for index, guess in enumerate(guesses):
            part = _part(request, guess.language, [index])
            route = () if _is_there(part) else self._route(part)
            prepared = await route[0].prepare(part) if route else []
            found.append(analysis(part, guess, route, prepared))
        return found

    async def _through(self, request: TranslationRequest) -> list[TextResult]:
        """The texts of one language, by way of a third one if need be."""
        if _is_there(request):
            return [_unchanged(text, request) for text in request.texts]
        route = self._route(request)
        results = await route[0].translate(request)
        if len(route) == 1:
            return results
        # Models come and go: the second one is looked for when it is needed.
        leg = _leg(request, route[0], [result.text for result in results])
        seconds = await self._route(leg)[0].translate(leg)
        return [_merged(first, second) for first, second in zip(results, seconds, strict=True)]

    def _route(self, request: TranslationRequest) -> Route:
        return self.catalogue.route(
            request.source_language, request.target_language, request.model, self.pivots
        )

    async def _guesses(self, request: TranslationRequest) -> list[Guess]:
        """The language of each text: the likeliest, or one that can be read if that is unsure."""
        found = await self.detect(request.texts, request.media_type, _CANDIDATES)
        languages: list[Guess] = []
        for name, guesses in zip(request.field_names, found, strict=True):
            known = guesses or self._any_source(request)
            if not known:
                raise InvalidRequest(name, "holds nothing to tell a language by; name its language")
            languages.append(self._best(request, known))
        return languages

    def _best(self, request: TranslationRequest, guesses: Sequence[Guess]) -> Guess:
        if guesses[0].confidence >= _CERTAIN:
            return guesses[0]
        for guess in guesses:
            candidate = dataclasses.replace(request, source_language=guess.language)
            with contextlib.suppress(UnknownModel):
                if not _is_there(candidate):
                    self._route(candidate)
                return guess
        # Nothing that it may be can be read; of short texts the detector knows little.
        rest = self._any_source(request) if guesses[0].confidence < _SURE else []
        return rest[0] if rest else guesses[0]

    def _any_source(self, request: TranslationRequest) -> list[Guess]:
        """The language of a model for the target, where a text itself tells none."""
        for pipeline in self.catalogue:
            source = pipeline.pair.source_language
            with contextlib.suppress(UnknownModel):
                self._route(dataclasses.replace(request, source_language=source))
                return [Guess(source, 0.0)]
        return []


def _part(request: TranslationRequest, language: str, places: list[int]) -> TranslationRequest:
    """The texts of a request that are in one language."""
    return dataclasses.replace(
        request,
        source_language=language,
        texts=[request.texts[index] for index in places],
        field_names=[request.field_names[index] for index in places],
    )


def _leg(
    request: TranslationRequest, first: TranslationPipeline, texts: list[str]
) -> TranslationRequest:
    """The second half of the way; terms have been applied in the first, and are kept."""
    kept = tuple(
        dataclasses.replace(term, source=term.target, ignore_case=False) for term in request.terms
    )
    return dataclasses.replace(
        request,
        texts=texts,
        source_language=first.pair.target_language,
        terms=kept,
    )


def _is_there(request: TranslationRequest) -> bool:
    """Whether the texts are in the target language already."""
    return same_language(request.source_language, request.target_language)


def _unchanged(text: str, request: TranslationRequest) -> TextResult:
    """A text that is in the target language is its own translation."""
    return TextResult(
        text=text,
        finish_reason=FinishReason.EOS,
        source_tokens=0,
        target_tokens=0,
        cached_sentences=0,
        queue_time_ns=0,
        encode_time_ns=0,
        decode_time_ns=0,
        total_time_ns=int((time.monotonic() - request.arrived) * 1e9),
        decode_steps=0,
        mean_batch_rows=0.0,
        mean_batch_occupancy_ratio=0.0,
    )


def _detected(result: TextResult, guess: Guess | None) -> TextResult:
    """The result with the language that was found, and a word if that is a guess."""
    if guess is None:
        return result
    warnings = result.warnings
    if guess.confidence < _SURE:
        message = f"the text was taken for {guess.language}, but that is not sure"
        warnings = [*warnings, TextWarning(WarningKind.LANGUAGE_UNCERTAIN, message)]
    return dataclasses.replace(result, detected=guess, warnings=warnings)


def _merged(first: TextResult, second: TextResult) -> TextResult:
    """One result of two that came one after the other; sentences are the second one's."""
    languages = f"{first.route[-1].name} and {second.route[0].name}"
    pivoted = TextWarning(WarningKind.PIVOTED, f"translated by {languages}, one after the other")
    ended = [
        one.finish_reason for one in (first, second) if one.finish_reason is not FinishReason.EOS
    ]
    return dataclasses.replace(
        second,
        finish_reason=ended[0] if ended else FinishReason.EOS,
        source_tokens=first.source_tokens + second.source_tokens,
        target_tokens=first.target_tokens + second.target_tokens,
        cached_sentences=first.cached_sentences + second.cached_sentences,
        queue_time_ns=first.queue_time_ns + second.queue_time_ns,
        encode_time_ns=first.encode_time_ns + second.encode_time_ns,
        decode_time_ns=first.decode_time_ns + second.decode_time_ns,
        decode_steps=first.decode_steps + second.decode_steps,
        warnings=[pivoted, *first.warnings, *second.warnings],
        placeholders=first.placeholders,
        applied_terms=first.applied_terms,
        route=first.route + second.route,
    )


def _plain(text: str, media_type: MediaType) -> str:
    """A text without its markup."""
    if media_type is MediaType.PLAIN:
        return text
    return "\n".join("".join(run.characters) for run in Markup(text).runs())
