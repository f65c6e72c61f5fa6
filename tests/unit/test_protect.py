from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.text.protect import PATTERNS, Term, find, shield

DATA = Path(__file__).parents[1] / "data" / "placeholders.tsv"


def kinds(text: str) -> list[tuple[str, str]]:
    return [(one.kind, one.value) for one in find(text)]


def marked() -> list[tuple[str, list[str]]]:
    rows = []
    for line in DATA.read_text(encoding="utf-8").splitlines()[1:]:
        _, text = line.split("\t")
        parts = text.replace("⟧", "⟦").split("⟦")
        rows.append(("".join(parts), parts[1::2]))
    return rows


def test_everything_that_has_to_survive_is_found() -> None:
    rows = marked()
    assert len(rows) >= 300
    for text, expected in rows:
        # Two that touch may be found as one, a long one as several.
        found = "".join(one.value for one in find(text))
        for one in expected:
            assert one in found, text


@pytest.mark.parametrize(
    "text",
    [
        "He or she and/or they, e.g. today, i.e. now.",
        "A well-known, self-made man: very good!",
        "Mr. Smith said: this is it; that is all (I think).",
        "It's Tom's book, isn't it?",
        "USA, NATO and the UN met in Paris.",
        "Good morning :) and good night ;-)",
    ],
)
def test_plain_language_is_left_alone(text: str) -> None:
    assert kinds(text) == []


def test_addresses_end_before_the_punctuation_of_the_sentence() -> None:
    assert kinds("(See https://a.example/b_(c).)") == [("url", "https://a.example/b_(c)")]
    assert kinds("Is it www.example.com?") == [("url", "www.example.com")]
    assert kinds('Open "/etc/hosts", please.') == [("path", "/etc/hosts")]


def test_numbers_that_models_know_are_left_to_them_and_others_are_not() -> None:
    found = find("In 1984 we had 3 cats, 42 dogs and 1,200 birds.")
    assert [(one.value, one.worded) for one in found] == [
        ("1984", True), ("3", True), ("42", False), ("1,200", False),
    ]  # fmt: skip


def test_terms_are_whole_words_and_the_longest_wins() -> None:
    terms = [Term("server", "伺服器"), Term("mail server", "郵件主機"), Term("C++", "C++")]
    found = find("The mail  server is no webserver; C++ is a server too. Server!", terms)
    assert [one.value for one in found] == ["郵件主機", "C++", "伺服器"]
    ignoring = find("SERVER", [Term("server", "伺服器", ignore_case=True)])
    assert [one.value for one in ignoring] == ["伺服器"]


def test_a_term_inside_an_address_is_part_of_the_address() -> None:
    assert [one.kind for one in find("See https://server.example/x", [Term("server", "x")])] == [
        "url"
    ]


def test_without_patterns_only_terms_are_found() -> None:
    assert [one.kind for one in find("{a} b", [Term("b", "c")], patterns=False)] == ["term"]


@settings(max_examples=500, deadline=None)
@given(st.text(alphabet="a{}%$<>/\\`:@#.-_ 12'\"&;[]()=*,\n你😀s", max_size=60))
def test_what_is_found_lies_in_order_and_a_shield_keeps_every_place(text: str) -> None:
    found = find(text, [Term("a", "b")])
    places = [place for one in found for place in (one.start, one.end)]
    assert places == sorted(places)
    assert all(one.start < one.end for one in found)
    shielded = shield(text, found)
    assert len(shielded) == len(text)
    for one in found:
        assert set(shielded[one.start : one.end]) <= {"_", "X"}


@pytest.mark.parametrize(
    "unit",
    [
        "`", "{", "}", "<a", "a.", "a/", "/a", "a_", "1.", "1,", "aB", "@a", "x", "ab1", "f", "-a",
        "%", "+1 ", "a-", "a.b@", "aa:", "A1", "a::", "<!--", "{a", "00:", "\\a", "[[", "&a", "$",
        "#", "(0", "0 ", "1-", "☀", "__a", "www.", "a()", "0f", "A-",
    ],
)  # fmt: skip
def test_no_text_makes_it_slow(unit: str) -> None:
    text = (unit * 20_000)[:20_000]
    start = time.process_time()
    find(text)
    assert time.process_time() - start < 2.0


def test_every_kind_has_a_name_of_its_own() -> None:
    names = [name for name, _ in PATTERNS]
    assert len(set(names)) == len(names)
