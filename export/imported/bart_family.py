"""Layers in the naming that fairseq's models have in Hugging Face's layout."""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor

from export.imported.checkpoint import Checkpoint, ImportRefused
from export.network import (
    Activation,
    Attention,
    DecoderLayer,
    Embedding,
    EncoderLayer,
    FeedForward,
    Linear,
    Network,
    Norm,
)

_ACTIVATIONS: dict[str, Activation] = {
    "relu": "relu",
    "swish": "swish",
    "silu": "swish",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
}
_DEFAULTS: dict[str, tuple[str, bool]] = {"m2m_100": ("relu", True), "marian": ("gelu", False)}
"""Activation and scaled embeddings of a configuration that names none."""
Side = Literal["encoder", "decoder"]
SHARED = "model.shared.weight"
HEAD = "lm_head.weight"


class BartFamily:
    """Reads Marian and M2M-100, which differ in what stands around the layers."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Look at the sizes.

        Raises:
            ImportRefused: an option cannot be served.
        """
        self._checkpoint = checkpoint
        checkpoint.only(
            activation_function=tuple(_ACTIVATIONS),
            scale_embedding=(True, False),
            encoder_attention_heads=(checkpoint.whole("decoder_attention_heads"),),
            encoder_ffn_dim=(checkpoint.whole("decoder_ffn_dim"),),
            quantization_config=(None,),
            is_encoder_decoder=(True,),
        )
        self.width = checkpoint.whole("d_model")
        self.heads = checkpoint.whole("encoder_attention_heads")
        self.d_ff = checkpoint.whole("encoder_ffn_dim")
        if not self.heads or self.width % self.heads:
            msg = f"{checkpoint.folder}: d_model {self.width} is no multiple of {self.heads} heads"
            raise ImportRefused(msg)
        activation, scaled = _DEFAULTS[checkpoint.config["model_type"]]
        activation = checkpoint.config.get("activation_function", activation)
        self._activation = _ACTIVATIONS[activation]
        scaled = checkpoint.config.get("scale_embedding", scaled)
        self._scale = math.sqrt(self.width) if scaled else 1.0

    def network(
        self,
        *,
        pre_norm: bool,
        tables: tuple[Tensor, Tensor],
        positions: Tensor,
        projection: Linear,
    ) -> Network:
        """The whole of it.

        Args:
            pre_norm: with a normalisation at the end of both stacks.
            tables: embeddings of source and target.
            positions: of both.
            projection: to the target's vocabulary.
        """
        source, target = (Embedding(table, self._scale, positions) for table in tables)
        encoder, decoder = self._encoder(), self._decoder()
        norms = [self._norm(f"model.{side}.layer_norm") if pre_norm else None
                 for side in ("encoder", "decoder")]  # fmt: skip
        return Network(
            pre_norm=pre_norm,
            heads=self.heads,
            head_size=self.width // self.heads,
            source_embedding=source,
            encoder=encoder,
            encoder_norm=norms[0],
            target_embedding=target,
            decoder=decoder,
            decoder_norm=norms[1],
            projection=projection,
            parameters=self._checkpoint.parameters,
        )

    def _encoder(self) -> list[EncoderLayer]:
        return [
            self._layer(f"model.encoder.layers.{index}")
            for index in range(self._checkpoint.whole("encoder_layers"))
        ]

    def _decoder(self) -> list[DecoderLayer]:
        layers = []
        for index in range(self._checkpoint.whole("decoder_layers")):
            name = f"model.decoder.layers.{index}"
            common = self._layer(name)
            layers.append(
                DecoderLayer(
                    common.attention,
                    common.attention_norm,
                    common.feed_forward,
                    common.feed_forward_norm,
                    cross=self._attention(f"{name}.encoder_attn"),
                    cross_norm=self._norm(f"{name}.encoder_attn_layer_norm"),
                )
            )
        return layers

    def _layer(self, name: str) -> EncoderLayer:
        linear = self._checkpoint.linear
        inner = linear(f"{name}.fc1", self.d_ff, self.width)
        outer = linear(f"{name}.fc2", self.width, self.d_ff)
        return EncoderLayer(
            self._attention(f"{name}.self_attn"),
            self._norm(f"{name}.self_attn_layer_norm"),
            FeedForward(inner, outer, self._activation),
            self._norm(f"{name}.final_layer_norm"),
        )

    def _attention(self, name: str) -> Attention:
        parts = [
            self._checkpoint.linear(f"{name}.{part}_proj", self.width, self.width)
            for part in ("q", "k", "v", "out")
        ]
        return Attention(*parts)

    def _norm(self, name: str) -> Norm:
        return self._checkpoint.layer_norm(name, self.width)
