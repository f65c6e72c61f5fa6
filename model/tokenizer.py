"""Subword tokenizers (Kudo and Richardson 2018, SentencePiece), trained here, run everywhere.

The special ids stand here and nowhere else; ``export/`` writes them into the manifest.
Normalisation travels inside the tokenizer file, so that training and serving cannot
differ: the server reads the very same bytes.
"""

from __future__ import annotations

import io
import tempfile
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
from numpy.typing import NDArray
from sentencepiece import sentencepiece_model_pb2

PAD_ID, BOS_ID, EOS_ID, UNK_ID = 0, 1, 2, 3
EOS_PIECE = "</s>"

_TYPOGRAPHIC = {"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u00a0": " "}
_SPACES = "\t\n\v\f\r\x85\u1680\u2028\u2029\u202f\u205f\u3000"
_INVISIBLE = "\u200b\u200e\u200f\u2060\ufeff\u00ad"


def normalisation_rules() -> str:
    """Rules for the source side, one ``from<TAB>to`` in hexadecimal a line.

    Unicode NFKC character by character, composition of base letters with their marks,
    typographic quotes to ASCII, white space of any kind to a space, invisible and control
    characters away.
    """
    rules: dict[str, str] = {}
    for code in range(0x20, 0x30000):
        character = chr(code)
        if unicodedata.category(character) in {"Cs", "Cn", "Co"}:
            continue
        folded = unicodedata.normalize("NFKC", character)
        if folded != character:
            rules[character] = folded
        parts = unicodedata.normalize("NFD", character)
        if len(parts) > 1 and unicodedata.normalize("NFC", parts) == character:
            rules[parts] = character
    rules.update({chr(code): "" for code in [*range(1, 0x20), *range(0x7F, 0xA0)]})
    rules.update(dict.fromkeys(_INVISIBLE, ""))
    rules.update(dict.fromkeys(_SPACES, " "))
    rules.update(_TYPOGRAPHIC)
    return "".join(f"{_hex(key)}\t{_hex(value)}\n" for key, value in sorted(rules.items()))


def _hex(text: str) -> str:
    return " ".join(f"{ord(character):X}" for character in text)


def train_tokenizer(
    sentences: Iterable[str],
    vocab_size: int,
    *,
    character_coverage: float = 0.9995,
    normalise: bool = True,
    spaced: bool | None = None,
    tags: Iterable[str] = (),
) -> bytes:
    """A unigram model as the bytes of its file; unknown characters fall back to bytes.

    Args:
        sentences: the text, one sentence an item.
        vocab_size: how many pieces at most, the four special ids and 256 bytes included.
        character_coverage: share of the characters that get a piece of their own.
        normalise: apply :func:`normalisation_rules`; False keeps the text as it is (for
            Chinese, whose full-width punctuation NFKC would take away).
        spaced: the first word is one like others, behind a space; default: as ``normalise``.
        tags: domains, of which each has a piece ``<tag>``.

    Raises:
        ValueError: no sentences, or fewer pieces than the characters that need one.
    """
    options: dict[str, Any] = {
        "model_type": "unigram",
        "vocab_size": vocab_size,
        "character_coverage": character_coverage,
        "hard_vocab_limit": False,  # a small text gives a smaller vocabulary, not an error
        "byte_fallback": True,
        "split_digits": True,
        "add_dummy_prefix": normalise if spaced is None else spaced,
        "user_defined_symbols": [tag_piece(tag) for tag in sorted(set(tags))],
        "normalization_rule_name": "identity",
    }
    if not normalise:
        return _train(sentences, options)
    with tempfile.TemporaryDirectory() as folder:
        rules = Path(folder) / "rules.tsv"
        rules.write_text(normalisation_rules(), encoding="ascii")
        del options["normalization_rule_name"]
        return _train(sentences, options | {"normalization_rule_tsv": str(rules)})


def tag_piece(tag: str) -> str:
    """How a domain's tag is written, in the vocabulary and in a text."""
    return f"<{tag}>"


