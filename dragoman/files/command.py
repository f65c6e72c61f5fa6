"""``dragoman translate-file``: reads IN, translates what is missing, moves OUT into place."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

from dragoman import lines
from dragoman.aio import AsyncClient
from dragoman.connection import Tls
from dragoman.errors import DragomanError, InvalidRequestError
from dragoman.files import formats, journal
from dragoman.files.document import Document, FileFault, Outcome
from dragoman.files.journal import Journal
from dragoman.files.progress import progress
from dragoman.files.translator import DOUBTFUL, Call, Sink, translate
from dragoman.options import Beam, Decoding, Greedy, Priority
from dragoman.results import Translation, WarningCode
from dragoman.server_flags import add_server, tls_of
from dragoman.translate_command import glossary

# How a translation came about; nothing is missing from it.
_QUIET = frozenset({WarningCode.RETRIED, WarningCode.SENTENCE_SPLIT, WarningCode.PIVOTED})


def translate_file(arguments: list[str]) -> int:
    """Translate a file; 1 if it fails, or a segment had to stay as it was."""
    parser = _parser()
    options = parser.parse_args(arguments)
    tls = tls_of(parser, options)
    try:
        return _run(options, tls)
    except (DragomanError, FileFault) as error:
        message = lines.reason(error) if isinstance(error, DragomanError) else str(error)
    except ModuleNotFoundError as error:
        message = f"'{options.input.suffix}' needs {error.name}, which is not installed; "
        message += "pip install 'dragoman[files]'"
    except OSError as error:
        message = f"{error.filename or options.output}: {error.strerror}"
    _say(message)
    return 1


@dataclass(slots=True)
class _Work:
    """A document on its way."""

    document: Document
    keys: list[str]
    """One a segment."""
    journal: Journal
    refused: dict[str, Outcome] = field(default_factory=dict)
    """Kept nowhere: another server may take them."""

    def missing(self) -> dict[str, str]:
        """The texts that no outcome is known of, each once."""
        texts = zip(self.keys, self.document.segments, strict=True)
        return {key: one.text for key, one in texts if key not in self.journal.outcomes}

    def done(self, key: str, result: Translation) -> None:
        """Keep a translation."""
        doubtful = any(warning.code in DOUBTFUL for warning in result.warnings)
        remarks = tuple(one.message for one in result.warnings if one.code not in _QUIET)
        self.journal.add(key, Outcome(result.text, doubtful, remarks))

    def refuse(self, key: str, text: str, error: InvalidRequestError) -> None:
        """Leave a text as it is."""
        remark = f"left as it is: {lines.reason(error)}"
        self.refused[key] = Outcome(text, doubtful=True, remarks=(remark,))

    def outcomes(self) -> list[Outcome]:
        """One a segment, in order."""
        known = self.journal.outcomes
        return [known.get(key) or self.refused[key] for key in self.keys]

    def remarks(self) -> list[str]:
        """What there is to say, in the order of the document."""
        found = zip(self.document.segments, self.outcomes(), strict=True)
        said = [f"{one.place}: {text}" for one, outcome in found for text in outcome.remarks]
        return [*said, *self.document.notes]


def _run(options: argparse.Namespace, tls: Tls | None) -> int:
    output: Path = options.output
    _check(options.input, output, overwrite=options.overwrite)
    reading = formats.Reading(
        options.target, options.format, options.keys, options.overwrite_translations
    )
    mark, document = formats.read(options.input, reading)
    call = _call(options, document.mime_type)
    keys = [journal.key_of(one.text, repr(call)) for one in document.segments]
    with journal.opened(output) as kept:
        work = _Work(document, keys, kept)
        asyncio.run(_translate(work, options, tls, call))
        kept.flush()
        _put(mark + document.render(work.outcomes()), output)
        journal.path_of(output).unlink(missing_ok=True)
    remarks = work.remarks()
    for remark in remarks:
        _say(remark)
    _say(f"{output}: {_count(len(keys), 'segment')}, {_count(len(remarks), 'remark')}")
    return 1 if work.refused else 0


async def _translate(work: _Work, options: argparse.Namespace, tls: Tls | None, call: Call) -> None:
    missing = work.missing()
    total = len(set(work.keys))
    if not missing:
        return
    async with AsyncClient(options.server, tls=tls, tenant=options.tenant) as client:
        with progress(total, total - len(missing)) as advance:

            def done(key: str, result: Translation) -> None:
                work.done(key, result)
                advance()

            def refused(key: str, error: InvalidRequestError) -> None:
                work.refuse(key, missing[key], error)
                advance()

            await translate(client, missing, call, Sink(done, refused))


def _check(source: Path, output: Path, *, overwrite: bool) -> None:
    """Nothing, if the output may be written.

    Raises:
        FileFault: it may not.
    """
    if output.exists() and source.exists() and output.samefile(source):
        msg = f"{output}: is the input"
        raise FileFault(msg)
    if output.is_dir():
        msg = f"{output}: is a folder"
        raise FileFault(msg)
    if output.exists() and not overwrite:
        msg = f"{output}: is there already; --overwrite replaces it"
        raise FileFault(msg)


def _put(text: str, output: Path) -> None:
    """Have the output whole or not at all."""
    partial = output.with_name(output.name + ".partial")
    with partial.open("wb") as file:
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())
    partial.replace(output)


def _call(options: argparse.Namespace, mime_type: str) -> Call:
    decoding = Decoding(
        strategy=Greedy() if options.beam is None else Beam(size=options.beam),
        priority=Priority.BULK,
        mime_type=mime_type,
        glossary=options.glossary,
        do_not_translate=tuple(options.keep),
        protect=not options.no_protection,
    )
    return Call(
        source_language="" if options.source == "auto" else options.source,
        target_language=options.target,
        model=options.model,
        decoding=decoding,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dragoman translate-file",
        description="Translate a file and keep its layout: " + ", ".join(formats.SUFFIXES) + "."
        " Stopped at any moment, the same command goes on (OUT.parts.jsonl keeps what is done).",
    )
    parser.add_argument("input", type=Path, metavar="IN", help="the file, in UTF-8")
    parser.add_argument("output", type=Path, metavar="OUT", help="written when all is translated")
    parser.add_argument(
        "--from", dest="source", default="en", help="source language (en); auto = find out"
    )
    parser.add_argument("--to", dest="target", required=True, help="target language, as zh-TW")
    parser.add_argument("--model", help="name of the model; default: the server chooses")
    parser.add_argument("--format", choices=formats.NAMES, help="if the name of IN does not tell")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it is there")
    parser.add_argument(
        "--overwrite-translations",
        action="store_true",
        help=".po: translate messages anew that have a translation",
    )
    parser.add_argument(
        "--keys", nargs="+", default=(), metavar="PATTERN",
        help=".json: only strings whose path matches one, as 'messages.*.title'",
    )  # fmt: skip
    parser.add_argument("--beam", type=int, metavar="K", help="search with so many hypotheses")
    parser.add_argument(
        "--glossary",
        type=glossary,
        default=(),
        metavar="FILE",
        help="terms, one a line: source, tab, target",
    )
    parser.add_argument(
        "--keep", action="append", default=[], metavar="WORD", help="leave this word as it is"
    )
    parser.add_argument(
        "--no-protection", action="store_true", help="let placeholders and the like be translated"
    )
    parser.add_argument("--tenant", help="whose work it is; tenants share the server fairly")
    add_server(parser)
    return parser


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _say(message: str) -> None:
    print(f"dragoman translate-file: {message}", file=sys.stderr)
