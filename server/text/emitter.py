"""What may be sent of a text before it is done."""

from __future__ import annotations

import html

from server.engine.request import Sequence
from server.text.prepared import Prepared
from server.text.request import Delta
from server.text.tokenizer import Tokenizer


class Emitter:
    """What may be sent of a text that is still being decoded, in sentence order.

    A sentence with placeholders or tags is sent when it is settled: where they belong is not known
    before.
    """

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
                deltas += self._delta(self._text.gap(self._index, self._language))
                self._opened = True
            form = self._text.form(self._index)
            if form is not None and form.whole and self._index >= self._text.settled:
                break
            whole = self._certain(sequence, ended=ended)
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
        ending = self._text.gap(len(self._text.sequences), self._language)
        return [*deltas, Delta(ending, last)] if ending else deltas

    def _certain(self, sequence: Sequence, *, ended: bool) -> str:
        """What of a sentence's translation will not change any more."""
        form = self._text.form(self._index)
        if form is not None and form.whole:
            return self._text.outputs[self._index]
        decode = self._tokenizer.decode if ended else self._tokenizer.decode_stable
        whole = decode(list(sequence.target_ids))
        return html.escape(whole, quote=False) if form is not None and form.html else whole

    def _delta(self, text: str) -> list[Delta]:
        return [Delta(text, self._index)] if text else []
