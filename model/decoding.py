"""Reference decoding: the yardstick that the engine is measured against.

Plain loops over :class:`model.transformer.Transformer` with a growing cache. Clear
before fast.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from model.tokenizer import BOS_ID, EOS_ID, PAD_ID, UNK_ID
from model.transformer import KeyValue, Transformer, padding_mask

_NEVER = [PAD_ID, BOS_ID, UNK_ID]


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A translation: ids without begin and end, and the sum of its log-probabilities.

    The sum counts the end token where one was chosen.
    """

    ids: list[int]
    log_probability: float
    score: float
    """What hypotheses are ranked by: the sum, length-penalised in beam search."""


@torch.inference_mode()
def greedy(model: Transformer, source: Tensor, max_tokens: int) -> list[Hypothesis]:
    """The likeliest next token, again and again, until EOS or ``max_tokens``.

    Args:
        model: in eval mode.
        source: int64 [B, S], padded, each row ending in EOS.
        max_tokens: limit of target tokens, EOS counted; the model's positions are another.
    """
    mask = padding_mask(source, PAD_ID)
    cross = model.cross_keys_values(model.encode(source, mask))
    ids: list[list[int]] = [[] for _ in source]
    sums = [0.0] * len(ids)
    rows = list(range(len(ids)))  # of the source, those that go on
    tokens = torch.full((len(ids), 1), BOS_ID, device=source.device)
    cache: list[KeyValue] | None = None
    for _ in range(min(max_tokens, model.config.max_positions)):
        logits, cache = model.decode(tokens, cross, mask, cache)
        best, choice = next_log_probs(logits[:, -1]).max(dim=-1)
        for row, value, token in zip(rows, best.tolist(), choice.tolist(), strict=True):
            sums[row] += value
            if token != EOS_ID:
                ids[row].append(token)
        going = (choice != EOS_ID).nonzero().flatten()
        if not len(going):
            break
        if len(going) < len(rows):
            rows = [rows[place] for place in going.tolist()]
            cross = [(k[going], v[going]) for k, v in cross]
            cache = [(k[going], v[going]) for k, v in cache]
            mask = mask[going]
        tokens = choice[going, None]
    return [Hypothesis(one, total, total) for one, total in zip(ids, sums, strict=True)]


def next_log_probs(logits: Tensor) -> Tensor:
    """Log-softmax of logits [..., V]; tokens that no text has are then taken out."""
    log_probs = logits.float().log_softmax(dim=-1)
    log_probs[..., _NEVER] = -torch.inf
    return log_probs


def length_penalty(length: int, alpha: float) -> float:
    """((5 + length) / 6)^alpha (Wu et al. 2016, equation 14); 0 switches it off."""
    return float(((5 + length) / 6) ** alpha)


@torch.inference_mode()
def beam_search(
    model: Transformer, source: Tensor, max_tokens: int, beam_size: int, alpha: float = 1.0
) -> list[Hypothesis]:
    """The best finished hypotheses of one sentence, best first, at most ``beam_size``.

    Each step extends every live hypothesis by its best tokens. Of the ``beam_size``
    likeliest extensions, those with EOS have ended and are ranked by their penalised score;
    the ``beam_size`` likeliest without EOS live on. The search ends when ``beam_size`` have
    ended (as in fairseq and CTranslate2), so that a beam of one is greedy.

    Args:
        model: in eval mode.
        source: int64 [1, S], ending in EOS.
        max_tokens: limit of target tokens, EOS counted; the model's positions are another.
        beam_size: live hypotheses, 1 or more.
        alpha: of :func:`length_penalty`.
    """
    max_tokens = min(max_tokens, model.config.max_positions)
    mask = padding_mask(source, PAD_ID)
    cross = model.cross_keys_values(model.encode(source, mask))
    live: list[tuple[list[int], float]] = [([], 0.0)]
    finished: list[Hypothesis] = []
    cache: list[KeyValue] | None = None
    tokens = torch.full((1, 1), BOS_ID, device=source.device)
    for step in range(1, max_tokens + 1):
        rows = len(live)
        widened = [(k.expand(rows, -1, -1, -1), v.expand(rows, -1, -1, -1)) for k, v in cross]
        logits, cache = model.decode(tokens, widened, mask, cache)
        log_probs = next_log_probs(logits[:, -1])
        sums = torch.tensor([total for _, total in live], device=source.device)
        totals = log_probs + sums[:, None]
        # Half of these may be EOS, and then there are still enough to go on with.
        best, flat = totals.flatten().topk(min(2 * beam_size, int(totals.isfinite().sum())))
        vocabulary = log_probs.shape[-1]
        extended: list[tuple[list[int], float]] = []
        parents: list[int] = []
        for rank, (total, index) in enumerate(zip(best.tolist(), flat.tolist(), strict=True)):
            parent, token = divmod(index, vocabulary)
            ids = live[parent][0]
            if token == EOS_ID or step == max_tokens:
                if rank < beam_size:
                    ended = ids if token == EOS_ID else [*ids, token]
                    finished.append(Hypothesis(ended, total, total / length_penalty(step, alpha)))
            elif len(extended) < beam_size:
                extended.append(([*ids, token], total))
                parents.append(parent)
        live = extended
        if len(finished) >= beam_size or not live:
            break
        cache = [(k[parents], v[parents]) for k, v in cache]
        tokens = torch.tensor([[ids[-1]] for ids, _ in live], device=source.device)
    finished.sort(key=lambda hypothesis: hypothesis.score, reverse=True)
    return finished[:beam_size]
