from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.text import segmenter
from server.text.segmenter import Span, segment


def sentences(text: str) -> list[str]:
    return [span.of(text) for span in segment(text, "en")]


def test_sentences_are_found_and_abbreviations_are_not_ends() -> None:
    text = "Dr. Smith came at 3 p.m. today. He left! Why? Nobody knows."
    assert sentences(text) == [
        "Dr. Smith came at 3 p.m. today.", "He left!", "Why?", "Nobody knows.",
    ]  # fmt: skip


def test_line_breaks_rules_numbers_and_list_markers_are_layout() -> None:
    text = "# Title\r\n\r\n  * One thing.\n  2) Another.\n---\n42\n\tEnd"
    assert sentences(text) == ["Title", "One thing.", "Another.", "End"]
    joined = segmenter.rejoin(text, segment(text, "en"), list("ABCD"), "zh-TW")
    assert joined == "# A\r\n\r\n  * B\n  2) C\n---\n42\n\tD"


def test_the_space_between_sentences_goes_only_where_the_target_has_none() -> None:
    text = "One here. Two here.  Three here."
    spans = segment(text, "en")
    assert segmenter.rejoin(text, spans, ["一。", "二。", "三。"], "zh-TW") == "一。二。  三。"
    assert segmenter.rejoin(text, spans, ["Un.", "Deux.", "Trois."], "fr") == "Un. Deux.  Trois."


def test_emoji_at_the_ends_of_a_sentence_are_kept_where_they_are() -> None:
    text = "😀 I love you ❤️👩🏽‍💻\nGood night! 🌙 Bye."
    spans = segment(text, "en")
    assert [span.of(text) for span in spans] == ["I love you", "Good night!", "Bye."]
    joined = segmenter.rejoin(text, spans, ["一", "二", "三"], "zh-TW")
    assert joined == "😀 一 ❤️👩🏽‍💻\n二 🌙 三"


TEXTS = st.text(
    alphabet=st.sampled_from("aB. !?\n\r\t\"'。！，你好 \u3000é😀-*#1)(…;\u2028\u200b"), max_size=80
)


@settings(max_examples=400, deadline=None)
@given(TEXTS)
def test_putting_the_sentences_back_gives_the_text_to_the_character(text: str) -> None:
    spans = segment(text, "en")
    assert segmenter.rejoin(text, spans, [span.of(text) for span in spans], "en") == text


@settings(max_examples=400, deadline=None)
@given(TEXTS)
def test_taking_the_sentences_out_leaves_only_layout_in_order(text: str) -> None:
    spans = segment(text, "en")
    ends = [0, *(span.end for span in spans)]
    starts = [*(span.start for span in spans), len(text)]
    assert all(end <= start for end, start in zip(ends, starts, strict=True))
    layout = segmenter.rejoin(text, spans, [""] * len(spans), "en")
    assert not any(character.isalpha() for character in layout if character not in "aB你好é")
    assert layout.count("\n") == text.count("\n")
    for span in spans:
        assert span.of(text) == span.of(text).strip()


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ab ,;。，", min_size=2, max_size=60))
def test_cutting_a_sentence_loses_nothing_but_white_space(text: str) -> None:
    parts = segmenter.cut(text, Span(0, len(text)))
    assert all(0 <= part.start < part.end <= len(text) for part in parts)
    joined = "".join(part.of(text) for part in parts)
    assert joined.replace(" ", "") == text.replace(" ", "")
    if len(text.strip()) > 1:
        assert all(part.end - part.start < len(text) for part in parts)


def test_a_cut_prefers_a_clause_border_near_the_middle() -> None:
    text = "The first part of it is here, and the second part is there, all of it"
    left, right = segmenter.cut(text, Span(0, len(text)))
    assert left.of(text) == "The first part of it is here,"
    assert right.of(text) == "and the second part is there, all of it"


@pytest.mark.parametrize("text", ["", "   ", "\n\n", "123", "?!", "😀"])
def test_what_has_no_letter_is_all_layout(text: str) -> None:
    assert segment(text, "en") == []
