"""A task small enough to learn in seconds: say the letters backwards."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np

from model.batching import TokenisedPair, WeightedSource
from model.config import (
    CorpusSettings,
    Experiment,
    ModelSettings,
    SourceSettings,
    TrainingSettings,
)
from model.evaluate import ValidationSet
from model.tokenizer import Tokenizer, train_tokenizer
from model.train import TrainingData

LETTERS = "abcdefghij"


def sentence(generator: random.Random) -> str:
    return " ".join(generator.choices(LETTERS, k=generator.randint(2, 7)))


def backwards(text: str) -> str:
    return " ".join(reversed(text.split()))


def toy_data(pairs: int = 4000) -> TrainingData:
    generator = random.Random(3)
    texts = [sentence(generator) for _ in range(pairs)]
    held_out = sorted({sentence(generator) for _ in range(120)} - set(texts))
    tokenizer = Tokenizer(train_tokenizer(texts, 280))
    source = tokenizer.encode(texts)
    target = tokenizer.encode([backwards(text) for text in texts])
    return TrainingData(
        sources=[
            WeightedSource(
                [
                    TokenisedPair(np.array(one, np.uint16), np.array(other, np.uint16))
                    for one, other in zip(source, target, strict=True)
                ],
                weight=1.0,
            )
        ],
        validation={"toy": ValidationSet(held_out, [[backwards(text)] for text in held_out])},
        source_tokenizer=tokenizer,
        target_tokenizer=tokenizer,
    )


def toy_experiment(**training: object) -> Experiment:
    settings = {
        "max_steps": 800, "batch_tokens": 1000, "warmup_steps": 100, "validate_every_steps": 10_000,
        "precision": "fp32", "average_decay": 0.98,
    } | training  # fmt: skip
    return Experiment(
        source_language="en",
        target_language="fr",
        corpus=CorpusSettings(
            sources={"toy": SourceSettings(path=Path("toy.tsv"), licence="none", origin="here")},
            validation={"toy": Path("toy.tsv")},
        ),
        model=ModelSettings(preset="tiny"),
        training=TrainingSettings(**settings),  # type: ignore[arg-type]
    )
