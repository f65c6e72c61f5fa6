"""How to decode: what a caller may ask for beside the texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

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
class Beam:
    """Several hypotheses side by side, the best kept at every step; not for streams."""

    size: int = 4
    length_penalty: float = 1.0
    """Hypotheses are ranked by log-probability / ((5 + length) / 6)^length_penalty."""
    candidates: int = 0
    """How many of the best to give in :attr:`SentenceTranslation.candidates`."""


class Priority(StrEnum):
    """Whether somebody waits for the answer."""

    AUTOMATIC = "unspecified"
    """Calls of many sentences are bulk."""
    INTERACTIVE = "interactive"
    BULK = "bulk"
    """Makes way for interactive work; never starved by it."""


@dataclass(frozen=True, slots=True)
class GlossaryTerm:
    """A term and what it has to become, put in as it is written."""

    source: str
    """Matched as whole words."""
    target: str
    ignore_case: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """Options of one call; without any, greedy decoding within the server's limits."""

    strategy: Greedy | Sampling | Beam = field(default_factory=Greedy)
    max_output_tokens: int | None = None
    """Most target tokens of a sentence; None = the server's limit."""
    min_output_tokens: int | None = None
    """Fewest target tokens of a sentence before it may end; None = 0."""
    target_prefix: str = ""
    """Text that each translation begins with."""
    include_scores: bool = False
    """Fill :attr:`Translation.sentences` with scores and tokens."""
    include_attention: bool = False
    """Fill :attr:`Translation.sentences` with where each target token looked."""
    repetition_penalty: float | None = None
    """Above 1: tokens that came before are less likely; None = 1."""
    no_repeat_ngram_size: int | None = None
    """No so many tokens in a row come twice in a sentence; None = any may."""
    priority: Priority = Priority.AUTOMATIC
    bypass_cache: bool = False
    """Decode every sentence anew, though the server may remember it."""
    mime_type: str = ""
    """``text/html`` for HTML; "" is plain text."""
    glossary: tuple[GlossaryTerm, ...] = ()
    do_not_translate: tuple[str, ...] = ()
    """Words that stay as they are."""
    protect: bool = True
    """Keep placeholders, addresses, numbers and the like whole."""


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
        "include_attention": decoding.include_attention,
        "repetition_penalty": decoding.repetition_penalty,
        "no_repeat_ngram_size": decoding.no_repeat_ngram_size,
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
        case Beam() as branching:
            message.beam.SetInParent()
            set_fields(message.beam, "decoding.beam.", {
                "beam_size": branching.size,
                "length_penalty": branching.length_penalty,
                "candidate_count": branching.candidates,
            })  # fmt: skip
        case other:
            raise InvalidRequestError(_wrong_kind("decoding.strategy", other))
    return message


def set_handling(message: Message, decoding: Decoding) -> None:
    """Set the fields of a request that say how its texts are handled, those that it has.

    Raises:
        InvalidRequestError: names the first field whose value the wire cannot carry.
    """
    known = message.DESCRIPTOR.fields_by_name
    name = f"PRIORITY_{Priority(decoding.priority).name}".replace("AUTOMATIC", "UNSPECIFIED")
    off = None if decoding.protect else translation_pb2.PROTECTION_OFF
    handling = {
        "priority": translation_pb2.Priority.Value(name),
        "bypass_cache": decoding.bypass_cache,
    }
    texts = {"mime_type": decoding.mime_type, "protection": off}
    set_fields(message, "decoding.", {k: v for k, v in handling.items() if k in known})
    set_fields(message, "decoding.", {k: v for k, v in texts.items() if k in known})
    if "glossary" not in known:
        return
    asked: Any = message
    for index, term in enumerate(decoding.glossary):
        set_fields(asked.glossary.add(), f"glossary[{index}].", {
            "source": term.source,
            "target": term.target,
            "case_matching": translation_pb2.CASE_MATCHING_IGNORE if term.ignore_case else None,
        })  # fmt: skip
    for index, word in enumerate(decoding.do_not_translate):
        check_text(f"do_not_translate[{index}]", word)
        asked.do_not_translate.append(word)


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
