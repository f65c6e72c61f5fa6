"""Bilingual text in the forms that people have it in, as rows of columns.

TSV, two files whose lines belong together, a zip of OPUS (Moses form), TMX. What is wrong with
a file is one line that names it.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

from lxml import etree

from model.config import ConfigError, SourceSettings
from model.text.streams import open_bytes, reading, text_lines

_XML_LANG = "{http://www.w3.org/XML/1998/namespace}lang"
# Native codes of a formatted segment (TMX 1.4b, section 2.4); what stands between them is text.
_CODES = frozenset({"bpt", "ept", "ph", "it", "ut"})

Codes = tuple[str, str]
"""Language codes of source and target."""


def read_rows(
    settings: SourceSettings, codes: Codes, *, swapped: bool = False
) -> Iterator[tuple[str, str]]:
    """Source and target of each pair of a corpus.

    Args:
        settings: where it is and in what form.
        codes: the languages, for forms that name them.
        swapped: TSV files hold the target first.

    Raises:
        ConfigError: unreadable or malformed; the message names file and place.
    """
    codes = settings.source_code or codes[0], settings.target_code or codes[1]
    form = _form(settings)
    if form == "tsv":
        rows = (columns[:2] for columns in read_tsv(settings.path))
        return ((row[1], row[0]) if swapped else (row[0], row[1]) for row in rows)
    if form == "parallel":
        return read_parallel(settings.path, settings.target_path)
    return (read_moses_zip if form == "moses" else read_tmx)(settings.path, codes)


def _form(settings: SourceSettings) -> str:
    if settings.format != "auto":
        return settings.format
    if settings.has_target_path:
        return "parallel"
    suffixes = settings.path.suffixes
    if ".tmx" in suffixes:
        return "tmx"
    return "moses" if suffixes[-1:] == [".zip"] else "tsv"


def read_tsv(path: Path) -> Iterator[list[str]]:
    """The columns of each line, two or more.

    Raises:
        ConfigError: unreadable, or a line that is not UTF-8 or has no tab; the message names it.
    """
    with open_bytes(path) as stream:
        for number, line in enumerate(text_lines(stream, str(path)), start=1):
            columns = line.split("\t")
            if len(columns) < 2:  # noqa: PLR2004  sentence and translation
                msg = f"{path}:{number}: expected two columns parted by a tab"
                raise ConfigError(msg)
            yield columns


def read_parallel(source: Path, target: Path) -> Iterator[tuple[str, str]]:
    """Lines of the same number of two files.

    Raises:
        ConfigError: unreadable, not UTF-8, or one file is longer than the other.
    """
    with open_bytes(source) as ours, open_bytes(target) as theirs:
        yield from _lines_together(
            text_lines(ours, str(source)), text_lines(theirs, str(target)), str(source), str(target)
        )


def _lines_together(
    source: Iterator[str], target: Iterator[str], source_name: str, target_name: str
) -> Iterator[tuple[str, str]]:
    for number, (one, other) in enumerate(zip_longest(source, target), start=1):
        if one is None or other is None:
            longer, shorter = source_name, target_name
            if one is None:
                longer, shorter = shorter, longer
            msg = f"{longer}: has a line {number}, and {shorter} ends before it"
            raise ConfigError(msg)
        yield one, other


def read_moses_zip(path: Path, codes: Codes) -> Iterator[tuple[str, str]]:
    """Pairs of a zip that holds a text file a language, named by its ending (``X.en``).

    Raises:
        ConfigError: no zip, damaged, or not one file for each language.
    """
    with reading(path), zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if "." in name and not name.endswith("/")]
        endings = [name.rpartition(".")[2] for name in names]
        source, target = (names[_closest(code, endings, path)] for code in codes)
        try:
            with archive.open(source) as ours, archive.open(target) as theirs:
                labels = f"{path}:{source}", f"{path}:{target}"
                yield from _lines_together(
                    text_lines(ours, labels[0]), text_lines(theirs, labels[1]), *labels
                )
        except (RuntimeError, NotImplementedError) as error:  # encrypted, unknown compression
            msg = f"{path}: {error}"
            raise ConfigError(msg) from error


def read_tmx(path: Path, codes: Codes) -> Iterator[tuple[str, str]]:
    """Pairs of a translation memory; units without both languages are left out.

    Entities are not resolved and nothing is fetched.

    Raises:
        ConfigError: unreadable or not well-formed, or a unit has two variants that fit a code.
    """
    with open_bytes(path) as stream:
        try:
            events = etree.iterparse(
                stream, tag="{*}tu", resolve_entities=False, no_network=True, load_dtd=False
            )
            for _, unit in events:
                if (pair := _unit_pair(unit, codes, path)) is not None:
                    yield pair
                unit.clear()
                while unit.getprevious() is not None:  # what was read stays in memory otherwise
                    del unit.getparent()[0]
        except etree.XMLSyntaxError as error:
            msg = f"{path}: not TMX ({error.msg})"
            raise ConfigError(msg) from error


def _unit_pair(unit: etree._Element, codes: Codes, path: Path) -> tuple[str, str] | None:
    variants = [
        (node.get(_XML_LANG) or node.get("lang") or "", node) for node in unit.iter("{*}tuv")
    ]
    found = [code for code, _ in variants]
    chosen = []
    for code in codes:
        if not any(_fits(code, other) for other in found):
            return None
        segment = variants[_closest(code, found, path)][1].find("{*}seg")
        if segment is None:
            return None
        chosen.append(_text_of(segment))
    return chosen[0], chosen[1]


def _text_of(node: etree._Element) -> str:
    parts = [node.text or ""]
    for child in node:
        if isinstance(child.tag, str) and etree.QName(child).localname not in _CODES:
            parts.append(_text_of(child))
        parts.append(child.tail or "")
    return "".join(parts)


def _closest(code: str, found: Sequence[str], path: Path) -> int:
    """Which of the codes is the one asked for: itself, else the only one of its language.

    Raises:
        ConfigError: none or several fit.
    """
    exact = [index for index, other in enumerate(found) if _plain(other) == _plain(code)]
    fitting = exact or [index for index, other in enumerate(found) if _fits(code, other)]
    if len(fitting) != 1:
        msg = (
            f"{path}: for '{code}' there should be one of {', '.join(found) or 'nothing'}; "
            "say which with source_code and target_code"
        )
        raise ConfigError(msg)
    return fitting[0]


def _fits(code: str, other: str) -> bool:
    return _plain(code).split("-")[0] == _plain(other).split("-")[0]


def _plain(code: str) -> str:
    return code.replace("_", "-").lower()
