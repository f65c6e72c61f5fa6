"""From texts to sequences and back: split, tokenise, run, detokenise, join."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass

import numpy as np

from server.bundle import SOURCE_TOKENIZER, TARGET_TOKENIZER, Bundle
from server.engine.async_engine import AsyncEngine
from server.engine.request import FinishReason, Sequence
from server.errors import (
    DeadlineExceeded,
    InvalidRequest,
    ModelFailure,
    RequestCancelled,
    ShuttingDown,
)
from server.text import segmenter
from server.text.request import (
    Delta,
    SentenceResult,
    TextResult,
    TextWarning,
    TokenScore,
    TranslationRequest,
    WarningKind,
)
from server.text.segmenter import Span
from server.text.tokenizer import Tokenizer

# Splitting and tokenising more than this many characters leaves the event loop for a thread.
_INLINE_CHARACTERS = 4000


@dataclass(frozen=True, slots=True)
class _Text:
    """One text on its way: its sentences, and the sequence of each."""

    text: str
    spans: list[Span]
    sequences: list[Sequence]
    split: bool


class TranslationPipeline:
    """Translates with one model."""

    def __init__(self, bundle: Bundle, engine: AsyncEngine, slots: int) -> None:
        """Read the bundle's tokenizers.

        Args:
            bundle: the model.
            engine: runs its sequences.
            slots: rows of one engine's batch, for occupancies.

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

    async def translate(self, request: TranslationRequest) -> list[TextResult]:
        """One result a text, in order.

        Raises:
            DragomanError: as :meth:`stream`.
        """
        results = []
        async for event in self._run(request, streamed=False):
            assert isinstance(event, TextResult)
            results.append(event)
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
        if sum(map(len, request.texts)) > _INLINE_CHARACTERS:
            texts = await asyncio.to_thread(self._prepare, request, streamed=streamed)
        else:
            texts = self._prepare(request, streamed=streamed)
        sequences = [sequence for text in texts for sequence in text.sequences]
        emitter = _Emitter(self._target, texts[0], self._target_language) if streamed else None
        if sequences:
            async with contextlib.aclosing(self._engine.generate(sequences)) as progress:
                async for _ in progress:
                    _raise_fault(sequences)
                    for delta in emitter.advance() if emitter else []:
                        yield delta
        for delta in emitter.finish() if emitter else []:
            yield delta
        for text in texts:
            yield self._result(text, request)

    @property
    def _target_language(self) -> str:
        return self.bundle.manifest.target_language

    def _prepare(self, request: TranslationRequest, *, streamed: bool) -> list[_Text]:
        prefix = request.target_prefix
        prefix_ids = tuple(self._target.encode(prefix)) if prefix else ()
        if len(prefix_ids) >= self._shape.max_target_tokens:
            description = f"longer than {self._shape.max_target_tokens - 1} target tokens"
            raise InvalidRequest("decoding.target_prefix", description)
        texts = []
        for text, name in zip(request.texts, request.field_names, strict=True):
            if not text.strip():
                raise InvalidRequest(name, "holds nothing to translate")
            texts.append(self._split(text, request, prefix_ids, streamed=streamed))
        return texts

    def _split(
        self, text: str, request: TranslationRequest, prefix: tuple[int, ...], *, streamed: bool
    ) -> _Text:
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
        return _Text(text, spans, sequences, split)

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
        limit = self._max_tokens(len(ids), request.max_tokens) + len(prefix)
        return Sequence(
            source_ids=np.array([*ids, self._eos_id], np.int64),
            max_tokens=min(limit, self._shape.max_target_tokens),
            arrived=request.arrived,
            deadline=request.deadline,
            streamed=streamed,
            parameters=dataclasses.replace(request.decoding, prefix_ids=prefix, seed=seed),
        )

    def _max_tokens(self, source_tokens: int, asked: int | None) -> int:
        """Steps a sentence may take: what was asked, or room for twice its own length."""
        if asked is not None:
            return asked
        return 2 * source_tokens + 16

    def _result(self, text: _Text, request: TranslationRequest) -> TextResult:
        sequences = text.sequences
        translations = [self._target.decode(sequence.target_ids) for sequence in sequences]
        reasons = [_reason(sequence) for sequence in sequences]
        unfinished = [reason for reason in reasons if reason is not FinishReason.EOS]
        steps = sum(sequence.steps for sequence in sequences)
        rows = sum(sequence.batch_rows_sum for sequence in sequences) / max(1, steps)
        return TextResult(
            text=segmenter.rejoin(text.text, text.spans, translations, self._target_language),
            finish_reason=unfinished[0] if unfinished else FinishReason.EOS,
            source_tokens=sum(sequence.source_length - 1 for sequence in sequences),
            target_tokens=sum(len(sequence.target_ids) for sequence in sequences),
            queue_time_ns=_longest((s.arrived, s.admitted) for s in sequences),
            encode_time_ns=max((int(s.encode_seconds * 1e9) for s in sequences), default=0),
            decode_time_ns=_longest((_decode_start(s), s.finished) for s in sequences),
            total_time_ns=int((time.monotonic() - request.arrived) * 1e9),
            decode_steps=steps,
            mean_batch_rows=rows,
            mean_batch_occupancy_ratio=rows / self._slots,
            warnings=_warnings(text, len(unfinished)),
            sentences=self._scored(text, translations, reasons) if request.scores else [],
        )

    def _scored(
        self, text: _Text, translations: list[str], reasons: list[FinishReason]
    ) -> list[SentenceResult]:
        results = []
        rows = zip(text.spans, text.sequences, translations, reasons, strict=True)
        for span, sequence, translation, reason in rows:
            ids = [*sequence.target_ids, self._eos_id]
            scored = zip(ids, sequence.token_log_probs, strict=False)
            tokens = [TokenScore(self._target.piece(token), value) for token, value in scored]
            results.append(SentenceResult(span, translation, reason, tokens))
        return results


