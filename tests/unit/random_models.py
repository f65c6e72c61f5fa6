"""Networks with weights that nobody trained, and what they are exported with."""

from __future__ import annotations

import torch
from torch import nn
from toy import toy_experiment

from export.bundle import ExportSettings
from export.release import TrainedModel
from model.config import TransformerConfig
from model.train import TrainingData
from model.transformer import Transformer

SETTINGS = ExportSettings(
    name="toy", precision="fp32", cache="float32", max_source_tokens=24, max_target_tokens=40
)
SOURCES = [[4, 5, 6, 7, 8], [9], [7, 4, 9], [5, 5, 5, 5, 5, 5, 5, 5], [8, 6]]


def random_model(seed: int = 2, **changes: object) -> Transformer:
    shape = {
        "source_vocab_size": 12, "target_vocab_size": 14, "d_model": 32, "n_heads": 4,
        "encoder_layers": 2, "decoder_layers": 2, "d_ff": 48, "dropout": 0.0, "max_positions": 48,
    } | changes  # fmt: skip
    torch.manual_seed(seed)
    model = Transformer(TransformerConfig(**shape))  # type: ignore[arg-type]
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.25)
    return model.eval()


def trained(model: Transformer, toy: TrainingData) -> TrainedModel:
    tokenizers = toy.source_tokenizer, toy.target_tokenizer
    return TrainedModel(model, {}, tokenizers, toy_experiment(), {"toy": 7})
