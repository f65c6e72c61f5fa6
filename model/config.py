"""What an experiment is: one TOML file, read into frozen dataclasses.

The shape of the network (:class:`TransformerConfig`) is also stored in checkpoints and
read by ``export/``. Sizes of the presets: Vaswani et al. 2017, table 3, for ``base``
and ``big``; ``tiny`` is for tests, ``small`` is what ships for CPUs.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

Norm = Literal["post", "pre"]
Tying = Literal["none", "target", "all"]
Script = Literal["taiwan", "convert"]


class ConfigError(ValueError):
    """The experiment cannot be run as written; the message names the field."""


@dataclass(frozen=True, slots=True)
class _Range:
    """What a number of an experiment may be; NaN is outside of all."""

    words: str
    holds: Callable[[float], bool]


Count = Annotated[int, _Range("1 or more", lambda value: value >= 1)]
# Special ids, the bytes and a piece at least; prepared corpora hold ids of two bytes.
VocabularySize = Annotated[int, _Range("261 to 65536", lambda size: 4 + 256 < size <= 1 << 16)]
Seed = Annotated[int, _Range("0 or more", lambda value: value >= 0)]
NotNegative = Annotated[float, _Range("0 or more", lambda value: 0 <= value < math.inf)]
Positive = Annotated[float, _Range("more than 0", lambda value: 0 < value < math.inf)]
Ratio = Annotated[float, _Range("1 or more", lambda value: 1 <= value < math.inf)]
Share = Annotated[float, _Range("at least 0 and below 1", lambda value: 0 <= value < 1)]
Coverage = Annotated[float, _Range("more than 0 and at most 1", lambda value: 0 < value <= 1)]


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
        config: TransformerConfig = _from_table(TransformerConfig, shape, "model.overrides")
        return config


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSettings:
    """One corpus file: where it is, its script, how often an epoch shows it."""

    path: Path
    weight: NotNegative = 1.0
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
    max_tokens: Count = 120
    max_length_ratio: Ratio = 3.0

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

    seed: Seed = 1
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
    patience: Count = 20
    validation_sentences: Count = 300
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

    def __post_init__(self) -> None:
        """Refuse to select by a validation set that there is not."""
        known = self.corpus.validation
        if self.training.selection and self.training.selection not in known:
            msg = (
                f"training.selection: no validation set '{self.training.selection}', "
                f"there is {', '.join(known)}"
            )
            raise ConfigError(msg)


def read_experiment(path: Path, corpora: Path | None = None) -> Experiment:
    """The experiment of a TOML file; ``corpora`` replaces its corpus folder.

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
    experiment: Experiment = _from_table(Experiment, table, "")
    _check_fit(experiment)
    corpus = experiment.corpus
    folder = corpora or corpus.folder
    sources = {
        name: dataclasses.replace(source, path=folder / source.path)
        for name, source in corpus.sources.items()
    }
    validation = {name: folder / file for name, file in corpus.validation.items()}
    corpus = dataclasses.replace(corpus, folder=folder, sources=sources, validation=validation)
    return dataclasses.replace(experiment, corpus=corpus)


def changes(before: Experiment, now: Experiment) -> list[str]:
    """Fields that differ, as ``training.patience: 20 -> 30``."""
    old, new = _flat(dataclasses.asdict(before)), _flat(dataclasses.asdict(now))
    return [
        f"{key}: {old.get(key, 'none')} -> {new.get(key, 'none')}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]


def _flat(table: dict[str, Any], where: str = "") -> dict[str, Any]:
    """The leaves of nested tables by their dotted names."""
    leaves: dict[str, Any] = {}
    for key, value in table.items():
        name = _join(where, key)
        leaves |= _flat(value, name) if isinstance(value, dict) else {name: value}
    return leaves


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
    if shape.tying == "all" and not sizes.shared:
        msg = "model.overrides.tying: 'all' needs tokenizer.shared = true"
        raise ConfigError(msg)


def _from_table(kind: type[Any], table: dict[str, Any], where: str) -> Any:  # noqa: ANN401
    """A dataclass from a TOML table; unknown and missing keys are errors that name the key."""
    hints = get_type_hints(kind, include_extras=True)
    fields = {item.name: item for item in dataclasses.fields(kind)}
    for key in table:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            hint = f", did you mean '{near[0]}'?" if near else ""
            msg = f"{_join(where, key)}: unknown key{hint}"
            raise ConfigError(msg)
    values = {key: _convert(hints[key], value, _join(where, key)) for key, value in table.items()}
    for name, item in fields.items():
        required = (
            item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        )
        if required and name not in values:
            msg = f"{_join(where, name)}: missing"
            raise ConfigError(msg)
    try:
        return kind(**values)
    except ConfigError as error:
        raise ConfigError(_join(where, str(error))) from None


def _convert(hint: Any, value: Any, where: str) -> Any:  # noqa: ANN401, PLR0911  one a kind
    """One TOML value as the annotated type."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, dict):
            msg = f"{where}: expected a table"
            raise ConfigError(msg)
        return _from_table(hint, value, where)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _within(arguments[1], _convert(arguments[0], value, where), where)
    if origin is dict and isinstance(value, dict):
        return {key: _convert(arguments[1], item, _join(where, key)) for key, item in value.items()}
    if origin is Literal:
        if value not in arguments:
            msg = f"{where}: '{value}' is not one of {', '.join(map(str, arguments))}"
            raise ConfigError(msg)
        return value
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is Any or type(value) is hint:
        return value
    msg = f"{where}: expected {getattr(hint, '__name__', hint)}, found {value!r}"
    raise ConfigError(msg)


def _within(allowed: _Range, number: float, where: str) -> float:
    if not allowed.holds(number):
        msg = f"{where}: {number} is not {allowed.words}"
        raise ConfigError(msg)
    return number


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key
