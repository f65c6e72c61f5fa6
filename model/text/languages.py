"""What must be known of a language to tell its sentences from something else.

Scripts come from CLDR (langcodes) and Unicode (regex), so most languages need nothing written
here. Chinese as written in Taiwan has more: OpenCC and the punctuation that is printed there.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import langcodes
import regex

from model.config import ConfigError

if TYPE_CHECKING:
    import opencc

# Scripts of CLDR that are several of Unicode, or share one.
_UNICODE = {
    "Hans": ("Han",),
    "Hant": ("Han",),
    "Jpan": ("Han", "Hiragana", "Katakana"),
    "Kore": ("Hangul", "Han"),
}
_NAMES = {"Latn": "Latin", "Cyrl": "Cyrillic", "Grek": "Greek", "Arab": "Arabic", "Hebr": "Hebrew",
          "Deva": "Devanagari", "Hans": "Han", "Hant": "Han", "Jpan": "Japanese",
          "Kore": "Korean"}  # fmt: skip
# Characters for what takes one in English; measured on the corpora for Chinese, else rough.
_DENSITY = {"zh": 0.3, "yue": 0.3, "ja": 0.42, "ko": 0.5}
_UNSPACED = frozenset({"zh", "ja", "yue", "th", "lo", "km", "my"})
_FEWEST_IN_SCRIPT = 0.3  # terms, numbers and punctuation take the rest

_SPACE = re.compile(r"\s+")
_BETWEEN_HAN = re.compile(
    r"(?<=[\u3000-\u30ff\u3400-\u9fff\uff00-\uffef]) (?=[\u3000-\u30ff\u3400-\u9fff\uff00-\uffef])"
)
_HALF_WIDTH = re.compile(
    r"(?<=[\u3400-\u9fff」』）》”’])([,?!:;])(?=\s|$|[\u3400-\u9fff「『（《“‘])\s*"
)
_FULL_WIDTH = {",": "，", "?": "？", "!": "！", ":": "：", ";": "；"}
_QUOTES = str.maketrans({"“": "「", "”": "」", "‘": "『"})


@dataclass(frozen=True)
class Language:
    """A language and how its text is told, tidied and cut into units."""

    code: str
    primary: str
    script: str
    """CLDR's code, such as ``Latn`` or ``Hant``."""
    density: float
    """Characters for what takes one in English."""
    in_script: regex.Pattern[str] = field(repr=False)

    @property
    def spaced(self) -> bool:
        """Whether spaces part its words."""
        return self.primary not in _UNSPACED

    @property
    def script_name(self) -> str:
        """The script for people."""
        return _NAMES.get(self.script, self.script)

    @property
    def taiwan(self) -> bool:
        """Whether it is Chinese as written in Taiwan."""
        return self.primary == "zh" and self.script == "Hant" and not self.code.endswith("-HK")

    def normalise(self, text: str) -> str:
        """White space folded; Chinese also gets its own punctuation."""
        if self.primary == "zh":
            return normalise_chinese(text, corner_quotes=self.script == "Hant")
        return _SPACE.sub(" ", text).strip()

    def fault(self, text: str, side: str) -> str | None:
        """Why a text is not of this language's script, or None."""
        count = len(self.in_script.findall(text))
        if not count:
            return f"no {self.script_name} in {side}"
        if count < _FEWEST_IN_SCRIPT * len(text.replace(" ", "")):
            return f"{side} mostly not {self.script_name}"
        return None

    def units(self, text: str) -> list[str]:
        """Words in lower case, or single characters where no spaces part words."""
        if self.spaced:
            words = ("".join(filter(str.isalnum, word)) for word in text.lower().split())
            return [word for word in words if word]
        return [character for character in text.lower() if character.isalnum()]


def language_of(code: str) -> Language:
    """What is known of a language by its BCP-47 code.

    Raises:
        ConfigError: no language code.
    """
    try:
        tag = langcodes.Language.get(code).maximize()
        known = tag.is_valid()
    except langcodes.tag_parser.LanguageTagError:
        known = False
    if not known:
        msg = f"'{code}' is no language code"
        raise ConfigError(msg)
    primary, script = tag.language or "", tag.script or "Latn"
    names = _UNICODE.get(script, (script,))
    characters = "".join(rf"\p{{Script={name}}}" for name in names)
    return Language(
        code, primary, script, _DENSITY.get(primary, 1.0), regex.compile(f"[{characters}]")
    )


def taiwan_converter() -> Callable[[str], str]:
    """Turns Chinese of either script to Traditional with Taiwan's words (OpenCC ``s2twp``)."""
    import opencc  # noqa: PLC0415  needed only where a corpus is converted

    converter: opencc.OpenCC = opencc.OpenCC("s2twp")
    convert: Callable[[str], str] = converter.convert
    return convert


def normalise_chinese(text: str, *, corner_quotes: bool = True) -> str:
    """Punctuation as printed: full width after Han, and in Taiwan corner brackets as quotes."""
    text = _SPACE.sub(" ", unicodedata.normalize("NFC", text)).strip()
    if corner_quotes:
        text = text.translate(_QUOTES)
        text = re.sub(r"(?<=[\u3400-\u9fff，。？！])’", "』", text)
    text = _BETWEEN_HAN.sub("", text)
    return _HALF_WIDTH.sub(lambda match: _FULL_WIDTH[match[1]], text)
