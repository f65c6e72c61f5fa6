"""Our own Transformer as a network that graphs are built from."""

from __future__ import annotations

from torch import nn

from export import network
from export.network import Network, Norm
from model.transformer import (
    DecoderLayer,
    Embedding,
    EncoderLayer,
    MultiHeadAttention,
    Transformer,
)


def network_of(model: Transformer) -> Network:
    """The same network; its matrices are the model's modules, which calibration knows."""
    config = model.config
    return Network(
        pre_norm=config.norm == "pre",
        heads=config.n_heads,
        head_size=config.head_size,
        source_embedding=_embedding(model.source_embedding),
        encoder=[_encoder_layer(one) for one in model.encoder if isinstance(one, EncoderLayer)],
        encoder_norm=_norm(model.encoder_norm),
        target_embedding=_embedding(model.target_embedding),
        decoder=[_decoder_layer(one) for one in model.decoder if isinstance(one, DecoderLayer)],
        decoder_norm=_norm(model.decoder_norm),
        projection=model.projection,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
    )


def _embedding(part: Embedding) -> network.Embedding:
    return network.Embedding(part.tokens.weight, part.scale, part.positions)


def _norm(part: nn.Module) -> Norm | None:
    """None where a stack has none."""
    return Norm(part.weight, part.bias, part.eps) if isinstance(part, nn.LayerNorm) else None


def _attention(part: MultiHeadAttention) -> network.Attention:
    return network.Attention(part.query, part.key, part.value, part.output)


def _encoder_layer(layer: EncoderLayer | DecoderLayer) -> network.EncoderLayer:
    norms = layer.attention_residual.norm, layer.feed_forward_residual.norm
    attention, feed_forward = (Norm(norm.weight, norm.bias, norm.eps) for norm in norms)
    inner, outer = layer.feed_forward.inner, layer.feed_forward.outer
    return network.EncoderLayer(
        _attention(layer.attention), attention, network.FeedForward(inner, outer), feed_forward
    )


def _decoder_layer(layer: DecoderLayer) -> network.DecoderLayer:
    common, norm = _encoder_layer(layer), layer.cross_residual.norm
    return network.DecoderLayer(
        common.attention,
        common.attention_norm,
        common.feed_forward,
        common.feed_forward_norm,
        cross=_attention(layer.cross),
        cross_norm=Norm(norm.weight, norm.bias, norm.eps),
    )
