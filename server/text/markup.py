"""HTML as stretches of text with tags in them; all else is layout and stays as it is.

A stretch ends at every tag that is no inline element, at every tag without a partner in it, and at
what is left alone. In it, inline elements are well nested.
"""

from __future__ import annotations

import bisect
import html
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from server.text.form import Mark
from server.text.html_lexer import Kind, Lexeme, attributes, lexemes
from server.text.protect import Protected

# Elements that begin and end a paragraph; all others, unknown ones too, are inline (CSS 2.2, 9.2).
_BLOCKS = frozenset(
    [
        "address",
        "article",
        "aside",
        "base",
        "basefont",
        "blockquote",
        "body",
        "br",
        "button",
        "canvas",
        "caption",
        "center",
        "col",
        "colgroup",
        "datalist",
        "dd",
        "details",
        "dialog",
        "dir",
        "div",
        "dl",
        "dt",
        "fieldset",
        "figcaption",
        "figure",
        "footer",
        "form",
        "frame",
        "frameset",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "head",
        "header",
        "hgroup",
        "hr",
        "html",
        "legend",
        "li",
        "link",
        "main",
        "menu",
        "meta",
        "nav",
        "noframes",
        "noscript",
        "ol",
        "optgroup",
        "option",
        "p",
        "param",
        "picture",
        "search",
        "section",
        "select",
        "slot",
        "source",
        "summary",
        "table",
        "tbody",
        "td",
        "template",
        "tfoot",
        "th",
        "thead",
        "title",
        "tr",
        "track",
        "ul",
        "video",
        "audio",
        "pre",
        "script",
        "style",
        "textarea",
        "svg",
        "math",
        "object",
        "applet",
        "iframe",
        "noembed",
        "xmp",
        "plaintext",
        "listing",
    ]
)
_VOID = frozenset(["area", "embed", "img", "input", "wbr", "keygen", "bgsound"])
# No language: given back as they are.
_ALONE = frozenset(
    [
        "code",
        "kbd",
        "samp",
        "var",
        "tt",
        "pre",
        "script",
        "style",
        "textarea",
        "svg",
        "math",
        "object",
        "applet",
        "iframe",
        "noembed",
        "xmp",
        "plaintext",
        "listing",
    ]
)
_REFERENCE = re.compile(r"&(?:#[0-9]+|#[xX][0-9a-fA-F]+|[A-Za-z][A-Za-z0-9]*);?")
_SPACE = re.compile(r"[ \t\n\f\r]+")
_BLANK = "\u00a0\u2002\u2003\u2009\u202f\u200b\u00ad"
_DEEPEST = 32
"""Inline elements in one another; the tags of deeper ones end the stretch."""
_KEPT = "\ufffc"
"""Stands in a stretch for an element that is left alone."""


@dataclass(slots=True)
class _Tag:
    """A tag at a place of a stretch's text."""

    place: int
    start: int
    """In the document."""
    end: int
    text: str
    """As it is written."""
    opens: bool = False
    partner: int | None = None
    """Index of its other half; None = it has none in the stretch, or no content."""


@dataclass(slots=True)
class Run:
    """A stretch of text, inline tags taken out."""

    characters: list[str] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    """Where each character begins in the document."""
    ends: list[int] = field(default_factory=list)
    tags: list[_Tag] = field(default_factory=list)
    kept: list[Protected] = field(default_factory=list)

    def parts(self, start: int, end: int) -> list[tuple[int, int]]:
        """A stretch of its text in parts that no element reaches out of in the midst."""
        pending, parts = [(start, end)], []
        while pending:
            low, high = pending.pop()
            border = self._border(low, high)
            if border is None:
                parts.append((low, high))
            else:
                pending += [(border, high), (low, border)]
        return parts

    def marks(self, start: int, end: int) -> tuple[list[Mark], int, int]:
        """The elements in a stretch, by place in it, and where in the document it stands.

        What is around all of it is not in it.
        """
        low, high = self.starts[start], self.ends[end - 1]
        near = self._near(start, end)
        inside = [tag for tag in near if self._is_mark(tag, start, end)]
        if inside:
            low = min(low, inside[0].start)
            high = max(high, inside[-1].end)
        stack: list[list[Mark]] = [[]]
        for tag in near:
            if not (low <= tag.start and tag.end <= high):
                continue
            if tag.partner is None:
                place = tag.place - start
                stack[-1].append(Mark(place, place, tag.text))
            elif tag.opens:
                other = self.tags[tag.partner]
                mark = Mark(tag.place - start, other.place - start, tag.text, other.text)
                stack[-1].append(mark)
                stack.append(mark.children)
            else:
                stack.pop()
        return stack[0], low, high

    def value(self, document: str, start: int, end: int, text: str) -> str:
        """How a protected stretch is written; ``text`` is how it reads."""
        if any(start < tag.place < end for tag in self._near(start, end)):
            return html.escape(text, quote=False)
        return document[self.starts[start] : self.ends[end - 1]]

    def _near(self, start: int, end: int) -> list[_Tag]:
        low = bisect.bisect_left(self.tags, start, key=lambda tag: tag.place)
        high = bisect.bisect_right(self.tags, end, lo=low, key=lambda tag: tag.place)
        return self.tags[low:high]

    def _border(self, low: int, high: int) -> int | None:
        """Where a stretch has to be cut: an element begins or ends in it, but not both."""
        for tag in self._near(low, high):
            if not low < tag.place < high:
                continue
            if tag.partner is None:
                if tag.opens:
                    return tag.place
                continue
            if not low <= self.tags[tag.partner].place <= high:
                return tag.place
        return None

    def _is_mark(self, tag: _Tag, start: int, end: int) -> bool:
        """Whether a tag belongs to an element that has text in a stretch, but not all of it."""
        if tag.partner is None:
            return start < tag.place < end
        other = self.tags[tag.partner].place
        first, last = (tag.place, other) if tag.opens else (other, tag.place)
        if first == last:
            return start < first < end
        return start <= first and last <= end and (first, last) != (start, end)


