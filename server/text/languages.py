"""The languages of a model, and the tokens that say which of them are meant."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import langcodes

from server.bundle import Language, Manifest

MANY = "mul"
"""The code of ISO 639-2 for a model's several languages."""
SAME = 9
"""langcodes' distances: up to 5 is another region of the same written language (en-GB for en), 10
and more another script or language (zh-CN for zh-TW)."""


@dataclass(frozen=True, slots=True)
class Pair:
    """From a language to another, with one model."""

    source_language: str
    target_language: str
    source_ids: tuple[int, ...] = ()
    """What every source begins with."""
    target_ids: tuple[int, ...] = ()
    """What every output begins with."""


class Pairs:
    """The pairs of languages of one model."""

    def __init__(self, manifest: Manifest) -> None:
        """Read what the manifest says of languages."""
        self._known = {language.code: language for language in manifest.languages}
        self.sources, self.targets = sides(manifest)
        # Side by side: pairs of two models of hundreds of languages are tens of thousands.
        self._source = _closest_of(self.sources)
        same = self.sources == self.targets
        self._target = self._source if same else _closest_of(self.targets)
        self.nearest = functools.lru_cache(maxsize=1024)(self._nearest)
        """As :meth:`_nearest`, remembered."""

    def __str__(self) -> str:
        """For people: ``en -> zh-TW``, or how many languages there are."""
        source, target = (
            codes[0] if len(codes) == 1 else f"{len(codes)} languages"
            for codes in (self.sources, self.targets)
        )
        return f"{source} -> {target}"

    def served(self, sources: list[str], targets: list[str]) -> tuple[set[str], set[str]]:
        """Those of the languages that it reads, and those that it writes."""
        return (
            {code for code in sources if self._source(code)[0] <= SAME},
            {code for code in targets if self._target(code)[0] <= SAME},
        )

    def meet(self, others: Iterable[Pairs]) -> None:
        """Know how far the languages of both are apart, for whoever asks.

        Two models of hundreds of languages take most of a second, which may be in another thread.
        """
        for other in others:
            self.served(other.sources, other.targets)
            other.served(self.sources, self.targets)

    def _nearest(self, source: str, target: str) -> tuple[tuple[int, int], Pair]:
        """The pair whose languages are the closest to these, and how far they are.

        An empty code is for who has not been asked: the model's first.
        """
        first, from_language = self._source(source)
        second, to_language = self._target(target)
        before, after = (
            self._known.get(code) or Language(code=code) for code in (from_language, to_language)
        )
        ids = (*before.source_ids, *after.asked_ids)
        return (first, second), Pair(from_language, to_language, ids, tuple(after.target_ids))


def sides(manifest: Manifest) -> tuple[list[str], list[str]]:
    """The codes of what a model reads, and of what it writes."""
    known = list(dict.fromkeys(language.code for language in manifest.languages))
    source, target = (
        known if code == MANY else [code]
        for code in (manifest.source_language, manifest.target_language)
    )
    return source, target


def _closest_of(offered: list[str]) -> Callable[[str], tuple[int, str]]:
    """:func:`_closest` of these, remembered."""
    return functools.lru_cache(maxsize=1024)(functools.partial(_closest, offered=offered))


def _closest(wanted: str, offered: list[str]) -> tuple[int, str]:
    """How far the closest code is, and which it is; of equals the first."""
    if wanted in offered:  # of the hundreds that a model may have
        return 0, wanted
    distances = [distance(wanted, code) if wanted else 0 for code in offered]
    least = min(distances)
    return least, offered[distances.index(least)]


@functools.lru_cache(maxsize=4096)
def distance(wanted: str, offered: str) -> int:
    """How far two written languages are apart, by langcodes' measure; 0 = the same."""
    return 0 if wanted == offered else langcodes.tag_distance(wanted, offered)


def same_language(one: str, other: str) -> bool:
    """Whether two codes are one written language: ``en-US`` and ``en``, not zh-CN and zh-TW."""
    return is_code(one) and is_code(other) and distance(one, other) <= SAME


@functools.lru_cache(maxsize=1024)
def is_code(code: str) -> bool:
    """Whether it is a code of BCP-47."""
    return langcodes.tag_is_valid(code)
