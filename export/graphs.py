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

from typing import Any, Literal

import numpy as np
import onnx
from torch.nn import functional

from export.builder import FLOAT, FLOAT16, INT8, INT32, INT64, MICROSOFT, GraphBuilder, array_of
from export.distances import decoder_bias, encoder_bias
from export.network import (
    Attention,
    DecoderLayer,
    Embedding,
    EncoderLayer,
    FeedForward,
    Linear,
    Matrix,
    Network,
    Norm,
)
from export.precision import Floats, Precision
from export.weights import WeightsFile
from server.engine.logits import BLOCK

_NEVER = -1e9
CacheType = Literal["float32", "int8", "float16"]
KINDS = {"float32": FLOAT, "int8": INT8, "float16": FLOAT16}


def encoder_graph(
    network: Network,
    precision: Precision,
    cache: CacheType,
    max_tokens: int,
    weights: WeightsFile | None = None,
) -> onnx.ModelProto:
    """Source ids to the keys and values of every decoder layer's cross-attention.

    Args:
        network: what to build.
        precision: of its matrices.
        cache: what keys and values are stored as; int8 wants a model of ``export/folding.py``.
        max_tokens: longest source.
        weights: where large constants go; None = into the graph.
    """
    graph = GraphBuilder(weights)
    stack = _Stack(graph, precision, network, cache)
    ids = graph.input("source_ids", INT64, ["B", "S"])
    graph.input("source_mask", INT32, ["B", "S"])
    shape = graph.node("Shape", [ids])
    x = stack.tokens(network.source_embedding, ids)
    length = graph.node("Slice", [shape, graph.integers(1), graph.integers(2)])
    if network.source_embedding.positions is not None:
        positions = stack.constant(array_of(network.source_embedding.positions[:max_tokens]))
        zero = graph.integers(0)
        positions = graph.node("Slice", [positions, zero, length, zero])
        x = graph.node("Add", [x, positions])
    bias = ""
    if network.source_embedding.distances is not None:
        bias = encoder_bias(graph, stack.constant(array_of(network.source_embedding.distances)),
                            length)  # fmt: skip
    x = graph.reshape(x, -1, stack.width)
    for layer in network.encoder:
        x = stack.encoder_layer(x, layer, shape, bias)
    x = stack.norm(x, network.encoder_norm)
    _cross_keys_values(graph, stack, network, x, shape)
    return graph.model("encoder")


def decoder_graph(
    network: Network,
    precision: Precision,
    cache: CacheType,
    max_tokens: int,
    weights: WeightsFile | None = None,
) -> onnx.ModelProto:
    """One token of every row to the logits of the next; the caches grow in place.

    Args:
        network: what to build.
        precision: of its matrices.
        cache: what keys and values are stored as; int8 wants a model of ``export/folding.py``.
        max_tokens: longest target.
        weights: where large constants go; None = into the graph.
    """
    graph = GraphBuilder(weights)
    stack = _Stack(graph, precision, network, cache)
    tokens = graph.input("tokens", INT64, ["B"])
    positions = graph.input("positions", INT32, ["B"])
    graph.input("source_lengths", INT32, ["B"])
    graph.input("self_total", INT32, [])
    graph.input("cross_total", INT32, [])
    embedding, bias = network.target_embedding, ""
    if embedding.positions is not None:
        table = stack.constant(array_of(embedding.positions[:max_tokens]))
        embedded = stack.tokens(embedding, tokens)
        x = graph.node("Add", [embedded, graph.node("Gather", [table, positions])])
    else:
        x = stack.tokens(embedding, tokens)
    if embedding.distances is not None:
        distances = stack.constant(array_of(embedding.distances[:max_tokens]))
        bias = decoder_bias(graph, distances, positions, "self_total")
    for index, layer in enumerate(network.decoder):
        x = stack.decoder_layer(x, layer, index, bias)
    x = stack.norm(x, network.decoder_norm)
    _logits(stack, network, x)
    return graph.model("decoder")


def _logits(stack: _Stack, network: Network, x: str) -> None:
    """Project to the vocabulary, in whole blocks, with the largest of each block.

    From float16 the logits go on in float32, and the likeliest token is all that is given along:
    it is all that most steps want to leave a GPU.
    """
    graph, projection = stack.graph, network.projection
    missing = -network.vocabulary % BLOCK
    if missing and projection.bias is not None and stack.precision.own_projection:
        projection, missing = _padded(projection, missing), 0
    vocabulary = projection.weight.shape[0]
    if stack.kind == FLOAT16:
        logits = stack.precision.linear(graph, x, [projection])
        logits = graph.node("Cast", [logits], to=FLOAT, output=None if missing else "logits")
    elif missing:
        logits = stack.precision.linear(graph, x, [projection])
    else:
        logits = stack.precision.linear(graph, x, [projection], output="logits")
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


