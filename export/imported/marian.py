"""MarianMT, the models of OPUS-MT: Junczys-Dowmunt et al. 2018, in Hugging Face's layout."""

from __future__ import annotations

import langcodes
import torch
from torch import Tensor

from export.imported.bart_family import HEAD, SHARED, BartFamily
from export.imported.checkpoint import Checkpoint, ImportRefused
from export.imported.model import ImportedModel, Pieces
from export.network import Linear
from server.bundle import Language, Tokens

_SOURCE, _TARGET = "source.spm", "target.spm"
_VOCABULARY, _TARGET_VOCABULARY = "vocab.json", "target_vocab.json"
_ENCODER, _DECODER = "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"
_POSITIONS = ("model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight")


def read_marian(checkpoint: Checkpoint) -> ImportedModel:
    """The model.

    Raises:
        ImportRefused: it has an option or a tensor that cannot be served.
    """
    checkpoint.only(
        normalize_before=(False,),
        normalize_embedding=(False,),
        add_final_layer_norm=(False,),
        static_position_embeddings=(True,),
        extra_pos_embeddings=(0, checkpoint.whole("vocab_size")),
        tie_word_embeddings=(True,),
    )
    family, width = BartFamily(checkpoint), checkpoint.whole("d_model")
    vocabulary = checkpoint.whole("vocab_size")
    shared = checkpoint.config.get("share_encoder_decoder_embeddings", True)
    sizes = vocabulary, checkpoint.config.get("decoder_vocab_size") or vocabulary
    if shared:
        table = checkpoint.tensor(SHARED, _DECODER, _ENCODER, HEAD, shape=(vocabulary, width))
        tables = table, table
    else:
        tables = (
            checkpoint.tensor(_ENCODER, shape=(sizes[0], width)),
            checkpoint.tensor(_DECODER, HEAD, shape=(sizes[1], width)),
        )
    bias = None
    if "final_logits_bias" in checkpoint:
        bias = checkpoint.tensor("final_logits_bias", shape=(1, sizes[1]))[0]
    positions = checkpoint.whole("max_position_embeddings")
    places = sinusoids(positions, width)
    network = family.network(
        pre_norm=False,
        tables=tables,
        positions=places,
        projection=Linear(tables[1], bias),
    )
    checkpoint.check_positions(*_POSITIONS, made=places)
    checkpoint.finish(*_POSITIONS)
    source, target, tokens = _vocabularies(checkpoint, sizes)
    return ImportedModel(
        architecture="marian",
        network=network,
        d_ff=family.d_ff,
        positions=positions,
        tokens=tokens,
        source=Pieces(checkpoint.bytes(_SOURCE), source),
        target=Pieces(checkpoint.bytes(_TARGET), target),
        languages=_languages(source),
        release=checkpoint.release,
    )


def sinusoids(length: int, width: int) -> Tensor:
    """PE [length, width]: sines in the first half, cosines in the second; float32."""
    place = torch.arange(length, dtype=torch.float64)[:, None]
    rate = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angle = place * rate
    return torch.cat([angle.sin(), angle.cos()[:, : width // 2]], dim=1).float()


def _vocabularies(
    checkpoint: Checkpoint, sizes: tuple[int, int]
) -> tuple[list[str | None], list[str | None], Tokens]:
    """Pieces by id of both sides, and the ids that no text has."""
    source = checkpoint.json(_VOCABULARY)
    target = checkpoint.json(_TARGET_VOCABULARY) if checkpoint.has(_TARGET_VOCABULARY) else source
    if "<unk>" not in source or "<unk>" not in target:
        msg = f"{checkpoint.folder / _VOCABULARY}: no piece <unk>"
        raise ImportRefused(msg)
    tokens = Tokens(
        pad=checkpoint.whole("pad_token_id"),
        bos=checkpoint.whole("decoder_start_token_id"),
        eos=checkpoint.whole("eos_token_id"),
        unk=source["<unk>"],
    )
    if source["<unk>"] != target["<unk>"]:
        msg = f"{checkpoint.folder}: <unk> has one id in the source and another in the target"
        raise ImportRefused(msg)
    never = {tokens.pad, tokens.bos, tokens.eos, tokens.unk}
    sides = zip((source, target), sizes, strict=True)
    first, second = (by_id(checkpoint, pieces, size, never) for pieces, size in sides)
    return first, second, tokens


def by_id(
    checkpoint: Checkpoint, pieces: dict[str, int], size: int, never: set[int]
) -> list[str | None]:
    """Pieces in the order of their ids; None for ids without one, and for those in ``never``.

    Raises:
        ImportRefused: an id is none.
    """
    found: list[str | None] = [None] * size
    for piece, number in pieces.items():
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < size:
            msg = f"{checkpoint.folder}: piece {piece!a} has the id {number!r}, not one of {size}"
            raise ImportRefused(msg)
        if number not in never:
            found[number] = piece
    return found


def _languages(source: list[str | None]) -> list[Language]:
    """Of a model with several target languages, those that its vocabulary asks for: ``>>deu<<``."""
    found: dict[str, Language] = {}
    for number, piece in enumerate(source):
        if piece is None or not (piece.startswith(">>") and piece.endswith("<<")):
            continue
        code = piece[2:-2].replace("_", "-")
        if langcodes.tag_is_valid(code):
            code = langcodes.standardize_tag(code)
            found.setdefault(code, Language(code=code, asked_ids=[number]))
    return list(found.values())
