from __future__ import annotations

import pytest

from server.text.numerals import says


@pytest.mark.parametrize(
    ("number", "translation"),
    [
        ("7", "你有7則訊息"), ("7", "你有七則訊息"), ("2", "兩本書"), ("1984", "１９８４年"),
        ("1984", "一九八四年"), ("30", "三十歲"), ("12", "十二點"), ("105", "一百零五"),
        ("3rd", "第三"), ("2005", "二〇〇五年"), ("10", "十"), ("0", "零"),
    ],
)  # fmt: skip
def test_a_number_is_there(number: str, translation: str) -> None:
    assert says(number, translation)


@pytest.mark.parametrize(
    ("number", "translation"),
    [("7", "你有17則訊息"), ("7", "七點"[1:]), ("1984", "1894年"), ("3", "3.5"), ("12000", "萬")],
)
def test_a_number_is_not_there(number: str, translation: str) -> None:
    assert not says(number, translation)
