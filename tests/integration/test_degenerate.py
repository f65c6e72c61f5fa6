"""Inputs that make models go round in circles; none runs to the limit of tokens unsaid."""

from __future__ import annotations

import time
from typing import Any

import pytest
from running import RunningServer

from dragoman import Beam, Client, Decoding, FinishReason, Translation, WarningCode
from server.engine.request import DecodingParameters
from server.text.request import TranslationRequest, WarningKind

INPUTS = [
    "ha " * 60,
    "no, " * 80,
    "very " * 100 + "good.",
    "the the the the the the the the the the the the",
    "test test test test test test test test test test test",
    "a",
    "?",
    "!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!",
    "." * 200,
    "-" * 120,
    "=====================",
    "0" * 100,
    "1234567890" * 12,
    "3.14159265358979323846264338327950288419716939937510582097494459",
    "a" * 100,
    "abc" * 50,
    "asdf qwer zxcv asdf qwer zxcv asdf qwer zxcv",
    "xkjh sdfkjh wkejrh skdjfh wkejrh sdkfjh",
    "qzx " * 40,
    "😀" * 40,
    "😀 😃 😄 😁 😆 😅 😂 🤣",
    "我愛你" * 20,
    "這是一句中文。",
    "Ich liebe dich, mein Freund, und ich gehe heute nach Hause.",
    "Je ne sais pas ce que tu veux dire, mais je t'aime.",
    "私は学生です。毎日学校に行きます。",
    "привет как дела " * 10,
    "\t\t\t x \t\t\t",
    "http://example.com/" + "a/" * 60,
    "<b><b><b><b><b><b><b><b>",
    "((((((((((((((((((((((((((((((",
    "AAAA BBBB AAAA BBBB AAAA BBBB AAAA BBBB AAAA BBBB",
    "one two one two one two one two one two one two one two one two",
    "Lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod tempor.",
    "lol lol lol lol lol lol lol lol lol lol lol lol lol lol lol",
    "I " * 120,
    "e^{-x^2} \\sum_{i=0}^{\\infty} \\frac{1}{i!} " * 4,
    "SELECT * FROM t WHERE a = 1 AND b = 2 AND c = 3 AND d = 4 AND e = 5;",
    "{{{{{{{{{{}}}}}}}}}}",
    "ACGTACGTACGTACGTACGTACGTACGTACGTACGTACGTACGTACGTACGTACGT",
]


@pytest.mark.parametrize("text", INPUTS, ids=range(len(INPUTS)))
def test_it_ends_in_bounded_tokens_with_a_word_of_warning(server: RunningServer, text: str) -> None:
    with Client(server.target) as client:
        found = client.translate(text, target_language="zh-TW", timeout_seconds=30)
    check(text, found)


@pytest.mark.parametrize("place", [3, 7, 14, 15, 18, 21, 22, 24])
def test_a_beam_does_too(server: RunningServer, place: int) -> None:
    text, decoding = INPUTS[place], Decoding(strategy=Beam(size=4), bypass_cache=True)
    with Client(server.target) as client:
        found = client.translate(
            text, target_language="zh-TW", decoding=decoding, timeout_seconds=30
        )
    check(text, found)


async def test_loops_of_beams_are_found_and_tried_again(inner: Any) -> None:
    decoding = DecodingParameters(strategy="beam", beams=4)
    texts = [INPUTS[place] for place in (14, 15, 18, 22)]
    request = TranslationRequest(
        texts=texts,
        field_names=[f"texts[{index}]" for index in range(len(texts))],
        arrived=time.monotonic(),
        target_language="zh-TW",
        decoding=decoding,
    )
    found = await inner.pipeline.translate(request)
    told = {WarningKind.RETRIED, WarningKind.DEGENERATE_OUTPUT}
    assert any(told & {warning.kind for warning in one.warnings} for one in found)
    loops = inner.metrics.registry.get_sample_value(
        "dragoman_sequences_total", {"reason": "degenerate"}
    )
    assert loops


def check(text: str, found: Translation) -> None:
    said = {warning.code for warning in found.warnings}
    odd = {WarningCode.DEGENERATE_OUTPUT, WarningCode.RETRIED, WarningCode.OUTPUT_TRUNCATED}
    # A row of dots is rightly a row of dots.
    assert found.text.strip() == text.strip() or longest_repeat(found.text) <= 40
    if found.finish_reason is not FinishReason.EOS:
        assert said & odd


def longest_repeat(text: str) -> int:
    """Most characters in a row that equal the one p before them, p up to 4."""
    longest = 0
    for period in range(1, 5):
        run = 0
        for place in range(period, len(text)):
            run = run + 1 if text[place] == text[place - period] else 0
            longest = max(longest, run)
    return longest
