"""``dragoman translate`` and ``dragoman models``."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import sys
from pathlib import Path

from dragoman.aio import AsyncClient
from dragoman.client import Client
from dragoman.connection import DEFAULT_TARGET, TARGET_VARIABLE, Tls
from dragoman.errors import DragomanError
from dragoman.lines import LineError, read_chunks, translate_lines
from dragoman.options import Decoding, Sampling
from dragoman.results import Delta, Translation


def translate(arguments: list[str]) -> int:
    """Translate the texts given, or standard input line by line; 1 if a call fails."""
    options = _translate_parser().parse_args(arguments)
    try:
        if options.texts:
            _translate_texts(options)
        else:
            asyncio.run(_translate_input(options))
    except (DragomanError, LineError) as error:
        sys.stdout.flush()
        print(f"dragoman translate: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def models(arguments: list[str]) -> int:
    """List the server's models, or describe one; 1 if the call fails."""
    parser = argparse.ArgumentParser(prog="dragoman models", description=models.__doc__)
    parser.add_argument("name", nargs="?", help="describe this one")
    _add_server(parser)
    options = parser.parse_args(arguments)
    try:
        with Client(options.server, tls=_tls(options)) as client:
            found = [client.get_model(options.name)] if options.name else client.list_models()
    except DragomanError as error:
        print(f"dragoman models: {error}", file=sys.stderr)
        return 1
    for model in found:
        if options.name:
            print(json.dumps(dataclasses.asdict(model), indent=1, ensure_ascii=False))
        else:
            pair = f"{model.source_language} -> {model.target_language}"
            print(f"{model.name}\t{pair}\t{model.precision}\t{model.digest[:12]}")
    return 0


def _translate_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dragoman translate",
        description="Translate texts, or standard input: one line in, one line out, in order.",
    )
    parser.add_argument("texts", nargs="*", help="texts; none = read standard input")
    parser.add_argument("--from", dest="source", default="en", help="source language (en)")
    parser.add_argument("--to", dest="target", required=True, help="target language, as zh-TW")
    parser.add_argument("--model", help="name of the model; default: the server chooses")
    parser.add_argument("--stream", action="store_true", help="print pieces as they are decoded")
    parser.add_argument("--json", action="store_true", help="print one JSON object a text")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds a call may take")
    parser.add_argument("--max-tokens", type=int, help="most target tokens of a sentence")
    parser.add_argument("--min-tokens", type=int, help="fewest target tokens of a sentence")
    parser.add_argument("--prefix", default="", help="text that each translation begins with")
    parser.add_argument("--scores", action="store_true", help="log-probabilities (with --json)")
    parser.add_argument("--temperature", type=float, help="sample, at this temperature")
    parser.add_argument("--top-k", type=int, help="sample among this many tokens")
    parser.add_argument("--top-p", type=float, help="sample among tokens of this probability")
    parser.add_argument("--seed", type=int, help="sample the same each time")
    _add_server(parser)
    return parser


def _add_server(parser: argparse.ArgumentParser) -> None:
    text = f"host:port (${TARGET_VARIABLE}, else {DEFAULT_TARGET})"
    parser.add_argument("--server", help=text)
    parser.add_argument("--tls", action="store_true", help="encrypt the connection")
    parser.add_argument("--tls-roots", type=Path, help="trust these certificates (PEM)")
    parser.add_argument("--tls-key", type=Path, help="the client's key (PEM)")
    parser.add_argument("--tls-certificate", type=Path, help="the client's certificate (PEM)")


def _tls(options: argparse.Namespace) -> Tls | None:
    files = options.tls_roots, options.tls_key, options.tls_certificate
    if not (options.tls or any(files)):
        return None
    roots, key, certificate = (file.read_bytes() if file else None for file in files)
    return Tls(root_certificates=roots, client_key=key, client_certificates=certificate)


def _decoding(options: argparse.Namespace) -> Decoding:
    drawn = {
        "temperature": options.temperature,
        "top_k": options.top_k,
        "top_p": options.top_p,
        "seed": options.seed,
    }
    given = {name: value for name, value in drawn.items() if value is not None}
    return Decoding(
        sampling=Sampling(**given) if given else None,
        max_output_tokens=options.max_tokens,
        min_output_tokens=options.min_tokens,
        target_prefix=options.prefix,
        include_scores=options.scores,
    )


def _call(options: argparse.Namespace) -> dict[str, object]:
    """Keyword arguments of a client's call."""
    return {
        "source_language": options.source,
        "target_language": options.target,
        "model": options.model,
        "decoding": _decoding(options),
        "timeout_seconds": options.timeout,
    }


def _translate_texts(options: argparse.Namespace) -> None:
    with Client(options.server, tls=_tls(options)) as client:
        if options.stream:
            for text in options.texts:
                for event in client.translate_stream(text, **_call(options)):  # type: ignore[arg-type]
                    _show(event, options)
            return
        for result in client.translate(options.texts, **_call(options)):  # type: ignore[call-overload]
            _show(result, options)


def _show(event: Delta | Translation, options: argparse.Namespace) -> None:
    if isinstance(event, Delta):
        if not options.json:
            print(event.text, end="", flush=True)
        return
    if not options.stream or options.json:
        print(_line(event, options))
    else:
        print()
    _warn(event)


def _line(result: Translation, options: argparse.Namespace) -> str:
    if options.json:
        return json.dumps(dataclasses.asdict(result), ensure_ascii=False)
    return result.text


def _warn(result: Translation) -> None:
    for warning in result.warnings:
        print(f"dragoman translate: warning: {warning.message}", file=sys.stderr)


async def _translate_input(options: argparse.Namespace) -> None:
    async with AsyncClient(options.server, tls=_tls(options)) as client:

        async def call(texts: list[str]) -> list[str]:
            answers = await client.translate(texts, **_call(options))  # type: ignore[call-overload]
            for answer in answers:
                _warn(answer)
            return [_line(answer, options) for answer in answers]

        def write(line: str) -> None:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()

        await translate_lines(read_chunks(sys.stdin.fileno()), call, write)
