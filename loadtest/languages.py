"""How often the language of a text is found: ``python -m loadtest.languages --corpora DIR``.

DIR holds parallel corpora, English and Chinese in the first two columns, named NAME.zh-CN.tsv.xz or
NAME.zh-TW.tsv.xz. Traditional and simplified count as different languages.
"""

from __future__ import annotations

import argparse
import lzma
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from server.text.language import detect

SHORT: dict[str, tuple[str, ...]] = {
    "en": ("hello", "thank you", "where is it?", "Save", "Open file", "I love you", "yes please"),
    "de": ("Guten Tag", "Vielen Dank", "Wo ist der Bahnhof?", "Ich liebe dich"),
    "fr": ("Bonjour", "Merci beaucoup", "Où est la gare ?", "Je t'aime"),
    "es": ("Buenos días", "Muchas gracias", "¿Dónde está la estación?", "Te quiero mucho"),
    "ja": ("こんにちは", "ありがとう", "駅はどこですか", "東京へ行きます"),
    "ko": ("안녕하세요", "감사합니다", "역이 어디예요?"),
    "ru": ("Здравствуйте", "Большое спасибо", "Где находится вокзал?"),
    "zh-TW": ("謝謝", "車站在哪裡？", "我愛你", "開啟檔案", "請稍後再試", "這本書"),
    "zh-CN": ("谢谢", "车站在哪里？", "我爱你", "打开文件", "请稍后再试", "这本书"),
}


def share(texts: Sequence[str], language: str) -> float:
    """The share of texts whose likeliest language is this one."""
    right = sum(bool(found) and found[0].language == language for found in map(detect, texts))
    return right / max(1, len(texts))


def _sample(path: Path, count: int) -> list[tuple[str, str]]:
    with lzma.open(path, "rt", encoding="utf-8") as lines:
        rows = [line.rstrip("\n").split("\t")[:2] for line in lines]
    pairs = [(row[0], row[1]) for row in rows if len(row) == 2 and all(row)]  # noqa: PLR2004
    return random.Random(0).sample(pairs, min(count, len(pairs)))  # noqa: S311  no secret


def main() -> int:
    """Print the shares, and the time that a text takes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpora", type=Path, help="where the parallel corpora lie")
    parser.add_argument("--count", type=int, default=1000, help="lines of each corpus")
    options = parser.parse_args()
    print(
        "| texts | lines | English found | Chinese found, and which |\n| --- | ---: | ---: | ---: |"
    )
    spent, looked = 0.0, 0
    for path in sorted(options.corpora.glob("*.zh-??.tsv.xz")) if options.corpora else []:
        pairs = _sample(path, options.count)
        language = path.name.split(".")[1]
        began = time.perf_counter()
        english = share([pair[0] for pair in pairs], "en")
        chinese = share([pair[1] for pair in pairs], language)
        spent, looked = spent + time.perf_counter() - began, looked + 2 * len(pairs)
        name = path.name.removesuffix(".tsv.xz")
        print(f"| {name} | {len(pairs)} | {english:.1%} | {chinese:.1%} |")
    if looked:
        print(f"\n{spent / looked * 1e6:.0f} µs a text\n")
    print("| short texts | count | found |\n| --- | ---: | ---: |")
    for language, texts in SHORT.items():
        print(f"| {language} | {len(texts)} | {share(texts, language):.0%} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
