"""From texts to sequences and back: split, tokenise, run, detokenise, join."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncGenerator, Iterable

import numpy as np

from server.bundle import SOURCE_TOKENIZER, TARGET_TOKENIZER, Bundle
from server.engine.request import FinishReason, Flow, Sequence, default_max_tokens
from server.errors import (
    DeadlineExceeded,
    InvalidRequest,
    ModelFailure,
    RequestCancelled,
    ShuttingDown,
)
from server.metrics import Metrics
from server.text import segmenter
from server.text.degeneration import scripts_differ
from server.text.emitter import Emitter, Prepared
from server.text.pace import Pace, Turns
from server.text.pressure import Pressure
from server.text.request import (
    Candidate,
    Delta,
    SentenceResult,
    TextResult,
    TextWarning,
    TokenScore,
    TranslationRequest,
    WarningKind,
)
from server.text.second_look import SecondLook
from server.text.segmenter import Span
from server.text.single_flight import Runner
from server.text.stages import current_stages
from server.text.tokenizer import Tokenizer

# Splitting and tokenising more than this many characters leaves the event loop for a thread.
_INLINE_CHARACTERS = 4000
_LEARNING = 0.05


class TranslationPipeline:
    """Translates with one model."""

    def __init__(
        self,
        bundle: Bundle,
        engine: Runner,
        slots: int,
        *,
        metrics: Metrics | None = None,
        guard: bool = True,
        interactive_sentences: int = 32,
    ) -> None:
        """Read the bundle's tokenizers.

        Args:
            bundle: the model.
            engine: runs its sequences.
            slots: rows of one engine's batch, for occupancies.
            metrics: where degenerate outputs are counted.
            guard: whether to stop outputs that go round in circles, and to try again.
            interactive_sentences: a request of more is bulk work, unless it says otherwise.

        Raises:
            BundleError: a tokenizer is no tokenizer, or its size is not the manifest's.
        """
        self.bundle = bundle
        self._engine = engine
        self._slots = slots
        self._source = Tokenizer(bundle.read(SOURCE_TOKENIZER), SOURCE_TOKENIZER)
        self._target = Tokenizer(bundle.read(TARGET_TOKENIZER), TARGET_TOKENIZER)
        self._shape = bundle.manifest.shape
        self._eos_id = bundle.manifest.tokens.eos
        self._guard = guard
        self._interactive_sentences = interactive_sentences
        languages = bundle.manifest.source_language, bundle.manifest.target_language
        self._second_look = SecondLook(
            engine,
            self._target,
            metrics or Metrics(),
            other_script=scripts_differ(*languages),
        )
        self._cost_per_character = 0.0
        self._pressure = Pressure()
        self._turns = Turns()
        self._preparing = 0
        self._settled = asyncio.Event()

    async def settled(self) -> None:
        """Nobody who was let in is still on the way to the engine, which may then be drained."""
        while self._preparing:
            self._settled.clear()
            await self._settled.wait()

    async def translate(self, request: TranslationRequest) -> list[TextResult]:
        """One result a text, in order.

        Raises:
            DragomanError: as :meth:`stream`.
        """
        results = []
        self._preparing += 1  # what waits for a sentence in flight may have to run it after all
        try:
            async for event in self._run(request, streamed=False):
                assert isinstance(event, TextResult)
                results.append(event)
        finally:
            self._preparing -= 1
            self._settled.set()
        return results

    def stream(self, request: TranslationRequest) -> AsyncGenerator[Delta | TextResult, None]:
        """Deltas of the one text as they come, then its result.

        Joined, the deltas are the text of the result. Closing the iterator early cancels.

        Raises:
            InvalidRequest: there is nothing to translate, or an option does not fit.
            Overloaded: no room in the queue.
            DeadlineExceeded: the deadline passed first.
            ModelFailure: the network failed.
            ShuttingDown: the server drains.
        """
        return self._run(request, streamed=True)

    async def _run(
        self, request: TranslationRequest, *, streamed: bool
    ) -> AsyncGenerator[Delta | TextResult, None]:
        characters = sum(map(len, request.texts))
        with self._let_in(request, characters):
            async for event in self._translated(request, characters, streamed=streamed):
                yield event

    def _let_in(
        self, request: TranslationRequest, characters: int
    ) -> contextlib.AbstractContextManager[None]:
        """Refuse what would be late, before anything is done for it; count the rest while it runs.

        Raises:
            Overloaded: it would be late.
        """
        self._engine.refuse_if_late(
            request.deadline,
            Flow(request.tenant, bool(request.bulk)),
            int(characters * self._cost_per_character),
        )
        many = len(request.texts) > self._interactive_sentences
        if many if request.bulk is None else request.bulk:
            return contextlib.nullcontext()
        estimate = self._pressure.check(characters, request.tenant, request.deadline)
        return self._pressure.flight(characters, request.tenant, estimate)

    async def _translated(
        self, request: TranslationRequest, characters: int, *, streamed: bool
    ) -> AsyncGenerator[Delta | TextResult, None]:
        await self._turns.take()
        stages, began = current_stages.get(), time.monotonic()
        texts = await self._prepared(request, streamed=streamed)
        sequences = [sequence for text in texts for sequence in text.sequences]
        stages.tokenised(began, sequences)
        cost = sum(sequence.cost for sequence in sequences) / characters
        self._cost_per_character += _LEARNING * (cost - self._cost_per_character)
        bulk = request.bulk
        if bulk is None:
            bulk = len(sequences) > self._interactive_sentences
        for sequence in sequences:
            sequence.bulk = bulk
        emitter = Emitter(self._target, texts[0], self._target_language) if streamed else None
        if sequences:
            async with contextlib.aclosing(self._engine.generate(sequences)) as progress:
                async for _ in progress:
                    _raise_fault(sequences)
                    for delta in emitter.advance() if emitter else []:
                        yield delta
        stages.ran(sequences)
        began = time.monotonic()
        for delta in emitter.finish() if emitter else []:
            yield delta
        await self._turns.take()
        pace = Pace()
        for text in texts:
            text.translations = [self._target.decode(one.target_ids) for one in text.sequences]
            await pace.pause()
        stages.detokenised(began)
        if self._guard:
            limited = request.max_tokens is not None or request.decoding.min_tokens > 0
            await self._second_look.look(texts, limited=limited, streamed=streamed)
        for text in texts:
            yield self._result(text, request)
            await pace.pause()

    @property
    def _target_language(self) -> str:
        return self.bundle.manifest.target_language

    async def _prepared(self, request: TranslationRequest, *, streamed: bool) -> list[Prepared]:
        """The texts, split and tokenised; with a short request nobody else gets a turn."""
        if sum(map(len, request.texts)) <= _INLINE_CHARACTERS:
            return self._prepare(request, streamed=streamed)
        self._preparing += 1
        try:
            return await asyncio.to_thread(self._prepare, request, streamed=streamed)
        finally:
            self._preparing -= 1
            self._settled.set()

    def _prepare(self, request: TranslationRequest, *, streamed: bool) -> list[Prepared]:
        prefix = request.target_prefix
        prefix_ids = tuple(self._target.encode(prefix)) if prefix else ()
        if len(prefix_ids) >= self._shape.max_target_tokens:
            description = f"longer than {self._shape.max_target_tokens - 1} target tokens"
            raise InvalidRequest("decoding.target_prefix", description)
        for text, name in zip(request.texts, request.field_names, strict=True):
            if not text.strip():
                raise InvalidRequest(name, "holds nothing to translate")
        return [self._split(text, request, prefix_ids, streamed=streamed) for text in request.texts]

    def _split(
        self, text: str, request: TranslationRequest, prefix: tuple[int, ...], *, streamed: bool
    ) -> Prepared:
        """The sentences of a text with their ids; those too long for the model in parts."""
        spans: list[Span] = []
        sequences: list[Sequence] = []
        split = False
        pending = segmenter.segment(text, self.bundle.manifest.source_language)[::-1]
        while pending:
            span = pending.pop()
            ids = self._source.encode(span.of(text))
            if len(ids) >= self._shape.max_source_tokens:
                pending += segmenter.cut(text, span)[::-1]
                split = True
                continue
            # The prefix belongs to the text: only its first sentence begins with it.
            forced = prefix if not sequences else ()
            spans.append(span)
            sequences.append(
                self._sequence(ids, request, forced, index=len(sequences), streamed=streamed)
            )
        return Prepared(text, spans, sequences, split)

    def _sequence(
        self,
        ids: list[int],
        request: TranslationRequest,
        prefix: tuple[int, ...],
        *,
        index: int,
        streamed: bool,
    ) -> Sequence:
        seed = None if request.seed is None else (request.seed, index)
        asked = request.max_tokens
        limit = (default_max_tokens(len(ids)) if asked is None else asked) + len(prefix)
        parameters = request.decoding
        if prefix or seed is not None:  # else all sentences have one object, which costs less
            parameters = dataclasses.replace(parameters, prefix_ids=prefix, seed=seed)
        return Sequence(
            source_ids=np.array([*ids, self._eos_id], np.int64),
            max_tokens=min(limit, self._shape.max_target_tokens),
            arrived=request.arrived,
            deadline=request.deadline,
            streamed=streamed,
            tenant=request.tenant,
            guarded=self._guard,
            bypass_cache=request.bypass_cache,
            parameters=parameters,
        )

    def _result(self, text: Prepared, request: TranslationRequest) -> TextResult:
        sequences, translations = text.sequences, text.translations
        reasons = [_reason(sequence) for sequence in sequences]
        unfinished = [reason for reason in reasons if reason is not FinishReason.EOS]
        detailed = request.scores or request.candidates or request.decoding.attention
        steps = sum(sequence.steps for sequence in sequences)
        rows = sum(sequence.batch_rows_sum for sequence in sequences) / max(1, steps)
        return TextResult(
            text=segmenter.rejoin(text.text, text.spans, translations, self._target_language),
            finish_reason=unfinished[0] if unfinished else FinishReason.EOS,
            source_tokens=sum(sequence.source_length - 1 for sequence in sequences),
            target_tokens=sum(len(sequence.target_ids) for sequence in sequences),
            cached_sentences=sum(sequence.cached for sequence in sequences),
            queue_time_ns=_longest((s.arrived, s.admitted) for s in sequences),
            encode_time_ns=max((int(s.encode_seconds * 1e9) for s in sequences), default=0),
            decode_time_ns=_longest((_decode_start(s), s.finished) for s in sequences),
            total_time_ns=int((time.monotonic() - request.arrived) * 1e9),
            decode_steps=steps,
            mean_batch_rows=rows,
            mean_batch_occupancy_ratio=rows / self._slots,
            warnings=_warnings(text, reasons.count(FinishReason.LENGTH)),
            sentences=self._sentences(text, translations, reasons, request) if detailed else [],
        )

    def _sentences(
        self,
        text: Prepared,
        translations: list[str],
        reasons: list[FinishReason],
        request: TranslationRequest,
    ) -> list[SentenceResult]:
        results = []
        rows = zip(text.spans, text.sequences, translations, reasons, strict=True)
        for span, sequence, translation, reason in rows:
            ids = [*sequence.target_ids, self._eos_id]
            scored = zip(ids, sequence.token_log_probs, strict=False)
            tokens = [TokenScore(self._target.piece(token), value) for token, value in scored]
            candidates = [
                Candidate(self._target.decode(one.ids), one.log_prob, one.score)
                for one in sequence.hypotheses[: request.candidates]
            ]
            pieces = []
            if request.decoding.attention:
                pieces = [self._source.piece(token) for token in sequence.source_ids.tolist()]
            attention = [row.tolist() for row in sequence.attention]
            results.append(
                SentenceResult(span, translation, reason, tokens, candidates, pieces, attention)
            )
        return results


def _raise_fault(sequences: list[Sequence]) -> None:
    """Raise what a sequence that did not end well means for its caller."""
    for sequence in sequences:
        match sequence.finish_reason:
            case FinishReason.DEADLINE:
                msg = "the deadline passed before the translation was done"
                raise DeadlineExceeded(msg)
            case FinishReason.CANCELLED:
                msg = "the caller left"
                raise RequestCancelled(msg)
            case FinishReason.ERROR:
                msg = "the model failed"
                raise ModelFailure(msg)
            case FinishReason.SHUTDOWN:
                msg = "the model was shut down before the translation was done"
                raise ShuttingDown(msg, retry_after_seconds=1.0)


def _reason(sequence: Sequence) -> FinishReason:
    assert sequence.finish_reason is not None
    return sequence.finish_reason


def _decode_start(sequence: Sequence) -> float | None:
    """When its first decoding step could start: after it was admitted and encoded."""
    return None if sequence.admitted is None else sequence.admitted + sequence.encode_seconds


def _longest(intervals: Iterable[tuple[float | None, float | None]]) -> int:
    """The longest of (start, end) seconds, in nanoseconds; 0 for none."""
    lengths = [end - start for start, end in intervals if start is not None and end is not None]
    return int(max(lengths, default=0.0) * 1e9)


def _warnings(text: Prepared, unfinished: int) -> list[TextWarning]:
    warnings = []
    if unfinished:
        message = f"{unfinished} of {len(text.sequences)} sentences reached the limit of tokens"
        warnings.append(TextWarning(WarningKind.OUTPUT_TRUNCATED, message))
    if text.retried:
        message = f"{text.retried} sentences came out degenerate at first and were decoded again"
        warnings.append(TextWarning(WarningKind.RETRIED, message))
    if text.degenerate:
        kinds = ", ".join(sorted({kind.value for kind in text.degenerate}))
        message = f"{len(text.degenerate)} sentences came out degenerate ({kinds})"
        warnings.append(TextWarning(WarningKind.DEGENERATE_OUTPUT, message))
    if text.split:
        message = "a sentence longer than the model takes was translated in parts"
        warnings.append(TextWarning(WarningKind.SENTENCE_SPLIT, message))
    return warnings
