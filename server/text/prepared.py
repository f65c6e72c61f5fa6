"""A text on its way: its sentences, what the model is given for each, and the layout between."""

from __future__ import annotations

from dataclasses import dataclass, field

from server.engine.request import Sequence
from server.text import segmenter
from server.text.degeneration import Degeneration
from server.text.form import Form
from server.text.request import Outcome
from server.text.segmenter import Span


@dataclass(slots=True)
class Prepared:
    """One text on its way: its sentences, and the sequence of each."""

    text: str
    spans: list[Span]
    sequences: list[Sequence]
    split: bool
    forms: list[Form | None] = field(default_factory=list)
    """Of each sentence that has anything to keep; empty if none has."""
    translations: list[str] = field(default_factory=list)
    """Of each sentence, as the model wrote it, once all have ended."""
    outputs: list[str] = field(default_factory=list)
    """The same with everything put back."""
    outcomes: list[list[Outcome]] = field(default_factory=list)
    """Of each sentence, what became of its form's holes; then of its worded numbers."""
    settled: int = 0
    """Sentences, from the first, whose outputs and outcomes are there already: a stream's."""
    retried: int = 0
    degenerate: list[Degeneration] = field(default_factory=list)
    """What is wrong with sentences that stayed so."""

    def form(self, index: int) -> Form | None:
        """How a sentence was given to the model; None = as it stands."""
        return self.forms[index] if self.forms else None

    def source(self, index: int) -> str:
        """What the model was given for a sentence."""
        form = self.form(index)
        return self.spans[index].of(self.text) if form is None else form.text

    def gap(self, index: int, target_language: str) -> str:
        """The layout before a sentence; that after the last one for their number."""
        return segmenter.gap(self.text, self.spans, index, target_language)

    def joined(self, target_language: str) -> str:
        """The text with each sentence replaced by its output, layout kept."""
        parts = []
        for index, output in enumerate(self.outputs):
            parts += [self.gap(index, target_language), output]
        return "".join([*parts, self.gap(len(self.outputs), target_language)])
