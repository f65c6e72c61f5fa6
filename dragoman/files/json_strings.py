"""JSON: the strings that are values; keys, numbers, order and layout stay to the byte."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from dragoman.files.document import Document, FileFault, Segment, Slot, Spliced, has_words

# Of a document that the parser took, tokens can be told apart by this.
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]')


def read(text: str, keys: Sequence[str] = ()) -> Document:
    """The string values.

    Args:
        text: a JSON document.
        keys: patterns of paths as ``messages.*.title``; none = every string.

    Raises:
        FileFault: it is no JSON.
    """
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        msg = f"line {error.lineno}: is no JSON: {error.msg}"
        raise FileFault(msg) from error
    except RecursionError as error:
        msg = "is nested too deep"
        raise FileFault(msg) from error
    slots = []
    for token, path in _values(text):
        value = json.loads(token.group())
        if keys and not any(fnmatchcase(path, pattern) for pattern in keys):
            continue
        # Half a character, which JSON can write, has no bytes to be sent as.
        if has_words(value) and _is_whole(value):
            segment = Segment(value, path or "the document")
            slots.append(Slot(token.start(), token.end(), segment, _write))
    return Spliced(text, slots)


def _values(text: str) -> Iterator[tuple[re.Match[str], str]]:
    """The strings that are values, each with its path."""
    path: list[str | int] = []
    for token in _TOKEN.finditer(text):
        match token.group():
            case "{":
                path.append("")
            case "[":
                path.append(0)
            case "}" | "]":
                path.pop()
            case ",":
                if isinstance(path[-1], int):
                    path[-1] += 1
            case ":":
                pass
            case string:
                if path and isinstance(path[-1], str) and _is_key(text, token.end()):
                    path[-1] = json.loads(string)
                else:
                    yield token, ".".join(map(str, path))


def _is_key(text: str, end: int) -> bool:
    while text[end] in " \t\r\n":
        end += 1
    return text[end] == ":"


def _is_whole(value: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in value)


def _write(translation: str) -> str:
    return json.dumps(translation, ensure_ascii=False)