def _padded(projection: Matrix, missing: int) -> Matrix:
    """With tokens that are never put out: a copy of all logits at every step is saved."""
    assert projection.bias is not None
    weight = functional.pad(projection.weight.detach(), (0, 0, 0, missing))
    return Linear(
        weight, functional.pad(projection.bias.detach().float(), (0, missing), value=_NEVER)
    )


def _cross_keys_values(
    graph: GraphBuilder, stack: _Stack, network: Network, x: str, shape: str
) -> None:
    """Project the memory for all layers in one multiplication; ``cross_kv`` [2L, B, H, S, D]."""
    parts = [part for layer in network.decoder for part in (layer.cross.key, layer.cross.value)]
    projected = stack.joined(x, parts)
    if stack.cache == "int8":
        projected = graph.node(
            "QuantizeLinear", [projected, stack.step, graph.constant(np.int8(0))]
        )
    sides = 2 * len(network.decoder)
    heads = graph.integers(sides, network.heads, network.head_size)
    whole = graph.node("Concat", [shape, heads], axis=0)  # B, S, 2L, H, D
    projected = graph.node("Reshape", [projected, whole])
    graph.node("Transpose", [projected], perm=[2, 0, 3, 1, 4], output="cross_kv")
    graph.output("cross_kv", stack.cache_kind, [sides, "B", network.heads, "S", network.head_size])


