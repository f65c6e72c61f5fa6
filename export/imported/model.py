"""What an importer makes of a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from export.network import Network
from server.bundle import Language, Tokens


@dataclass(frozen=True, slots=True)
class Pieces:
    """A tokenizer: how text is split, and what number each piece has in the network."""

    model: bytes
    """A SentencePiece file."""
    vocabulary: list[str | None] | None
    """The piece of every id, None for those that no text has; None if they are the file's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedModel:
    """A network with all that a bundle says of it."""

    architecture: str
    network: Network
    d_ff: int
    positions: int | None
    """Most tokens of a sentence; None = the network sets no limit."""
    tokens: Tokens
    source: Pieces
    target: Pieces
    languages: list[Language] = field(default_factory=list)
    release: Callable[[], None]
    """Takes the weights out of memory until they are looked at again."""
