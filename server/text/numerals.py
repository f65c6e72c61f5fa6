"""Whether a number is in a translation, in digits or as Chinese and Japanese write it."""

from __future__ import annotations

import re
import unicodedata

_ONES = "〇一二三四五六七八九"
_ZEROS = str.maketrans("〇", "零")
_PLAIN = re.compile(r"(\d+)(?:st|nd|rd|th)?")
_LARGEST = 9999


def says(number: str, translation: str) -> bool:
    """Whether a translation holds a number, as digits on their own or in words of Han characters.

    Args:
        number: as it stands in the source: ``7``, ``2013``, ``3rd``.
        translation: of its sentence.
    """
    plain = unicodedata.normalize("NFKC", translation)
    match = _PLAIN.fullmatch(number)
    digits = match[1] if match else number
    if re.search(rf"(?<![\d.,]){re.escape(digits)}(?![\d]|[.,]\d)", plain):
        return True
    return match is not None and any(word in plain for word in _words(int(digits)))


def _words(number: int) -> list[str]:
    """How Han characters write a number: digit by digit as years are, and by its places."""
    if number > _LARGEST:
        return []
    by_digit = "".join(_ONES[int(digit)] for digit in str(number))
    words = [by_digit, by_digit.translate(_ZEROS), _by_places(number)]
    if number == 2:  # noqa: PLR2004
        words += ["兩", "两", "雙", "双"]
    return words


def _by_places(number: int) -> str:
    """The number with 千, 百 and 十: 30 is 三十, 12 十二, 105 一百零五."""
    if not number:
        return "零"
    text, gap = "", False
    for place, name in ((1000, "千"), (100, "百"), (10, "十"), (1, "")):
        digit = number // place % 10
        if digit:
            text += ("零" if gap and text else "") + _ONES[digit] + name
        gap = not digit
    return text.removeprefix("一") if text.startswith("一十") else text
