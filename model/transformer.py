"""The Transformer of "Attention Is All You Need" on one page (Vaswani et al. 2017).

Shapes: ``B`` rows, ``S`` source tokens (padded), ``T`` target tokens, ``H`` heads,
``D`` head size, ``M`` model size, ``V`` vocabulary. A mask is bool and True where a
query may look at a key; it broadcasts to [B, H, T, S].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.config import TransformerConfig

KeyValue = tuple[Tensor, Tensor]
"""Projected keys and values of one attention, each [B, H, S, D]."""


def scaled_dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Attention(Q, K, V) = softmax(Q K^T / sqrt(d_k)) V (section 3.2.1, equation 1).

    Args:
        query: [B, H, T, D].
        key: [B, H, S, D].
        value: [B, H, S, D].
        mask: bool, True = visible; broadcasts to [B, H, T, S].

    Returns:
        The context [B, H, T, D] and the weights [B, H, T, S].
    """
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])  # (B, H, T, S)
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    weights = scores.softmax(dim=-1)
    return weights @ value, weights


class MultiHeadAttention(nn.Module):
    """h attentions side by side over learned projections (section 3.2.2).

    The keys and values are projected apart from the attention itself, because a decoder
    projects those of the source once and attends to them at every step.
    """

    def __init__(self, config: TransformerConfig) -> None:
        """Build the four projections W^Q, W^K, W^V, W^O."""
        super().__init__()
        self.n_heads = config.n_heads
        self.query = nn.Linear(config.d_model, config.d_model)
        self.key = nn.Linear(config.d_model, config.d_model)
        self.value = nn.Linear(config.d_model, config.d_model)
        self.output = nn.Linear(config.d_model, config.d_model)

    def keys_values(self, memory: Tensor) -> KeyValue:
        """Project memory [B, S, M] to keys and values, each [B, H, S, D]."""
        return self._split(self.key(memory)), self._split(self.value(memory))

    def forward(self, x: Tensor, keys_values: KeyValue, mask: Tensor | None) -> Tensor:
        """Attend from x [B, T, M]; returns [B, T, M]."""
        return self.with_weights(x, keys_values, mask)[0]

    def with_weights(
        self, x: Tensor, keys_values: KeyValue, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """As :meth:`forward`, and the attention weights [B, H, T, S]."""
        query = self._split(self.query(x))
        context, weights = scaled_dot_product_attention(query, *keys_values, mask)
        return self._merge(context), weights

    def _split(self, x: Tensor) -> Tensor:
        rows, length, width = x.shape
        heads = x.view(rows, length, self.n_heads, width // self.n_heads)
        return heads.transpose(1, 2)  # (B, H, T, D)

    def _merge(self, context: Tensor) -> Tensor:
        joined: Tensor = self.output(context.transpose(1, 2).flatten(2))  # (B, T, M)
        return joined


class FeedForward(nn.Module):
    """FFN(x) = max(0, x W1 + b1) W2 + b2, the same at every position (section 3.3)."""

    def __init__(self, config: TransformerConfig) -> None:
        """Build both layers."""
        super().__init__()
        self.inner = nn.Linear(config.d_model, config.d_ff)
        self.outer = nn.Linear(config.d_ff, config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, M] to [B, T, M]."""
        y: Tensor = self.outer(functional.relu(self.inner(x)))
        return y


class Residual(nn.Module):
    """LayerNorm(x + Sublayer(x)) (section 3.1), or x + Sublayer(LayerNorm(x)) if pre-norm.

    Pre-norm is Xiong et al. 2020, "On Layer Normalization in the Transformer
    Architecture": it trains without a long warm-up.
    """

    def __init__(self, config: TransformerConfig) -> None:
        """Build the normalisation; dropout is on the sublayer's output (section 5.4)."""
        super().__init__()
        self.norm = nn.LayerNorm(config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.pre = config.norm == "pre"

    def before(self, x: Tensor) -> Tensor:
        """What the sublayer reads."""
        if not self.pre:
            return x
        normalised: Tensor = self.norm(x)
        return normalised

    def after(self, x: Tensor, sublayer_output: Tensor) -> Tensor:
        """What the next sublayer is given."""
        total: Tensor = x + self.dropout(sublayer_output)
        if self.pre:
            return total
        normalised: Tensor = self.norm(total)
        return normalised


class EncoderLayer(nn.Module):
    """Self-attention, then feed-forward (figure 1, left)."""

    def __init__(self, config: TransformerConfig) -> None:
        """Build both sublayers."""
        super().__init__()
        self.attention, self.attention_residual = MultiHeadAttention(config), Residual(config)
        self.feed_forward, self.feed_forward_residual = FeedForward(config), Residual(config)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """[B, S, M] to [B, S, M]; mask [B, 1, 1, S]."""
        y = self.attention_residual.before(x)
        x = self.attention_residual.after(x, self.attention(y, self.attention.keys_values(y), mask))
        y = self.feed_forward_residual.before(x)
        return self.feed_forward_residual.after(x, self.feed_forward(y))


class DecoderLayer(nn.Module):
    """Masked self-attention, attention to the source, feed-forward (figure 1, right)."""

    def __init__(self, config: TransformerConfig) -> None:
        """Build the three sublayers."""
        super().__init__()
        self.attention, self.attention_residual = MultiHeadAttention(config), Residual(config)
        self.cross, self.cross_residual = MultiHeadAttention(config), Residual(config)
        self.feed_forward, self.feed_forward_residual = FeedForward(config), Residual(config)

    def forward(
        self,
        x: Tensor,
        cross: KeyValue,
        cross_mask: Tensor,
        self_mask: Tensor | None,
        past: KeyValue | None = None,
    ) -> tuple[Tensor, KeyValue]:
        """Advance x [B, T, M] through the layer.

        Args:
            x: the new positions.
            cross: keys and values of the source, from ``self.cross.keys_values(memory)``.
            cross_mask: [B, 1, 1, S].
            self_mask: [T, past + T], None where every earlier position is visible.
            past: self-attention keys and values of the positions before x.

        Returns:
            [B, T, M], and the self-attention keys and values up to and with x.
        """
        y = self.attention_residual.before(x)
        key, value = self.attention.keys_values(y)
        if past is not None:
            key, value = torch.cat([past[0], key], dim=2), torch.cat([past[1], value], dim=2)
        x = self.attention_residual.after(x, self.attention(y, (key, value), self_mask))
        y = self.cross_residual.before(x)
        x = self.cross_residual.after(x, self.cross(y, cross, cross_mask))
        y = self.feed_forward_residual.before(x)
        return self.feed_forward_residual.after(x, self.feed_forward(y)), (key, value)


def sinusoidal_positions(length: int, d_model: int) -> Tensor:
    """PE(pos, 2i) = sin(pos / 10000^(2i/d)), PE(pos, 2i+1) = cos(the same) (section 3.5).

    Returns:
        float32 [length, d_model].
    """
    position = torch.arange(length, dtype=torch.float64)[:, None]
    frequency = 10000.0 ** (-torch.arange(0, d_model, 2, dtype=torch.float64) / d_model)
    angle = position * frequency  # (length, M / 2)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1).float()


class Embedding(nn.Module):
    """Token embeddings times sqrt(d_model), plus positions (sections 3.4 and 3.5)."""

    def __init__(self, tokens: nn.Embedding, config: TransformerConfig) -> None:
        """Wrap a token table, which may be shared."""
        super().__init__()
        self.tokens = tokens
        self.scale = math.sqrt(config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.positions: Tensor
        self.register_buffer(
            "positions",
            sinusoidal_positions(config.max_positions, config.d_model),
            persistent=False,
        )

    def forward(self, ids: Tensor, start: int = 0) -> Tensor:
        """Ids [B, T], of which the first is at position ``start``, to [B, T, M]."""
        positions = self.positions[start : start + ids.shape[1]]
        x: Tensor = self.dropout(self.tokens(ids) * self.scale + positions)
        return x


class Transformer(nn.Module):
    """Encoder and decoder (figure 1)."""

    def __init__(self, config: TransformerConfig) -> None:
        """Build and initialise: Xavier for matrices, N(0, 1/M) for embeddings."""
        super().__init__()
        self.config = config
        source = nn.Embedding(config.source_vocab_size, config.d_model)
        shared = config.tying == "all"
        target = source if shared else nn.Embedding(config.target_vocab_size, config.d_model)
        self.source_embedding = Embedding(source, config)
        self.target_embedding = Embedding(target, config)
        self.encoder = nn.ModuleList(EncoderLayer(config) for _ in range(config.encoder_layers))
        self.decoder = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_layers))
        pre = config.norm == "pre"  # a pre-norm stack leaves its last sum not normalised
        self.encoder_norm = nn.LayerNorm(config.d_model) if pre else nn.Identity()
        self.decoder_norm = nn.LayerNorm(config.d_model) if pre else nn.Identity()
        self.projection = nn.Linear(config.d_model, config.target_vocab_size)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        for table in (source, target):
            nn.init.normal_(table.weight, std=config.d_model**-0.5)
        nn.init.zeros_(self.projection.bias)
        if config.tying != "none":
            self.projection.weight = target.weight

    def encode(self, source: Tensor, source_mask: Tensor) -> Tensor:
        """Source ids [B, S] and mask [B, 1, 1, S] to the memory [B, S, M]."""
        x = self.source_embedding(source)
        for layer in self.encoder:
            x = layer(x, source_mask)
        memory: Tensor = self.encoder_norm(x)
        return memory

    def cross_keys_values(self, memory: Tensor) -> list[KeyValue]:
        """Keys and values of the source for every decoder layer, computed once a sentence."""
        layers = (layer for layer in self.decoder if isinstance(layer, DecoderLayer))
        return [layer.cross.keys_values(memory) for layer in layers]

    def decode(
        self,
        target: Tensor,
        cross: list[KeyValue],
        source_mask: Tensor,
        past: list[KeyValue] | None = None,
    ) -> tuple[Tensor, list[KeyValue]]:
        """Logits [B, T, V] of the token after each of target [B, T], and the cache.

        With ``past`` (the cache of an earlier call) target holds the positions after it.
        """
        start = past[0][0].shape[2] if past else 0
        length = target.shape[1]
        mask = None if length == 1 else causal_mask(length, start, target.device)
        x = self.target_embedding(target, start)
        cache = []
        for index, layer in enumerate(self.decoder):
            x, keys_values = layer(x, cross[index], source_mask, mask, past and past[index])
            cache.append(keys_values)
        return self.projection(self.decoder_norm(x)), cache

    def forward(self, source: Tensor, target: Tensor, source_mask: Tensor) -> Tensor:
        """Teacher forcing: logits [B, T, V] of every next token of target [B, T]."""
        cross = self.cross_keys_values(self.encode(source, source_mask))
        return self.decode(target, cross, source_mask)[0]


def causal_mask(length: int, start: int, device: torch.device) -> Tensor:
    """Position i sees positions up to i (section 3.2.3); bool [length, start + length]."""
    ones = torch.ones(length, start + length, dtype=torch.bool, device=device)
    return ones.tril(diagonal=start)


def padding_mask(ids: Tensor, pad_id: int) -> Tensor:
    """True at the tokens of ids [B, S] that are no padding; bool [B, 1, 1, S]."""
    return (ids != pad_id)[:, None, None, :]
