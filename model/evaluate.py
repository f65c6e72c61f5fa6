"""How good translations are: sacreBLEU's BLEU and chrF, and loss, on held-out sentences."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sacrebleu
import torch

from model.batching import Batch, TokenisedPair, collate
from model.config import ConfigError
from model.decoding import greedy
from model.loss import label_smoothed_loss
from model.text.readers import read_tsv
from model.tokenizer import PAD_ID, Tokenizer
from model.transformer import Transformer, padding_mask


@dataclass(frozen=True, slots=True)
class ValidationSet:
    """Source sentences with one or more references each."""

    sources: list[str]
    references: list[list[str]]

    def head(self, count: int) -> ValidationSet:
        """An even sample of ``count`` sentences (files are often sorted by length)."""
        if count >= len(self.sources):
            return self
        chosen = np.linspace(0, len(self.sources) - 1, count).round().astype(int).tolist()
        return ValidationSet(
            [self.sources[index] for index in chosen], [self.references[index] for index in chosen]
        )


@dataclass(frozen=True, slots=True)
class Scores:
    """Corpus scores with the signatures that make them comparable."""

    bleu: float
    chrf: float
    bleu_signature: str
    chrf_signature: str


def read_validation(path: Path, *, swapped: bool = False) -> ValidationSet:
    """Sentence TAB reference [TAB reference ...].

    Args:
        path: the file.
        swapped: it was made for the other direction; the first reference becomes the source.

    Raises:
        ConfigError: unreadable, malformed or empty.
    """
    rows = list(read_tsv(path))
    if not rows:
        msg = f"{path}: no sentences"
        raise ConfigError(msg)
    if swapped:
        return ValidationSet([row[1] for row in rows], [[row[0]] for row in rows])
    return ValidationSet([row[0] for row in rows], [row[1:] for row in rows])


def score(
    hypotheses: list[str], references: list[list[str]], target_language: str = "zh-TW"
) -> Scores:
    """BLEU (Chinese split into characters) and chrF2 of whole texts."""
    depth = max(map(len, references))
    # sacreBLEU takes one list a reference number; a missing one is repeated, which changes nothing.
    streams = [[row[min(index, len(row) - 1)] for row in references] for index in range(depth)]
    bleu = sacrebleu.metrics.BLEU(tokenize="zh" if target_language.startswith("zh") else "13a")
    chrf = sacrebleu.metrics.CHRF()
    return Scores(
        bleu=bleu.corpus_score(hypotheses, streams).score,
        chrf=chrf.corpus_score(hypotheses, streams).score,
        bleu_signature=str(bleu.get_signature()),
        chrf_signature=str(chrf.get_signature()),
    )


def translate(
    model: Transformer,
    source_tokenizer: Tokenizer,
    target_tokenizer: Tokenizer,
    sentences: list[str],
    batch_tokens: int = 4096,
) -> list[str]:
    """Greedy translations in the order of ``sentences``; the model is left in eval mode."""
    model.eval()
    limit = model.config.max_positions - 1  # begin or end takes a position
    ids = [row[:limit] for row in source_tokenizer.encode(sentences)]
    results = [""] * len(ids)
    for chosen in _chunks(ids, batch_tokens):
        source = collate([_pair(ids[index], []) for index in chosen]).source.to(_device(model))
        lengths = [min(2 * len(ids[index]) + 12, limit) for index in chosen]
        hypotheses = greedy(model, source, max_tokens=max(lengths))
        for index, length, hypothesis in zip(chosen, lengths, hypotheses, strict=True):
            # Each at its own limit: a translation never depends on its company.
            results[index] = target_tokenizer.decode(hypothesis.ids[:length])
    return results


def _chunks(ids: list[list[int]], batch_tokens: int) -> list[list[int]]:
    """Indices of rows of like length, each chunk within ``batch_tokens``, padding included."""
    chunks: list[list[int]] = []
    for index in sorted(range(len(ids)), key=lambda index: len(ids[index])):
        if chunks and (len(chunks[-1]) + 1) * (len(ids[index]) + 1) <= batch_tokens:
            chunks[-1].append(index)
        else:
            chunks.append([index])
    return chunks


@torch.inference_mode()
def mean_loss(model: Transformer, batches: list[Batch], smoothing: float) -> tuple[float, float]:
    """Mean smoothed loss and mean negative log-likelihood a token, in eval mode."""
    model.eval()
    smoothed, likelihood, tokens = 0.0, 0.0, 0
    for batch in (batch.to(_device(model)) for batch in batches):
        logits = model(batch.source, batch.target_in, padding_mask(batch.source, PAD_ID))
        loss = label_smoothed_loss(
            logits.flatten(0, 1), batch.target_out.flatten(), PAD_ID, smoothing
        )
        smoothed += float(loss.smoothed)
        likelihood += float(loss.negative_log_likelihood)
        tokens += loss.tokens
    return smoothed / tokens, likelihood / tokens


def validation_batches(
    validation: ValidationSet,
    source_tokenizer: Tokenizer,
    target_tokenizer: Tokenizer,
    *,
    rows: int,
    max_positions: int,
) -> list[Batch]:
    """The set against its first references, as padded batches; what is too long is cut."""
    sources = source_tokenizer.encode(validation.sources)
    targets = target_tokenizer.encode([row[0] for row in validation.references])
    limit = max_positions - 1  # begin or end takes a position
    pairs = [
        _pair(source[:limit], target[:limit])
        for source, target in zip(sources, targets, strict=True)
    ]
    pairs.sort(key=lambda pair: pair.source.size)
    return [collate(pairs[start : start + rows]) for start in range(0, len(pairs), rows)]


def _device(model: Transformer) -> torch.device:
    return model.projection.weight.device


def _pair(source: list[int], target: list[int]) -> TokenisedPair:
    return TokenisedPair(np.array(source, np.uint16), np.array(target, np.uint16))
