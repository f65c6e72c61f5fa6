"""A text on its way, and what may be sent of it before it is done."""

from __future__ import annotations

from dataclasses import dataclass, field

from server.engine.request import Sequence
from server.text import segmenter
from server.text.degeneration import Degeneration
from server.text.request import Delta
from server.text.segmenter import Span
from server.text.tokenizer import Tokenizer


@dataclass(slots=True)
class Prepared:
    """One text on its way: its sentences, and the sequence of each."""

    text: str
    spans: list[Span]
    sequences: list[Sequence]
    split: bool
    translations: list[str] = field(default_factory=list)
    """Of each sentence, once all have ended."""
    retried: int = 0
    degenerate: list[Degeneration] = field(default_factory=list)
    """What is wrong with sentences that stayed so."""


class Emitter:
    """What may be sent of a text that is still being decoded, in sentence order."""

    def __init__(self, tokenizer: Tokenizer, text: Prepared, target_language: str) -> None:
        """Start at the beginning of a text."""
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
