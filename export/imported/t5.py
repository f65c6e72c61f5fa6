"""T5 (Raffel et al. 2020), T5 1.1 and mT5 (Xue et al. 2021)."""

from __future__ import annotations

import math

import langcodes
import sentencepiece
import torch
from torch import Tensor

from export.imported.checkpoint import Checkpoint, ImportRefused
from export.imported.model import ImportedModel, Pieces
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
from server.bundle import Language, Tokens

_PIECES = "spiece.model"
_UNK = 2
_SHARED, _HEAD = "shared.weight", "lm_head.weight"
_TABLES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
_BIAS = "relative_attention_bias.weight"
_KINDS: dict[str, tuple[Activation, bool]] = {
    "relu": ("relu", False),
    "gated-gelu": ("gelu_tanh", True),
    "gated-relu": ("relu", True),
    "gated-silu": ("swish", True),
}
_TASKS = {"de": "German", "fr": "French", "ro": "Romanian"}
"""What T5 1.0 was trained to translate English to (section 2.1 and appendix D)."""
_POSITIONS = 512
"""Of a sentence at most; the network sets no limit, its relative distances end in one bucket."""


def read_t5(checkpoint: Checkpoint) -> ImportedModel:
    """The model.

    Raises:
        ImportRefused: it has an option or a tensor that cannot be served.
    """
    return _Reader(checkpoint).model()


