"""Formats of ``dragoman translate-file``: what is translated, and that all else stays."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import polib
import pytest
import srt
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from dragoman.files import (
    catalogue,
    formats,
    json_strings,
    markdown,
    plain_text,
    subtitles,
    web_page,
)
from dragoman.files.document import Document, FileFault, Outcome

ROOT = Path(__file__).parents[2]
LETTERS = st.text("ab *_`[](){}<>#-+=|\\!&;:.~^$1\n\r\t\"'/é中", max_size=80)


def identity(document: Document) -> str:
    return document.render([Outcome(one.text) for one in document.segments])


def upper(document: Document) -> str:
    """Every word of text in capitals, tags as they are."""
    return document.render([
        Outcome(re.sub(r"<code.*?</code>|<[^>]*>|[^<]+", _shout, one.text, flags=re.DOTALL))
        for one in document.segments
    ])  # fmt: skip


def _shout(found: re.Match[str]) -> str:
    return found[0] if found[0].startswith("<") else found[0].upper()


@given(LETTERS)
def test_text_comes_back_to_the_byte(text: str) -> None:
    assert identity(plain_text.read(text)) == text


def test_text_is_lines_with_their_numbers() -> None:
    document = plain_text.read("one\r\n\r\n--- 1\n  two\n")
    assert [(one.text, one.place) for one in document.segments] == [
        ("one", "line 1"),
        ("  two", "line 4"),
    ]
    assert upper(document) == "ONE\r\n\r\n--- 1\n  TWO\n"


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(JSON_VALUES, st.sampled_from([None, 1, 4]), st.booleans())
def test_json_changes_in_its_strings_alone(
    value: object, indent: int | None, escaped: bool
) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=escaped)
    document = json_strings.read(text)
    assert identity(document) == text
    marked = document.render([Outcome(f'{one.text}"\\\n') for one in document.segments])
    assert json.loads(marked) == _marked(value)


def _marked(value: object) -> object:
    if isinstance(value, dict):
        return {key: _marked(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_marked(one) for one in value]
    if isinstance(value, str) and any(character.isalpha() for character in value):
        return f'{value}"\\\n'
    return value


def test_json_keys_choose_and_paths_name() -> None:
    text = '{"a": ["x", {"title": "y"}], "title": "z", "n": 1}'
    assert [one.place for one in json_strings.read(text).segments] == ["a.0", "a.1.title", "title"]
    chosen = json_strings.read(text, ["*.title"])
    assert upper(chosen) == '{"a": ["x", {"title": "Y"}], "title": "z", "n": 1}'


def test_json_with_half_a_character_is_left_as_it_is() -> None:
    text = '["half \\ud800", "whole"]'
    assert upper(json_strings.read(text)) == '["half \\ud800", "WHOLE"]'


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"a": }'])
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(FileFault):
        json_strings.read(text)


SUBTITLES = """1
00:00:01,000 --> 00:00:02,500
{\\an8}This is one sentence
on two lines.

2
00:00:03,000 --> 00:00:04,000 X1:5
- Who?
- Me.

3
00:00:05,000 --> 00:00:06,000
12

"""


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_subtitles_keep_numbers_times_and_voices(end: str) -> None:
    text = SUBTITLES.replace("\n", end)
    document = subtitles.read(text)
    assert [one.text for one in document.segments] == [
        "This is one sentence on two lines.",
        "- Who?",
        "- Me.",
    ]
    assert identity(document) == text
    expected = SUBTITLES.replace(
        "This is one sentence\non two lines.", "THIS IS ONE SENTENCE ON TWO LINES."
    )
    assert upper(document) == expected.replace("Who", "WHO").replace("Me", "ME").replace("\n", end)


@given(st.lists(st.text("ab -\n{}\\1é", max_size=20), max_size=5), st.sampled_from(["\n", "\r\n"]))
def test_subtitles_come_back_to_the_byte(contents: list[str], end: str) -> None:
    time = srt.timedelta
    text = srt.compose(
        [
            srt.Subtitle(0, time(seconds=n), time(seconds=n + 1), one)
            for n, one in enumerate(contents)
        ],
        eol=end,
    )
    assert identity(subtitles.read(text)) == text


def test_what_is_no_subtitles_is_refused() -> None:
    with pytest.raises(FileFault, match="SubRip"):
        subtitles.read("just a text\nof two lines\n")


CATALOGUE = """# Translators.
msgid ""
msgstr ""
"Language: zh_TW\\n"
"Content-Type: text/plain; charset=UTF-8\\n"
"Plural-Forms: nplurals=1; plural=0;\\n"

