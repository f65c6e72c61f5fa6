"""Whether an imported model's graphs say what those in float32 say: the quality gate.

Whether float32 says what the authors' code says is another question, see ``reference.py``.
"""

from __future__ import annotations

import dataclasses
import gc
import time
from dataclasses import dataclass

import numpy as np
import sacrebleu
from numpy.typing import NDArray

from export.speed import Speed
from export.verify import BUDGETS, Budget, Exported, ExportError, forced_logits, log_softmax
from server.bundle import Bundle
from server.engine.request import DecodingParameters
from server.memory import return_freed_memory
from server.text.languages import Pair
from server.text.tokenizer import tokenizers_of

_SLOTS = 8
_STEPWISE_SENTENCES = 8
_STEPS = 24
"""Of a vocabulary of 256,000, as NLLB's, that is 200 MB of logits."""


@dataclass(frozen=True, slots=True)
class Sentences:
    """What graphs are compared on: sources, and references where somebody has them."""

    sources: list[str]
    references: list[str] | None = None


@dataclass(frozen=True, slots=True)
class Translated:
    """What one precision's graphs make of the sentences."""

    ids: list[list[int]]
    texts: list[str]
    sources: list[list[int]]
    """Ids of the first few, without the end token."""
    limits: list[int]
    """Most tokens of each of them."""
    target_in: NDArray[np.int64]
    """[B, T], what the decoder was given for these, padded."""
    counted: NDArray[np.bool_]
    """[B, T], what of it is no padding."""
    logits: NDArray[np.float32]
    """[B, T, V]."""
    seconds: float
    """For all outputs; the graphs were loaded before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportReport:
    """``parity.json`` of an imported model."""

    precision: str
    compared_with: str
    measured_on: str
    sentences: int = 0
    log_prob_difference_max: float = 0.0
    log_prob_difference_mean: float = 0.0
    identical_sentences_ratio: float = 1.0
    chrf_with_float32: float = 100.0
    """Of the outputs, with those of float32 as references."""
    chrf: float | None = None
    """With the references given, if any were."""
    chrf_float32: float | None = None
    budget: Budget | None = None
    speed: Speed | None = None
    """Of graphs that ONNX Runtime packs nothing of, for memory's sake; None where they are
    float32, made for a GPU, or compared with graphs that read a checkpoint in 16 bits."""

    def as_json(self) -> dict[str, object]:
        """Plain values."""
        return dataclasses.asdict(self)


def translated(
    bundle: Bundle, sentences: Sentences, pair: Pair, forced: Translated | None = None
) -> Translated:
    """Load a bundle's graphs, translate greedily, and let go of them.

    Args:
        bundle: of any precision.
        sentences: whose sources are translated.
        pair: which languages.
        forced: whose output the decoder is given when logits are taken; None = its own.
    """
    exported = Exported(bundle, slots=_SLOTS, packed=False)
    source, target = tokenizers_of(bundle)
    parameters = DecodingParameters(prefix_ids=pair.target_ids)
    ids = [[*pair.source_ids, *source.encode(text)] for text in sentences.sources]
    ids = exported.fitting(ids)
    start = time.perf_counter()
    outputs = [sequence.target_ids for sequence in exported.run(ids, parameters)]
    seconds = time.perf_counter() - start
    if forced is None:
        first = outputs[:_STEPWISE_SENTENCES]
        target_in, counted = _target_in(first, exported.tokens.bos, exported.tokens.eos)
    else:
        target_in, counted = forced.target_in, forced.counted
    sources = ids[: len(target_in)]
    found = Translated(
        ids=outputs,
        texts=[target.decode(row) for row in outputs],
        sources=sources,
        limits=exported.limits(sources),
        target_in=target_in,
        counted=counted,
        logits=forced_logits(exported, sources, target_in),
        seconds=seconds,
    )
    del exported
    gc.collect()  # a session of gigabytes
    return_freed_memory()
    return found


def compare(
    precision: str, provider: str, ours: Translated, float32: Translated, sentences: Sentences
) -> ImportReport:
    """The report."""
    difference = _differences(ours, float32)
    equal = [one == other for one, other in zip(ours.ids, float32.ids, strict=True)]
    references = sentences.references
    return ImportReport(
        precision=precision,
        compared_with="its own float32 graphs",
        measured_on=provider,
        sentences=len(equal),
        log_prob_difference_max=float(difference[:, 0].max()),
        log_prob_difference_mean=float(difference[:, 1].mean()),
        identical_sentences_ratio=float(np.mean(equal)),
        chrf_with_float32=_chrf(ours.texts, float32.texts),
        chrf=_chrf(ours.texts, references) if references else None,
        chrf_float32=_chrf(float32.texts, references) if references else None,
        budget=BUDGETS[precision],
    )


def _differences(ours: Translated, float32: Translated) -> NDArray[np.float64]:
    """Of the log-probabilities of all tokens that count: the largest and the mean of each step.

    A step at a time: with a vocabulary as NLLB's, all of them in float64 are gigabytes.
    """
    found = []
    for row, step in np.argwhere(ours.counted):
        one, other = (log_softmax(of.logits[row, step]) for of in (ours, float32))
        difference = np.abs(one - other)
        found.append((difference.max(), difference.mean()))
    return np.array(found)


def check(report: ImportReport) -> None:
    """Raise if the report breaks the budget of its precision.

    Raises:
        ExportError: one line with the figure and the budget.
    """
    budget = BUDGETS[report.precision]
    lost = (report.chrf_float32 or 0.0) - (report.chrf or 0.0)
    found = (
        ("log-probabilities differ at most by", report.log_prob_difference_max,
         budget.max_log_prob_difference),
        ("log-probabilities differ on average by", report.log_prob_difference_mean,
         budget.mean_log_prob_difference),
        ("share of sentences that come out differently:",
         1 - report.identical_sentences_ratio, 1 - budget.min_identical_sentences_ratio),
        ("chrF lost:", lost, budget.max_chrf_loss),
    )  # fmt: skip
    for what, value, most in found:
        if not value <= most:
            msg = (
                f"{report.precision} beside float32, {what} {value:.2g}, budget {most:g}; "
                "--precision fp32 has no such loss"
            )
            raise ExportError(msg)


def _target_in(
    outputs: list[list[int]], bos: int, eos: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    steps = min(_STEPS, max(map(len, outputs)) + 1)
    given = np.full((len(outputs), steps), eos, np.int64)
    counted = np.zeros(given.shape, bool)
    for row, ids in enumerate(outputs):
        whole = [bos, *ids][:steps]
        given[row, : len(whole)] = whole
        counted[row, : len(whole)] = True
    return given, counted


def _chrf(outputs: list[str], references: list[str]) -> float:
    return float(sacrebleu.corpus_chrf(outputs, [references]).score)
