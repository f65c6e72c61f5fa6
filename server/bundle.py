"""What a bundle is, and how it is read: one directory that holds one model.

The reader owns the format; ``export/`` writes what is declared here. Nothing is served from
a bundle that is damaged, cut short, changed by hand or of a version this reader does not know.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from server.errors import BundleError

SCHEMA_VERSION = 2
MANIFEST = "manifest.json"
ENCODER, DECODER, SLOTS = "encoder.onnx", "decoder.onnx", "slots.onnx"
SOURCE_TOKENIZER, TARGET_TOKENIZER = "source.model", "target.model"
SOURCE_VOCABULARY, TARGET_VOCABULARY = "source_vocabulary.json", "target_vocabulary.json"
WEIGHTS = "weights.bin"
PARITY_REPORT, MODEL_CARD = "parity.json", "MODEL_CARD.md"
REQUIRED_FILES = (ENCODER, DECODER, SOURCE_TOKENIZER, TARGET_TOKENIZER, PARITY_REPORT, MODEL_CARD)
CUDA_FILES = (SLOTS,)
"""More that a bundle for CUDA has."""
IMPORTED_FILES = (SOURCE_VOCABULARY, TARGET_VOCABULARY, WEIGHTS)
"""More that a bundle of an imported model may have."""
_MAX_MANIFEST_BYTES = 4 * 1024 * 1024

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]


class _Section(BaseModel):
    """Part of a manifest: exact types, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Tokens(_Section):
    """Ids that no text has."""

    pad: Count
    bos: Count
    """What the decoder reads first."""
    eos: Count
    unk: Count

    @property
    def never(self) -> frozenset[int]:
        """What no output has; some networks begin with the token that ends."""
        return frozenset({self.pad, self.bos, self.unk} - {self.eos})


class Language(_Section):
    """One of several languages of a model, and the tokens that stand for it."""

    code: str
    """BCP-47."""
    source_ids: list[Count] = []
    """Before a source that is in it."""
    asked_ids: list[Count] = []
    """Before a source that is to be translated into it."""
    target_ids: list[Count] = []
    """What an output in it begins with."""


class Shape(_Section):
    """Sizes of the network that the engine needs to lay out its cache."""

    source_vocab_size: Positive
    target_vocab_size: Positive
    d_model: Positive
    heads: Positive
    head_size: Positive
    encoder_layers: Positive
    decoder_layers: Positive
    d_ff: Positive
    max_source_tokens: Positive
    """Longest source the encoder takes, end token counted."""
    max_target_tokens: Positive
    """Most steps of the decoder, end token counted."""
    parameter_count: Positive


class Producer(_Section):
    """Who made the bundle, and with what."""

    commit: str
    """Commit of this project, with ``-dirty`` if the tree differed from it."""
    opset: Positive
    versions: dict[str, str]
    """Package name to version: torch, onnx, onnxruntime."""


class TrainingSource(_Section):
    """One corpus the weights were trained on."""

    name: str
    origin: str
    licence: str
    pairs: Count
    weight: float


class QualityScore(_Section):
    """One score of this very bundle at its precision."""

    dataset: str
    metric: str
    value: float
    signature: str


class AlignmentHead(_Section):
    """The head of cross-attention that was trained to look where a word comes from."""

    layer: Count
    head: Count


class Golden(_Section):
    """A sentence whose translation is known to the token; checked before serving."""

    source: str
    target: str
    target_ids: list[Count]
    """Greedy output without begin and end."""
    source_language: str = ""
    """Of a model with several languages: which are meant."""
    target_language: str = ""