def _train(sentences: Iterable[str], options: dict[str, Any]) -> bytes:
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=model,
            pad_id=PAD_ID,
            bos_id=BOS_ID,
            eos_id=EOS_ID,
            unk_id=UNK_ID,
            num_threads=1,
            minloglevel=2,
            **options,
        )
    except RuntimeError as error:  # "INTERNAL: file(line) [condition] what is wrong"
        reason = str(error).rpartition("] ")[2].strip() or "there is no text"
        msg = f"no tokenizer of {options['vocab_size']} pieces: {reason}"
        raise ValueError(msg) from error
    return _without_paths(model.getvalue())


def _without_paths(model: bytes) -> bytes:
    """The same tokenizer without the name of the temporary file its rules were read from."""
    parsed = sentencepiece_model_pb2.ModelProto.FromString(model)
    parsed.normalizer_spec.ClearField("normalization_rule_tsv")
    return bytes(parsed.SerializeToString(deterministic=True))


class Tokenizer:
    """Text to ids and back."""

    def __init__(self, model: bytes) -> None:
        """Read the bytes of a tokenizer file.

        Raises:
            ValueError: the bytes are no tokenizer.
        """
        self.model = model
        try:
            self._processor = sentencepiece.SentencePieceProcessor()
            self._processor.LoadFromSerializedProto(model)
        except RuntimeError as error:
            msg = "not a SentencePiece model"
            raise ValueError(msg) from error

    def __len__(self) -> int:
        """Size of the vocabulary."""
        return int(self._processor.vocab_size())

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Ids of each text, without begin and end."""
        ids: list[list[int]] = self._processor.encode(texts)
        return ids

    def decode(self, ids: list[int]) -> str:
        """The text of the ids; special ids are left out."""
        special = {PAD_ID, BOS_ID, EOS_ID}
        text: str = self._processor.decode([token for token in ids if token not in special])
        return text

    def encode_arrays(self, texts: list[str]) -> list[NDArray[np.uint16]]:
        """As :meth:`encode`, as arrays."""
        return [self.as_array(ids) for ids in self.encode(texts)]

    def as_array(self, ids: list[int]) -> NDArray[np.uint16]:
        """Ids as they are stored."""
        return np.array(ids, np.uint16)

    def resampled(
        self, rows: list[NDArray[np.uint16]], alpha: float, seed: int
    ) -> list[NDArray[np.uint16]]:
        """The same texts in subwords drawn by the unigram model (Kudo 2018, section 3.2).

        Args:
            rows: ids of each text.
            alpha: the smaller, the more varied.
            seed: what is drawn depends on this and the rows alone.
        """
        texts = [self.decode(row.tolist()) for row in rows]
        sentencepiece.set_random_generator_seed(seed)
        drawn = self._processor.encode(
            texts, enable_sampling=True, alpha=alpha, nbest_size=-1, num_threads=1
        )
        return [self.as_array(ids) for ids in drawn]

    def pieces(self, ids: list[int]) -> list[str]:
        """The pieces as people read them: a space where one belongs to the piece."""
        return [self._processor.id_to_piece(token).replace("\u2581", " ") for token in ids]

    def tag_id(self, tag: str) -> int:
        """The id of a domain's tag.

        Raises:
            ValueError: the vocabulary has no such tag.
        """
        token = int(self._processor.piece_to_id(tag_piece(tag)))
        if token == UNK_ID:
            msg = f"the vocabulary has no piece {tag_piece(tag)}"
            raise ValueError(msg)
        return token

    def spans(self, text: str) -> list[tuple[int, int, int]]:
        """Each piece of a text: id, and where in the text it begins and ends (code points)."""
        found = self._processor.encode(text, out_type="offset_mapping")
        offsets: list[tuple[int, int]] = found["offsets"]
        return [
            (token, begin, end) for token, (begin, end) in zip(found["ids"], offsets, strict=True)
        ]
