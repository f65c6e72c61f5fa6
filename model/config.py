"""What an experiment is: one TOML file, read into frozen dataclasses.

The shape of the network (:class:`TransformerConfig`) is also stored in checkpoints and
read by ``export/``. Sizes of the presets: Vaswani et al. 2017, table 3, for ``base``
and ``big``; ``tiny`` is for tests, ``small`` is what ships for CPUs.
"""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from model.tables import (
    ConfigError,
    Count,
    Coverage,
    NotNegative,
    Positive,
    Range,
    Ratio,
    Share,
    Whole,
    flat,
    from_table,
)

__all__ = [
    "AlignmentSettings",
    "ConfigError",
    "CorpusSettings",
    "Experiment",
    "ModelSettings",
    "SourceSettings",
    "TokenizerSettings",
    "TrainingSettings",
    "TransformerConfig",
    "changes",
    "read_experiment",
]

Norm = Literal["post", "pre"]
Tying = Literal["none", "target", "all"]
Script = Literal["taiwan", "convert"]
Format = Literal["auto", "tsv", "parallel", "moses", "tmx"]


# Special ids, the bytes and a piece at least; prepared corpora hold ids of two bytes.
VocabularySize = Annotated[int, Range("261 to 65536", lambda size: 4 + 256 < size <= 1 << 16)]


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerConfig:
    """Shape of an encoder-decoder Transformer (Vaswani et al. 2017, section 3).

    ``tying`` says which matrices are one: ``none``; ``target`` (target embedding and
    output projection, section 3.4); ``all`` (source embedding too, which needs one
    shared vocabulary).
    """

    source_vocab_size: int
    target_vocab_size: int
    d_model: Count = 512
    n_heads: Count = 8
    encoder_layers: Count = 6
    decoder_layers: Count = 6
    d_ff: Count = 2048
    dropout: Share = 0.1
    norm: Norm = "post"
    tying: Tying = "target"
    max_positions: Count = 512

    def __post_init__(self) -> None:
        """Refuse shapes that cannot be built."""
        if self.n_heads < 1 or self.d_model % self.n_heads:
            msg = f"d_model: {self.d_model} is not a multiple of n_heads {self.n_heads}"
            raise ConfigError(msg)
        if self.d_model % 2:
            msg = f"d_model: {self.d_model} is odd, and positions are sine and cosine pairs"
            raise ConfigError(msg)
        if self.tying == "all" and self.source_vocab_size != self.target_vocab_size:
            msg = "tying: 'all' needs one shared vocabulary"
            raise ConfigError(msg)

    @property
    def head_size(self) -> int:
        """Width of one attention head, d_k = d_v = d_model / h (section 3.2.2)."""
        return self.d_model // self.n_heads


PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {
        "d_model": 64, "n_heads": 4, "encoder_layers": 2, "decoder_layers": 2,
        "d_ff": 128, "dropout": 0.0, "norm": "pre", "max_positions": 64,
    },
    "small": {
        "d_model": 256, "n_heads": 4, "encoder_layers": 4, "decoder_layers": 2,
        "d_ff": 1024, "dropout": 0.1, "norm": "pre", "max_positions": 512,
    },
    "base": {
        "d_model": 512, "n_heads": 8, "encoder_layers": 6, "decoder_layers": 6,
        "d_ff": 2048, "dropout": 0.1, "norm": "post", "max_positions": 512,
    },
    "big": {
        "d_model": 1024, "n_heads": 16, "encoder_layers": 6, "decoder_layers": 6,
        "d_ff": 4096, "dropout": 0.3, "norm": "post", "max_positions": 512,
    },
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """A preset and what differs from it."""

    preset: str = "small"
    overrides: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse unknown presets, and vocabulary sizes that only a tokenizer can tell."""
        if self.preset not in PRESETS:
            msg = f"preset: unknown '{self.preset}', known: {', '.join(PRESETS)}"
            raise ConfigError(msg)
        for name in self.overrides.keys() & {"source_vocab_size", "target_vocab_size"}:
            msg = f"overrides.{name}: belongs in [tokenizer]"
            raise ConfigError(msg)

    def build(self, source_vocab_size: int, target_vocab_size: int) -> TransformerConfig:
        """The network's shape for vocabularies of these sizes."""
        shape = {
            **PRESETS[self.preset],
            **self.overrides,
            "source_vocab_size": source_vocab_size,
            "target_vocab_size": target_vocab_size,
        }
        config: TransformerConfig = from_table(TransformerConfig, shape, "model.overrides")
        return config


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSettings:
    """One corpus: where it is, its form and script, how often an epoch shows it.

    ``auto`` is ``parallel`` where there is a ``target_path``, ``moses`` for a zip, ``tmx`` by its
    ending, ``tsv`` otherwise. Each may be compressed (gzip, xz, zstd, bzip2). The codes name the
    languages inside a zip or TMX where they are not those of the experiment.
    """

    path: Path
    target_path: Path = Path()
    format: Format = "auto"
    source_code: str = ""
    target_code: str = ""
    weight: NotNegative = 1.0
    script: Script = "convert"
    tag: str = ""
    """Domain: the piece ``<tag>`` stands before some of its sentences."""
    licence: str = ""
    origin: str = ""

    @property
    def has_target_path(self) -> bool:
        """Whether the translations stand in a file of their own."""
        return self.target_path != Path()

    def __post_init__(self) -> None:
        """Refuse forms that do not go with the paths, and tags that are no word."""
        if (self.format == "parallel") != self.has_target_path and self.format != "auto":
            msg = "target_path: goes with format = 'parallel', and that with it"
            raise ConfigError(msg)
        if self.tag and not self.tag.replace("-", "").isalnum():
            msg = f"tag: '{self.tag}' is not letters, digits and hyphens"
            raise ConfigError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusSettings:
    """The training text and the sentences that must not be in it.

    Paths of sources and validation sets count from ``--corpora``, where one is given and has the
    file, else from ``folder``, and that from the working directory.
    """

    sources: dict[str, SourceSettings]
    validation: dict[str, Path]
    folder: Path = Path("corpora")
    swapped: bool = False
    """TSV files, validation sets too, hold the target language first."""
    max_tokens: Count = 120
    max_length_ratio: Ratio = 3.0
    split_paragraphs: bool = True
    markup: Literal["strip", "keep"] = "strip"
    held_out_overlap: Coverage = 0.7
    """Share of a held-out sentence's n-grams that makes a near-copy of it."""
    shard_pairs: Count = 1_000_000

    def __post_init__(self) -> None:
        """Refuse what cannot be trained on or chosen by."""
        for name in ("sources", "validation"):
            if not getattr(self, name):
                msg = f"{name}: at least one is needed"
                raise ConfigError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerSettings:
    """Vocabulary sizes; ``shared`` trains one model, of the source's size, on both languages."""

    source_vocab_size: VocabularySize = 8000
    target_vocab_size: VocabularySize = 8000
    shared: bool = False
    character_coverage: Coverage = 0.9995


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSettings:
    """How the weights are found (Vaswani et al. 2017, section 5)."""

    seed: Whole = 1
    max_steps: Count = 100_000
    batch_tokens: Count = 4096
    accumulate: Count = 1
    warmup_steps: Count = 4000
    learning_rate_factor: Positive = 1.0
    label_smoothing: Share = 0.1
    clip_norm: Positive = 1.0
    precision: Literal["fp32", "bf16"] = "bf16"
    validate_every_steps: Count = 500
    checkpoint_every_seconds: NotNegative = 300.0
    average_decay: Share = 0.999
    keep_weights: Whole = 0
    """Validations whose weights, not averaged, are kept for ``dragoman average``."""
    patience: Count = 20
    validation_sentences: Count = 300
    selection: str = ""
    sampling_alpha: NotNegative = 0.0
    """Smoothing of subword regularisation (Kudo 2018, section 3.2); 0 is off."""
    sampling_share: Coverage = 1.0
    """Share of the batches whose subwords are drawn."""
    tag_share: Coverage = 0.5
    """Share of the sentences of a tagged source that carry their tag."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignmentSettings:
    """Guided alignment: one head of cross-attention learns whose word is whose.

    Garg et al. 2019, "Jointly Learning to Align and Translate with Transformer Models", section
    4.2. Word alignments are made where the shards are; without a weight there are none.
    """

    weight: NotNegative = 0.0
    """Of the alignment loss beside that of translation; 0.05 in the paper, 0 is off."""
    layer: int = -1
    """Decoder layer; -1 is the last."""
    head: Whole = 0
    iterations: Positive = 1.0
    """Of the aligner, relative to what it chooses by the size of the corpus."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """Everything that decides what a run does, but for the machine it runs on."""

    source_language: str
    target_language: str
    corpus: CorpusSettings
    tokenizer: TokenizerSettings = field(default_factory=TokenizerSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    alignment: AlignmentSettings = field(default_factory=AlignmentSettings)

    def __post_init__(self) -> None:
        """Refuse to select by a validation set that there is not."""
        known = self.corpus.validation
        if self.training.selection and self.training.selection not in known:
            msg = (
                f"training.selection: no validation set '{self.training.selection}', "
                f"there is {', '.join(known)}"
            )
            raise ConfigError(msg)
        drawn = self.training.sampling_alpha > 0 and self.training.sampling_share == 1
        if self.alignment.weight and drawn:
            msg = (
                "training.sampling_share: alignments are those of the usual subwords, "
                "so with alignment.weight it must be below 1"
            )
            raise ConfigError(msg)


def read_experiment(path: Path, corpora: Path | None = None) -> Experiment:
    """The experiment of a TOML file; paths are looked for in ``corpora`` before its own folder.

    Raises:
        ConfigError: unreadable, not TOML, or a field is unknown, missing, of the wrong type or
            out of range.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        msg = f"{path}: {error.strerror or error}"
        raise ConfigError(msg) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        msg = f"{path}: not TOML: {error}"
        raise ConfigError(msg) from error
    experiment: Experiment = from_table(Experiment, table, "")
    _check_fit(experiment)
    corpus = experiment.corpus
    folders = [corpora, corpus.folder] if corpora else [corpus.folder]
    sources = {name: _placed(source, folders) for name, source in corpus.sources.items()}
    validation = {name: _found(file, folders) for name, file in corpus.validation.items()}
    corpus = dataclasses.replace(corpus, folder=folders[0], sources=sources, validation=validation)
    return dataclasses.replace(experiment, corpus=corpus)


