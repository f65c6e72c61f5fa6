"""Writes an imported model as a bundle."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx
import torch

from export.calibration import Calibration
from export.graphs import CacheType, decoder_graph, encoder_graph
from export.imported.card import imported_card
from export.imported.compare import ImportReport, Sentences, Translated, check, compare, translated
from export.imported.model import ImportedModel
from export.place import check_limits, new_bundle, producer, write_manifest, write_report
from export.precision import precision_of
from export.slots import slots_graph
from export.speed import Speed
from export.trial import AsStored
from export.verify import ExportError
from export.weights import WeightsFile
from server import bundle as reader
from server.bundle import Bundle, Golden, Manifest, Shape, open_bundle
from server.engine.provider import HOST
from server.text.languages import Pair, Pairs

_log = logging.getLogger(__name__)

Precision = Literal["fp32", "int8-rows", "fp16"]
_CACHES: dict[Precision, CacheType] = {
    "fp32": "float32",
    "int8-rows": "float32",
    "fp16": "float16",
}
_GOLDENS = 8
_HEAD_SIZES = 8
"""What the attention operator takes multiples of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportSettings:
    """What an import may choose."""

    name: str
    source_language: str
    target_language: str
    """``mul`` for the several languages of a model."""
    shown: tuple[str, str]
    """The pair that golden sentences are in."""
    licence: str
    precision: Precision = "int8-rows"
    max_source_tokens: int = 256
    max_target_tokens: int = 256
    gated: bool = True
    """Refuse a precision that loses more than its budget."""

    @property
    def provider(self) -> Literal["cpu", "cuda"]:
        """What has kernels for the precision."""
        return "cuda" if self.precision == "fp16" else "cpu"


def write_imported(
    model: ImportedModel, sentences: Sentences, folder: Path, settings: ImportSettings
) -> tuple[Bundle, ImportReport]:
    """Build, compare, and only then put the bundle in its place; the bundle, opened.

    Raises:
        ExportError: the precision loses too much, the sizes do not fit the model, or something
            else than a bundle stands in the way; ``folder`` is as it was.
        OSError: the place cannot be written.
    """
    check_limits((settings.max_source_tokens, settings.max_target_tokens), model.positions)
    if model.network.head_size % _HEAD_SIZES:
        msg = f"heads of size {model.network.head_size}: only multiples of {_HEAD_SIZES} can be run"
        raise ExportError(msg)
    with new_bundle(folder) as partial:
        draft = draft_bundle(model, partial, settings)
        _, pair = Pairs(draft.manifest).nearest(*settings.shown)
        report, found = _compared(model, draft, sentences, pair, settings)
        write_report(partial, report.as_json())
        goldens = _goldens(found, sentences, pair)
        manifest = draft.manifest.model_copy(update={"goldens": goldens})
        card = imported_card(manifest, report)
        (partial / reader.MODEL_CARD).write_text(card, encoding="utf-8")
        write_manifest(partial, manifest)
    return open_bundle(folder), report


def draft_bundle(
    model: ImportedModel, folder: Path, settings: ImportSettings, *, as_stored: bool = False
) -> Bundle:
    """Graphs, weights and tokenizers, and a manifest without digests.

    Args:
        model: what is built.
        folder: where; empty.
        settings: of the import.
        as_stored: whether weights stay in the checkpoint's floats and graphs compute in float32,
            whatever the settings say: slow, not larger than the checkpoint, not to be served.
    """
    _log.info("writing %s graphs", "reference" if as_stored else settings.precision)
    with WeightsFile(folder / reader.WEIGHTS) as weights:
        for name, graph, limit in (
            (reader.ENCODER, encoder_graph, settings.max_source_tokens),
            (reader.DECODER, decoder_graph, settings.max_target_tokens),
        ):
            precision = (
                AsStored() if as_stored else precision_of(settings.precision, Calibration.nothing())
            )
            cache = _CACHES[settings.precision]
            onnx.save(graph(model.network, precision, cache, limit, weights), str(folder / name))
            model.release()
    for name in (reader.ENCODER, reader.DECODER):
        onnx.checker.check_model(str(folder / name))
    if settings.provider == "cuda":
        onnx.save(slots_graph("float16"), str(folder / reader.SLOTS))
    for pieces, tokenizer, vocabulary in (
        (model.source, reader.SOURCE_TOKENIZER, reader.SOURCE_VOCABULARY),
        (model.target, reader.TARGET_TOKENIZER, reader.TARGET_VOCABULARY),
    ):
        (folder / tokenizer).write_bytes(pieces.model)
        text = json.dumps(pieces.vocabulary, ensure_ascii=False, separators=(",", ":"))
        (folder / vocabulary).write_text(text, encoding="utf-8")
    return Bundle(folder, _manifest(model, folder, settings), digest="")


def _compared(
    model: ImportedModel,
    draft: Bundle,
    sentences: Sentences,
    pair: Pair,
    settings: ImportSettings,
) -> tuple[ImportReport, Translated]:
    """The report, and what the draft makes of the sentences."""
    if settings.precision == "fp32":
        _log.info("translating %d sentences", len(sentences.sources))
        report = ImportReport(precision="fp32", compared_with="nothing", measured_on=HOST.provider)
        return report, translated(draft, sentences, pair)
    beside = draft.folder.with_name(f"{draft.folder.name}.float32")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    try:
        exact = dataclasses.replace(settings, precision="fp32")
        reference = draft_bundle(model, beside, exact, as_stored=True)
        float32 = translated(reference, sentences, pair)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    _log.info("comparing %d sentences with those of float32", len(sentences.sources))
    ours = translated(draft, sentences, pair, float32)
    report = compare(settings.precision, HOST.provider, ours, float32, sentences)
    if settings.provider == "cpu" and model.network.source_embedding.tokens.dtype == torch.float32:
        speed = Speed(
            sentences=len(ours.ids), seconds=ours.seconds, seconds_float32=float32.seconds
        )
        report = dataclasses.replace(report, speed=speed)
    if settings.gated:
        check(report)
    return report, ours


def _manifest(model: ImportedModel, folder: Path, settings: ImportSettings) -> Manifest:
    network = model.network
    return Manifest(
        schema_version=reader.SCHEMA_VERSION,
        name=settings.name,
        source_language=settings.source_language,
        target_language=settings.target_language,
        architecture=model.architecture,
        languages=model.languages,
        precision=settings.precision,
        cache_type=_CACHES[settings.precision],
        provider=settings.provider,
        licence=settings.licence,
        tokens=model.tokens,
        shape=Shape(
            source_vocab_size=network.source_embedding.tokens.shape[0],
            target_vocab_size=network.vocabulary,
            d_model=network.width,
            heads=network.heads,
            head_size=network.head_size,
            encoder_layers=len(network.encoder),
            decoder_layers=len(network.decoder),
            d_ff=model.d_ff,
            max_source_tokens=settings.max_source_tokens,
            max_target_tokens=settings.max_target_tokens,
            parameter_count=network.parameters,
        ),
        producer=producer("torch", "onnx", "safetensors"),
        training_data=[],
        scores=[],
        goldens=[Golden(source="draft", target="draft", target_ids=[])],
        files={path.name: "" for path in folder.iterdir()},
    )


def _goldens(found: Translated, sentences: Sentences, pair: Pair) -> list[Golden]:
    rows = zip(sentences.sources, found.texts, found.ids, strict=True)
    return [
        Golden(
            source=source,
            target=target,
            target_ids=ids,
            source_language=pair.source_language,
            target_language=pair.target_language,
        )
        for source, target, ids in list(rows)[:_GOLDENS]
    ]
