"""Subword tokenizers of a bundle: the files that training wrote, normalisation included."""

from __future__ import annotations

import sentencepiece

from server.errors import BundleError

_REPLACEMENT = "\ufffd"
_SPACE = "\u2581"


class Tokenizer:
    """Text to ids and back; safe for many threads."""

    def __init__(self, model: bytes, name: str) -> None:
        """Read a tokenizer file.

        Raises:
            BundleError: the bytes are no tokenizer.
        """
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except Exception as error:
            msg = f"{name}: not a SentencePiece model"
            raise BundleError(msg) from error
        self._texts = [self._text(token) for token in range(len(self))]

    def _text(self, token: int) -> str | None:
        """What a piece adds to a text; None where that depends on its neighbours."""
        special = ("is_control", "is_unknown", "is_unused", "is_byte")
        if any(getattr(self._processor, kind)(token) for kind in special):
            return None
        return self.piece(token).replace(_SPACE, " ")

    def __len__(self) -> int:
        """Size of the vocabulary."""
        return int(self._processor.vocab_size())

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without begin and end."""
        ids: list[int] = self._processor.encode(text)
        return ids

    def places(self, text: str) -> list[tuple[int, int]]:
        """Where in the text each of its ids stands, in code points, without begin and end."""
        places, start = [], 0
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
            text: str = self._processor.decode(ids)
            return text

    def decode_stable(self, ids: list[int]) -> str:
        """The text of ids that more ids will not change: a character cut in its bytes waits."""
        return self.decode(ids).rstrip(_REPLACEMENT)

    def piece(self, token: int) -> str:
        """The piece as the tokenizer writes it."""
        piece: str = self._processor.id_to_piece(token)
        return piece
