"""Writes bundles: graphs, tokenizers, parity report, model card, manifest."""

from __future__ import annotations

import dataclasses
import logging
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx

from export.calibration import Calibration, calibrate
from export.card import model_card
from export.folding import folded
from export.golden import GOLDEN_SENTENCES, golden_sentences
from export.graphs import decoder_graph, encoder_graph
from export.place import check_limits, new_bundle, producer, write_manifest, write_report
from export.precision import precision_of
from export.release import TrainedModel
from export.slots import slots_graph
from export.speed import Speed, speed_in_turns
from export.trained import network_of
from export.verify import Exported, ExportError, ParityReport, verify
from model.checkpoint import ALIGNMENT_HEAD
from model.evaluate import ValidationSet
from model.tokenizer import BOS_ID, EOS_ID, PAD_ID, UNK_ID
from server import bundle as reader
from server.bundle import (
    AlignmentHead,
    Bundle,
    Golden,
    Manifest,
    QualityScore,
    Shape,
    Tokens,
    TrainingSource,
    open_bundle,
)

_log = logging.getLogger(__name__)

_CALIBRATION_SENTENCES = 240
_TIMED_SENTENCES = 64


@dataclass(frozen=True)
class ExportSettings:
    """What an export may choose."""

    name: str
    precision: Literal["fp32", "int8", "int8-rows", "fp16"] = "int8"
    cache: Literal["float32", "int8", "float16"] = "int8"
    licence: str = "CC-BY-SA-4.0"
    max_source_tokens: int = 128
    max_target_tokens: int = 192

    @property
    def provider(self) -> Literal["cpu", "cuda"]:
        """What has kernels for it: GroupQueryAttention has float16 on CUDA, and no other."""
        return "cuda" if self.precision == "fp16" else "cpu"


def write_bundle(
    trained: TrainedModel,
    validation: dict[str, ValidationSet],
    folder: Path,
    settings: ExportSettings,
) -> Bundle:
    """Export, verify, and only then put the bundle in its place; the bundle, opened.

    Raises:
        ExportError: parity fails, the sizes do not fit the model, or something else than a bundle
            stands in the way; ``folder`` is as it was.
        OSError: the place cannot be written.
    """
    check_cache(settings)
    limits = settings.max_source_tokens, settings.max_target_tokens
    check_limits(limits, trained.model.config.max_positions)
    if not validation:
        msg = "no validation set: parity cannot be shown"
        raise ExportError(msg)
    with new_bundle(folder) as partial:
        _log.info("writing %s graphs", settings.precision)
        write_graphs(trained, _calibration_ids(trained, validation, settings), partial, settings)
        draft = Bundle(partial, _manifest(trained, settings, [], []), digest="")
        report, outputs = verify(trained.model, draft, trained.tokenizers, validation)
        speed = _speed(trained, draft, validation, settings)
        report = dataclasses.replace(report, speed=speed)
        write_report(partial, report.as_json())
        manifest = _manifest(trained, settings, _scores(report), _goldens(trained, draft))
        card = model_card(manifest, report, validation, outputs, trained.account)
        (partial / reader.MODEL_CARD).write_text(card, encoding="utf-8")
        write_manifest(partial, manifest)
    return open_bundle(folder)


def check_cache(settings: ExportSettings) -> None:
    """Refuse a cache that the precision's attention cannot read."""
    if (settings.precision == "fp16") != (settings.cache == "float16"):
        msg = f"precision {settings.precision} has no cache of {settings.cache}"
        raise ExportError(msg)


def _alignment_head(trained: TrainedModel) -> AlignmentHead | None:
    """The head that the weights say was trained to align."""
    stored = trained.metadata.get(ALIGNMENT_HEAD)
    return None if stored is None else AlignmentHead.model_validate_json(stored)


def write_graphs(
    trained: TrainedModel, sources: list[list[int]], folder: Path, settings: ExportSettings
) -> None:
    """Write graphs and tokenizers.

    Args:
        trained: what to export.
        sources: ids without end of sentences to calibrate 8-bit integers on.
        folder: where to; it exists.
        settings: precision and sizes.
    """
    model, calibration = trained.model, Calibration.nothing()
    balance, cache_steps = settings.precision == "int8", settings.cache == "int8"
    if balance or cache_steps:
        calibration = calibrate(model, sources, settings.max_target_tokens)
        model = folded(model, calibration, balance=balance, cache_steps=cache_steps)
    if settings.precision == "int8":
        calibration = calibrate(model, sources, settings.max_target_tokens)
    for name, graph, limit in (
        (reader.ENCODER, encoder_graph, settings.max_source_tokens),
        (reader.DECODER, decoder_graph, settings.max_target_tokens),
    ):
        precision = precision_of(settings.precision, calibration)
        built = graph(network_of(model), precision, settings.cache, limit)
        onnx.save(built, str(folder / name))
    if settings.provider == "cuda":
        onnx.save(slots_graph(settings.cache), str(folder / reader.SLOTS))
    (folder / reader.SOURCE_TOKENIZER).write_bytes(trained.tokenizers[0].model)
    (folder / reader.TARGET_TOKENIZER).write_bytes(trained.tokenizers[1].model)


