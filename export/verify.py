"""Whether what was exported says what PyTorch says: the parity report.

The exported graphs are run by the server's own engine, so what is compared is what will serve.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from export.speed import Speed
from model.batching import TokenisedPair, collate
from model.decoding import greedy
from model.evaluate import Scores, ValidationSet, score
from model.tokenizer import EOS_ID, PAD_ID, Tokenizer
from model.transformer import Transformer, padding_mask
from server.bundle import Bundle
from server.engine.device_runner import DeviceModelRunner
from server.engine.engine import Engine
from server.engine.kv_cache import KVCachePool
from server.engine.model_runner import ModelRunner, OrtModelRunner, cache_shape, load_sessions
from server.engine.provider import HOST
from server.engine.request import GREEDY, DecodingParameters, Sequence, default_max_tokens
from server.engine.scheduler import Policy, Scheduler
from server.engine.search import Search
from server.metrics import Metrics

_log = logging.getLogger(__name__)

_SLOTS = 32
_STEPWISE_SENTENCES = 32
# Of each set: as many as it takes until what flips by chance evens out.
_COMPARED_SENTENCES = 2000


class ExportError(Exception):
    """The export is not fit to serve; the message says by how much."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What a precision may lose."""

    max_log_prob_difference: float
    mean_log_prob_difference: float
    min_identical_sentences_ratio: float
    max_chrf_loss: float


