"""How to decode: what a caller may ask for beside the texts."""

from __future__ import annotations

from dataclasses import dataclass

from dragoman.v1 import translation_pb2


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Draw each token at random; filters apply in the order of the fields."""

    temperature: float = 1.0
    top_k: int = 0
    """0 = all tokens."""
    top_p: float = 1.0
    seed: int | None = None
    """The same seed gives the same text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """Options of one call; the defaults are greedy decoding with the server's limits."""

    sampling: Sampling | None = None
    """None = the likeliest token at every step."""
    max_output_tokens: int | None = None
    min_output_tokens: int | None = None
    target_prefix: str = ""
    """Text that each translation begins with."""
    include_scores: bool = False
    """Fill :attr:`Translation.sentences`."""


def decoding_message(decoding: Decoding) -> translation_pb2.DecodingOptions:
    """The wire's options of ours.

    Raises:
        ValueError: a number does not fit its field.
    """
    message = translation_pb2.DecodingOptions(
        max_output_tokens=decoding.max_output_tokens,
        min_output_tokens=decoding.min_output_tokens,
        target_prefix=decoding.target_prefix,
        include_scores=decoding.include_scores,
    )
    if decoding.sampling is None:
        message.greedy.SetInParent()
    else:
        drawn = decoding.sampling
        message.sampling.CopyFrom(
            translation_pb2.SamplingDecoding(
                temperature=drawn.temperature,
                top_k=drawn.top_k,
                top_p=drawn.top_p,
                seed=drawn.seed,
            )
        )
    return message
