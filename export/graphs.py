"""The two graphs that serve a model: the encoder, and one step of the decoder.

Names and shapes are those that ``server/bundle.py`` declares. ``B`` rows, ``S`` source tokens,
``T`` cache positions, ``H`` heads, ``D`` head size, ``M`` model size, ``L`` decoder layers.
Between layers everything is a matrix [rows, M].

Attention is ``com.microsoft.GroupQueryAttention``: on a CPU it is the operator that appends a
row's key and value in place at the row's own position and reads only the valid prefix. For
cross-attention it is given keys and values of length zero and reads the cache alone.
``Add`` and ``LayerNormalization`` stand apart: fused they are 4-5 times slower on a CPU.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import onnx
from torch import nn

from export.builder import FLOAT, FLOAT16, INT8, INT32, INT64, MICROSOFT, GraphBuilder, array_of
from export.precision import Floats, Precision
from model.transformer import (
    DecoderLayer,
    Embedding,
    EncoderLayer,
    FeedForward,
    MultiHeadAttention,
    Residual,
    Transformer,
)
from server.engine.logits import BLOCK

_NEVER = -1e9
CacheType = Literal["float32", "int8", "float16"]
KINDS = {"float32": FLOAT, "int8": INT8, "float16": FLOAT16}


def encoder_graph(
    model: Transformer, precision: Precision, cache: CacheType, max_tokens: int
) -> onnx.ModelProto:
    """Source ids to the keys and values of every decoder layer's cross-attention.

    Args:
        model: the network.
        precision: of its matrices.
        cache: what keys and values are stored as; int8 wants a model of ``export/folding.py``.
        max_tokens: longest source.
    """
    graph = GraphBuilder()
    stack = _Stack(graph, precision, model, cache)
    ids = graph.input("source_ids", INT64, ["B", "S"])
    graph.input("source_mask", INT32, ["B", "S"])
    shape = graph.node("Shape", [ids])
    length = graph.node("Slice", [shape, graph.integers(1), graph.integers(2)])
    positions = stack.constant(array_of(model.source_embedding.positions[:max_tokens]))
    zero = graph.integers(0)
    positions = graph.node("Slice", [positions, zero, length, zero])
    x = graph.node("Add", [stack.tokens(model.source_embedding, ids), positions])
    x = graph.reshape(x, -1, stack.width)
    for layer in model.encoder:
        assert isinstance(layer, EncoderLayer)
        x = stack.encoder_layer(x, layer, shape)
    x = stack.norm(x, model.encoder_norm)
    _cross_keys_values(graph, stack, model, x, shape)
    return graph.model("encoder")


def decoder_graph(
    model: Transformer, precision: Precision, cache: CacheType, max_tokens: int
) -> onnx.ModelProto:
    """One token of every row to the logits of the next; the caches grow in place.

    Args:
        model: the network.
        precision: of its matrices.
        cache: what keys and values are stored as; int8 wants a model of ``export/folding.py``.
        max_tokens: longest target.
    """
    graph = GraphBuilder()
    stack = _Stack(graph, precision, model, cache)
    tokens = graph.input("tokens", INT64, ["B"])
    positions = graph.input("positions", INT32, ["B"])
    graph.input("source_lengths", INT32, ["B"])
    graph.input("self_total", INT32, [])
    graph.input("cross_total", INT32, [])
    table = stack.constant(array_of(model.target_embedding.positions[:max_tokens]))
    embedded = stack.tokens(model.target_embedding, tokens)
    x = graph.node("Add", [embedded, graph.node("Gather", [table, positions])])
    for index, layer in enumerate(model.decoder):
        assert isinstance(layer, DecoderLayer)
        x = stack.decoder_layer(x, layer, index)
    x = stack.norm(x, model.decoder_norm)
    _logits(stack, model, x)
    return graph.model("decoder")


def _logits(stack: _Stack, model: Transformer, x: str) -> None:
    """Project to the vocabulary, in whole blocks, with the largest of each block.

    From float16 the logits go on in float32, and the likeliest token is all that is given along:
    it is all that most steps want to leave a GPU.
    """
    graph, vocabulary = stack.graph, model.config.target_vocab_size
    missing = -vocabulary % BLOCK
    if stack.kind == FLOAT16:
        logits = stack.precision.linear(graph, x, [model.projection])
        logits = graph.node("Cast", [logits], to=FLOAT, output=None if missing else "logits")
    elif missing:
        logits = stack.precision.linear(graph, x, [model.projection])
    else:
        logits = stack.precision.linear(graph, x, [model.projection], output="logits")
    if missing:
        ends = graph.integers(0, 0, 0, missing)
        inputs = [logits, ends, graph.constant(np.float32(_NEVER))]
        logits = graph.node("Pad", inputs, output="logits")
    graph.output("logits", FLOAT, ["B", vocabulary + missing])
    if stack.kind == FLOAT16:
        graph.node("ArgMax", [logits], axis=1, keepdims=0, output="likeliest")
        graph.output("likeliest", INT64, ["B"])
        return
    blocks = graph.reshape(logits, 0, -1, BLOCK)
    inputs = [blocks, graph.integers(2)]
    graph.node("ReduceMax", inputs, keepdims=0, output="block_maxima")
    graph.output("block_maxima", FLOAT, ["B", (vocabulary + missing) // BLOCK])


def _cross_keys_values(
    graph: GraphBuilder, stack: _Stack, model: Transformer, x: str, shape: str
) -> None:
    """Project the memory for all layers in one multiplication; ``cross_kv`` [2L, B, H, S, D]."""
    crosses = [layer.cross for layer in model.decoder if isinstance(layer, DecoderLayer)]
    parts = [part for cross in crosses for part in (cross.key, cross.value)]
    projected = stack.joined(x, parts)
    if stack.cache == "int8":
        projected = graph.node(
            "QuantizeLinear", [projected, stack.step, graph.constant(np.int8(0))]
        )
    config = model.config
    sides = 2 * config.decoder_layers
    heads = graph.integers(sides, config.n_heads, config.head_size)
    whole = graph.node("Concat", [shape, heads], axis=0)  # B, S, 2L, H, D
    projected = graph.node("Reshape", [projected, whole])
    graph.node("Transpose", [projected], perm=[2, 0, 3, 1, 4], output="cross_kv")
    graph.output("cross_kv", stack.cache_kind, [sides, "B", config.n_heads, "S", config.head_size])


class _Stack:
    """The parts of the network, as nodes."""

    def __init__(
        self,
        graph: GraphBuilder,
        precision: Precision,
        model: Transformer,
        cache: CacheType,
    ) -> None:
        self.graph, self.precision, self.cache = graph, precision, cache
        self.cache_kind = KINDS[cache]
        self.kind = KINDS[np.dtype(precision.floats).name]
        self.step = graph.constant(np.ones(1, np.float32)) if cache == "int8" else ""
        self.width = model.config.d_model
        self.heads = model.config.n_heads
        self.head_size = model.config.head_size
        self._nothing: str | None = None

    def constant(self, array: Floats) -> str:
        """A constant in the floats that the graph computes in."""
        return self.graph.constant(array.astype(self.precision.floats))

    def tokens(self, embedding: Embedding, ids: str) -> str:
        """Token embeddings times sqrt(M)."""
        table = array_of(embedding.tokens.weight)
        return self.precision.embedding(self.graph, table, ids, math.sqrt(self.width))

    def encoder_layer(self, x: str, layer: EncoderLayer, shape: str) -> str:
        """Self-attention over padded rows, feed-forward."""
        y = self.before(x, layer.attention_residual)
        x = self.after(
            x, self._encoder_attention(y, layer.attention, shape), layer.attention_residual
        )
        y = self.before(x, layer.feed_forward_residual)
        return self.after(x, self.feed_forward(y, layer.feed_forward), layer.feed_forward_residual)

    def decoder_layer(self, x: str, layer: DecoderLayer, index: int) -> str:
        """Cached self-attention, attention to the source, feed-forward."""
        y = self.before(x, layer.attention_residual)
        x = self.after(x, self._self_attention(y, layer.attention, index), layer.attention_residual)
        y = self.before(x, layer.cross_residual)
        x = self.after(x, self._cross_attention(y, layer.cross, index), layer.cross_residual)
        y = self.before(x, layer.feed_forward_residual)
        return self.after(x, self.feed_forward(y, layer.feed_forward), layer.feed_forward_residual)

    def before(self, x: str, residual: Residual) -> str:
        """What a sublayer reads."""
        return self.norm(x, residual.norm) if residual.pre else x

    def after(self, x: str, sublayer: str, residual: Residual) -> str:
        """What the next one is given."""
        total = self.graph.node("Add", [x, sublayer])
        return total if residual.pre else self.norm(total, residual.norm)

    def norm(self, x: str, norm: nn.Module) -> str:
        """Layer normalisation, or x where the stack has none."""
        if not isinstance(norm, nn.LayerNorm):
            return x
        inputs = [x, self.constant(array_of(norm.weight)), self.constant(array_of(norm.bias))]
        return self.graph.node("LayerNormalization", inputs, epsilon=norm.eps)

    def feed_forward(self, x: str, part: FeedForward) -> str:
        """Two linear layers and a ReLU."""
        return self.linear(self.graph.node("Relu", [self.linear(x, part.inner)]), part.outer)

    def linear(self, x: str, layer: nn.Linear) -> str:
        """One linear layer."""
        return self.joined(x, [layer])

    def joined(self, x: str, layers: list[nn.Linear]) -> str:
        """Several linear layers of the same input in one multiplication, side by side."""
        return self.precision.linear(self.graph, x, layers)

    def _packed(self, x: str, attention: MultiHeadAttention) -> str:
        """Query, key and value of every row [R, 3M]."""
        return self.joined(x, [attention.query, attention.key, attention.value])

    def _encoder_attention(self, x: str, attention: MultiHeadAttention, shape: str) -> str:
        graph, width = self.graph, self.width
        packed = graph.node("Concat", [shape, graph.integers(3 * width)], axis=0)
        packed = graph.node("Reshape", [self._packed(x, attention), packed])  # B, S, 3M
        sides = graph.integers(width, width, width)
        parts = graph.nodes("Split", [packed, sides], 3, axis=2)
        (context,) = graph.nodes(
            "MultiHeadAttention",
            [*parts, "", "source_mask"],
            1,
            domain=MICROSOFT,
            num_heads=self.heads,
        )
        return self.linear(graph.reshape(context, -1, width), attention.output)

    def _self_attention(self, x: str, attention: MultiHeadAttention, index: int) -> str:
        packed = self.graph.reshape(self._packed(x, attention), -1, 1, 3 * self.width)
        lengths = ["positions", "self_total"]
        context = self._cached("self", index, [packed, "", ""], lengths)
        return self.linear(context, attention.output)

    def _cross_attention(self, x: str, attention: MultiHeadAttention, index: int) -> str:
        query = f"cross_query_{index}"
        self.precision.linear(self.graph, x, [attention.query], output=query)
        self.graph.output(query, self.kind, ["B", self.width])
        query = self.graph.reshape(query, -1, 1, self.width)
        if self._nothing is None:  # [B, 0, M]: no new key, no new value
            start, axis = self.graph.integers(0), self.graph.integers(1)
            self._nothing = self.graph.node("Slice", [query, start, start, axis])
        inputs = [query, self._nothing, self._nothing]
        lengths = ["source_lengths", "cross_total"]
        context = self._cached("cross", index, inputs, lengths)
        return self.linear(context, attention.output)

    def _cached(self, name: str, index: int, new: list[str], lengths: list[str]) -> str:
        """Attention over a cache that is input and output at once; the context [B, M]."""
        positions = "T" if name == "self" else "S"
        shape: list[str | int] = ["B", self.heads, positions, self.head_size]
        names = [f"{name}_{kind}_{index}" for kind in ("key", "value")]
        past = [self.graph.input(one, self.cache_kind, shape) for one in names]
        present = [self.graph.output(f"{one}_out", self.cache_kind, shape) for one in names]
        scales, quantised = self._cache_scales()
        outputs = self.graph.nodes(
            "GroupQueryAttention",
            [*new, *past, *lengths, *scales],
            [f"{name}_context_{index}", *present],
            domain=MICROSOFT,
            num_heads=self.heads,
            kv_num_heads=self.heads,
            **quantised,
        )
        return self.graph.reshape(outputs[0], -1, self.width)

    def _cache_scales(self) -> tuple[list[str], dict[str, Any]]:
        """What the operator is told about an int8 cache: its last inputs, and attributes."""
        if self.cache != "int8":
            return [], {}
        kind = "PER_TENSOR"
        attributes = {"k_quant_type": kind, "v_quant_type": kind, "kv_cache_bit_width": 8}
        return [""] * 5 + [self.step, self.step], attributes


def parameter_count(model: Transformer) -> int:
    """Weights of the network, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())
