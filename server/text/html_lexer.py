"""An HTML document as the tags, comments and text that it is written as, none of them changed.

Parsers give a tree, and a tree cannot be written back as it was: quotes, case, order and the tags
that nobody wrote are lost. Here every character of the document belongs to one lexeme, and the
lexemes joined are the document. Where lexemes end is what the WHATWG's tokenizer says (HTML,
13.2.5); tests hold it against JustHTML, which passes html5lib's. Attributes are read by JustHTML.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

import justhtml

# Their content is text up to their own end tag.
RAW = frozenset(
    {"script", "style", "textarea", "title", "iframe", "noembed", "noframes", "noscript", "xmp"}
)
_SPACE = "\\t\\n\\f\\r "
# No quantifier gives back what it took: a tag that never ends is found so in one pass.
_VALUE = (
    rf"[{_SPACE}]*+=[{_SPACE}]*+"
    rf"(?:(?:\"[^\"]*+\"|'[^']*+')=?|[^{_SPACE}>\"'][^{_SPACE}>]*+|(?=>))"
)
# An equals sign where a name should be is part of the name; after a name it needs a value.
_NAME = rf"(?:(?<=[{_SPACE}/])=)?[^{_SPACE}/>=]++"
_START = re.compile(
    rf"<([a-zA-Z][^{_SPACE}/>]*+)"
    rf"(?:[{_SPACE}/]++|{_NAME}(?:{_VALUE})?+|(?<=[{_SPACE}/])=)*+>"
)
_END = re.compile(_START.pattern.replace("<(", "</(", 1))
_SCRIPT_END = re.compile(rf"</script(?=[{_SPACE}/>])", re.IGNORECASE)


class Kind(Enum):
    """What a lexeme is."""

    TEXT = "text"
    START = "start"
    END = "end"
    COMMENT = "comment"
    OTHER = "other"
    """A doctype, a declaration, or a tag that the document's end cuts off."""
    RAW = "raw"
    """What is in a script and the like."""


@dataclass(frozen=True, slots=True)
class Lexeme:
    """A stretch of a document."""

    kind: Kind
    start: int
    end: int
    name: str = ""
    """Of a tag, in lower case."""
    closed: bool = False
    """Whether a start tag ends in ``/>``."""


def lexemes(document: str) -> Iterator[Lexeme]:
    """The lexemes of a document, in order, without gaps."""
    place, end = 0, len(document)
    while place < end:
        mark = _markup(document, place)
        if mark > place:
            yield Lexeme(Kind.TEXT, place, mark)
        if mark == end:
            return
        lexeme = _at(document, mark)
        yield lexeme
        place = lexeme.end
        if lexeme.kind is Kind.START and (lexeme.name in RAW or lexeme.name == "plaintext"):
            until = _raw_end(document, lexeme.name, place)
            if until > place:
                kind = Kind.TEXT if lexeme.name == "title" else Kind.RAW
                yield Lexeme(kind, place, until)
            place = until


def attributes(tag: str) -> dict[str, str | None]:
    """The attributes of a start tag, names in lower case, character references read."""
    for event in justhtml.stream(tag):
        if event[0] == "start":
            return event[1][1]
    return {}


def _markup(document: str, place: int) -> int:
    """Where the next tag, comment or declaration begins; the document's end if there is none."""
    while True:
        place = document.find("<", place)
        if place < 0 or place + 1 == len(document):
            return len(document)
        after = document[place + 1]
        if after in "!?" or (after.isascii() and after.isalpha()):
            return place
        if after == "/" and place + 2 < len(document):
            return place
        place += 1


def _at(document: str, place: int) -> Lexeme:
    """The lexeme that begins with the ``<`` at a place."""
    if document.startswith("<!--", place):
        return Lexeme(Kind.COMMENT, place, _comment_end(document, place))
    after = document[place + 1]
    if after in "!?":
        kind = Kind.OTHER if document[place : place + 9].lower() == "<!doctype" else Kind.COMMENT
        return Lexeme(kind, place, _past(document, ">", place + 2))
    if after == "/":
        if not (document[place + 2].isascii() and document[place + 2].isalpha()):
            return Lexeme(Kind.COMMENT, place, _past(document, ">", place + 2))
        match, kind = _END.match(document, place), Kind.END
    else:
        match, kind = _START.match(document, place), Kind.START
    if match is None:
        return Lexeme(Kind.OTHER, place, len(document))
    closed = document[match.end() - 2] == "/"
    return Lexeme(kind, place, match.end(), match[1].lower(), closed)


def _comment_end(document: str, place: int) -> int:
    if document.startswith("<!-->", place):
        return place + 5
    if document.startswith("<!--->", place):
        return place + 6
    ends = [_past(document, mark, place + 4) for mark in ("-->", "--!>")]
    return min(ends)


def _past(document: str, mark: str, place: int) -> int:
    found = document.find(mark, place)
    return len(document) if found < 0 else found + len(mark)


def _raw_end(document: str, name: str, place: int) -> int:
    """Where the end tag of a raw element begins; the document's end if there is none."""
    if name == "plaintext":
        return len(document)
    pattern = (
        _SCRIPT_END if name == "script" else re.compile(rf"</{name}(?=[{_SPACE}/>])", re.IGNORECASE)
    )
    found = pattern.search(document, place)
    return len(document) if found is None else found.start()
