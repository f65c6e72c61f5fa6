"""Subword tokenizers of a bundle: the files that training wrote, normalisation included."""

from __future__ import annotations

import copy
import json

import sentencepiece

from server.bundle import (
    SOURCE_TOKENIZER,
    SOURCE_VOCABULARY,
    TARGET_TOKENIZER,
    TARGET_VOCABULARY,
    Bundle,
)
from server.errors import BundleError

_REPLACEMENT = "\ufffd"
_SPACE = "\u2581"


class Tokenizer:
    """Text to ids and back; safe for many threads."""

    def __init__(
        self, model: bytes, name: str, vocabulary: list[str | None] | None = None, unk_id: int = 0
    ) -> None:
        """Read a tokenizer file.

        Args:
            model: the file.
            name: what errors call it.
            vocabulary: the piece of every id, None for ids that no text has; None = the file's.
            unk_id: of pieces that the vocabulary lacks.

        Raises:
            BundleError: the bytes are no tokenizer.
        """
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except Exception as error:
            msg = f"{name}: not a SentencePiece model"
            raise BundleError(msg) from error
        own = [self._processor.id_to_piece(token) for token in range(self._processor.vocab_size())]
        self._first: tuple[int, ...] = ()
        self._pieces = own if vocabulary is None else vocabulary
        self._unk_id = unk_id
        self._numbers = None if vocabulary is None else _numbers(vocabulary)
        """The id of each piece, where the file does not say it."""
        self._texts = [self._text(token) for token in range(len(self))]

    def beginning(self, ids: tuple[int, ...]) -> Tokenizer:
        """The same, but every text's ids begin with these."""
        other = copy.copy(self)
        other._first = ids  # noqa: SLF001  our own kind
        return other

    def _text(self, token: int) -> str | None:
        """What a piece adds to a text; None where that depends on its neighbours."""
        piece = self._pieces[token]
        if piece is None:
            return ""
        known = self._processor.piece_to_id(piece)
        special = ("is_control", "is_unknown", "is_unused", "is_byte")
        if self._processor.id_to_piece(known) == piece and any(
            getattr(self._processor, kind)(known) for kind in special
        ):
            return None
        return piece.replace(_SPACE, " ")

    def __len__(self) -> int:
        """Size of the vocabulary."""
        return len(self._pieces)

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without begin and end."""
        ids: list[int]
        if self._numbers is None:
            ids = self._processor.encode(text)
        else:  # by what they are: one that the file does not know may be the other side's
            pieces = self._processor.encode(text, out_type=str)
            ids = [self._numbers.get(piece, self._unk_id) for piece in pieces]
        return [*self._first, *ids] if self._first else ids

    def places(self, text: str) -> list[tuple[int, int]]:
        """Where in the text each of its ids stands, in code points, without begin and end."""
        places, start = [(0, 0)] * len(self._first), 0
        for piece in self._processor.encode(text, return_type="proto").pieces:
            end = start + len(piece.surface)
            places.append((start, end))
            start = end
        return places

    def starts(self, ids: list[int]) -> list[int]:
        """[T + 1] where in their text each of the ids begins, and where the last one ends.

        A character of many ids is its last one's.
        """
        starts = [len(self.decode_stable(ids[:count])) for count in range(len(ids))]
        return [*starts, len(self.decode(ids))]

    def decode(self, ids: list[int]) -> str:
        """The text of ids.

        Pieces are put together here, for the library gives up the interpreter's lock on every
        call, and waiting for the engines to give it back takes longer than the work.
        """
        try:
            return "".join(map(self._texts.__getitem__, ids)).lstrip(" ")  # type: ignore[arg-type]
        except TypeError:  # a byte, say, of a character that has no piece
            if self._numbers is not None:
                pieces = [piece for piece in map(self._pieces.__getitem__, ids) if piece]
                return str(self._processor.decode_pieces(pieces))
            text: str = self._processor.decode(ids)
            return text

    def decode_stable(self, ids: list[int]) -> str:
        """The text of ids that more ids will not change: a character cut in its bytes waits."""
        return self.decode(ids).rstrip(_REPLACEMENT)

    def piece(self, token: int) -> str:
        """The piece as the tokenizer writes it."""
        return self._pieces[token] or ""


def _numbers(vocabulary: list[str | None]) -> dict[str, int]:
    """The id of each piece."""
    return {piece: number for number, piece in enumerate(vocabulary) if piece is not None}


def tokenizers_of(bundle: Bundle) -> tuple[Tokenizer, Tokenizer]:
    """Of source and target.

    Raises:
        BundleError: a file is no tokenizer or no vocabulary.
    """
    manifest = bundle.manifest
    sides = (
        (SOURCE_TOKENIZER, SOURCE_VOCABULARY, manifest.shape.source_vocab_size),
        (TARGET_TOKENIZER, TARGET_VOCABULARY, manifest.shape.target_vocab_size),
    )
    source, target = (
        Tokenizer(
            bundle.read(name),
            name,
            _vocabulary(bundle, vocabulary, size) if vocabulary in manifest.files else None,
            manifest.tokens.unk,
        )
        for name, vocabulary, size in sides
    )
    return source, target


def _vocabulary(bundle: Bundle, name: str, size: int) -> list[str | None]:
    try:
        found = json.loads(bundle.read(name))
    except ValueError as error:
        msg = f"{bundle.folder / name}: not JSON ({error})"
        raise BundleError(msg) from error
    of_kind = isinstance(found, list) and all(
        piece is None or isinstance(piece, str) for piece in found
    )
    if not of_kind or len(found) != size:
        msg = f"{bundle.folder / name}: not a list of {size} pieces"
        raise BundleError(msg)
    pieces: list[str | None] = found
    return pieces