class _Reader:
    """Reads one checkpoint."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        checkpoint.only(
            feed_forward_proj=tuple(_KINDS),
            quantization_config=(None,),
            is_encoder_decoder=(True,),
        )
        self._checkpoint = checkpoint
        self._activation, self._gated = _KINDS[checkpoint.config.get("feed_forward_proj", "relu")]
        self._width = checkpoint.whole("d_model")
        self._heads, self._head_size = checkpoint.whole("num_heads"), checkpoint.whole("d_kv")
        self._d_ff = checkpoint.whole("d_ff")
        self._vocabulary = checkpoint.whole("vocab_size")
        self._epsilon = float(checkpoint.config.get("layer_norm_epsilon", 1e-6))

    def model(self) -> ImportedModel:
        checkpoint = self._checkpoint
        network = self._network()
        checkpoint.finish(f"decoder.block.0.layer.1.EncDecAttention.{_BIAS}")
        said = checkpoint.config.get("decoder_start_token_id") is not None
        start = checkpoint.whole("decoder_start_token_id" if said else "pad_token_id")
        tokens = Tokens(
            pad=checkpoint.whole("pad_token_id"),
            bos=start,
            eos=checkpoint.whole("eos_token_id"),
            unk=_UNK,
        )
        model = checkpoint.bytes(_PIECES)
        try:
            processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except Exception as error:
            msg = f"{checkpoint.folder / _PIECES}: not a SentencePiece model"
            raise ImportRefused(msg) from error
        return ImportedModel(
            architecture=str(checkpoint.config["model_type"]),
            network=network,
            d_ff=self._d_ff,
            positions=_POSITIONS,
            tokens=tokens,
            source=(pieces := Pieces(model, self._pieces(processor, tokens))),
            target=pieces,
            languages=_languages(checkpoint, processor),
            release=checkpoint.release,
        )

    def _pieces(
        self, processor: sentencepiece.SentencePieceProcessor, tokens: Tokens
    ) -> list[str | None]:
        """SentencePiece's own ids; those after them stand for gaps of pre-training."""
        count = processor.vocab_size()
        own: list[str | None] = [processor.id_to_piece(number) for number in range(count)]
        if len(own) > self._vocabulary:
            msg = (
                f"{self._checkpoint.folder}: {len(own)} pieces, "
                f"but vocab_size is {self._vocabulary}"
            )
            raise ImportRefused(msg)
        for number in {*tokens.never, tokens.eos}:
            own[number] = None
        return own + [None] * (self._vocabulary - len(own))

    def _network(self) -> Network:
        checkpoint, width = self._checkpoint, self._width
        table = checkpoint.tensor(_SHARED, *_TABLES, shape=(self._vocabulary, width))
        head = table
        if _HEAD in checkpoint:
            head = checkpoint.tensor(_HEAD, shape=(self._vocabulary, width))
        depth = checkpoint.whole("num_layers")
        decoder_depth = checkpoint.config.get("num_decoder_layers") or depth
        encoder = [self._encoder_layer(f"encoder.block.{index}") for index in range(depth)]
        decoder = [self._decoder_layer(f"decoder.block.{index}") for index in range(decoder_depth)]
        encoder_norm = self._norm("encoder.final_layer_norm")
        decoder_norm = self._norm("decoder.final_layer_norm")
        if self._scaled():  # before the projection, so that its matrix stays the embedding's
            scaled = decoder_norm.weight.float() * width**-0.5
            decoder_norm = Norm(scaled, None, self._epsilon, "rms")
        return Network(
            pre_norm=True,
            heads=self._heads,
            head_size=self._head_size,
            source_embedding=Embedding(table, distances=self._distances("encoder")),
            encoder=encoder,
            encoder_norm=encoder_norm,
            target_embedding=Embedding(table, distances=self._distances("decoder")),
            decoder=decoder,
            decoder_norm=decoder_norm,
            projection=Linear(head),
            parameters=checkpoint.parameters,
        )

    def _scaled(self) -> bool:
        """Whether logits are divided by the root of the width, as they are in T5 1.0."""
        config = self._checkpoint.config
        if config["model_type"] == "mt5":
            return False
        tied = config.get("tie_word_embeddings", True) is not False
        return bool(config.get("scale_decoder_outputs", tied))

    def _encoder_layer(self, name: str) -> EncoderLayer:
        return EncoderLayer(
            self._attention(f"{name}.layer.0.SelfAttention"),
            self._norm(f"{name}.layer.0.layer_norm"),
            self._feed_forward(f"{name}.layer.1.DenseReluDense"),
            self._norm(f"{name}.layer.1.layer_norm"),
        )

    def _decoder_layer(self, name: str) -> DecoderLayer:
        return DecoderLayer(
            self._attention(f"{name}.layer.0.SelfAttention"),
            self._norm(f"{name}.layer.0.layer_norm"),
            self._feed_forward(f"{name}.layer.2.DenseReluDense"),
            self._norm(f"{name}.layer.2.layer_norm"),
            cross=self._attention(f"{name}.layer.1.EncDecAttention"),
            cross_norm=self._norm(f"{name}.layer.1.layer_norm"),
        )

    def _attention(self, name: str) -> Attention:
        """Its scores are not divided by the root of the head size, so queries are multiplied."""
        inner, linear = self._heads * self._head_size, self._checkpoint.linear
        query, key, value = (
            linear(f"{name}.{part}", inner, self._width, bias=False) for part in "qkv"
        )
        output = linear(f"{name}.o", self._width, inner, bias=False)
        query = Linear(query.weight, scale=math.sqrt(self._head_size))
        return Attention(query, key, value, output)

    def _feed_forward(self, name: str) -> FeedForward:
        linear, sizes = self._checkpoint.linear, (self._d_ff, self._width)
        outer = linear(f"{name}.wo", self._width, self._d_ff, bias=False)
        if not self._gated:
            inner = linear(f"{name}.wi", *sizes, bias=False)
            return FeedForward(inner, outer, self._activation)
        inner, gate = (linear(f"{name}.wi_{part}", *sizes, bias=False) for part in (0, 1))
        return FeedForward(inner, outer, self._activation, gate)

    def _norm(self, name: str) -> Norm:
        weight = self._checkpoint.tensor(f"{name}.weight", shape=(self._width,))
        return Norm(weight, None, self._epsilon, "rms")

    def _distances(self, side: str) -> Tensor:
        """What each distance adds, out of buckets; the first layer has them for all."""
        config = self._checkpoint.config
        buckets = config.get("relative_attention_num_buckets", 32)
        longest = config.get("relative_attention_max_distance", 128)
        name = f"{side}.block.0.layer.0.SelfAttention.{_BIAS}"
        table = self._checkpoint.tensor(name, shape=(buckets, self._heads))
        if side == "decoder":
            steps = torch.arange(_POSITIONS)
            return table[_bucket(steps, buckets, longest)]
        steps = torch.arange(1 - _POSITIONS, _POSITIONS)
        half = buckets // 2
        return table[_bucket(steps.abs(), half, longest) + half * (steps > 0)]


def _bucket(distance: Tensor, buckets: int, longest: int) -> Tensor:
    """Half of the buckets for a distance each, the others for ranges that grow (section 2.1)."""
    exact = buckets // 2
    far = torch.log(distance.clamp_min(1).float() / exact) / math.log(longest / exact)
    far = (exact + (far * (buckets - exact)).long()).clamp_max(buckets - 1)
    return torch.where(distance < exact, distance, far)


def _languages(
    checkpoint: Checkpoint, processor: sentencepiece.SentencePieceProcessor
) -> list[Language]:
    """Those whose task the configuration has a prefix for, or else T5's own; mT5 has none."""
    tasks = checkpoint.config.get("task_specific_params") or {}
    prefixes = {}
    for task, parameters in tasks.items():
        source, _, rest = task.removeprefix("translation_").partition("_to_")
        prefix = parameters.get("prefix") if isinstance(parameters, dict) else None
        if source == "en" and rest and langcodes.tag_is_valid(rest) and isinstance(prefix, str):
            prefixes[rest] = prefix
    if not prefixes and checkpoint.config["model_type"] == "t5":
        prefixes = {code: f"translate English to {name}: " for code, name in _TASKS.items()}
    return [
        Language(code=code, asked_ids=processor.encode(prefix.strip()))
        for code, prefix in prefixes.items()
    ]