class _Emitter:
    """What may be sent of a text that is still being decoded, in sentence order."""

    def __init__(self, tokenizer: Tokenizer, text: _Text, target_language: str) -> None:
        self._tokenizer = tokenizer
        self._text = text
        self._language = target_language
        self._index = 0
        self._sent = 0
        self._opened = False

    def advance(self) -> list[Delta]:
        """The pieces that have become certain since the last call."""
        deltas: list[Delta] = []
        sequences = self._text.sequences
        while self._index < len(sequences):
            sequence = sequences[self._index]
            ended = sequence.finish_reason is not None
            if not self._opened:
                deltas += self._delta(self._gap(self._index))
                self._opened = True
            decode = self._tokenizer.decode if ended else self._tokenizer.decode_stable
            whole = decode(list(sequence.target_ids))
            deltas += self._delta(whole[self._sent :])
            self._sent = max(self._sent, len(whole))
            if not ended:
                break
            self._index, self._sent, self._opened = self._index + 1, 0, False
        return deltas

    def finish(self) -> list[Delta]:
        """What is left when all sequences have ended: the layout after the last."""
        deltas = self.advance()
        last = max(0, len(self._text.sequences) - 1)
        ending = self._gap(len(self._text.sequences))
        return [*deltas, Delta(ending, last)] if ending else deltas

    def _gap(self, index: int) -> str:
        return segmenter.gap(self._text.text, self._text.spans, index, self._language)

    def _delta(self, text: str) -> list[Delta]:
        return [Delta(text, self._index)] if text else []


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
                msg = "the server shut down before the translation was done"
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


def _warnings(text: _Text, unfinished: int) -> list[TextWarning]:
    warnings = []
    if unfinished:
        message = f"{unfinished} of {len(text.sequences)} sentences reached the limit of tokens"
        warnings.append(TextWarning(WarningKind.OUTPUT_TRUNCATED, message))
    if text.split:
        message = "a sentence longer than the model takes was translated in parts"
        warnings.append(TextWarning(WarningKind.SENTENCE_SPLIT, message))
    return warnings