def _calibration_ids(
    trained: TrainedModel, validation: dict[str, ValidationSet], settings: ExportSettings
) -> list[list[int]]:
    """Sources of every kind of text, shared out between the sets; their targets are not looked at.

    The last of each set, since the first are those that parity compares.
    """
    share = math.ceil(_CALIBRATION_SENTENCES / len(validation))
    chosen = [text for of_set in validation.values() for text in of_set.sources[-share:]]
    longest = settings.max_source_tokens - 1
    return [ids[:longest] for ids in trained.tokenizers[0].encode(chosen)]


def _speed(
    trained: TrainedModel,
    draft: Bundle,
    validation: dict[str, ValidationSet],
    settings: ExportSettings,
) -> Speed | None:
    """Beside float32 graphs made for this alone; a processor says nothing of a GPU's speed."""
    if settings.precision == "fp32" or settings.provider == "cuda":
        return None
    exact = dataclasses.replace(settings, precision="fp32", cache="float32")
    _log.info("timing %s beside float32", settings.precision)
    texts = next(iter(validation.values())).head(_TIMED_SENTENCES).sources
    with tempfile.TemporaryDirectory() as place:
        write_graphs(trained, [], Path(place), exact)
        float32 = Exported(Bundle(Path(place), _manifest(trained, exact, [], []), digest=""))
        ours = Exported(draft)
        ids = ours.fitting(trained.tokenizers[0].encode(texts))
        return speed_in_turns(len(ids), lambda: ours.greedy(ids), lambda: float32.greedy(ids))


def _manifest(
    trained: TrainedModel,
    settings: ExportSettings,
    scores: list[QualityScore],
    goldens: list[Golden],
) -> Manifest:
    """The manifest, without the digests of the files."""
    experiment = trained.experiment
    return Manifest(
        schema_version=reader.SCHEMA_VERSION,
        name=settings.name,
        source_language=experiment.source_language,
        target_language=experiment.target_language,
        precision=settings.precision,
        cache_type=settings.cache,
        provider=settings.provider,
        licence=settings.licence,
        tokens=Tokens(pad=PAD_ID, bos=BOS_ID, eos=EOS_ID, unk=UNK_ID),
        shape=_shape(trained, settings),
        producer=producer("torch", "onnx"),
        training_data=[
            TrainingSource(
                name=name,
                origin=source.origin,
                licence=source.licence,
                pairs=trained.pairs[name],
                weight=source.weight,
            )
            for name, source in experiment.corpus.sources.items()
        ],
        scores=scores,
        alignment_head=_alignment_head(trained),
        goldens=goldens or [Golden(source="draft", target="draft", target_ids=[])],
        files={},
    )


def _shape(trained: TrainedModel, settings: ExportSettings) -> Shape:
    config = trained.model.config
    return Shape(
        source_vocab_size=config.source_vocab_size,
        target_vocab_size=config.target_vocab_size,
        d_model=config.d_model,
        heads=config.n_heads,
        head_size=config.head_size,
        encoder_layers=config.encoder_layers,
        decoder_layers=config.decoder_layers,
        d_ff=config.d_ff,
        max_source_tokens=settings.max_source_tokens,
        max_target_tokens=settings.max_target_tokens,
        parameter_count=network_of(trained.model).parameters,
    )


def _scores(report: ParityReport) -> list[QualityScore]:
    scores = []
    for name, found in report.scores.items():
        for metric, value, signature in (
            ("BLEU", found.bleu, found.bleu_signature),
            ("chrF2", found.chrf, found.chrf_signature),
        ):
            scores.append(
                QualityScore(
                    dataset=name, metric=metric, value=round(value, 2), signature=signature
                )
            )
    return scores


def _goldens(trained: TrainedModel, draft: Bundle) -> list[Golden]:
    """What the exported graphs make of the golden sentences, in English if there are no others."""
    source, target = trained.tokenizers
    exported = Exported(draft)
    sentences = golden_sentences(trained.experiment.source_language) or GOLDEN_SENTENCES
    outputs = exported.greedy(exported.fitting(source.encode(list(sentences))))
    return [
        Golden(source=sentence, target=target.decode(row), target_ids=row)
        for sentence, row in zip(sentences, outputs, strict=True)
    ]
