"""``dragoman models``: what a server holds, and changes of it."""

from __future__ import annotations

import argparse
import dataclasses
import json

from dragoman.client import Client
from dragoman.errors import DragomanError
from dragoman.results import ModelInfo
from dragoman.server_flags import add_server, tls_of
from dragoman.translate_command import complain

_MOST_LANGUAGES = 6


def models(arguments: list[str]) -> int:
    """List, describe or change the server's models; 1 if the call fails."""
    parser = argparse.ArgumentParser(
        prog="dragoman models",
        description="List the models of a server, describe one, or change them under traffic.",
    )
    action = parser.add_mutually_exclusive_group()
    action.add_argument("name", nargs="?", help="describe this one, as JSON")
    action.add_argument(
        "--load",
        metavar="PATH",
        help="load this bundle, a path inside the server's model_root; replaces one of its name",
    )
    action.add_argument("--unload", metavar="NAME", help="unload this model")
    add_server(parser)
    options = parser.parse_args(arguments)
    tls = tls_of(parser, options)
    try:
        with Client(options.server, tls=tls) as client:
            for line in _model_lines(client, options):
                print(line)
    except DragomanError as error:
        return complain("models", error)
    return 0


def _model_lines(client: Client, options: argparse.Namespace) -> list[str]:
    """What the command does, and what there is to say of it."""
    if options.load is not None:
        loaded = client.load_model(options.load)
        replaced = loaded.replaced_digest
        said = f"loaded, replaces {replaced[:12]}" if replaced else "loaded"
        return [f"{_row(loaded.model)}\t{said}"]
    if options.unload is not None:
        return [f"{_row(client.unload_model(options.unload))}\tunloaded"]
    if options.name:
        model = dataclasses.asdict(client.get_model(options.name))
        return [json.dumps(model, indent=2, ensure_ascii=False)]
    return [_row(model) for model in client.list_models()]


def _row(model: ModelInfo) -> str:
    sides = (
        (model.source_languages, model.source_language),
        (model.target_languages, model.target_language),
    )
    pair = " -> ".join(_languages(codes, code) for codes, code in sides)
    return f"{model.name}\t{pair}\t{model.precision}\t{model.digest[:12]}"


def _languages(codes: tuple[str, ...], code: str) -> str:
    """As many as a line has room for; an older server tells only ``mul``."""
    if len(codes) <= _MOST_LANGUAGES:
        return ",".join(codes) or code
    return f"{','.join(codes[:_MOST_LANGUAGES])},... ({len(codes)})"