def _placed(source: SourceSettings, folders: list[Path]) -> SourceSettings:
    target = _found(source.target_path, folders) if source.has_target_path else source.target_path
    return dataclasses.replace(source, path=_found(source.path, folders), target_path=target)


def _found(path: Path, folders: list[Path]) -> Path:
    """Where the file is; in the first folder if it is in none, so that this one is named."""
    places = [folder / path for folder in folders]
    return next((place for place in places if place.exists()), places[0])


def changes(before: Experiment, now: Experiment) -> list[str]:
    """Fields that differ, as ``training.patience: 20 -> 30``."""
    old, new = flat(dataclasses.asdict(before)), flat(dataclasses.asdict(now))
    return [
        f"{key}: {old.get(key, 'none')} -> {new.get(key, 'none')}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]


def _check_fit(experiment: Experiment) -> None:
    """Refuse, before hours of preparing, what no network of this shape can train on."""
    sizes, longest = experiment.tokenizer, experiment.corpus.max_tokens
    target_size = sizes.source_vocab_size if sizes.shared else sizes.target_vocab_size
    shape = experiment.model.build(sizes.source_vocab_size, target_size)
    if longest > shape.max_positions:
        msg = (
            f"corpus.max_tokens: {longest} is more than the model's {shape.max_positions} positions"
        )
        raise ConfigError(msg)
    layers = shape.decoder_layers
    if not -layers <= experiment.alignment.layer < layers:
        msg = f"alignment.layer: {experiment.alignment.layer}, and there are {layers}"
        raise ConfigError(msg)
    if experiment.alignment.head >= shape.n_heads:
        msg = f"alignment.head: {experiment.alignment.head}, and there are {shape.n_heads}"
        raise ConfigError(msg)
    if shape.tying == "all" and not sizes.shared:
        msg = "model.overrides.tying: 'all' needs tokenizer.shared = true"
        raise ConfigError(msg)
