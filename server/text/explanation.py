"""What a caller is told of a text: its translation, how it came about, what became of what."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from server.engine.request import FinishReason, Sequence
from server.text.prepared import Prepared
from server.text.protect import Protected
from server.text.renderer import Renderer
from server.text.request import (
    AppliedTerm,
    Candidate,
    ModelRef,
    Outcome,
    Placeholder,
    SentenceResult,
    TextResult,
    TextWarning,
    TokenScore,
    TranslationRequest,
    WarningKind,
)
from server.text.tokenizer import Tokenizer

_HERE = frozenset({Outcome.KEPT, Outcome.RETRIED, Outcome.PLACED})


@dataclass(frozen=True, slots=True)
class Explainer:
    """Knows one model's names and tokens."""

    model: ModelRef
    source: Tokenizer
    target: Tokenizer
    renderer: Renderer
    slots: int
    eos_id: int
    target_language: str

    def result(self, text: Prepared, request: TranslationRequest) -> TextResult:
        """A text's translation; its outputs are there."""
        sequences = text.sequences
        reasons = [_reason(sequence) for sequence in sequences]
        unfinished = [reason for reason in reasons if reason is not FinishReason.EOS]
        detailed = request.scores or request.candidates or request.decoding.attention
        steps = sum(sequence.steps for sequence in sequences)
        rows = sum(sequence.batch_rows_sum for sequence in sequences) / max(1, steps)
        placeholders, terms = _kept(text)
        return TextResult(
            text=text.joined(self.target_language),
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
            mean_batch_occupancy_ratio=rows / self.slots,
            warnings=[
                *_warnings(text, reasons.count(FinishReason.LENGTH)),
                *_losses(placeholders, terms),
            ],
            sentences=self._sentences(text, reasons, request) if detailed else [],
            placeholders=placeholders,
            applied_terms=terms,
            route=(self.model,),
        )

    def _sentences(
        self, text: Prepared, reasons: list[FinishReason], request: TranslationRequest
    ) -> list[SentenceResult]:
        results = []
        for index, (span, sequence) in enumerate(zip(text.spans, text.sequences, strict=True)):
            ids = [*sequence.target_ids, self.eos_id]
            scored = zip(ids, sequence.token_log_probs, strict=False)
            tokens = [TokenScore(self.target.piece(token), value) for token, value in scored]
            pieces: list[str] = []
            attention: list[list[float]] = []
            if request.decoding.attention:
                pieces = [self.source.piece(token) for token in sequence.source_ids.tolist()]
                attention = [row.tolist() for row in sequence.attention]
            results.append(
                SentenceResult(
                    span,
                    text.outputs[index],
                    reasons[index],
                    tokens,
                    self._candidates(text, index, sequence, request),
                    pieces,
                    attention,
                    _by_head(sequence) if sequence.head_attention else [],
                )
            )
        return results

    def _candidates(
        self, text: Prepared, index: int, sequence: Sequence, request: TranslationRequest
    ) -> list[Candidate]:
        form = text.form(index)
        found = []
        for one in sequence.hypotheses[: request.candidates]:
            words = (
                self.target.decode(one.ids)
                if form is None
                else self.renderer.of_tokens(form, one.ids, one.attention).text
            )
            found.append(Candidate(words, one.log_prob, one.score))
        return found


def placeholders(text: Prepared) -> list[Placeholder]:
    """What is protected in a text whose sequences have not run."""
    return [
        _placeholder(one, span.start, form.base, Outcome.NONE)
        for span, form in zip(text.spans, text.forms, strict=False)
        if form is not None
        for one in form.found
    ]


def _placeholder(one: Protected, start: int, base: str, outcome: Outcome) -> Placeholder:
    words = one.value if one.kind == "markup" else base[one.start : one.end]
    return Placeholder(words, one.kind, start + one.start, outcome)


def _kept(text: Prepared) -> tuple[list[Placeholder], list[AppliedTerm]]:
    """What became of placeholders and terms."""
    found: list[Placeholder] = []
    terms: Counter[tuple[str, str]] = Counter()
    applied: Counter[tuple[str, str]] = Counter()
    for index, span in enumerate(text.spans):
        form = text.form(index)
        if form is None:
            continue
        outcomes = text.outcomes[index]
        members = [member for hole in form.holes for member in hole.members]
        of_members = [
            outcome
            for hole, outcome in zip(form.holes, outcomes, strict=False)
            for _ in hole.members
        ]
        pairs = [
            *zip(members, of_members, strict=True),
            *zip(form.worded, outcomes[len(form.holes) :], strict=True),
        ]
        for one, outcome in sorted(pairs, key=lambda pair: pair[0].start):
            sure = outcome
            if one.value and one.kind != "number" and one.value not in text.outputs[index]:
                sure = Outcome.LOST
            found.append(_placeholder(one, span.start, form.base, sure))
            if one.term is not None:
                key = one.term.source, one.term.target
                terms[key] += 1
                applied[key] += sure in _HERE
    return found, [
        AppliedTerm(source, target, count, applied[source, target])
        for (source, target), count in terms.items()
    ]


def _losses(found: list[Placeholder], terms: list[AppliedTerm]) -> list[TextWarning]:
    warnings = []
    lost = tuple(one.text for one in found if one.outcome is Outcome.LOST and one.kind != "term")
    if lost:
        message = f"{len(lost)} of {len(found)} placeholders are not in the translation"
        warnings.append(TextWarning(WarningKind.PLACEHOLDER_LOST, message, lost))
    placed = tuple(one.text for one in found if one.outcome is Outcome.PLACED)
    if placed:
        message = f"{len(placed)} placeholders were put in by alignment; look where they stand"
        warnings.append(TextWarning(WarningKind.PLACEHOLDER_PLACED, message, placed))
    missing = tuple(term.source for term in terms if term.applied < term.found)
    if missing:
        message = f"{len(missing)} terms were not applied wherever the text holds them"
        warnings.append(TextWarning(WarningKind.TERM_NOT_APPLIED, message, missing))
    return warnings


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
        message = (
            f"{text.retried} sentences came out degenerate, or without a placeholder, at first"
        )
        warnings.append(TextWarning(WarningKind.RETRIED, message))
    if text.degenerate:
        kinds = ", ".join(sorted({kind.value for kind in text.degenerate}))
        message = f"{len(text.degenerate)} sentences came out degenerate ({kinds})"
        warnings.append(TextWarning(WarningKind.DEGENERATE_OUTPUT, message))
    if text.split:
        message = "a sentence longer than the model takes was translated in parts"
        warnings.append(TextWarning(WarningKind.SENTENCE_SPLIT, message))
    return warnings


def _by_head(sequence: Sequence) -> list[list[list[list[float]]]]:
    """[L][H][T][S]."""
    steps = np.stack(sequence.head_attention)  # T, L, H, S
    table: list[list[list[list[float]]]] = steps.transpose(1, 2, 0, 3).tolist()
    return table