BUDGETS = {
    "fp32": Budget(1e-3, 1e-4, 1.0, 0.01),
    # Sentences that a model is unsure of flip at the smallest rounding: what counts is the score.
    "int8": Budget(4.0, 0.15, 0.3, 0.3),
    "int8-rows": Budget(4.0, 0.15, 0.3, 0.3),
    "fp16": Budget(0.1, 0.01, 0.9, 0.1),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetParity:
    """A sample of a validation set: PyTorch in float32 against the exported graphs, both greedy."""

    sentences: int
    identical_sentences_ratio: float
    identical_tokens_ratio: float
    """Tokens equal at their position, of the longer of both outputs."""
    bleu_torch: float
    bleu: float
    chrf_torch: float
    chrf: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityReport:
    """``parity.json``."""

    precision: str
    measured_on: str
    """The execution provider that ran the exported graphs for this report."""
    log_prob_difference_max: float
    """Largest difference of a token's log-probability, step by step on PyTorch's own output."""
    log_prob_difference_mean: float
    budget: Budget
    datasets: dict[str, DatasetParity]
    scores: dict[str, Scores]
    """Of the exported graphs, on every sentence of each set."""
    speed: Speed | None = None
    """None: of float32 itself, and of what is made for a GPU."""

    def as_json(self) -> dict[str, object]:
        """Plain values."""
        return dataclasses.asdict(self)


class Exported:
    """The exported graphs with tokenizers, translating by the server's engine."""

    def __init__(self, bundle: Bundle, slots: int = _SLOTS, *, packed: bool = True) -> None:
        """Load them on one engine of one thread.

        Args:
            bundle: of any precision.
            slots: sentences at once.
            packed: whether ONNX Runtime may keep matrices a second time, in the order in which it
                multiplies them; without, it is slower.
        """
        self.tokens = tokens = bundle.manifest.tokens
        self.vocabulary = bundle.manifest.shape.target_vocab_size
        self.pool, self.runner = _runner(bundle, slots, packed=packed)
        policy = Policy(max_encode_tokens=512, window=64)
        scheduler = Scheduler(self.pool, policy, bos_id=tokens.bos, eos_id=tokens.eos)
        search = Search(self.pool, eos_id=tokens.eos, never=tokens.never)
        self._engine = Engine("export", scheduler, self.runner, search, Metrics())

    def fitting(self, sources: list[list[int]]) -> list[list[int]]:
        """Ids cut to what the encoder takes; the server would translate the rest as well."""
        return [ids[: self.pool.shape.source_positions - 1] for ids in sources]

    def limits(self, sources: list[list[int]]) -> list[int]:
        """Most target tokens of each source, as the server sets them."""
        most = self.pool.shape.target_positions
        return [min(default_max_tokens(len(ids)), most) for ids in sources]

    def greedy(self, sources: list[list[int]]) -> list[list[int]]:
        """Target ids of each source (ids without end), in order."""
        return [sequence.target_ids for sequence in self.run(sources, GREEDY)]

    def run(self, sources: list[list[int]], parameters: DecodingParameters) -> list[Sequence]:
        """A finished sequence for each source (ids without end), in order."""
        limits = self.limits(sources)
        sequences = [
            sequence_of(ids, max_tokens=limit, parameters=parameters, eos_id=self.tokens.eos)
            for ids, limit in zip(sources, limits, strict=True)
        ]
        for sequence in sequences:
            self._engine.add(sequence)
        while self._engine.has_unfinished:
            self._engine.step()
        return sequences

    def translate(self, sentences: list[str], tokenizers: tuple[Tokenizer, Tokenizer]) -> list[str]:
        """Translations of whole sentences, in order."""
        source, target = tokenizers
        outputs = self.greedy(self.fitting(source.encode(sentences)))
        return [target.decode(ids) for ids in outputs]


def _runner(bundle: Bundle, slots: int, *, packed: bool) -> tuple[KVCachePool, ModelRunner]:
    """What will serve the bundle; one for CUDA does it on this machine's processor."""
    if bundle.manifest.provider == "cuda":
        runner = DeviceModelRunner(bundle, slots, HOST)
        return runner.pool, runner
    pool = KVCachePool(cache_shape(bundle.manifest, slots))
    return pool, OrtModelRunner(bundle, load_sessions(bundle, packed=packed), pool)


def sequence_of(
    ids: list[int],
    max_tokens: int,
    parameters: DecodingParameters = GREEDY,
    eos_id: int = EOS_ID,
) -> Sequence:
    """A sequence for the engine."""
    source, now = np.array([*ids, eos_id], np.int64), time.monotonic()
    return Sequence(source_ids=source, max_tokens=max_tokens, arrived=now, parameters=parameters)


def verify(
    model: Transformer,
    bundle: Bundle,
    tokenizers: tuple[Tokenizer, Tokenizer],
    validation: dict[str, ValidationSet],
) -> tuple[ParityReport, dict[str, list[str]]]:
    """The parity report, and the exported model's translations of each set.

    Raises:
        ExportError: a budget of the precision is broken.
    """
    manifest = bundle.manifest
    exported = Exported(bundle)
    first = next(iter(validation.values()))
    samples = tokenizers[0].encode(first.head(_STEPWISE_SENTENCES).sources)
    _log.info("comparing log-probabilities with PyTorch's, step by step")
    highest, mean = stepwise_difference(model, exported, samples)
    datasets, outputs, scores = {}, {}, {}
    for name, of_set in validation.items():
        _log.info("%s: translating %d sentences", name, len(of_set.sources))
        outputs[name] = exported.translate(of_set.sources, tokenizers)
        scores[name] = score(outputs[name], of_set.references, manifest.target_language)
        _log.info("%s: BLEU %.2f, chrF2 %.2f", name, scores[name].bleu, scores[name].chrf)
        sample = of_set.head(_COMPARED_SENTENCES)
        _log.info("%s: %d sentences in PyTorch, for comparison", name, len(sample.sources))
        datasets[name] = _compare(model, exported, tokenizers, sample, manifest.target_language)
    report = ParityReport(
        precision=manifest.precision,
        measured_on=HOST.provider,
        log_prob_difference_max=highest,
        log_prob_difference_mean=mean,
        budget=BUDGETS[manifest.precision],
        datasets=datasets,
        scores=scores,
    )
    check(report)
    return report, outputs


def check(report: ParityReport) -> None:
    """Raise if the report breaks its budget.

    Raises:
        ExportError: one line with the figure and the budget.
    """
    budget = report.budget
    if not report.log_prob_difference_max <= budget.max_log_prob_difference:
        msg = (
            f"{report.precision}: log-probabilities differ from PyTorch's by up to "
            f"{report.log_prob_difference_max:.2g}, budget {budget.max_log_prob_difference:g}"
        )
        raise ExportError(msg)
    if not report.log_prob_difference_mean <= budget.mean_log_prob_difference:
        msg = (
            f"{report.precision}: log-probabilities differ from PyTorch's by "
            f"{report.log_prob_difference_mean:.2g} on average, budget "
            f"{budget.mean_log_prob_difference:g}"
        )
        raise ExportError(msg)
    for name, parity in report.datasets.items():
        if parity.identical_sentences_ratio < budget.min_identical_sentences_ratio:
            msg = (
                f"{report.precision}: {parity.identical_sentences_ratio:.1%} of {name} come out as "
                f"in PyTorch, budget {budget.min_identical_sentences_ratio:.1%}"
            )
            raise ExportError(msg)
        if parity.chrf_torch - parity.chrf > budget.max_chrf_loss:
            msg = (
                f"{report.precision}: {name} loses {parity.chrf_torch - parity.chrf:.2f} chrF, "
                f"budget {budget.max_chrf_loss:g}"
            )
            raise ExportError(msg)


@torch.inference_mode()
def stepwise_difference(
    model: Transformer, exported: Exported, sources: list[list[int]]
) -> tuple[float, float]:
    """Largest and mean difference of log-probabilities, teacher-forced on PyTorch's output.

    At most as many sentences as the engine has slots; each is compared up to its own end.
    """
    sources = [ids for ids in sources if len(ids) < exported.pool.shape.source_positions][:_SLOTS]
    source = collate([_pair(ids) for ids in sources]).source
    limit = min(64, exported.pool.shape.target_positions - 1)  # and the end
    targets = [hypothesis.ids for hypothesis in greedy(model, source, limit)]
    batch = collate([_pair(ids, out) for ids, out in zip(sources, targets, strict=True)])
    expected = model(source, batch.target_in, padding_mask(source, PAD_ID)).log_softmax(-1).numpy()
    actual = log_softmax(forced_logits(exported, sources, batch.target_in.numpy()))
    counts = batch.target_out.numpy() != PAD_ID
    difference = np.abs(actual - expected)[counts]
    return float(difference.max()), float(difference.mean())


def forced_logits(
    exported: Exported, sources: list[list[int]], target_in: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Logits [B, T, V] of the exported graphs, step by step on given inputs [B, T]."""
    pool, vocabulary, tokens = exported.pool, exported.vocabulary, exported.tokens
    pool.reset()
    found = np.empty((*target_in.shape, vocabulary), np.float32)
    sequences = [sequence_of(ids, max_tokens=1, eos_id=tokens.eos) for ids in sources]
    for sequence in sequences:
        slot = pool.allocate()
        pool.start(slot, sequence.source_length, tokens.bos)
        sequence.slots = [slot]
    exported.runner.encode(sequences)
    for step, column in enumerate(target_in.T):
        pool.tokens[: len(sources)] = column
        logits = exported.runner.decode(len(sources))
        found[:, step] = logits.values[:, :vocabulary]
        pool.positions[: len(sources)] += 1
    pool.reset()
    return found


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Log-probabilities over the last axis."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    found: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return found


def _compare(
    model: Transformer,
    exported: Exported,
    tokenizers: tuple[Tokenizer, Tokenizer],
    validation: ValidationSet,
    language: str,
) -> DatasetParity:
    sources = exported.fitting(tokenizers[0].encode(validation.sources))
    limits = exported.limits(sources)
    actual = exported.greedy(sources)
    expected = torch_greedy(model, sources, limits)
    identical = [one == other for one, other in zip(actual, expected, strict=True)]
    ours, theirs = (
        score([tokenizers[1].decode(ids) for ids in outputs], validation.references, language)
        for outputs in (actual, expected)
    )
    return DatasetParity(
        sentences=len(sources),
        identical_sentences_ratio=float(np.mean(identical)),
        identical_tokens_ratio=_token_agreement(actual, expected),
        bleu_torch=theirs.bleu,
        bleu=ours.bleu,
        chrf_torch=theirs.chrf,
        chrf=ours.chrf,
    )


def torch_greedy(
    model: Transformer, sources: list[list[int]], limits: list[int], batch_tokens: int = 4096
) -> list[list[int]]:
    """The reference decoder's ids of each source, in order, each within its own limit."""
    order = sorted(range(len(sources)), key=lambda index: len(sources[index]))
    results: list[list[int]] = [[] for _ in sources]
    while order:
        rows = 1
        while rows < len(order) and (rows + 1) * (len(sources[order[rows]]) + 1) <= batch_tokens:
            rows += 1
        chosen, order = order[:rows], order[rows:]
        source = collate([_pair(sources[index]) for index in chosen]).source
        found = greedy(model, source, max(limits[index] for index in chosen))
        for index, hypothesis in zip(chosen, found, strict=True):
            results[index] = hypothesis.ids[: limits[index]]
    return results


def _token_agreement(actual: list[list[int]], expected: list[list[int]]) -> float:
    equal = longest = 0
    for one, other in zip(actual, expected, strict=True):
        equal += sum(left == right for left, right in zip(one, other, strict=False))
        longest += max(len(one), len(other))
    return equal / max(1, longest)


def _pair(source: list[int], target: list[int] | None = None) -> TokenisedPair:
    return TokenisedPair(np.array(source, np.uint16), np.array(target or [], np.uint16))
