"""Attention weights while the network computes, and all of them for one pair of texts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from model.batching import TokenisedPair, collate
from model.decoding import greedy
from model.tokenizer import EOS_PIECE, PAD_ID, Tokenizer
from model.transformer import (
    DecoderLayer,
    EncoderLayer,
    MultiHeadAttention,
    Transformer,
    padding_mask,
)


@contextlib.contextmanager
def watched(modules: Sequence[MultiHeadAttention]) -> Iterator[list[Tensor]]:
    """Inside ``with``, each pass leaves the weights [B, H, T, S] of these modules in the list.

    They are computed once more from what the module was given, with gradients where there are
    any, so the network itself need not hand them through.
    """
    seen: list[Tensor] = []

    def look(module: torch.nn.Module, given: tuple[Any, ...], _output: object) -> None:
        assert isinstance(module, MultiHeadAttention)
        seen.append(module.with_weights(*given)[1])

    handles = [module.register_forward_hook(look) for module in modules]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True, slots=True)
class Attention:
    """Who looks at whom in one sentence and its translation."""

    source_pieces: list[str]
    target_pieces: list[str]
    encoder: Tensor
    """float32 [L, H, S, S], encoder self-attention."""
    decoder: Tensor
    """float32 [L, H, T, T], decoder self-attention; its rows are shifted by the begin token."""
    cross: Tensor
    """float32 [L, H, T, S], target token against source token."""


@torch.inference_mode()
def attention_of(
    model: Transformer, tokenizers: tuple[Tokenizer, Tokenizer], text: str, target: str | None
) -> Attention:
    """All attention weights of a text and its translation.

    Args:
        model: left in eval mode.
        tokenizers: of source and target.
        text: one sentence; cut to the model's positions.
        target: its translation; None takes the model's own, greedy.
    """
    model.eval()
    source_tokenizer, target_tokenizer = tokenizers
    limit = model.config.max_positions - 1
    source = source_tokenizer.encode_arrays([text])[0][:limit]
    if target is None:
        batch = collate([TokenisedPair(source, source[:0])])
        found = greedy(model, batch.source, max_tokens=min(2 * source.size + 12, limit))[0].ids
        ids = target_tokenizer.as_array(found)
    else:
        ids = target_tokenizer.encode_arrays([target])[0]
    pair = TokenisedPair(source, ids[:limit])
    encoder, decoder, cross = attention_weights(model, [pair])
    return Attention(
        [*source_tokenizer.pieces(pair.source.tolist()), EOS_PIECE],
        [*target_tokenizer.pieces(pair.target.tolist()), EOS_PIECE],
        encoder[:, 0],
        decoder[:, 0],
        cross[:, 0],
    )


@torch.inference_mode()
def attention_weights(
    model: Transformer, pairs: Sequence[TokenisedPair]
) -> tuple[Tensor, Tensor, Tensor]:
    """Encoder, decoder and cross weights of a batch, teacher-forced, each [L, B, H, ., .]."""
    encoder = [layer.attention for layer in model.encoder if isinstance(layer, EncoderLayer)]
    layers = [layer for layer in model.decoder if isinstance(layer, DecoderLayer)]
    batch = collate(pairs)
    with (
        watched(encoder) as of_encoder,
        watched([layer.attention for layer in layers]) as of_decoder,
        watched([layer.cross for layer in layers]) as of_cross,
    ):
        model(batch.source, batch.target_in, padding_mask(batch.source, PAD_ID))
    return torch.stack(of_encoder), torch.stack(of_decoder), torch.stack(of_cross)
