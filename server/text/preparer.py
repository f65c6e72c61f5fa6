"""From texts to what the engine is given: split, protect, tokenise."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from server.bundle import Manifest
from server.engine.request import FinishReason, Sequence, default_max_tokens
from server.errors import InvalidRequest
from server.text import segmenter
from server.text.form import MOST_HOLES, Form, form
from server.text.languages import Pair
from server.text.markup import Markup, Run
from server.text.prepared import Prepared
from server.text.protect import Protected, find, inside, shield
from server.text.request import MediaType, TranslationRequest
from server.text.segmenter import Span
from server.text.tokenizer import Tokenizer

# What at the ends of a sentence is layout: it stands outside all words.
_LAYOUT = frozenset({"tag", "symbol", "escape", "entity"})


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Plain text that is cut into sentences."""

    text: str
    shielded: str
    """With something in place of what is protected that is no letter."""
    found: list[Protected]
    """By place in the text."""
    run: Run | None = None
    """Where it stands in a document, and with which tags; None = it is a text of its own."""


@dataclass(frozen=True, slots=True)
class Preparer:
    """What one model's texts are split and tokenised with."""

    manifest: Manifest
    pair: Pair
    source: Tokenizer
    target: Tokenizer
    guard: bool

    def prepare(self, request: TranslationRequest, *, streamed: bool) -> Iterator[Prepared]:
        """The texts, split and tokenised when they are asked for.

        Raises:
            InvalidRequest: there is nothing to translate, or the prefix is too long.
        """
        prefix = request.target_prefix
        prefix_ids = tuple(self.target.encode(prefix)) if prefix else ()
        limit = self.manifest.shape.max_target_tokens
        if len(prefix_ids) >= limit:
            description = f"longer than {limit - 1} target tokens"
            raise InvalidRequest("decoding.target_prefix", description)
        for text, name in zip(request.texts, request.field_names, strict=True):
            if not text.strip():
                raise InvalidRequest(name, "holds nothing to translate")
        return (self._one(text, request, prefix_ids, streamed=streamed) for text in request.texts)

    def _one(
        self, text: str, request: TranslationRequest, prefix: tuple[int, ...], *, streamed: bool
    ) -> Prepared:
        prepared = Prepared(text, [], [], split=False)
        if request.media_type is MediaType.HTML:
            for run in Markup(text).runs():
                self._sentences(_marked(text, run, request), prepared)
        else:
            found = _found(text, request)
            self._sentences(_Stretch(text, shield(text, found), found), prepared)
        if not any(prepared.forms):
            prepared.forms = []
        for index in range(len(prepared.spans)):
            given = prepared.form(index)
            ids = self.source.encode(prepared.source(index))
            # The prefix belongs to the text: only its first sentence begins with it.
            forced = self.pair.target_ids if index else (*self.pair.target_ids, *prefix)
            looks = given is not None and bool(given.marks)
            sequence = self._sequence(
                ids, request, forced, index=index, streamed=streamed, looks=looks
            )
            if given is not None and not any(map(str.isalpha, _without_holes(given))):
                # Nothing but terms and placeholders: there is nothing for the model to do.
                sequence.target_ids = self.target.encode(given.text)
                sequence.finish(FinishReason.EOS, request.arrived)
            prepared.sequences.append(sequence)
        return prepared

    def _sentences(self, stretch: _Stretch, prepared: Prepared) -> None:
        """Add a stretch's sentences; those too long for the model in parts."""
        limit = self.manifest.shape.max_source_tokens
        pending = segmenter.segment(stretch.shielded, self.pair.source_language)[::-1]
        while pending:
            parts = _parts(stretch, pending.pop())
            pending += parts[:0:-1]
            span = parts[0]
            if span.start == span.end or not _worth(stretch, span):
                continue
            given, place = _form(stretch, span)
            words = span.of(stretch.text) if given is None else given.text
            too_long = len(self.source.encode(words)) >= limit
            crowded = given is not None and len(given.holes) > MOST_HOLES
            if (too_long or crowded) and span.end - span.start > 1:
                pending += segmenter.cut(stretch.shielded, span)[::-1]
                prepared.split = prepared.split or too_long
                continue
            prepared.spans.append(place)
            prepared.forms.append(given)

    def _sequence(
        self,
        ids: list[int],
        request: TranslationRequest,
        prefix: tuple[int, ...],
        *,
        index: int,
        streamed: bool,
        looks: bool,
    ) -> Sequence:
        seed = None if request.seed is None else (request.seed, index)
        asked = request.max_tokens
        limit = (default_max_tokens(len(ids)) if asked is None else asked) + len(prefix)
        parameters = request.decoding
        if prefix or seed is not None or looks:  # else all have one object, which costs less
            parameters = dataclasses.replace(
                parameters, prefix_ids=prefix, seed=seed, attention=parameters.attention or looks
            )
        return Sequence(
            source_ids=np.array([*ids, self.manifest.tokens.eos], np.int64),
            max_tokens=min(limit, self.manifest.shape.max_target_tokens),
            arrived=request.arrived,
            deadline=request.deadline,
            streamed=streamed,
            tenant=request.tenant,
            guarded=self.guard,
            bypass_cache=request.bypass_cache,
            parameters=parameters,
        )


