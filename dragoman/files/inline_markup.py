"""The inside of a Markdown paragraph, as HTML for the server and back.

The server carries inline elements of HTML by alignment, each exactly once. So emphasis and links
become elements that name by number what stood there, and code, images, addresses, math and
footnote marks become elements that are left alone. Coming back, each number is the source again.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from markdown_it import MarkdownIt
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token

from dragoman.files.tag_reader import TagReader

# A character that is written otherwise, lest it be markup: \* or &lt;.
_ESCAPED = re.compile(r"\\([!-/:-@\[-`{-~])|&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|\w{1,31});")
_PUNCTUATION = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")

Rule = Callable[[StateInline, bool], bool]


@dataclass(frozen=True, slots=True)
class Mark:
    """A stretch of the source that is no text."""

    start: int
    end: int
    kind: str
    nesting: int
    """1 opens, -1 closes, 0 stands alone."""


@dataclass(frozen=True, slots=True)
class Inline:
    """A paragraph in both forms."""

    source: str
    html: str
    parts: tuple[str, ...]
    """What each number stands for."""
    escaped: frozenset[str]
    """Characters that the source escapes, and so must the translation."""

    def markdown(self, translation: str, *, spaced: bool = False) -> str:
        """The translation as Markdown; if ``spaced`` with spaces around emphasis and links."""
        reader = _Reader(self, spaced=spaced)
        reader.feed(translation)
        reader.close()
        return "".join(reader.pieces)


def watch(parser: MarkdownIt) -> None:
    """Have the rules for inlines note in their tokens where these stood (``meta["span"]``)."""
    ruler = parser.inline.ruler
    for name, rule in zip(ruler.get_active_rules(), ruler.getRules(""), strict=True):
        ruler.at(name, _watched(name, rule))


def inline(source: str, tokens: list[Token]) -> Inline:
    """The paragraph that the parser made these tokens of."""
    pieces: list[str] = []
    parts: list[str] = []
    open_numbers: list[int] = []
    position = 0
    escaped: set[str] = set()

    def unescape(found: re.Match[str]) -> str:
        character = found[1] or html.unescape(found[0])
        if character in _PUNCTUATION:
            escaped.add(character)
        return character

    def add_text(text: str) -> None:
        pieces.append(html.escape(_ESCAPED.sub(unescape, text), quote=False))

    for mark in sorted(marks(tokens), key=lambda one: (one.start, one.end)):
        if mark.start < position:  # inside of one that is left alone
            continue
        text = source[position : mark.start]
        # Spaces before a line's end make it a hard break: they belong to it.
        kept = text.rstrip(" ") if mark.kind.endswith("break") else text
        add_text(kept)
        there = source[position + len(kept) : mark.end]
        position = mark.end
        if mark.kind == "softbreak":
            pieces.append(" ")
            continue
        if mark.nesting < 0:
            number = open_numbers.pop()
            parts[number + 1] = there
            pieces.append("</b>")
            continue
        number = len(parts)
        if mark.nesting > 0:
            open_numbers.append(number)
            parts += [there, ""]
            pieces.append(f'<b id="{number}">')
        elif mark.kind == "hardbreak":
            parts.append(there)
            pieces.append(f'<br id="{number}">')
        else:
            parts.append(there)
            pieces.append(f'<code id="{number}">{html.escape(there, quote=False)}</code>')
    add_text(source[position:])
    return Inline(source, "".join(pieces), tuple(parts), frozenset(escaped))


def marks(tokens: list[Token]) -> Iterator[Mark]:
    """What is no text, where it stood."""
    for token in tokens:
        span = token.meta.get("span")
        if span is None or token.type in {"text", "text_special"}:
            continue
        start, end = span
        kind = token.type.removesuffix("_open").removesuffix("_close")
        # Of the two tokens of ** the parser keeps the inner one.
        if kind == "strong":
            start, end = (start - 1, end) if token.nesting > 0 else (start, end + 1)
        yield Mark(start, end, kind, token.nesting)


def shape(tokens: list[Token]) -> list[str]:
    """The kinds of markup among the tokens, in no order: languages order words differently."""
    plain = {"text", "text_special", "softbreak"}
    return sorted(token.type for token in tokens if token.type not in plain)


def _watched(name: str, rule: Rule) -> Rule:
    def run(state: StateInline, silent: bool) -> bool:  # noqa: FBT001  the parser's own signature
        start, before = state.pos, len(state.tokens)
        if not rule(state, silent):
            return False
        if not silent:
            new = [token for token in state.tokens[before:] if "span" not in token.meta]
            _note(name, state, new, start)
        return True

    return run


def _note(name: str, state: StateInline, new: list[Token], start: int) -> None:
    """Write spans into the new tokens; the first may be text that had been waiting."""
    end = state.pos
    if name in {"emphasis", "strikethrough"}:  # one token a delimiter, paired later
        for token in reversed(new):
            if end <= start:
                break
            token.meta["span"] = (end - len(token.content), end)
            end -= len(token.content)
    elif name == "link":
        links = [token for token in new if token.type in {"link_open", "link_close"}]
        label_end = state.md.helpers.parseLinkLabel(state, start, True)  # noqa: FBT003  theirs
        if links:
            links[0].meta["span"] = (start, start + 1)
            links[-1].meta["span"] = (label_end, end)
    elif name == "autolink":  # the whole of it stands alone
        new[-3].meta["span"] = (start, end)
        new[-3].type, new[-3].nesting = "autolink", 0
        new[-1].type, new[-1].nesting = "text_special", 0
    elif new and new[-1].type != "text":
        new[-1].meta["span"] = (start, end)


class _Reader(TagReader):
    """Puts the source back where its numbers are."""

    def __init__(self, source: Inline, *, spaced: bool) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self._source = source
        self._spaced = spaced
        self._closed = False
        self._open: list[int] = []
        self._skipping = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        number = dict(attrs).get("id") or ""
        if not (number.isdecimal() and int(number) < len(self._source.parts)):
            self.handle_data(self.get_starttag_text() or "")
            return
        if tag == "b":
            self._open.append(int(number))
        if self._spaced and self.pieces and not self.pieces[-1][-1:].isspace():
            self.pieces.append(" ")
        self.pieces.append(self._source.parts[int(number)])
        self._skipping = tag == "code"
        self._closed = False

    def handle_endtag(self, tag: str) -> None:
        self._skipping = False
        if tag == "b" and self._open:
            self.pieces.append(self._source.parts[self._open.pop() + 1])
            self._closed = self._spaced

    def handle_data(self, data: str) -> None:
        if self._skipping or not data:
            return
        if self._closed and not data[0].isspace():
            self.pieces.append(" ")
        self._closed = False
        escaped = self._source.escaped
        self.pieces += (f"\\{one}" if one in escaped else one for one in data)
