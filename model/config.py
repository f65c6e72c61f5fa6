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
from typing import Any, Literal, get_args, get_origin, get_type_hints

Norm = Literal["post", "pre"]
Tying = Literal["none", "target", "all"]
Script = Literal["taiwan", "convert"]


class ConfigError(ValueError):
    """The experiment cannot be run as written; the message names the field."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerConfig:
    """Shape of an encoder-decoder Transformer (Vaswani et al. 2017, section 3).

    ``tying`` says which matrices are one: ``none``; ``target`` (target embedding and
    output projection, section 3.4); ``all`` (source embedding too, which needs one
    shared vocabulary).
    """

    source_vocab_size: int
    target_vocab_size: int
    d_model: int = 512
    n_heads: int = 8
    encoder_layers: int = 6
    decoder_layers: int = 6
    d_ff: int = 2048
    dropout: float = 0.1
    norm: Norm = "post"
    tying: Tying = "target"
    max_positions: int = 512

    def __post_init__(self) -> None:
        """Refuse shapes that cannot be built."""
        if self.d_model % self.n_heads:
            msg = f"d_model {self.d_model} is not a multiple of n_heads {self.n_heads}"
            raise ConfigError(msg)
        if self.d_model % 2:
            msg = f"d_model {self.d_model} is odd: positions are sine and cosine pairs"
            raise ConfigError(msg)
        if self.tying == "all" and self.source_vocab_size != self.target_vocab_size:
            msg = "tying 'all' needs one shared vocabulary"
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

    def build(self, source_vocab_size: int, target_vocab_size: int) -> TransformerConfig:
        """The network's shape for vocabularies of these sizes."""
        if self.preset not in PRESETS:
            msg = f"model.preset: unknown '{self.preset}', known: {', '.join(PRESETS)}"
            raise ConfigError(msg)
        shape = {
            "source_vocab_size": source_vocab_size,
            "target_vocab_size": target_vocab_size,
            **PRESETS[self.preset],
            **self.overrides,
        }
        config: TransformerConfig = _from_table(TransformerConfig, shape, "model.overrides")
        return config


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSettings:
    """One corpus file: where it is, its script, how often an epoch shows it."""

    path: Path
    weight: float = 1.0
    script: Script = "convert"
    licence: str = ""
    origin: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusSettings:
    """The training text and the sentences that must not be in it.

    Paths of sources and validation sets count from ``folder``, and that from the working
    directory.
    """

    sources: dict[str, SourceSettings]
    validation: dict[str, Path]
    folder: Path = Path("corpora")
    max_tokens: int = 120
    max_length_ratio: float = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerSettings:
    """Vocabulary sizes; ``shared`` trains one model on both languages."""

    source_vocab_size: int = 8000
    target_vocab_size: int = 8000
    shared: bool = False
    character_coverage: float = 0.9995


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSettings:
    """How the weights are found (Vaswani et al. 2017, section 5)."""

    seed: int = 1
    max_steps: int = 100_000
    batch_tokens: int = 4096
    accumulate: int = 1
    warmup_steps: int = 4000
    learning_rate_factor: float = 1.0
    label_smoothing: float = 0.1
    clip_norm: float = 1.0
    precision: Literal["fp32", "bf16"] = "bf16"
    validate_every_steps: int = 500
    checkpoint_every_seconds: float = 300.0
    average_decay: float = 0.999
    patience: int = 20
    validation_sentences: int = 300
    selection: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """Everything that decides what a run does, but for the machine it runs on."""

    source_language: str
    target_language: str
    corpus: CorpusSettings
    tokenizer: TokenizerSettings = field(default_factory=TokenizerSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)


def read_experiment(path: Path, corpora: Path | None = None) -> Experiment:
    """The experiment of a TOML file; ``corpora`` replaces its corpus folder.

    Raises:
        ConfigError: unreadable, not TOML, or a field is unknown, missing or of the wrong type.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        msg = f"{path}: {error.strerror}"
        raise ConfigError(msg) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        msg = f"{path}: not TOML: {error}"
        raise ConfigError(msg) from error
    experiment: Experiment = _from_table(Experiment, table, "")
    corpus = experiment.corpus
    folder = corpora or corpus.folder
    sources = {
        name: dataclasses.replace(source, path=folder / source.path)
        for name, source in corpus.sources.items()
    }
    validation = {name: folder / file for name, file in corpus.validation.items()}
    corpus = dataclasses.replace(corpus, folder=folder, sources=sources, validation=validation)
    return dataclasses.replace(experiment, corpus=corpus)


def _from_table(kind: type[Any], table: dict[str, Any], where: str) -> Any:  # noqa: ANN401
    """A dataclass from a TOML table; unknown and missing keys are errors that name the key."""
    hints = get_type_hints(kind)
    fields = {item.name: item for item in dataclasses.fields(kind)}
    for key in table:
        if key not in fields:
            msg = f"{_join(where, key)}: unknown key"
            raise ConfigError(msg)
    values = {key: _convert(hints[key], value, _join(where, key)) for key, value in table.items()}
    for name, item in fields.items():
        required = (
            item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        )
        if required and name not in values:
            msg = f"{_join(where, name)}: missing"
            raise ConfigError(msg)
    return kind(**values)


def _convert(hint: Any, value: Any, where: str) -> Any:  # noqa: ANN401, PLR0911  one a kind
    """One TOML value as the annotated type."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, dict):
            msg = f"{where}: expected a table"
            raise ConfigError(msg)
        return _from_table(hint, value, where)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is dict and isinstance(value, dict):
        return {key: _convert(arguments[1], item, _join(where, key)) for key, item in value.items()}
    if origin is Literal:
        if value not in arguments:
            msg = f"{where}: '{value}' is not one of {', '.join(map(str, arguments))}"
            raise ConfigError(msg)
        return value
    if hint is Any:
        return value
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and type(value) is hint:
        return value
    msg = f"{where}: expected {getattr(hint, '__name__', hint)}, found {value!r}"
    raise ConfigError(msg)


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key
