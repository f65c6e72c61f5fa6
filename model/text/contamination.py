"""Sentences that must not be trained on, and how they are known again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from model.text.languages import Language

_WORDS, _CHARACTERS = 4, 6  # units of an n-gram, of spaced languages and of others
_FEWEST = 3  # n-grams that make a sentence long enough to be known by them


def key(text: str) -> str:
    """Letters and digits only, lower case: what differs in punctuation alone is the same."""
    return "".join(character for character in text.lower() if character.isalnum())


class HeldOut:
    """Held-out sentences of one language, findable by their key and by their n-grams.

    A sentence is a near-copy of one held out if they share at least ``overlap`` of their
    n-grams (Dice), or it holds that share of the other's. Sentences of fewer than three n-grams
    are known by their key alone: short ones are alike by chance.
    """

    def __init__(self, language: Language, texts: Iterable[str], overlap: float) -> None:
        """Take up the sentences."""
        self._language, self._overlap = language, overlap
        self._keys: set[str] = set()
        self._sizes: list[int] = []
        self._holders: dict[tuple[str, ...], list[int]] = {}
        for text in texts:
            if (found := key(text)) in self._keys:
                continue
            self._keys.add(found)
            if len(grams := self._grams(text)) >= _FEWEST:
                for gram in grams:
                    self._holders.setdefault(gram, []).append(len(self._sizes))
                self._sizes.append(len(grams))

    def equals(self, text: str, *, at_least: int = 0) -> bool:
        """Whether one of them differs in punctuation and case at most.

        Args:
            text: the sentence.
            at_least: letters and digits below which equality is no sign.
        """
        found = key(text)
        return len(found) >= at_least and found in self._keys

    def is_near(self, text: str) -> bool:
        """Whether it is a near-copy of one of them."""
        grams = self._grams(text)
        shared = Counter(place for gram in grams for place in self._holders.get(gram, ()))
        for place, count in shared.items():
            size = self._sizes[place]
            if count >= self._overlap * min(size, (size + len(grams)) / 2):
                return True
        return False

    def _grams(self, text: str) -> set[tuple[str, ...]]:
        units: Sequence[str] = self._language.units(text)
        length = _WORDS if self._language.spaced else _CHARACTERS
        return {tuple(units[at : at + length]) for at in range(len(units) - length + 1)}
