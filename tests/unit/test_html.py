from __future__ import annotations

import time

import justhtml
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.text.html_lexer import Kind, attributes, lexemes
from server.text.markup import Markup

PIECES = st.sampled_from(
    [
        "<p>", "</p>", "<b>", "</b>", "<i class=x>", "</i>", '<a href="a>b">', "</a>", "<br>",
        "<br/>", "<img src='a'>", "<!-- c -->", "<!---->", "<!-->", "<!--", "-->", "<script>",
        "</script>", "<style>", "</style>", "<title>", "</title>", "<textarea>", "</textarea>",
        "<!DOCTYPE html>", "<?php ?>", "</>", "< b", "a < b", "&amp;", "&nbsp;", "&#65;", "&x",
        "text ", "Hello ", "你好", " ", "\n", "<", ">", '"', "'", "=", "/", "<p a = b c>",
        "<code>", "</code>", "<span translate=no>", "</span>", "<li>", "<td>", "<custom-x>",
        "</custom-x>", "<P A='>'>", "</SCRIPT >", "<b", '<a x="', "<svg>", "</svg>",
    ]
)  # fmt: skip
DOCUMENTS = st.lists(PIECES, max_size=14).map("".join)


@settings(max_examples=600, deadline=None)
@given(DOCUMENTS)
def test_the_lexemes_joined_are_the_document(document: str) -> None:
    place = 0
    for lexeme in lexemes(document):
        assert lexeme.start == place
        assert lexeme.end > place
        place = lexeme.end
    assert place == len(document)


@settings(max_examples=600, deadline=None)
@given(DOCUMENTS.filter(lambda text: "<svg" not in text and "<!DOCTYPE" not in text))
def test_tags_are_those_that_an_html5_parser_sees(document: str) -> None:
    theirs = [
        (kind, event[0] if kind == "start" else event)
        for kind, event in justhtml.stream(document)
        if kind in {"start", "end"}
    ]
    ours = [
        (lexeme.kind.value, lexeme.name)
        for lexeme in lexemes(document)
        if lexeme.kind in {Kind.START, Kind.END}
    ]
    assert ours == theirs


def test_attributes_are_read_as_they_are_meant() -> None:
    assert attributes('<p Class="a &amp; b" hidden>') == {"class": "a & b", "hidden": ""}


@pytest.mark.parametrize(
    "unit",
    [
        "<a",
        "<!--",
        "<!",
        "&",
        "<",
        "</",
        "<![",
        "<?",
        '<a b="',
        "<a =",
        "<script>",
        "</script",
        "<a x",
        "<a '",
        '<a x="y"',
        "<a/",
        "<b>",
        "</b>",
        "<b><i>",
        "a<b>x</b> ",
        "<p>",
        "<code>",
        "&nbsp;",
        "<span translate=no>",
    ],
)
def test_no_document_makes_it_slow(unit: str) -> None:
    document = (unit * 20_000)[:20_000] + " words"
    start = time.process_time()
    for run in Markup(document).runs():
        for low, high in run.parts(0, len(run.characters)):
            run.marks(low, high)
    assert time.process_time() - start < 3.0


def stretches(document: str) -> list[str]:
    return ["".join(run.characters).strip() for run in Markup(document).runs()]


def test_a_stretch_is_what_stands_between_blocks() -> None:
    document = "<h1>One</h1><p>Two <b>and</b> three<br>Four<ul><li>Five<li>Six</ul>Seven"
    assert stretches(document) == ["One", "Two and three", "Four", "Five", "Six", "Seven"]


def test_code_and_what_says_so_is_left_alone() -> None:
    document = (
        "<script>var a = 'Hello';</script><style>b {}</style><pre>Pre</pre><p>Run"
        " <code>make</code> and <span translate='no'>Big <b>Apple</b></span> now."
        "<p class=notranslate>No <p>Yes</p>"
    )
    assert stretches(document) == ["Run \ufffc and \ufffc now."]
    document = "<div class='notranslate'><div>No</div> no </div><p>Yes</p>"
    assert stretches(document) == ["Yes"]


def test_references_are_read_and_white_space_is_single() -> None:
    assert stretches("<p>A &amp;\n   b&#33; &lt;c&gt; AT&T &copy;</p>") == ["A & b! <c> AT&T ©"]
