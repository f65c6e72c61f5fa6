"""What an experiment file may say, and how it is told what it may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.config import PRESETS, ConfigError, ModelSettings, changes, read_experiment

EXPERIMENT = """
source_language = "en"
target_language = "zh-TW"
[tokenizer]
source_vocab_size = 300
[model]
preset = "tiny"
[model.overrides]
dropout = 0.1
[training]
max_steps = 5
label_smoothing = 0.1
[corpus]
max_tokens = 60
validation = { dev = "dev.tsv" }
[corpus.sources.a]
path = "a.tsv"
weight = 2
"""


def write(folder: Path, text: str = EXPERIMENT) -> Path:
    path = folder / "x.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("max_steps = 5", "max_step = 5",
         "training.max_step: unknown key, did you mean 'max_steps'?"),
        ("max_steps = 5", "zzz = 5", "training.zzz: unknown key"),
        ("max_steps = 5", "max_steps = 0", "training.max_steps: 0 is not 1 or more"),
        ("max_steps = 5", "max_steps = true", "training.max_steps: expected int, found True"),
        ("max_steps = 5", "max_steps = 5.0", "training.max_steps: expected int, found 5.0"),
        ("max_steps = 5", "accumulate = 0", "training.accumulate: 0 is not 1 or more"),
        ("max_steps = 5", "warmup_steps = 0", "training.warmup_steps: 0 is not 1 or more"),
        ("max_steps = 5", "seed = -1", "training.seed: -1 is not 0 or more"),
        ("max_steps = 5", "clip_norm = nan", "training.clip_norm: nan is not more than 0"),
        ("max_steps = 5", 'selection = "law"',
         "training.selection: no validation set 'law', there is dev"),
        ("label_smoothing = 0.1", "label_smoothing = 1",
         "training.label_smoothing: 1.0 is not at least 0 and below 1"),
        ("weight = 2", "weight = -1", "corpus.sources.a.weight: -1.0 is not 0 or more"),
        ("weight = 2", "weight = inf", "corpus.sources.a.weight: inf is not 0 or more"),
        ("weight = 2", 'script = "cyrillic"',
         "corpus.sources.a.script: 'cyrillic' is not one of taiwan, convert"),
        ('path = "a.tsv"', "path = 3", "corpus.sources.a.path: expected Path, found 3"),
        ('validation = { dev = "dev.tsv" }', "validation = {}",
         "corpus.validation: at least one is needed"),
        ("source_vocab_size = 300", "source_vocab_size = 100",
         "tokenizer.source_vocab_size: 100 is not 261 to 65536"),
        ("source_vocab_size = 300", "source_vocab_size = 70000",
         "tokenizer.source_vocab_size: 70000 is not 261 to 65536"),
        ("max_tokens = 60", "max_tokens = 65",
         "corpus.max_tokens: 65 is more than the model's 64 positions"),
        ('"tiny"', '"huge"', "model.preset: unknown 'huge', known: tiny, small, base, big"),
        ("dropout = 0.1", "dropout = 1.0",
         "model.overrides.dropout: 1.0 is not at least 0 and below 1"),
        ("dropout = 0.1", "n_heads = 0", "model.overrides.n_heads: 0 is not 1 or more"),
        ("dropout = 0.1", "n_heads = 5",
         "model.overrides.d_model: 64 is not a multiple of n_heads 5"),
        ("dropout = 0.1", 'tying = "all"',
         "model.overrides.tying: 'all' needs one shared vocabulary"),
        ("dropout = 0.1", "source_vocab_size = 9",
         "model.overrides.source_vocab_size: belongs in [tokenizer]"),
        ('validation = { dev = "dev.tsv" }', "validation = 3", "corpus.validation: expected dict"),
    ],
)  # fmt: skip
def test_a_fault_is_one_line_that_names_the_field(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        read_experiment(write(tmp_path, EXPERIMENT.replace(old, new, 1)))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_matrix_for_two_tokenizers_is_refused(tmp_path: Path) -> None:
    sizes = "source_vocab_size = 300\ntarget_vocab_size = 300"
    text = EXPERIMENT.replace("source_vocab_size = 300", sizes)
    text = text.replace("dropout = 0.1", 'tying = "all"')
    with pytest.raises(ConfigError, match=r"needs tokenizer\.shared = true"):
        read_experiment(write(tmp_path, text))
    shared = text.replace("[tokenizer]", "[tokenizer]\nshared = true")
    assert read_experiment(write(tmp_path, shared)).tokenizer.shared


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a ="])
def test_what_is_no_toml_is_told_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"x\.toml: not TOML"):
        read_experiment(path)
    with pytest.raises(ConfigError, match=r"nothing\.toml: No such file or directory$"):
        read_experiment(tmp_path / "nothing.toml")


def test_an_override_changes_one_size_of_a_preset() -> None:
    config = ModelSettings(preset="base", overrides={"d_ff": 1024}).build(300, 400)
    assert (config.source_vocab_size, config.target_vocab_size) == (300, 400)
    assert config.d_ff == 1024
    assert config.d_model == PRESETS["base"]["d_model"]


def test_what_has_changed_between_two_files_is_listed(tmp_path: Path) -> None:
    before = read_experiment(write(tmp_path))
    text = EXPERIMENT.replace("max_steps = 5", "max_steps = 6").replace("dropout", "max_positions")
    now = read_experiment(write(tmp_path, text.replace("max_positions = 0.1", "d_ff = 77")))
    assert changes(before, before) == []
    assert changes(before, now) == [
        "model.overrides.d_ff: none -> 77",
        "model.overrides.dropout: 0.1 -> none",
        "training.max_steps: 5 -> 6",
    ]
