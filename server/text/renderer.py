"""From what the model wrote for a form to the sentence's translation."""

from __future__ import annotations

from collections.abc import Sequence as Sequences

import numpy as np

from server.engine.request import FloatArray, Sequence
from server.text.form import Form
from server.text.placing import Alignment, Rendered, render
from server.text.tokenizer import Tokenizer


class Renderer:
    """Knows a model's tokenizers, and so which characters a token stands for."""

    def __init__(self, source: Tokenizer, target: Tokenizer) -> None:
        """Set the tokenizers."""
        self._source = source
        self._target = target

    def of_sequence(self, form: Form, sequence: Sequence) -> Rendered:
        """What a sequence that has ended becomes."""
        return self.of_tokens(form, sequence.target_ids, sequence.attention)

    def of_tokens(
        self, form: Form, ids: Sequences[int], attention: Sequences[FloatArray]
    ) -> Rendered:
        """What these tokens become; ``attention`` may be empty."""
        translation = self._target.decode(list(ids))
        alignment = self._alignment(form, translation, ids, attention) if form.whole else None
        return render(form, translation, alignment)

    def _alignment(
        self,
        form: Form,
        translation: str,
        ids: Sequences[int],
        attention: Sequences[FloatArray],
    ) -> Alignment | None:
        if not ids or len(attention) < len(ids):
            return None
        source = self._source.places(form.text)
        weights = np.stack(attention[: len(ids)])[:, : len(source)]
        starts = self._target.starts(list(ids))
        if len(source) != weights.shape[1] or starts[-1] != len(translation):
            return None  # ids that the tokenizer does not write itself
        return Alignment(source, starts, weights)
