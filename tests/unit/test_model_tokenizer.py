"""Texts to ids and back, whatever people write."""

from __future__ import annotations

import functools

import pytest
import sentencepiece
from hypothesis import example, given, settings
from hypothesis import strategies as st

from model.tokenizer import PAD_ID, UNK_ID, Tokenizer, train_tokenizer

ENGLISH = [
    f"The {a} {b}, {c} years old, isn't {d}."
    for a in ("old", "new", "red")
    for b in ("house", "dog", "car")
    for c in range(1, 9)
    for d in ("big", "small", "what I've seen")
]
CHINESE = [
    "我愛你。",
    "今天的天氣很好，我們去公園吧！",
    "他說：「你好嗎？」",
    "用 Python 寫 3 行",
] * 30


@functools.cache
def english() -> Tokenizer:
    return Tokenizer(train_tokenizer(ENGLISH, 400))


@functools.cache
def chinese() -> Tokenizer:
    return Tokenizer(train_tokenizer(CHINESE, 400, normalise=False))


def test_plain_sentences_come_back_as_they_were() -> None:
    for tokenizer, texts in ((english(), ENGLISH[:20]), (chinese(), CHINESE[:4])):
        assert [tokenizer.decode(ids) for ids in tokenizer.encode(texts)] == texts


@pytest.mark.parametrize("text", ["😀", "👩🏽\u200d🔬", "ᚠᛇ", "\U0001f9ff𠮷", "a\0b", "ก็"])
def test_rare_characters_come_back_by_their_bytes(text: str) -> None:
    (ids,) = chinese().encode([text])
    assert UNK_ID not in ids
    assert chinese().decode(ids) == text


def test_an_empty_text_has_no_ids_and_comes_back_empty() -> None:
    for tokenizer in (english(), chinese()):
        assert tokenizer.encode([]) == []
        assert tokenizer.encode(["", "  "]) == [[], []]
        assert tokenizer.decode([]) == ""


def test_a_very_long_text_is_tokenised_whole() -> None:
    for tokenizer in (english(), chinese()):
        text = "word 我 " * 20_000
        assert tokenizer.decode(tokenizer.encode([text])[0]) == text.strip()


def test_special_tokens_written_in_a_text_are_text() -> None:
    for text in ("<s>", "</s>", "<pad>", "<unk>", "<0x41>"):
        (ids,) = chinese().encode([text])
        assert min(ids) > UNK_ID
        assert chinese().decode(ids) == text


def test_special_ids_are_left_out_of_the_text() -> None:
    (ids,) = chinese().encode(["我愛你。"])
    assert chinese().decode([1, *ids, 2, PAD_ID, PAD_ID]) == "我愛你。"


@pytest.mark.parametrize(
    ("written", "plain"),
    [
        ("“The” ‘dog’", "\"The\" 'dog'"),
        ("Ｔｈｅ　ｄｏｇ", "The dog"),
        ("The\u00a0\u2009dog\t", "The dog"),
        ("T\u200bh\u00ade\ufeff \x07dog", "The dog"),
        ("ﬁve ½ …", "five 1⁄2 ..."),
        ("cafe\u0301", "caf\u00e9"),
    ],
)
def test_the_file_itself_holds_the_normalisation(written: str, plain: str) -> None:
    processor = sentencepiece.SentencePieceProcessor(model_proto=english().model)
    assert processor.normalize(written).replace("▁", " ").strip() == plain
    assert english().encode([written]) == english().encode([plain])


# Without marks: of a full-width letter, then a mark, only a second pass makes one letter.
@settings(deadline=None, max_examples=300)
@given(
    st.text(
        st.characters(exclude_categories=["Cs", "Mn", "Mc", "Me"], exclude_characters="▁"),
        max_size=20,
    )
)
@example("“ﬁ”　\u00a0…\x00\t㍿")
def test_normalised_text_is_left_as_it_is(text: str) -> None:
    processor = sentencepiece.SentencePieceProcessor(model_proto=english().model)
    once = processor.normalize(text).replace("▁", " ").strip(" ")
    assert english().encode([once]) == english().encode([text])


def test_the_target_keeps_what_the_source_side_would_fold() -> None:
    text = "「你好」，“ＡＢ”！"
    assert chinese().decode(chinese().encode([text])[0]) == text


@pytest.mark.parametrize("texts", [[], ["", "  "]])
def test_no_text_trains_no_tokenizer(texts: list[str]) -> None:
    with pytest.raises(ValueError, match=r"^no tokenizer of 400 pieces: ") as caught:
        train_tokenizer(texts, 400)
    assert "\n" not in str(caught.value)


def test_too_small_a_vocabulary_says_what_it_needs() -> None:
    with pytest.raises(ValueError, match=r"no tokenizer of 265 pieces: .*265 vs \d+"):
        train_tokenizer(ENGLISH, 265)


@pytest.mark.parametrize("model", [b"", b"x" * 50])
def test_what_is_no_tokenizer_is_refused(model: bytes) -> None:
    with pytest.raises(ValueError, match="not a SentencePiece model"):
        Tokenizer(model)
