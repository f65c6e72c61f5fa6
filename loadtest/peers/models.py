"""One set of weights in the form of every contender."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from sentencepiece import sentencepiece_model_pb2

from export.bundle import ExportSettings, write_bundle
from export.golden import GOLDEN_SENTENCES
from export.release import TrainedModel, read_trained
from export.verify import torch_greedy
from loadtest.peers import ctranslate2_model, onnx_model
from loadtest.peers.contender import Kind, Precision, Setup
from loadtest.peers.workload import Ids
from model.checkpoint import model_metadata, save_weights
from model.config import ModelSettings
from model.evaluate import ValidationSet
from model.tokenizer import BOS_ID, EOS_ID, PAD_ID, UNK_ID, Tokenizer
from model.transformer import Transformer

_NEVER = -1e4  # not lower: float32 would round what is compared with it
_BASE_PIECES = 16_000
_BASE_SEED = 1


@dataclass(frozen=True, slots=True)
class Models:
    """Where each contender finds the weights."""

    reference: Callable[[Ids, list[int]], Ids]
    """What all of them compute, in PyTorch and float32, of ids without end and limits."""
    bundle: Path
    places: dict[tuple[Kind, Precision], Path]
    forced_lengths: bool
    """The weights never choose the end token: the limits say how long translations are."""
    packages: Path | None = None
    """Where Optimum's packages are."""

    def setup(self, kind: Kind, precision: Precision, workers: int, threads: int) -> Setup:
        """A contender with these weights."""
        setup = Setup(kind, precision, self.places[kind, precision], workers, threads)
        return dataclasses.replace(setup, packages=self.packages) if kind == "optimum" else setup

    def any_of(self, *kinds: Kind) -> Kind | None:
        """The first of these that has the weights."""
        there = {kind for kind, _ in self.places}
        return next((kind for kind in kinds if kind in there), None)


def shipped_models(trained: Path, bundle: Path, folder: Path) -> Models:
    """A trained model that has a bundle already.

    Args:
        trained: its release or run folder.
        bundle: exported from it.
        folder: where the peers' files go.
    """
    network = without_special_tokens(read_trained(trained).model)
    return _convert(network, bundle, folder, forced_lengths=False)


def ctranslate2_model_of(trained: Path, folder: Path) -> Path:
    """The trained weights for CTranslate2 in int8, and nobody else; returns where.

    Args:
        trained: a release or run folder.
        folder: where the model's own goes.
    """
    place = folder / "ctranslate2-int8"
    ctranslate2_model.convert(without_special_tokens(read_trained(trained).model), place, "int8")
    return place


def base_models(trained: Path, folder: Path) -> Models:
    """A Transformer of the paper's base size with weights that are drawn, not trained.

    Its tokenizers are those of ``trained`` with pieces added that no text has. Speed does not
    depend on what the weights say, but for the length of the output: the end token is never
    chosen, and limits end every translation.

    Args:
        trained: a release or run folder.
        folder: where all files go. A bundle that is there already is taken as it is: the same
            seed gives the same weights, and exporting takes minutes.
    """
    read = read_trained(trained)
    settings = ModelSettings(preset="base")
    torch.manual_seed(_BASE_SEED)
    network = Transformer(settings.build(_BASE_PIECES, _BASE_PIECES)).eval()
    network = without_special_tokens(network, EOS_ID)
    source, target = (_with_pieces(one, _BASE_PIECES) for one in read.tokenizers)
    drawn = dataclasses.replace(
        read,
        model=network,
        tokenizers=(source, target),
        experiment=dataclasses.replace(read.experiment, model=settings),
    )
    bundle = folder / "bundle"
    if not bundle.exists():
        _export(drawn, bundle)
    return _convert(network, bundle, folder, forced_lengths=True)


def _export(drawn: TrainedModel, bundle: Path) -> None:
    """By our own exporter, checks and all; two sentences do for weights that mean nothing."""
    sentences = list(GOLDEN_SENTENCES[:2])
    validation = ValidationSet(sentences, [[sentence] for sentence in sentences])
    write_bundle(drawn, {"golden": validation}, bundle, ExportSettings(name="base"))


def _convert(network: Transformer, bundle: Path, folder: Path, *, forced_lengths: bool) -> Models:
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / "weights.safetensors"
    metadata = {"model": model_metadata(network.config)}
    save_weights(weights, dict(network.named_parameters()), metadata)
    places: dict[tuple[Kind, Precision], Path] = {
        ("dragoman", "int8"): bundle,
        ("pytorch", "float32"): weights,
    }
    kinds: tuple[Precision, ...] = ("float32", "int8")
    for precision in kinds:
        place = places["ctranslate2", precision] = folder / f"ctranslate2-{precision}"
        quantization = None if precision == "float32" else precision
        ctranslate2_model.convert(network, place, quantization)
        places["onnxruntime", precision] = folder / f"onnxruntime-{precision}"
    onnx_model.convert(network, places["onnxruntime", "float32"])
    onnx_model.quantise(places["onnxruntime", "float32"], places["onnxruntime", "int8"])
    reference = functools.partial(torch_greedy, network)
    return Models(reference, bundle, places, forced_lengths)


def without_special_tokens(network: Transformer, *more: int) -> Transformer:
    """A copy that gives tokens no text has no chance.

    Our engine passes them over by itself; so all contenders choose among the same tokens, and none
    has to do more for it.
    """
    copied = copy.deepcopy(network)
    with torch.no_grad():
        copied.projection.bias[[PAD_ID, BOS_ID, UNK_ID, *more]] = _NEVER
    return copied


def _with_pieces(tokenizer: Tokenizer, count: int) -> Tokenizer:
    """The tokenizer with made-up pieces until there are ``count``."""
    parsed = sentencepiece_model_pb2.ModelProto.FromString(tokenizer.model)
    lowest = min(piece.score for piece in parsed.pieces)
    while len(parsed.pieces) < count:
        piece = f"\ue000{len(parsed.pieces)}"
        parsed.pieces.add(piece=piece, score=lowest - 1)
    return Tokenizer(parsed.SerializeToString())
