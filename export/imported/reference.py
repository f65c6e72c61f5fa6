"""Whether an imported model says what its authors' code says: beside the ``transformers`` package.

For a downloaded checkpoint on a user's machine, and for the tests. Nothing else needs the package.
"""

from __future__ import annotations

import dataclasses
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from export.imported.bundle import ImportSettings, draft_bundle
from export.imported.compare import Sentences, Translated, translated
from export.imported.model import ImportedModel
from export.verify import ExportError
from server.bundle import Tokens
from server.engine.request import DecodingParameters
from server.text.languages import Pairs
from server.text.tokenizer import Tokenizer

_MOST = 1e-3
"""Of a logit: float32 rounds those of a large network to about this."""


def verify_import(
    folder: Path, model: ImportedModel, sentences: Sentences, settings: ImportSettings
) -> Iterator[str]:
    """Compare tokenizers and float32 graphs with ``transformers``; lines that say what was found.

    Raises:
        ExportError: texts are split otherwise, logits differ, the package is not installed, or,
            after all else, it cannot read the tokenizer: half a comparison is none.
    """
    network = reference_network(folder)
    tokenizer = reference_tokenizer(folder)
    if not isinstance(tokenizer, str):
        yield _split_alike(tokenizer, model, sentences)
    exact = dataclasses.replace(settings, precision="fp32")
    with tempfile.TemporaryDirectory() as place:
        draft = draft_bundle(model, Path(place), exact)
        _, pair = Pairs(draft.manifest).nearest(*settings.shown)
        ours = translated(draft, sentences, pair)
    difference = logits_difference(network, ours, model.tokens)
    theirs = [
        reference_output(
            network, ids, model.tokens, limit, DecodingParameters(prefix_ids=pair.target_ids)
        )
        for ids, limit in zip(ours.sources, ours.limits, strict=True)
    ]
    equal = sum(one == other for one, other in zip(theirs, ours.ids, strict=False))
    line = (
        f"beside transformers, {pair.source_language} -> {pair.target_language}: logits of "
        f"{len(ours.sources)} sentences differ by {difference:.2g} at most, {equal} of "
        f"{len(theirs)} outputs are equal"
    )
    if not difference <= _MOST:
        raise ExportError(line)
    pairs = zip(sentences.sources, ours.texts, strict=True)
    yield from (line, *(f"{source}\t{target}" for source, target in pairs))
    if isinstance(tokenizer, str):
        msg = f"transformers cannot read the tokenizer, so it was not compared: {tokenizer}"
        raise ExportError(msg)


def _split_alike(
    tokenizer: Any,  # noqa: ANN401  the package has no types
    model: ImportedModel,
    sentences: Sentences,
) -> str:
    """What was found of the source tokenizer, in a line.

    Raises:
        ExportError: a sentence gets other ids.
    """
    pieces = model.source
    ours = Tokenizer(pieces.model, "the tokenizer", pieces.vocabulary, model.tokens.unk)
    for sentence in sentences.sources:
        one, other = ours.encode(sentence), tokenizer(sentence, add_special_tokens=False).input_ids
        if one != other:
            msg = f"{sentence!r} is split into {one}, by transformers into {other}"
            raise ExportError(msg)
    return f"{len(sentences.sources)} sentences are split as transformers splits them"


def reference_tokenizer(folder: Path) -> Any:  # noqa: ANN401  the package has no types
    """The checkpoint's tokenizer as ``transformers`` reads it, or why it cannot."""
    from transformers import AutoTokenizer  # noqa: PLC0415  not what export needs

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Marian's recommends a package for other inputs
            return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # noqa: BLE001  it raises what its many libraries raise
        return " ".join(str(error).split()) or type(error).__name__


def reference_network(folder: Path) -> Any:  # noqa: ANN401  the package has no types
    """The checkpoint as ``transformers`` reads it, in float32.

    Raises:
        ExportError: the package is not installed.
    """
    try:
        from transformers import AutoModelForSeq2SeqLM  # noqa: PLC0415  not what export needs
    except ImportError as error:
        msg = "--check and --verify need the transformers package: pip install transformers"
        raise ExportError(msg) from error
    network = AutoModelForSeq2SeqLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, use_safetensors=True
    )
    return network.eval()


@torch.inference_mode()
def logits_difference(
    network: Any,  # noqa: ANN401
    ours: Translated,
    tokens: Tokens,
) -> float:
    """The largest difference of a logit, step by step on the same tokens."""
    largest = 0.0
    for row, ids in enumerate(ours.sources):
        count = int(ours.counted[row].sum())
        given = torch.from_numpy(ours.target_in[row : row + 1, :count])
        source = torch.tensor([[*ids, tokens.eos]])
        found: NDArray[np.float32] = (
            network(
                input_ids=source,
                attention_mask=torch.ones_like(source),
                decoder_input_ids=given,
            )
            .logits[0]
            .numpy()
        )
        largest = max(largest, float(np.abs(found - ours.logits[row, :count]).max()))
    return largest


@torch.inference_mode()
def reference_output(
    network: Any,  # noqa: ANN401
    source: list[int],
    tokens: Tokens,
    max_tokens: int,
    parameters: DecodingParameters,
) -> list[int]:
    """What ``generate`` puts out for ids without end, itself without begin and end.

    Its beam search ranks by the sum of log-probabilities and ends when as many hypotheses have.
    """
    ids, forced = torch.tensor([[*source, tokens.eos]]), parameters.prefix_ids
    branching = {"length_penalty": 0.0, "early_stopping": True}
    found = network.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        decoder_start_token_id=tokens.bos,
        do_sample=False,
        num_beams=parameters.slots,
        max_new_tokens=max_tokens,
        min_new_tokens=parameters.min_tokens,
        eos_token_id=tokens.eos,
        pad_token_id=tokens.pad,
        bad_words_ids=None,
        forced_bos_token_id=forced[0] if forced else None,
        forced_eos_token_id=None,
        suppress_tokens=sorted(tokens.never),
        **(branching if parameters.slots > 1 else {}),
    )[0, 1:].tolist()
    end = found.index(tokens.eos) if tokens.eos in found else len(found)
    return [int(token) for token in found[:end]]