class _Stack:
    """The parts of the network, as nodes."""

    def __init__(
        self,
        graph: GraphBuilder,
        precision: Precision,
        network: Network,
        cache: CacheType,
    ) -> None:
        self.graph, self.precision, self.cache = graph, precision, cache
        self.cache_kind = KINDS[cache]
        self.kind = KINDS[np.dtype(precision.floats).name]
        self.step = graph.constant(np.ones(1, np.float32)) if cache == "int8" else ""
        self.width = network.width
        self.heads = network.heads
        self.head_size = network.head_size
        self.inner = network.heads * network.head_size
        self.pre_norm = network.pre_norm
        self._nothing: str | None = None

    def constant(self, array: Floats) -> str:
        """A constant in the floats that the graph computes in."""
        return self.graph.constant(array.astype(self.precision.floats))

    def tokens(self, embedding: Embedding, ids: str) -> str:
        """Token embeddings times their scale."""
        return self.precision.embedding(self.graph, embedding.tokens, ids, embedding.scale)

    def encoder_layer(self, x: str, layer: EncoderLayer, shape: str, bias: str) -> str:
        """Self-attention over padded rows, feed-forward."""
        y = self.before(x, layer.attention_norm)
        y = self._encoder_attention(y, layer.attention, shape, bias)
        x = self.after(x, y, layer.attention_norm)
        y = self.before(x, layer.feed_forward_norm)
        return self.after(x, self.feed_forward(y, layer.feed_forward), layer.feed_forward_norm)

    def decoder_layer(self, x: str, layer: DecoderLayer, index: int, bias: str) -> str:
        """Cached self-attention, attention to the source, feed-forward."""
        y = self.before(x, layer.attention_norm)
        y = self._self_attention(y, layer.attention, index, bias)
        x = self.after(x, y, layer.attention_norm)
        y = self.before(x, layer.cross_norm)
        x = self.after(x, self._cross_attention(y, layer.cross, index), layer.cross_norm)
        y = self.before(x, layer.feed_forward_norm)
        return self.after(x, self.feed_forward(y, layer.feed_forward), layer.feed_forward_norm)

    def before(self, x: str, norm: Norm) -> str:
        """What a sublayer reads."""
        return self.norm(x, norm) if self.pre_norm else x

    def after(self, x: str, sublayer: str, norm: Norm) -> str:
        """What the next one is given."""
        total = self.graph.node("Add", [x, sublayer])
        return total if self.pre_norm else self.norm(total, norm)

    def norm(self, x: str, norm: Norm | None) -> str:
        """Normalisation, or x where the stack has none."""
        if norm is None:
            return x
        weight = self.constant(array_of(norm.weight))
        if norm.kind == "rms":
            return self._rms_norm(x, weight, norm.epsilon)
        inputs = [x, weight] + ([] if norm.bias is None else [self.constant(array_of(norm.bias))])
        return self.graph.node("LayerNormalization", inputs, epsilon=norm.epsilon)

    def _rms_norm(self, x: str, weight: str, epsilon: float) -> str:
        """In the nodes that ONNX Runtime puts together to one."""
        graph = self.graph
        squares = graph.node("Pow", [x, self.constant(np.array(2.0, np.float32))])
        mean = graph.node("ReduceMean", [squares, graph.integers(-1)], keepdims=1)
        mean = graph.node("Add", [mean, self.constant(np.array(epsilon, np.float32))])
        scaled = graph.node("Div", [x, graph.node("Sqrt", [mean])])
        return graph.node("Mul", [scaled, weight])

    def feed_forward(self, x: str, part: FeedForward) -> str:
        """Two linear layers, an activation in between, and what a gate lets through."""
        inner = self._activation(self.linear(x, part.inner), part.activation)
        if part.gate is not None:
            inner = self.graph.node("Mul", [inner, self.linear(x, part.gate)])
        return self.linear(inner, part.outer)

    def _activation(self, x: str, name: str) -> str:
        match name:
            case "relu":
                return self.graph.node("Relu", [x])
            case "swish":
                return self.graph.nodes("QuickGelu", [x], 1, domain=MICROSOFT, alpha=1.0)[0]
            case _:
                exact = "none" if name == "gelu" else "tanh"
                return self.graph.node("Gelu", [x], approximate=exact)

    def linear(self, x: str, layer: Matrix) -> str:
        """One linear layer."""
        return self.joined(x, [layer])

    def joined(self, x: str, layers: list[Matrix]) -> str:
        """Several linear layers of the same input in one multiplication, side by side."""
        return self.precision.linear(self.graph, x, layers)

    def _packed(self, x: str, attention: Attention) -> str:
        """Query, key and value of every row [R, 3HD]."""
        return self.joined(x, [attention.query, attention.key, attention.value])

    def _encoder_attention(self, x: str, attention: Attention, shape: str, bias: str) -> str:
        graph, inner = self.graph, self.inner
        packed = graph.node("Concat", [shape, graph.integers(3 * inner)], axis=0)
        packed = graph.node("Reshape", [self._packed(x, attention), packed])  # B, S, 3HD
        sides = graph.integers(inner, inner, inner)
        parts = graph.nodes("Split", [packed, sides], 3, axis=2)
        (context,) = graph.nodes(
            "MultiHeadAttention",
            [*parts, "", "source_mask", *([bias] if bias else [])],
            1,
            domain=MICROSOFT,
            num_heads=self.heads,
        )
        return self.linear(graph.reshape(context, -1, inner), attention.output)

    def _self_attention(self, x: str, attention: Attention, index: int, bias: str) -> str:
        packed = self.graph.reshape(self._packed(x, attention), -1, 1, 3 * self.inner)
        lengths = ["positions", "self_total"]
        context = self._cached("self", index, [packed, "", ""], lengths, bias)
        return self.linear(context, attention.output)

    def _cross_attention(self, x: str, attention: Attention, index: int) -> str:
        query = f"cross_query_{index}"
        self.precision.linear(self.graph, x, [attention.query], output=query)
        self.graph.output(query, self.kind, ["B", self.inner])
        query = self.graph.reshape(query, -1, 1, self.inner)
        if self._nothing is None:  # [B, 0, HD]: no new key, no new value
            start, axis = self.graph.integers(0), self.graph.integers(1)
            self._nothing = self.graph.node("Slice", [query, start, start, axis])
        inputs = [query, self._nothing, self._nothing]
        lengths = ["source_lengths", "cross_total"]
        context = self._cached("cross", index, inputs, lengths)
        return self.linear(context, attention.output)

    def _cached(
        self, name: str, index: int, new: list[str], lengths: list[str], bias: str = ""
    ) -> str:
        """Attention over a cache that is input and output at once; the context [B, HD]."""
        positions = "T" if name == "self" else "S"
        shape: list[str | int] = ["B", self.heads, positions, self.head_size]
        names = [f"{name}_{kind}_{index}" for kind in ("key", "value")]
        past = [self.graph.input(one, self.cache_kind, shape) for one in names]
        present = [self.graph.output(f"{one}_out", self.cache_kind, shape) for one in names]
        more, quantised = self._more(bias)
        outputs = self.graph.nodes(
            "GroupQueryAttention",
            [*new, *past, *lengths, *more],
            [f"{name}_context_{index}", *present],
            domain=MICROSOFT,
            num_heads=self.heads,
            kv_num_heads=self.heads,
            **quantised,
        )
        return self.graph.reshape(outputs[0], -1, self.inner)

    def _more(self, bias: str) -> tuple[list[str], dict[str, Any]]:
        """The operator's last inputs: what is added to scores, and the step of an int8 cache."""
        if self.cache != "int8":
            return ["", "", "", bias] if bias else [], {}
        kind = "PER_TENSOR"
        attributes = {"k_quant_type": kind, "v_quant_type": kind, "kv_cache_bit_width": 8}
        return ["", "", "", bias, "", self.step, self.step], attributes
