"""Elements of a document that are not to be translated, named by whoever asks."""

from __future__ import annotations

from collections.abc import Iterator

from server.text.html_lexer import Kind, lexemes

_MARK = ' translate="no"'


def hide(document: str, names: frozenset[str]) -> str:
    """The document with a mark at each element of these names, which keeps what is in it.

    Args:
        document: HTML or XML.
        names: of tags, in lower case.
    """
    parts, done = [], 0
    for place in _places(document, names):
        parts += [document[done:place], _MARK]
        done = place
    return "".join([*parts, document[done:]])


def show(document: str, names: frozenset[str]) -> str:
    """The document that :func:`hide` was given, translated, without the marks."""
    parts, done = [], 0
    for place in _places(document, names):
        parts.append(document[done:place])
        done = place + len(_MARK) if document.startswith(_MARK, place) else place
    return "".join([*parts, document[done:]])


def _places(document: str, names: frozenset[str]) -> Iterator[int]:
    """Where the names of such start tags end."""
    for lexeme in lexemes(document):
        if lexeme.kind is Kind.START and lexeme.name in names:
            yield lexeme.start + 1 + len(lexeme.name)