class Manifest(_Section):
    """``manifest.json``."""

    schema_version: Positive
    name: str
    source_language: str
    target_language: str
    architecture: str = "dragoman"
    """What the network was called where it was trained; for people, nothing depends on it."""
    languages: list[Language] = []
    """Of a model with several; its ``source_language`` or ``target_language`` is then ``mul``."""
    precision: Literal["fp32", "int8", "int8-rows", "fp16"]
    cache_type: Literal["float32", "int8", "float16"]
    provider: Literal["cpu", "cuda"] = "cpu"
    """What its operators have kernels on: it is served there and nowhere else."""
    licence: str
    tokens: Tokens
    shape: Shape
    producer: Producer
    training_data: list[TrainingSource]
    scores: list[QualityScore]
    goldens: Annotated[list[Golden], Field(min_length=1)]
    alignment_head: AlignmentHead | None = None
    """Of weights trained with guided alignment; others have none."""
    files: dict[str, str]
    """File name to its SHA-256, hexadecimal; every file of the bundle but the manifest."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle whose files are all there and unchanged.

    The graphs, as ``export/graphs.py`` builds them and ``server/engine/model_runner.py`` runs
    them, with B rows, S source tokens, T cache positions, H heads, D head size, L decoder
    layers, V target vocabulary:

    ``encoder.onnx``
        in: ``source_ids`` int64 [B, S], ``source_mask`` int32 [B, S] (1 = token, 0 = padding);
        out: ``cross_kv`` cache type [2L, B, H, S, D], keys of layer l at 2l, values at 2l + 1.
    ``decoder.onnx``
        in: ``tokens`` int64 [B], ``positions`` int32 [B] (tokens already in the row's cache),
        ``source_lengths`` int32 [B] (source tokens of the row less one),
        ``self_total`` int32 [] (largest position plus one), ``cross_total`` int32 [] (largest
        source length), and for every layer l ``self_key_l``, ``self_value_l`` cache type
        [B, H, T, D], ``cross_key_l``, ``cross_value_l`` cache type [B, H, S, D];
        out: ``logits`` float32 [B, V'] (V rounded up to whole blocks of 64, the rest very
        low), ``block_maxima`` float32 [B, V' / 64] (the largest of each block),
        ``cross_query_l`` float32 [B, H * D] (what the row asked the source in layer l; with
        the cross keys it gives the attention), and ``self_key_l_out``,
        ``self_value_l_out``, ``cross_key_l_out``, ``cross_value_l_out``, to be bound over their
        inputs: the step writes the new key and value of each row in place at its position.

    An imported model's pieces are numbered as its authors did, not as its SentencePiece files do:
    ``source_vocabulary.json`` and ``target_vocabulary.json`` are the piece of every id, null for
    ids that no text has. Its graphs keep their weights in ``weights.bin``, once for both.

    A bundle for CUDA computes in float16: its ``cross_query_l`` are float16, and in place of
    ``block_maxima`` it has ``likeliest`` int64 [B], the largest logit's token. It has one graph
    more, ``slots.onnx``, which copies rows of the caches; ``export/slots.py`` describes it.
    """

    folder: Path
    manifest: Manifest
    digest: str
    """SHA-256 of ``manifest.json``."""

    def read(self, name: str) -> bytes:
        """The bytes of a file of the bundle."""
        return (self.folder / name).read_bytes()


def open_bundle(folder: Path) -> Bundle:
    """The bundle in ``folder``, with every file checked against the manifest.

    Raises:
        BundleError: one line that names the file and the fault.
    """
    if not folder.is_dir():
        msg = f"{folder}: no such bundle directory"
        raise BundleError(msg)
    text = _read(folder / MANIFEST, _MAX_MANIFEST_BYTES)
    manifest = _parse_manifest(folder / MANIFEST, text)
    more = CUDA_FILES if manifest.provider == "cuda" else ()
    for name in (*REQUIRED_FILES, *more):
        if name not in manifest.files:
            msg = f"{folder / MANIFEST}: does not list {name}"
            raise BundleError(msg)
    for name, expected in manifest.files.items():
        if Path(name).name != name or not name.isprintable():
            msg = f"{folder / MANIFEST}: {name!a} is not the name of a file of the bundle"
            raise BundleError(msg)
        if file_digest(folder / name) != expected:
            msg = f"{folder / name}: damaged or changed: its SHA-256 is not the manifest's"
            raise BundleError(msg)
    return Bundle(folder, manifest, hashlib.sha256(text).hexdigest())


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal.

    Raises:
        BundleError: missing or unreadable.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        msg = f"{path}: {error.strerror or error}"
        raise BundleError(msg) from error


def _read(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            text = file.read(limit + 1)
    except OSError as error:
        msg = f"{path}: {error.strerror or error}"
        raise BundleError(msg) from error
    if len(text) > limit:
        msg = f"{path}: larger than {limit} bytes"
        raise BundleError(msg)
    return text


def _parse_manifest(path: Path, text: bytes) -> Manifest:
    """The manifest; its version is looked at first, since a later one may look different."""
    try:
        table = json.loads(text)
    except (ValueError, RecursionError) as error:
        msg = f"{path}: not JSON ({error})"
        raise BundleError(msg) from error
    version = table.get("schema_version") if isinstance(table, dict) else None
    if not isinstance(version, int) or isinstance(version, bool):
        msg = f"{path}: no schema_version"
        raise BundleError(msg)
    if version != SCHEMA_VERSION:
        msg = f"{path}: schema version {version}, this server reads version {SCHEMA_VERSION}"
        raise BundleError(msg)
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ascii(".".join(str(part) for part in first["loc"]))[1:-1]  # a key may be anything
        msg = f"{path}: {where}: {first['msg']}"
        raise BundleError(msg) from error
