"""``dragoman translate``: texts, or standard input line by line."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import functools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from dragoman import lines
from dragoman.aio import AsyncClient
from dragoman.connection import Tls
from dragoman.errors import DragomanError
from dragoman.lines import GivenTexts, Line, LineError, LineReader, Source
from dragoman.options import Beam, Decoding, GlossaryTerm, Greedy, Priority, Sampling
from dragoman.results import Delta, Translation
from dragoman.server_flags import add_server, seconds, tls_of

_TIMEOUT_SECONDS = 60.0


class _Call(TypedDict):
    """Keyword arguments of a client's call."""

    source_language: str
    target_language: str
    model: str | None
    decoding: Decoding
    timeout_seconds: float | None


def translate(arguments: list[str]) -> int:
    """Translate the texts given, or standard input line by line; 1 if a call fails."""
    parser = _translate_parser()
    options = parser.parse_intermixed_args(arguments)
    if options.scores and not options.json:
        parser.error("--scores shows nothing without --json")
    if not options.texts and sys.stdin is None:
        parser.error("no texts are given, and standard input is closed")
    tls = tls_of(parser, options)
    try:
        asyncio.run(_translate(options, tls))
    except (DragomanError, LineError) as error:
        return complain("translate", error)
    return 0


def _translate_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dragoman translate",
        description="Translate texts, or standard input: one line in, one line out, in order.",
    )
    parser.add_argument("texts", nargs="*", help="texts; none = read standard input")
    parser.add_argument(
        "--from", dest="source", default="en", help="source language (en); auto = find out"
    )
    parser.add_argument("--to", dest="target", required=True, help="target language, as zh-TW")
    parser.add_argument("--model", help="name of the model; default: the server chooses")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--stream", action="store_true", help="print pieces as they are decoded")
    output.add_argument("--json", action="store_true", help="print one JSON object a text")
    parser.add_argument("--scores", action="store_true", help="log-probabilities (with --json)")
    parser.add_argument(
        "--timeout",
        type=seconds,
        help=f"seconds a call may take ({_TIMEOUT_SECONDS:.0f} for texts, any for standard input)",
    )
    parser.add_argument(
        "--priority",
        type=Priority,
        choices=list(Priority),
        default=Priority.AUTOMATIC,
        help="bulk makes way for interactive work (unspecified: calls of many sentences are bulk)",
    )
    parser.add_argument("--tenant", help="whose work it is; tenants share the server fairly")
    text = parser.add_argument_group("text")
    text.add_argument("--html", action="store_true", help="the texts are HTML")
    text.add_argument(
        "--glossary",
        type=glossary,
        default=(),
        metavar="FILE",
        help="terms, one a line: source, tab, target",
    )
    text.add_argument(
        "--keep", action="append", default=[], metavar="WORD", help="leave this word as it is"
    )
    text.add_argument(
        "--no-protection", action="store_true", help="let placeholders and the like be translated"
    )
    decoding = parser.add_argument_group("decoding")
    decoding.add_argument("--max-tokens", type=int, help="most target tokens of a sentence")
    decoding.add_argument("--min-tokens", type=int, help="fewest target tokens of a sentence")
    decoding.add_argument("--prefix", default="", help="text that each translation begins with")
    decoding.add_argument("--temperature", type=float, help="sample, at this temperature")
    decoding.add_argument("--top-k", type=int, help="sample among this many tokens")
    decoding.add_argument("--top-p", type=float, help="sample among tokens of this probability")
    decoding.add_argument("--beam", type=int, metavar="K", help="search with so many hypotheses")
    decoding.add_argument("--length-penalty", type=float, help="of the beam; 1 if not given")
    decoding.add_argument(
        "--n-best", type=int, metavar="N", help="the N best of the beam (with --json)"
    )
    decoding.add_argument("--repetition-penalty", type=float, help="above 1: repeat less")
    decoding.add_argument("--no-repeat-ngram", type=int, metavar="N", help="no N tokens twice")
    decoding.add_argument("--attention", action="store_true", help="attention (with --json)")
    decoding.add_argument("--seed", type=int, help="sample, and the same each time")
    add_server(parser)
    return parser


def glossary(name: str) -> tuple[GlossaryTerm, ...]:
    """The terms of a file.

    Raises:
        argparse.ArgumentTypeError: it holds what is none.
    """
    try:
        lines = Path(name).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{name}: {getattr(error, 'strerror', None) or 'is no UTF-8'}"
        raise argparse.ArgumentTypeError(msg) from error
    terms = []
    for number, line in enumerate(lines, start=1):
        source, tab, target = line.partition("\t")
        if not line.strip():
            continue
        if not (tab and source.strip() and target.strip()):
            msg = f"{name}: line {number} is not: source, tab, target"
            raise argparse.ArgumentTypeError(msg)
        terms.append(GlossaryTerm(source.strip(), target.strip()))
    return tuple(terms)