class Markup:
    """A document, read once."""

    def __init__(self, document: str) -> None:
        """Set the document."""
        self._document = document

    def runs(self) -> Iterator[Run]:
        """Its stretches of text, in order; those without a letter are left out."""
        run = Run()
        open_tags: list[tuple[str, int]] = []
        alone: list[Lexeme] = []  # the element that is left alone, and those of its name in it
        for lexeme in lexemes(self._document):
            if alone:
                if lexeme.name == alone[0].name and not _is_void(lexeme):
                    self._follow(run, lexeme, alone)
                continue
            if lexeme.kind is Kind.TEXT:
                self._read(run, lexeme)
            elif lexeme.kind is Kind.COMMENT or _is_void(lexeme):
                self._add(run, lexeme)
            elif _is_inline(lexeme) and self._is_alone(lexeme):
                alone = [lexeme]
            elif _is_inline(lexeme) and len(open_tags) < _DEEPEST:
                open_tags.append((lexeme.name, len(run.tags)))
                self._add(run, lexeme)
                run.tags[-1].opens = True
            elif lexeme.kind is Kind.END and open_tags and open_tags[-1][0] == lexeme.name:
                _, opened = open_tags.pop()
                self._add(run, lexeme)
                run.tags[-1].partner, run.tags[opened].partner = opened, len(run.tags) - 1
            else:
                yield from _worth(run)
                run, open_tags = Run(), []
                if lexeme.kind is Kind.START and self._is_alone(lexeme):
                    alone = [lexeme]
        yield from _worth(run)

    def _follow(self, run: Run, lexeme: Lexeme, alone: list[Lexeme]) -> None:
        """Note a tag of the same name inside an element that is left alone, or its end."""
        if lexeme.kind is Kind.START:
            alone.append(lexeme)
        elif lexeme.kind is Kind.END:
            first = alone.pop()
            if not alone and _is_inline(first):
                place = len(run.characters)
                value = self._document[first.start : lexeme.end]
                run.kept.append(Protected(place, place + 1, "markup", value))
                _append(run, _KEPT, first.start, lexeme.end)

    def _add(self, run: Run, lexeme: Lexeme) -> None:
        written = self._document[lexeme.start : lexeme.end]
        run.tags.append(_Tag(len(run.characters), lexeme.start, lexeme.end, written))

    def _is_alone(self, tag: Lexeme) -> bool:
        """Whether an element is to be left as it is."""
        if tag.name in _ALONE:
            return True
        written = self._document[tag.start : tag.end].lower()
        if "translate" not in written:
            return False
        found = attributes(written)
        classes = (found.get("class") or "").split()
        return found.get("translate") == "no" or "notranslate" in classes

    def _read(self, run: Run, lexeme: Lexeme) -> None:
        """Add text, its character references read and its white space made single spaces."""
        place = lexeme.start
        for match in _REFERENCE.finditer(self._document, lexeme.start, lexeme.end):
            self._plain(run, place, match.start())
            text = html.unescape(match.group())
            if text == match.group():
                self._plain(run, match.start(), match.end())
                place = match.end()
                continue
            if text in _BLANK:
                place = len(run.characters)
                run.tags.append(_Tag(place, match.start(), match.end(), match.group()))
                _append(run, " ", match.start(), match.end())
            else:
                _append(run, text, match.start(), match.end())
            place = match.end()
        self._plain(run, place, lexeme.end)

    def _plain(self, run: Run, start: int, end: int) -> None:
        place = start
        for match in _SPACE.finditer(self._document, start, end):
            for at in range(place, match.start()):
                _append(run, self._document[at], at, at + 1)
            _append(run, " ", match.start(), match.end())
            place = match.end()
        for at in range(place, end):
            _append(run, self._document[at], at, at + 1)


def _is_void(lexeme: Lexeme) -> bool:
    """Whether a tag is an inline element without content."""
    void = lexeme.name in _VOID or (lexeme.closed and lexeme.name not in _BLOCKS)
    return lexeme.kind is Kind.START and void


def _is_inline(lexeme: Lexeme) -> bool:
    return lexeme.kind is Kind.START and lexeme.name not in _BLOCKS


def _append(run: Run, text: str, start: int, end: int) -> None:
    run.characters += text
    run.starts += [start] * len(text)
    run.ends += [end] * len(text)


def _worth(run: Run) -> Iterator[Run]:
    """A stretch, if there is anything to translate in it."""
    if any(character.isalpha() for character in run.characters):
        yield run
