"""Which pairs are fit to learn from, and why the others are not."""

from __future__ import annotations

import hashlib
import math

from model.config import CorpusSettings
from model.text.contamination import HeldOut, key
from model.text.languages import Language
from model.text.markup import placeholders, strip_markup
from model.text.pair import Pair

_SMOOTHING = 12.0  # English characters: very short texts are of any ratio
_LONG_KEY = 15  # letters and digits from which equal targets are no chance
_BROKEN = "\ufffd"


class Cleaner:
    """Tidies pairs and tells the unfit from the fit, of one experiment."""

    def __init__(
        self,
        languages: tuple[Language, Language],
        settings: CorpusSettings,
        held_out: tuple[HeldOut, HeldOut] | None = None,
    ) -> None:
        """Begin with nothing seen: duplicates are counted over all that this one is given."""
        self.source, self.target = languages
        self._settings, self._held_out = settings, held_out
        self._largest = math.log(settings.max_length_ratio)
        self._seen: set[bytes] = set()

    def tidy(self, pair: Pair) -> Pair:
        """The pair with markup, white space and punctuation as they should be."""
        source, target = pair
        if self._settings.markup == "strip":
            source, target = strip_markup(source), strip_markup(target)
        return Pair(self.source.normalise(source), self.target.normalise(target))

    def reason(self, pair: Pair) -> str | None:
        """Why a tidied pair is not to be trained on, or None; one that is, counts as seen."""
        found = self.fault(pair) or self._leak(pair)
        if found is not None:
            return found
        # 64 bits for a key pair: two of ten million differing pairs meet by chance once in 300,000.
        keys = f"{key(pair.source)}\t{key(pair.target)}"
        mark = hashlib.blake2b(keys.encode(), digest_size=8).digest()
        if mark in self._seen:
            return "duplicate"
        self._seen.add(mark)
        return None

    def fault(self, pair: Pair) -> str | None:  # noqa: PLR0911  one a reason
        """Why a pair is no translation, or None if it is one."""
        if not pair.source or not pair.target:
            return "empty"
        if _BROKEN in pair.source or _BROKEN in pair.target:
            return "broken characters"
        if pair.source == pair.target:
            return "copy"
        found = self.target.fault(pair.target, "target") or self.source.fault(pair.source, "source")
        if found is not None:
            return found
        if self.source.script_name != self.target.script_name and self._mixed(pair.source):
            return f"{self.target.script_name} in source"
        if abs(self._log_ratio(pair)) > self._largest:
            return "length ratio"
        if placeholders(pair.source) != placeholders(pair.target):
            return "placeholders differ"
        return None

    def _mixed(self, source: str) -> bool:
        """Whether the source holds the target's script, which a Latin name in Chinese may be."""
        return self.target.script_name != "Latin" and bool(self.target.in_script.search(source))

    def _leak(self, pair: Pair) -> str | None:
        if self._held_out is None:
            return None
        source, target = self._held_out
        if source.equals(pair.source) or target.equals(pair.target, at_least=_LONG_KEY):
            return "in a validation set"
        if source.is_near(pair.source) or target.is_near(pair.target):
            return "near-copy of a validation sentence"
        return None

    def _log_ratio(self, pair: Pair) -> float:
        """How much longer the target is than its source lets expect, as a logarithm."""
        return math.log(
            (len(pair.target) / self.target.density + _SMOOTHING)
            / (len(pair.source) / self.source.density + _SMOOTHING)
        )
