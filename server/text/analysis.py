"""What a text is made of and what its translation would cost, without translating it."""

from __future__ import annotations

from collections.abc import Sequence

from server.text.explanation import placeholders
from server.text.language import Guess
from server.text.pipeline import TranslationPipeline
from server.text.prepared import Prepared
from server.text.request import SentenceAnalysis, TextAnalysis, TranslationRequest


def analysis(
    request: TranslationRequest,
    language: Guess,
    route: Sequence[TranslationPipeline],
    prepared: Sequence[Prepared],
) -> TextAnalysis:
    """The analysis of the one text of a request.

    Args:
        request: the text and how it would be translated.
        language: what it is in.
        route: the models that would translate it; none if it is in the target language.
        prepared: the text as the first of them would be given it.
    """
    sequences = [sequence for text in prepared for sequence in text.sequences]
    spans = [span for text in prepared for span in text.spans]
    cost = sum(sequence.cost for sequence in sequences if sequence.finish_reason is None)
    seconds = None
    if route:
        # The second of two models reads about as much as the first writes.
        each = [pipeline.seconds(sequences) for pipeline in route]
        seconds = None if None in each else sum(one for one in each if one is not None)
    return TextAnalysis(
        language=language,
        characters=len(request.texts[0]),
        sentences=[
            SentenceAnalysis(span, sequence.source_length - 1)
            for span, sequence in zip(spans, sequences, strict=True)
        ],
        placeholders=[one for text in prepared for one in placeholders(text)],
        source_tokens=sum(sequence.source_length - 1 for sequence in sequences),
        cost_tokens=cost * len(route),
        seconds=seconds,
        route=tuple(pipeline.ref for pipeline in route),
    )
