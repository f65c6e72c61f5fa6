"""A corpus small enough to prepare in a second: numbers, digit by digit."""

from __future__ import annotations

import random
from pathlib import Path

NUMBERS = dict(
    zip(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
        "零一二三四五六七八九",
        strict=True,
    )
)

EXPERIMENT = """
source_language = "en"
target_language = "zh-TW"
[tokenizer]
source_vocab_size = 300
target_vocab_size = 300
[model]
preset = "tiny"
[training]
max_steps = 6
batch_tokens = 200
warmup_steps = 30
validate_every_steps = 4
validation_sentences = 4
[corpus]
max_tokens = 60
max_length_ratio = 9.0
[corpus.validation]
dev = "dev.tsv"
[corpus.sources.a]
path = "a.tsv"
"""


def write_corpus(folder: Path, pairs: int = 300) -> Path:
    """An experiment file with its corpora beside it."""
    generator = random.Random(1)

    def lines(count: int) -> str:
        rows = [generator.choices(list(NUMBERS), k=generator.randint(2, 6)) for _ in range(count)]
        return "".join(f"{' '.join(row)}\t{''.join(NUMBERS[w] for w in row)}\n" for row in rows)

    (folder / "a.tsv").write_text(lines(pairs), encoding="utf-8")
    (folder / "dev.tsv").write_text(lines(8), encoding="utf-8")
    path = folder / "x.toml"
    path.write_text(EXPERIMENT, encoding="utf-8")
    return path
