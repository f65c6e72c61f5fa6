"""Markdown: headings, paragraphs and cells of tables; all else stays to the byte.

``markdown-it-py`` says which lines hold text. Code, front matter, HTML blocks, link targets and
definitions, math and footnote marks are left alone. A paragraph over several lines comes back
on one: a line break between Chinese characters would be shown as a space.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

from markdown_it import MarkdownIt
from markdown_it.token import Token
from mdit_py_plugins.dollarmath import dollarmath_plugin
from mdit_py_plugins.footnote import footnote_plugin
from mdit_py_plugins.front_matter import front_matter_plugin

from dragoman.files import inline_markup
from dragoman.files.document import Document, Segment, Slot, Spliced, has_words
from dragoman.files.inline_markup import Inline

_LINE = re.compile(r"[^\r\n]*(?:\r\n?|\n|$)")
# What would begin another kind of block where a paragraph begins.
_BLOCK_START = re.compile(
    r"^(\d{0,9})((?<=\d)[.)](?=\s|$)|(?<!\d)(?:[#>]|[+*-](?=\s|$)|-+\s*$|=+\s*$|~~~|```))"
)


@dataclass(slots=True)
class _Place:
    """A paragraph's lines in the source."""

    spans: list[tuple[int, int]]
    """Of each of its lines, without what stands before and after."""
    cell: bool


class _Reading:
    """One file being read."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.env: dict[str, object] = {}
        self.notes: list[str] = []
        self._lines = [line for line in _LINE.findall(text) if line]
        self._starts = [0, *accumulate(map(len, self._lines))]
        self._cursor = 0
        self._parser = _parser()

    def slots(self) -> Iterator[Slot]:
        """The places of text, in order."""
        cell = False
        for token in self._parser.parse(self.text, self.env):
            if token.type in {"th_open", "td_open"}:
                cell = True
            elif token.type in {"paragraph_open", "heading_open"}:
                cell = False
            elif token.type == "inline" and token.map and has_words(token.content):
                yield from self._slot(token, token.map[0], cell=cell)

    def _slot(self, token: Token, line: int, *, cell: bool) -> Iterator[Slot]:
        """The slot of a paragraph; none if no word of it is text."""
        made = inline_markup.inline(token.content, token.children or [])
        if not has_words(re.sub(r"<code.*?</code>|<[^>]*>", "", made.html, flags=re.DOTALL)):
            return
        name = f"line {line + 1}"
        place = self._find(token.content, line, cell=cell)
        if place is None:
            self.notes.append(f"{name}: cannot be told apart from its markup, left as it is")
            return
        start, end = place.spans[0][0], place.spans[-1][1]

        def write(translation: str) -> str:
            return self._write(made, translation, place, name)

        yield Slot(start, end, Segment(made.html, name), write)

    def _find(self, content: str, line: int, *, cell: bool) -> _Place | None:
        """Where the lines of a paragraph stand, after what has been found before."""
        spans = []
        for number, part in enumerate(content.split("\n"), start=line):
            wanted = part.strip()
            begin = max(self._starts[number], self._cursor)
            finish = self._starts[number + 1]
            found = self.text.find(wanted, begin, finish)
            if found < 0 and cell:  # the parser takes the backslash before a bar away
                wanted = wanted.replace("|", "\\|")
                found = self.text.find(wanted, begin, finish)
            if found < 0:
                return None
            spans.append((found, found + len(wanted)))
            self._cursor = found + len(wanted)
        return _Place(spans, cell)

    def _write(self, made: Inline, translation: str, place: _Place, name: str) -> str:
        """The translation as Markdown that means the same markup, if it can be had."""
        wanted = self._shape(made.source)
        text = made.markdown(translation)
        if self._shape(text) != wanted:
            # Between a Chinese letter and a full-width mark ** does not count as emphasis.
            spaced = made.markdown(translation, spaced=True)
            if self._shape(spaced) == wanted:
                text = spaced
            else:
                self.notes.append(f"{name}: markup of the translation differs from the source's")
        if place.cell:
            return re.sub(r"(?<!\\)\|", r"\\|", text)
        return self._with_breaks(_BLOCK_START.sub(r"\1\\\2", text, count=1), place)

    def _with_breaks(self, text: str, place: _Place) -> str:
        """With what the source has between its lines, such as "> ", after every hard break."""
        if len(place.spans) == 1:
            return text
        (_, end), (begin, _) = place.spans[:2]
        return text.replace("\n", self.text[end:begin].lstrip(" \t"))

    def _shape(self, text: str) -> list[str]:
        parsed = self._parser.parseInline(text, self.env)
        return inline_markup.shape(parsed[0].children or []) if parsed else []


def read(text: str) -> Document:
    """The text of a Markdown file."""
    reading = _Reading(text)
    document = Spliced(text, list(reading.slots()), mime_type="text/html")
    document.notes = reading.notes  # the same list: writing adds to it
    return document


def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    parser.use(front_matter_plugin).use(footnote_plugin).use(dollarmath_plugin)
    # Footnotes stay where they are, and escapes stay apart.
    parser.disable(["footnote_tail", "text_join", "fragments_join"])
    inline_markup.watch(parser)
    return parser
