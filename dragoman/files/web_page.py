"""HTML: cut before block elements into pieces that are sent as HTML and joined again.

The server leaves everything but words to the byte. Pieces make progress, resuming and decoding
side by side possible; they are never cut inside what the server leaves alone.
"""

from __future__ import annotations

from itertools import accumulate, pairwise

from dragoman.files.document import Document, Segment, Slot, Spliced, has_words
from dragoman.files.tag_reader import TagReader

_BLOCKS = frozenset({
    "address", "article", "aside", "blockquote", "body", "dd", "div", "dl", "dt", "figcaption",
    "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "head", "header", "hr", "html",
    "li", "main", "nav", "ol", "p", "section", "table", "tbody", "tfoot", "thead", "title", "tr",
    "ul",
})  # fmt: skip
_LEFT_ALONE = frozenset({
    "script", "style", "pre", "code", "kbd", "samp", "var", "textarea", "svg", "math", "object",
    "iframe",
})  # fmt: skip
_VOID = frozenset({
    "area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track",
    "wbr",
})  # fmt: skip
_PIECE_CHARACTERS = 1_000


def read(text: str) -> Document:
    """The page in pieces of about a thousand characters, cut between blocks."""
    cuts = _Cuts(text)
    cuts.feed(text)
    cuts.close()
    chosen = [0]
    for place in cuts.places:
        if place - chosen[-1] >= _PIECE_CHARACTERS:
            chosen.append(place)
    slots = []
    for start, end in pairwise([*chosen, len(text)]):
        piece = text[start:end]
        if has_words(piece):
            segment = Segment(piece, f"line {text.count(chr(10), 0, start) + 1}")
            slots.append(Slot(start, end, segment))
    return Spliced(text, slots, mime_type="text/html")


class _Cuts(TagReader):
    """Where block elements begin, outside of elements that are left alone."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=False)
        self.places: list[int] = []
        self._lines = [0, *accumulate(len(line) + 1 for line in text.split("\n"))]
        self._left_alone: str | None = None
        self._depth = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._left_alone is not None:
            self._depth += tag == self._left_alone
            return
        if tag in _BLOCKS:
            line, column = self.getpos()
            self.places.append(self._lines[line - 1] + column)
        given = dict(attrs)
        kept = given.get("translate") == "no" or "notranslate" in (given.get("class") or "").split()
        if tag not in _VOID and (kept or tag in _LEFT_ALONE):
            self._left_alone, self._depth = tag, 1

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        # A slash closes nothing in HTML: <div translate="no"/> is open.
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if tag == self._left_alone:
            self._depth -= 1
            if self._depth == 0:
                self._left_alone = None
