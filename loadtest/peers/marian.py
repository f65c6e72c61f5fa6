"""A Marian model of OPUS-MT's usual shape in the form of every contender, with drawn weights.

The sizes are those of ``Helsinki-NLP/opus-mt-en-zh``. Its tokenizer is trained on the sentences of
the benchmark, filled up with pieces that no text has. The end token is never chosen, so limits end
every translation and all contenders put out as much.
"""

from __future__ import annotations

import functools
import multiprocessing
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import ctranslate2
import torch
import transformers

from export.golden import GOLDEN_SENTENCES
from export.imported.architectures import read_model
from export.imported.bundle import ImportSettings, Precision, write_imported
from export.imported.checkpoint import Checkpoint
from export.imported.compare import Sentences
from loadtest.peers import contender
from loadtest.peers.contender import Kind, Setup
from loadtest.peers.models import Models
from loadtest.peers.optimum_model import convert as convert_for_optimum
from loadtest.peers.pieces import write_tokenizer
from loadtest.peers.transformers_engine import TransformersEngine
from loadtest.peers.workload import Ids

_SIZES = {
    "vocab_size": 65_001, "d_model": 512, "encoder_layers": 6, "decoder_layers": 6,
    "encoder_attention_heads": 8, "decoder_attention_heads": 8, "encoder_ffn_dim": 2048,
    "decoder_ffn_dim": 2048, "max_position_embeddings": 512,
}  # fmt: skip
_SEED = 1
_NEVER = -1e4  # not lower: float32 would round what is compared with it
_BUNDLES: dict[contender.Precision, Precision] = {"float32": "fp32", "int8": "int8-rows"}


def marian_models(
    texts: list[str], folder: Path, optimum: Path | None = None, **sizes: int
) -> Models:
    """The checkpoint, and what each contender's own converter makes of it.

    Args:
        texts: what the tokenizer is trained on.
        folder: where all files go; what is there already is taken as it is.
        optimum: a folder with the packages of Optimum; None = it takes no part.
        sizes: other than opus-mt-en-zh's.
    """
    checkpoint = folder / "checkpoint"
    if not checkpoint.exists():
        write_checkpoint(texts, checkpoint, **sizes)
    places: dict[tuple[Kind, contender.Precision], Path] = {("transformers", "float32"): checkpoint}
    for precision, of_bundle in _BUNDLES.items():
        bundle = places["dragoman", precision] = folder / f"bundle-{precision}"
        if not bundle.exists():
            _import(checkpoint, bundle, of_bundle)
        peer = places["ctranslate2", precision] = folder / f"ctranslate2-{precision}"
        if not peer.exists():
            quantization = None if precision == "float32" else precision
            ctranslate2.converters.TransformersConverter(str(checkpoint)).convert(
                str(peer), quantization=quantization
            )
    if optimum is not None:
        for precision in _BUNDLES:
            places["optimum", precision] = folder / f"optimum-{precision}"
        if not places["optimum", "int8"].exists():
            # Its packages are not ours: nobody else is to import them.
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                given = optimum, checkpoint, places["optimum", "float32"], places["optimum", "int8"]
                process.submit(convert_for_optimum, *given).result()
    return Models(
        functools.partial(_reference, checkpoint),
        places["dragoman", "int8"],
        places,
        forced_lengths=True,
        packages=optimum,
    )


def write_checkpoint(texts: list[str], folder: Path, **sizes: int) -> None:
    """Drawn weights and a tokenizer in Hugging Face's layout."""
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    chosen = _SIZES | sizes
    write_tokenizer(texts, partial, chosen["vocab_size"])
    pad = chosen["vocab_size"] - 1
    config = transformers.MarianConfig(
        **chosen, activation_function="swish", scale_embedding=True, pad_token_id=pad,
        decoder_start_token_id=pad, bos_token_id=0, eos_token_id=0, forced_eos_token_id=None,
        bad_words_ids=None,
    )  # fmt: skip
    network = transformers.MarianMTModel(config).eval()
    _draw(network, torch.Generator().manual_seed(_SEED), pad)
    network.save_pretrained(partial)
    partial.rename(folder)


@torch.no_grad()
def _draw(network: Any, generator: torch.Generator, pad: int) -> None:  # noqa: ANN401
    """Weights that make outputs depend on sources and change from token to token."""
    for name, parameter in network.named_parameters():
        if "embed_positions" in name or parameter.dim() == 1:
            continue
        size = 2.0 if "q_proj" in name or "k_proj" in name else 1.5
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.copy_(noise * size * parameter.shape[-1] ** -0.5)
    network.model.shared.weight[pad] = 0.0  # as in Marian, which CTranslate2's converter counts on
    bias = torch.randn(network.final_logits_bias.shape, generator=generator)
    bias[0, [0, 1, pad]] = _NEVER
    network.final_logits_bias.copy_(bias)


def _import(checkpoint: Path, bundle: Path, precision: Precision) -> None:
    """As ``dragoman import`` does it; what drawn weights lose says nothing."""
    settings = ImportSettings(
        name=bundle.name, source_language="en", target_language="zh", shown=("en", "zh"),
        licence="none", precision=precision, max_source_tokens=256, max_target_tokens=256,
        gated=False,
    )  # fmt: skip
    model = read_model(Checkpoint(checkpoint))
    write_imported(model, Sentences(list(GOLDEN_SENTENCES[:2])), bundle, settings)


def _reference(checkpoint: Path, sources: Ids, limits: list[int]) -> Ids:
    """What the checkpoint's authors' code puts out for ids without end."""
    engine = TransformersEngine(Setup("transformers", "float32", checkpoint))
    return [
        engine.generate([[*ids, engine.eos]], limit)[0]
        for ids, limit in zip(sources, limits, strict=True)
    ]