#. for the greeting
#: src/a.py:3
#, python-format
msgctxt "door"
msgid "hello %(name)s"
msgstr ""

msgid "done"
msgstr "好了"

#, fuzzy
#| msgid "olde"
msgid "old"
msgstr "舊"

msgid "%d file"
msgid_plural "%d files"
msgstr[0] ""

#~ msgid "gone"
#~ msgstr "走了"
"""


def test_messages_without_a_translation_get_one() -> None:
    document = catalogue.read(CATALOGUE, "zh-TW")
    assert [one.text for one in document.segments] == [
        "hello %(name)s", "old", "%d file", "%d files",
    ]  # fmt: skip
    said = document.render([Outcome("A", doubtful=True), Outcome("B"), Outcome("C"), Outcome("D")])
    expected = CATALOGUE.replace('%(name)s"\nmsgstr ""', '%(name)s"\nmsgstr "A"')
    expected = expected.replace("#, python-format", "#, python-format, fuzzy")
    expected = expected.replace('#, fuzzy\n#| msgid "olde"\n', "").replace("舊", "B")
    assert said == expected.replace('msgstr[0] ""', 'msgstr[0] "D"')


def test_translated_messages_are_translated_anew_on_demand() -> None:
    assert len(catalogue.read(CATALOGUE, "zh-TW", anew=True).segments) == 5


def test_a_whole_catalogue_comes_back_to_the_byte() -> None:
    text = str(polib.pofile(CATALOGUE))
    done = catalogue.read(CATALOGUE, "zh-TW")
    rendered = done.render([Outcome("x") for _ in done.segments])
    assert identity(catalogue.read(rendered, "zh-TW")) == rendered
    assert text.count("msgid") == rendered.count("msgid") + 1  # the previous one of a fuzzy entry


def test_a_template_becomes_a_catalogue_of_the_language() -> None:
    text = 'msgid ""\nmsgstr ""\n"Language: \\n"\n\n'
    text += 'msgid "a"\nmsgid_plural "b"\nmsgstr[0] ""\nmsgstr[1] ""\n'
    document = catalogue.read(text, "zh-TW")
    made = polib.pofile(document.render([Outcome("一"), Outcome("二")]))
    assert made.metadata["Language"] == "zh_TW"
    assert made.metadata["Plural-Forms"] == "nplurals=1; plural=0;"
    assert made[0].msgstr_plural == {0: "二"}


def test_what_is_no_catalogue_is_refused() -> None:
    with pytest.raises(FileFault, match="gettext"):
        catalogue.read("just a text", "zh-TW")


@given(LETTERS)
@example("<![1>a<![CDATA[<p>]]><!>b<!x<?y")
@example("a<![1")
def test_a_page_comes_back_to_the_byte(text: str) -> None:
    assert identity(web_page.read(text)) == text


def test_a_page_is_cut_between_blocks_and_never_in_what_is_left_alone() -> None:
    words = "word " * 300
    text = (
        f"<p>{words}</p><div translate=no><p>{words}</p><div></div><p>{words}</p></div><p>{words}"
    )
    pieces = [one.text for one in web_page.read(text).segments]
    assert "".join(pieces) == text
    assert [piece[:4] for piece in pieces] == ["<p>w", "<div", "<p>w"]
    assert pieces[1].endswith("</p></div>")


MARKDOWN = """---
title: left alone
---
# A *title* with `code`

