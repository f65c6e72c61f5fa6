"""A network as the graphs are built from it: matrices, and how they are put together.

Architectures differ in little: where normalisation stands and of which kind, the activation, how
positions enter. What differs is said here, so that ``graphs.py`` knows no architecture by name.
Weights stay the tensors that they came as, mapped from a file perhaps; each is turned into an
array when its node is made, and let go.

Letters as in ``graphs.py``; ``P`` positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

Activation = Literal["relu", "swish", "gelu", "gelu_tanh"]


class Matrix(Protocol):
    """A linear layer: ``torch.nn.Linear``, or :class:`Linear`; known by its identity."""

    @property
    def weight(self) -> Tensor:
        """[N, K]."""

    @property
    def bias(self) -> Tensor | None:
        """[N]."""


@dataclass(slots=True, eq=False)
class Linear:
    """A linear layer that is no module."""

    stored: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    """What the stored weight is multiplied by, each time it is looked at."""

    @property
    def weight(self) -> Tensor:
        """[N, K]."""
        return self.stored if self.scale == 1.0 else self.stored.float() * self.scale


@dataclass(frozen=True, slots=True)
class Norm:
    """Layer normalisation, or, if nothing is subtracted, by the root mean square alone."""

    weight: Tensor
    bias: Tensor | None
    epsilon: float
    kind: Literal["layer", "rms"] = "layer"


@dataclass(frozen=True, slots=True)
class Attention:
    """The four projections; scores are divided by the root of the head size."""

    query: Matrix
    key: Matrix
    value: Matrix
    output: Matrix


@dataclass(frozen=True, slots=True)
class FeedForward:
    """outer(activation(inner(x))), times gate(x) before the outer matrix if there is a gate."""

    inner: Matrix
    outer: Matrix
    activation: Activation = "relu"
    gate: Matrix | None = None


@dataclass(frozen=True, slots=True)
class EncoderLayer:
    """Sublayers, and the normalisation that goes with each."""

    attention: Attention
    attention_norm: Norm
    feed_forward: FeedForward
    feed_forward_norm: Norm


@dataclass(frozen=True, slots=True)
class DecoderLayer(EncoderLayer):
    """And attention to the source, in between."""

    cross: Attention
    cross_norm: Norm


@dataclass(frozen=True, slots=True)
class Embedding:
    """Rows of a table times a scale, plus those of the positions, if positions enter here."""

    tokens: Tensor
    """[V, M]."""
    scale: float = 1.0
    positions: Tensor | None = None
    """[P, M]."""
    distances: Tensor | None = None
    """What attention adds by how far a key is, for every head. Of an encoder [2P - 1, H]: the key's
    position less the query's, from 1 - P to P - 1. Of a decoder [P, H]: the query's less the key's.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """Encoder, decoder, projection."""

    pre_norm: bool
    """x + Sublayer(Norm(x)), not Norm(x + Sublayer(x))."""
    heads: int
    head_size: int
    source_embedding: Embedding
    encoder: list[EncoderLayer]
    encoder_norm: Norm | None
    target_embedding: Embedding
    decoder: list[DecoderLayer]
    decoder_norm: Norm | None
    projection: Matrix
    parameters: int
    """Weights, tied ones once."""

    @property
    def width(self) -> int:
        """M."""
        return self.source_embedding.tokens.shape[1]

    @property
    def vocabulary(self) -> int:
        """V, of the target."""
        return self.projection.weight.shape[0]
