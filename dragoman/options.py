"""How to decode: what a caller may ask for beside the texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from google.protobuf.message import Message

from dragoman.errors import InvalidRequestError
from dragoman.v1 import translation_pb2


@dataclass(frozen=True, slots=True)
class Greedy:
    """The likeliest token at every step: the same text always gives the same translation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """A token drawn at random at every step; the filters apply in the order of the fields."""

    temperature: float = 1.0
    """Below 1 is safer, above 1 more varied."""
    top_k: int = 0
    """Draw among this many likeliest tokens; 0 = all."""
    top_p: float = 1.0
    """Draw among the fewest likeliest tokens that together have this probability."""
    seed: int | None = None
    """The same seed gives the same translation; None = a new draw."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """Options of one call; without any, greedy decoding within the server's limits."""

    strategy: Greedy | Sampling = field(default_factory=Greedy)
    max_output_tokens: int | None = None
    """Most target tokens of a sentence; None = the server's limit."""
    min_output_tokens: int | None = None
    """Fewest target tokens of a sentence before it may end; None = 0."""
    target_prefix: str = ""
    """Text that each translation begins with."""
    include_scores: bool = False
    """Fill :attr:`Translation.sentences` with scores and tokens."""


def decoding_message(decoding: Decoding) -> translation_pb2.DecodingOptions:
    """The wire's options of ours.

    Raises:
        InvalidRequestError: an option is of the wrong kind, or no number of its field's size.
    """
    if not isinstance(decoding, Decoding):
        raise InvalidRequestError(_wrong_kind("decoding", decoding))
    message = translation_pb2.DecodingOptions()
    set_fields(message, "decoding.", {
        "max_output_tokens": decoding.max_output_tokens,
        "min_output_tokens": decoding.min_output_tokens,
        "target_prefix": decoding.target_prefix,
        "include_scores": decoding.include_scores,
    })  # fmt: skip
    match decoding.strategy:
        case Greedy():
            message.greedy.SetInParent()
        case Sampling() as drawn:
            message.sampling.SetInParent()
            set_fields(message.sampling, "decoding.sampling.", {
                "temperature": drawn.temperature,
                "top_k": drawn.top_k,
                "top_p": drawn.top_p,
                "seed": drawn.seed,
            })  # fmt: skip
        case other:
            raise InvalidRequestError(_wrong_kind("decoding.strategy", other))
    return message


def set_fields(message: Message, path: str, values: Mapping[str, object]) -> None:
    """Set the fields that are not None; limits are the server's business, kinds are ours.

    Raises:
        InvalidRequestError: names the first field whose value the wire cannot carry.
    """
    for name, value in values.items():
        if value is None:
            continue
        if isinstance(value, (str, bytes)):  # protobuf would take bytes for text
            check_text(path + name, value)
        try:
            setattr(message, name, value)
        except TypeError:
            raise InvalidRequestError(_wrong_kind(path + name, value)) from None
        except ValueError:
            msg = f"{path}{name}: {value} is out of range"
            raise InvalidRequestError(msg) from None


def check_text(name: str, text: object) -> None:
    """Nothing, if protobuf can carry the text.

    Raises:
        InvalidRequestError: it is no string, or holds a lone surrogate, which UTF-8 has no
            bytes for.
    """
    if not isinstance(text, str):
        raise InvalidRequestError(_wrong_kind(name, text))
    try:
        text.encode()
    except UnicodeEncodeError as error:
        msg = f"{name}: holds half a character (a lone surrogate) at index {error.start}"
        raise InvalidRequestError(msg) from None


def _wrong_kind(name: str, value: object) -> str:
    return f"{name}: cannot be {type(value).__name__}"