def _worth(stretch: _Stretch, span: Span) -> bool:
    """Whether there is anything to do: words to translate, or a term to put in."""
    return any(map(str.isalpha, span.of(stretch.shielded))) or any(
        one.term is not None and one.term.source != one.term.target
        for one in inside(stretch.found, span.start, span.end)
    )


def _without_holes(given: Form) -> str:
    parts, place = [], 0
    for hole in given.holes:
        parts.append(given.text[place : hole.start])
        place = hole.end
    return "".join([*parts, given.text[place:]])


def _found(text: str, request: TranslationRequest) -> list[Protected]:
    if not (request.protect or request.terms):
        return []
    return find(text, request.terms, patterns=request.protect)


def _marked(document: str, run: Run, request: TranslationRequest) -> _Stretch:
    """A document's stretch; what is protected in it as it is written there."""
    text = "".join(run.characters)
    kept = [*run.kept]
    for one in _found(shield(text, run.kept), request):
        value = html.escape(one.value, quote=False)
        if one.term is None or one.value == text[one.start : one.end]:
            value = run.value(document, one.start, one.end, text[one.start : one.end])
        kept.append(dataclasses.replace(one, value=value))
    kept.sort(key=lambda one: one.start)
    return _Stretch(text, shield(text, kept), kept, run)


def _parts(stretch: _Stretch, span: Span) -> list[Span]:
    """A sentence in parts that no element reaches out of, bare of layout at their ends."""
    bare = _bare(stretch, span)
    if stretch.run is None:
        return [bare]
    parts = [Span(*part) for part in stretch.run.parts(bare.start, bare.end)]
    return parts if len(parts) == 1 else [_bare(stretch, part) for part in parts]


def _bare(stretch: _Stretch, span: Span) -> Span:
    """A sentence without the white space, tags and symbols at its ends."""
    start, end = span.start, span.end
    text = stretch.text
    inner = inside(stretch.found, start, end)
    while True:
        while start < end and text[start].isspace():
            start += 1
        while start < end and text[end - 1].isspace():
            end -= 1
        if inner and inner[0].kind in _LAYOUT and inner[0].start == start:
            start = inner.pop(0).end
        elif inner and inner[-1].kind in _LAYOUT and inner[-1].end == end:
            end = inner.pop().start
        else:
            return Span(start, max(start, end))


def _form(stretch: _Stretch, span: Span) -> tuple[Form | None, Span]:
    """What the model is given for a sentence, and where that stands in the whole text."""
    sentence = span.of(stretch.text)
    found = [
        dataclasses.replace(one, start=one.start - span.start, end=one.end - span.start)
        for one in inside(stretch.found, span.start, span.end)
    ]
    if stretch.run is None:
        return (form(sentence, found) if found else None), span
    marks, low, high = stretch.run.marks(span.start, span.end)
    return form(sentence, found, marks, html=True), Span(low, high)
