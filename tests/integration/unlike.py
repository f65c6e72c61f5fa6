"""Texts that are work: sentences that the server has to decode each by itself.

Those that differ in figures alone share one decoding, for figures are placeholders; so these
differ in words. What has been decoded is remembered: tests that share a server have places of
their own.
"""

from __future__ import annotations

import itertools

_WORDS = (
    ("old", "young", "big", "small", "good", "bad", "happy", "sad", "tall", "black"),
    ("dog", "cat", "man", "woman", "teacher", "doctor", "boy", "girl", "horse", "bird"),
    ("likes", "sees", "knows", "wants", "helps"),
    ("book", "house", "car", "door", "tree"),
)
MOST = 2500


def unlike_sentences(count: int, place: str) -> list[str]:
    """So many sentences, at most ``MOST``, no two of them alike; ``place`` is how they end."""
    made = (
        f"The {one} {who} {does} the {what} {place}."
        for one, who, does, what in itertools.product(*_WORDS)
    )
    assert count <= MOST
    return list(itertools.islice(made, count))