A paragraph with **bold text**, [a link](http://a.example "tip"), ![picture](p.png)
and a second line, <http://b.example>, an escaped \\* star &amp; H<sub>2</sub>O[^1].

| head | other |
|------|:-----:|
| cell a \\| b | `x` |

- item one
  goes on
- [ ] item two

> quoted \\
> text

```python
left = "alone"
```

1. first

[^1]: A note.

[ref]: http://c.example "left alone"
"""


def test_markdown_is_translated_around_its_markup() -> None:
    document = markdown.read(MARKDOWN)
    assert identity(document) == MARKDOWN
    said = upper(document)
    assert document.notes == []
    expected = MARKDOWN.replace("p.png)\nand", "p.png) and").replace("one\n  goes", "one goes")
    for words in (
        "A *title* with", "A paragraph with **bold text**", "a link", "and a second line",
        "an escaped", "star", "head", "other", "cell a", "item one", "goes on", "item two",
        "quoted", "text\n", "first", "A note", "| b |",
    ):  # fmt: skip
        expected = expected.replace(words, words.upper())
    expected = expected.replace(" &amp; H<sub>", " \\& H<sub>")
    assert said == expected


def test_what_is_written_as_an_entity_does_not_become_markup() -> None:
    said = upper(markdown.read("the tag &lt;b&gt; and \\&amp; and \\*stars\\*\n"))
    assert said == "THE TAG \\<B\\> AND \\&AMP; AND \\*STARS\\*\n"


def test_emphasis_beside_chinese_gets_the_space_it_needs() -> None:
    document = markdown.read("It is **bold.** Yes.\n")
    assert document.segments[0].text == 'It is <b id="0">bold.</b> Yes.'
    said = document.render([Outcome('它是<b id="0">粗體。</b>是的。')])
    assert said == "它是 **粗體。** 是的。\n"
    assert "<strong>粗體。</strong>" in MarkdownIt().render(said)


def test_a_translation_begins_no_other_kind_of_block() -> None:
    for begins in ("1. x", "# x", "> x", "- x", "===", "---", "```"):
        document = markdown.read("One is text.\n")
        said = document.render([Outcome(begins)])
        assert [token.type for token in MarkdownIt().parse(said)] == [
            "paragraph_open", "inline", "paragraph_close",
        ], said  # fmt: skip


def test_markup_that_got_lost_is_told_with_its_place() -> None:
    document = markdown.read("\n\nIt is **bold**.\n")
    document.render([Outcome("粗體")])
    assert document.notes == ["line 3: markup of the translation differs from the source's"]


@given(LETTERS)
@settings(max_examples=300)
def test_markdown_comes_back_to_the_byte(text: str) -> None:
    assert identity(markdown.read(text)) == text


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md", "docs/TEXT.md", "docs/SECURITY.md"])
def test_documents_keep_their_markup_when_every_word_changes(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    document = markdown.read(text)
    said = upper(document)
    assert document.notes == []
    assert said != text
    parser = MarkdownIt("commonmark").enable("table")
    before, after = parser.parse(text), parser.parse(said)
    assert [token.type for token in before] == [token.type for token in after]
    assert _targets(before) == _targets(after)


def _targets(tokens: list) -> list:  # type: ignore[type-arg]
    """Links and code, in order."""
    inner = [child for token in tokens for child in token.children or []]
    return [
        (one.type, one.attrs.get("href"), one.content if one.type == "code_inline" else "")
        for one in inner
        if one.type in {"link_open", "code_inline", "image"}
    ]


def test_formats_are_known_by_name_and_marks_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.TXT"
    path.write_bytes("\ufeffhello\r\n".encode())
    mark, document = formats.read(path, formats.Reading("zh-TW"))
    assert mark + upper(document) == "\ufeffHELLO\r\n"
    with pytest.raises(FileFault, match="no known format"):
        formats.read(tmp_path / "a.doc", formats.Reading("zh-TW"))
    path.write_bytes(b"\xff")
    with pytest.raises(FileFault, match="is not UTF-8"):
        formats.read(path, formats.Reading("zh-TW"))


@pytest.mark.parametrize(
    ("suffix", "library"), [("po", "polib"), ("md", "markdown_it"), ("srt", "srt")]
)
def test_a_library_that_is_not_installed_is_named_with_its_extra(
    tmp_path: Path, suffix: str, library: str
) -> None:
    path = tmp_path / f"a.{suffix}"
    path.touch()
    script = (
        f"import sys; sys.modules[{library!r}] = None; from dragoman import cli;"
        f"sys.exit(cli.main(['translate-file', {str(path)!r}, 'none/out', '--to', 'x']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    said = f"dragoman translate-file: '.{suffix}' needs {library}, which is not installed; "
    assert (done.returncode, done.stderr) == (1, said + "pip install 'dragoman[files]'\n")


@given(LETTERS, st.text("ab*_`[]<>&;# \n1.中", max_size=30))
def test_any_translation_can_be_written(text: str, translation: str) -> None:
    for read in (markdown.read, web_page.read, plain_text.read):
        document = read(text)
        assert isinstance(document.render([Outcome(translation) for _ in document.segments]), str)
