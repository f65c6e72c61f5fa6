"""M2M-100 (Fan et al. 2021) and NLLB-200 (NLLB Team 2022): one network for many languages."""

from __future__ import annotations

import math
from typing import Any

import langcodes
import sentencepiece
import torch
from torch import Tensor

from export.imported.bart_family import HEAD, SHARED, BartFamily
from export.imported.checkpoint import Checkpoint, ImportRefused
from export.imported.marian import by_id
from export.imported.model import ImportedModel, Pieces
from export.network import Linear
from server.bundle import Language, Tokens

_PIECES, _VOCABULARY = "sentencepiece.bpe.model", "vocab.json"
_TABLES = ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight")
_POSITIONS = (
    "model.encoder.embed_positions.weights",
    "model.decoder.embed_positions.weights",
    "model.encoder.embed_positions.weight",
    "model.decoder.embed_positions.weight",
)
_RENAMED = {"ns": "nso"}  # Northern Sotho, in M2M-100 by a code that is none
_UNK = 3
_SPECIAL = 4  # <s>, <pad>, </s>, <unk> come before fairseq's pieces, of which three are theirs


def read_m2m(checkpoint: Checkpoint) -> ImportedModel:
    """The model.

    Raises:
        ImportRefused: it has an option or a tensor that cannot be served.
    """
    checkpoint.only(tie_word_embeddings=(True,))
    family, width = BartFamily(checkpoint), checkpoint.whole("d_model")
    vocabulary = checkpoint.whole("vocab_size")
    table = checkpoint.tensor(SHARED, *_TABLES, HEAD, shape=(vocabulary, width))
    positions = checkpoint.whole("max_position_embeddings")
    pad = checkpoint.whole("pad_token_id")
    first = pad + 1  # those before it stand for padding
    places = sinusoids(first + positions, width)[first:]
    network = family.network(
        pre_norm=True,
        tables=(table, table),
        positions=places,
        projection=Linear(table),
    )
    checkpoint.check_positions(*_POSITIONS, made=places, first=first)
    checkpoint.finish(*_POSITIONS)
    tokens = Tokens(
        pad=pad,
        bos=checkpoint.whole("decoder_start_token_id"),
        eos=checkpoint.whole("eos_token_id"),
        unk=_UNK,
    )
    model = checkpoint.bytes(_PIECES)
    pieces = Pieces(model, _vocabulary(checkpoint, model, vocabulary, tokens))
    return ImportedModel(
        architecture="m2m_100",
        network=network,
        d_ff=family.d_ff,
        positions=positions,
        tokens=tokens,
        source=pieces,
        target=pieces,
        languages=_languages(checkpoint, vocabulary),
        release=checkpoint.release,
    )


def sinusoids(length: int, width: int) -> Tensor:
    """PE [length, width] as fairseq computes it, in float32: the last rate is 1/10000 exactly."""
    half = width // 2
    rate = torch.exp(torch.arange(half).float() * -(math.log(10000) / (half - 1)))
    angle = torch.arange(length).float()[:, None] * rate
    return torch.nn.functional.pad(torch.cat([angle.sin(), angle.cos()], dim=1), (0, width % 2))


def _vocabulary(
    checkpoint: Checkpoint, model: bytes, size: int, tokens: Tokens
) -> list[str | None]:
    """The piece of every id: as a file says (M2M-100), or one more than SentencePiece's (NLLB)."""
    if checkpoint.has(_VOCABULARY):
        return by_id(checkpoint, checkpoint.json(_VOCABULARY), size, {*tokens.never, tokens.eos})
    try:
        processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    except Exception as error:
        msg = f"{checkpoint.folder / _PIECES}: not a SentencePiece model"
        raise ImportRefused(msg) from error
    own = [processor.id_to_piece(number) for number in range(processor.vocab_size())]
    found: list[str | None] = [None] * _SPECIAL + own[_SPECIAL - 1 :]
    if len(found) > size:
        msg = f"{checkpoint.folder}: {len(found)} pieces, but vocab_size is {size}"
        raise ImportRefused(msg)
    return found + [None] * (size - len(found))


def _languages(checkpoint: Checkpoint, size: int) -> list[Language]:
    """Those that have a token: ``__en__`` of M2M-100, ``eng_Latn`` of NLLB."""
    found: dict[str, Language] = {}
    for token, number in _added_tokens(checkpoint).items():
        code = token.strip("_").replace("_", "-")
        code = _RENAMED.get(code, code)
        if not 0 <= number < size or token.startswith("<") or not langcodes.tag_is_valid(code):
            continue
        code = langcodes.standardize_tag(code)
        language = Language(code=code, source_ids=[number], target_ids=[number])
        found.setdefault(code, language)
    if not found:
        msg = (
            f"{checkpoint.folder}: no token of a language in tokenizer.json, "
            "tokenizer_config.json, added_tokens.json or special_tokens_map.json"
        )
        raise ImportRefused(msg)
    return list(found.values())


def _added_tokens(checkpoint: Checkpoint) -> dict[str, int]:
    """Tokens that no text has, with the ids that a file of the tokenizer's gives them."""
    if checkpoint.has("tokenizer.json"):
        added: list[dict[str, Any]] = checkpoint.json("tokenizer.json").get("added_tokens", [])
        return {str(one["content"]): int(one["id"]) for one in added}
    if checkpoint.has("tokenizer_config.json"):
        table = checkpoint.json("tokenizer_config.json").get("added_tokens_decoder", {})
        if table:
            return {str(one["content"]): int(number) for number, one in table.items()}
    if checkpoint.has("added_tokens.json"):
        return {str(token): int(one) for token, one in checkpoint.json("added_tokens.json").items()}
    return _after_the_vocabulary(checkpoint)


def _after_the_vocabulary(checkpoint: Checkpoint) -> dict[str, int]:
    """Tokens that are listed without ids: they come after the pieces, as transformers has them."""
    if not checkpoint.has(_VOCABULARY):
        return {}
    first = len(checkpoint.json(_VOCABULARY))
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        listed = checkpoint.json(name) if checkpoint.has(name) else {}
        tokens = listed.get("additional_special_tokens") or []
        if tokens:
            names = [one["content"] if isinstance(one, dict) else str(one) for one in tokens]
            return {token: number for number, token in enumerate(names, first)}
    return {}
