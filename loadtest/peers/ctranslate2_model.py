"""The same weights as a CTranslate2 model, through CTranslate2's own specification."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ctranslate2.specs import common_spec, transformer_spec
from torch import nn

from loadtest.peers.ctranslate2_engine import UNKNOWN, words
from model.transformer import DecoderLayer, EncoderLayer, Transformer


def convert(model: Transformer, folder: Path, quantization: str | None) -> None:
    """Write the model where ``ctranslate2.Translator`` reads it; tokens are named by their ids."""
    config = model.config
    pre = config.norm == "pre"
    spec = transformer_spec.TransformerSpec.from_config(
        (config.encoder_layers, config.decoder_layers),
        config.n_heads,
        pre_norm=pre,
        activation=common_spec.Activation.RELU,
    )
    encoder, decoder = spec.encoder, spec.decoder
    table = encoder.embeddings
    _embed(encoder, table[0] if isinstance(table, list) else table, model.source_embedding)
    _embed(decoder, decoder.embeddings, model.target_embedding)
    if pre:
        _norm(encoder.layer_norm, model.encoder_norm)
        _norm(decoder.layer_norm, model.decoder_norm)
    for target, source in zip(encoder.layer, model.encoder, strict=True):
        assert isinstance(source, EncoderLayer)
        _encoder_layer(target, source)
    for target, source in zip(decoder.layer, model.decoder, strict=True):
        assert isinstance(source, DecoderLayer)
        _decoder_layer(target, source)
    _linear(decoder.projection, [model.projection])
    spec.register_source_vocabulary(_vocabulary(config.source_vocab_size))
    spec.register_target_vocabulary(_vocabulary(config.target_vocab_size))
    spec.config.add_source_bos = spec.config.add_source_eos = False
    spec.config.unk_token = UNKNOWN
    spec.validate()
    spec.optimize(quantization=quantization)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    spec.save(str(folder))


def _vocabulary(size: int) -> list[str]:
    return words(list(range(size)))


def _embed(stack: Any, table: Any, embedding: Any) -> None:  # noqa: ANN401  untyped library
    table.weight = _array(embedding.tokens.weight)
    stack.scale_embeddings = True
    stack.position_encodings.encodings = _array(embedding.positions)


def _encoder_layer(target: Any, source: EncoderLayer) -> None:  # noqa: ANN401
    attention = source.attention
    packed = [attention.query, attention.key, attention.value]
    _linear(target.self_attention.linear[0], packed)
    _linear(target.self_attention.linear[1], [attention.output])
    _norm(target.self_attention.layer_norm, source.attention_residual.norm)
    _linear(target.ffn.linear_0, [source.feed_forward.inner])
    _linear(target.ffn.linear_1, [source.feed_forward.outer])
    _norm(target.ffn.layer_norm, source.feed_forward_residual.norm)


def _decoder_layer(target: Any, source: DecoderLayer) -> None:  # noqa: ANN401
    attention, cross = source.attention, source.cross
    _linear(target.self_attention.linear[0], [attention.query, attention.key, attention.value])
    _linear(target.self_attention.linear[1], [attention.output])
    _norm(target.self_attention.layer_norm, source.attention_residual.norm)
    _linear(target.attention.linear[0], [cross.query])
    _linear(target.attention.linear[1], [cross.key, cross.value])
    _linear(target.attention.linear[2], [cross.output])
    _norm(target.attention.layer_norm, source.cross_residual.norm)
    _linear(target.ffn.linear_0, [source.feed_forward.inner])
    _linear(target.ffn.linear_1, [source.feed_forward.outer])
    _norm(target.ffn.layer_norm, source.feed_forward_residual.norm)


def _linear(target: Any, layers: list[nn.Linear]) -> None:  # noqa: ANN401
    target.weight = _array(torch.cat([layer.weight for layer in layers]))
    target.bias = _array(torch.cat([layer.bias for layer in layers]))


def _norm(target: Any, norm: nn.Module) -> None:  # noqa: ANN401
    assert isinstance(norm, nn.LayerNorm)
    target.gamma, target.beta = _array(norm.weight), _array(norm.bias)


def _array(tensor: torch.Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    array: np.ndarray[Any, np.dtype[np.float32]] = tensor.detach().float().numpy().copy()
    return array
