"""SentencePiece tokenizers in the layouts of imported models, of sizes that no small text fills."""

from __future__ import annotations

import io
import json
from pathlib import Path

import sentencepiece

_TRAINED = 8_000
"""Pieces that are asked for; a small text has fewer."""
_OWN = {"<unk>", "<s>", "</s>"}


def write_tokenizer(texts: list[str], folder: Path, size: int) -> None:
    """Write ``source.spm``, ``target.spm`` and a ``vocab.json`` of ``size`` pieces.

    The end is 0, unknown pieces 1, padding the last, as OPUS-MT has them; pieces that no text has
    fill what is left.
    """
    model = _trained(texts, min(_TRAINED, size - 1))
    for name in ("source.spm", "target.spm"):
        (folder / name).write_bytes(model)
    known = _pieces(model)
    names = ["</s>", "<unk>", *(piece for piece in known if piece not in _OWN)]
    names = names[: size - 1]
    names += [f"\ue000{number}" for number in range(len(names), size - 1)]
    table = {piece: number for number, piece in enumerate([*names, "<pad>"])}
    text = json.dumps(table, ensure_ascii=False)
    (folder / "vocab.json").write_text(text, encoding="utf-8")
    said = {"source_lang": "en", "target_lang": "zh", "tokenizer_class": "MarianTokenizer",
            "model_max_length": 512}  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(said), encoding="utf-8")


def write_m2m_tokenizer(
    texts: list[str], folder: Path, size: int, languages: tuple[str, ...]
) -> None:
    """Write ``sentencepiece.bpe.model`` and the tokens of languages as NLLB-200 has them, last."""
    model = _trained(texts, min(_TRAINED, size - len(languages) - 1))
    (folder / "sentencepiece.bpe.model").write_bytes(model)
    first = size - len(languages)
    tokens = [{"id": first + place, "content": code} for place, code in enumerate(languages)]
    text = json.dumps({"added_tokens": tokens})
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")


def _trained(texts: list[str], size: int) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        vocab_size=size,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return model.getvalue()


def _pieces(model: bytes) -> list[str]:
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    return [processor.id_to_piece(number) for number in range(processor.vocab_size())]