def _decoding(options: argparse.Namespace) -> Decoding:
    drawn = {
        "temperature": options.temperature,
        "top_k": options.top_k,
        "top_p": options.top_p,
        "seed": options.seed,
    }
    given = {name: value for name, value in drawn.items() if value is not None}
    strategy: Greedy | Sampling | Beam = Sampling(**given) if given else Greedy()
    if options.beam is not None:
        penalty = 1.0 if options.length_penalty is None else options.length_penalty
        strategy = Beam(size=options.beam, length_penalty=penalty, candidates=options.n_best or 0)
    return Decoding(
        strategy=strategy,
        repetition_penalty=options.repetition_penalty,
        no_repeat_ngram_size=options.no_repeat_ngram,
        include_attention=options.attention,
        max_output_tokens=options.max_tokens,
        min_output_tokens=options.min_tokens,
        target_prefix=options.prefix,
        include_scores=options.scores,
        priority=options.priority,
        mime_type="text/html" if options.html else "",
        glossary=options.glossary,
        do_not_translate=tuple(options.keep),
        protect=not options.no_protection,
    )


def _call(options: argparse.Namespace) -> _Call:
    """What every call of the command asks for.

    Lines wait for each other in the server: how long one takes says nothing of its health, so
    standard input has no timeout of its own. A server that is gone is noticed by keepalive.
    """
    seconds = options.timeout
    if seconds is None and options.texts:
        seconds = _TIMEOUT_SECONDS
    return _Call(
        source_language="" if options.source == "auto" else options.source,
        target_language=options.target,
        model=options.model,
        decoding=_decoding(options),
        timeout_seconds=seconds,
    )


async def _translate(options: argparse.Namespace, tls: Tls | None) -> None:
    async with AsyncClient(options.server, tls=tls, tenant=options.tenant) as client:
        source: Source
        source = GivenTexts(options.texts) if options.texts else LineReader(sys.stdin.fileno())
        if options.stream:
            await _stream_lines(source, client, _call(options))
            return

        async def ask(texts: list[str]) -> Sequence[Translation]:
            return await client.translate(texts, **_call(options))

        show = functools.partial(_show, noun=source.noun, as_json=options.json)
        await lines.translate_lines(source, ask, show)


def _show(done: list[Line[Translation]], *, noun: str, as_json: bool) -> None:
    for line in done:
        if as_json:
            # A blank line gets an object too: those who read JSON lines stumble over others.
            found = {"text": line.text} if line.result is None else dataclasses.asdict(line.result)
            print(json.dumps(found, ensure_ascii=False))
        else:
            print(line.text if line.result is None else line.result.text)
        if line.result is not None:
            _warn(f"{noun} {line.number}", line.result)
    sys.stdout.flush()


async def _stream_lines(source: Source, client: AsyncClient, call: _Call) -> None:
    """Print the pieces of one line after the other.

    Raises:
        LineError: a line cannot be translated; those before it are printed.
    """
    number = 0
    while batch := await source.take():
        for line in batch:
            number += 1
            name = f"{source.noun} {number}"
            text = lines.decode(line, name)
            if not text.strip():
                print(text, flush=True)
                continue
            try:
                await lines.insist(functools.partial(_stream_text, text, name, client, call))
            except DragomanError as error:
                msg = f"{name}: {lines.reason(error).removeprefix('text: ')}"
                raise LineError(msg) from error


async def _stream_text(text: str, name: str, client: AsyncClient, call: _Call) -> None:
    begun = False
    async with contextlib.aclosing(client.translate_stream(text, **call)) as events:
        try:
            async for event in events:
                begun = True
                if isinstance(event, Delta):
                    print(event.text, end="", flush=True)
                else:
                    _warn(name, event)
        finally:
            if begun:  # a call that was refused has no line to end
                print(flush=True)


def _warn(name: str, result: Translation) -> None:
    for warning in result.warnings:
        print(f"dragoman translate: {name}: {warning.message}", file=sys.stderr)


def complain(command: str, error: DragomanError | LineError) -> int:
    """Say in one line why the command ends; its exit status."""
    message = lines.reason(error) if isinstance(error, DragomanError) else str(error)
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
    print(f"dragoman {command}: {message}", file=sys.stderr)
    return 1
