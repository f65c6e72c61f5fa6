"""The flags of every command that calls a server: where it is, and how to reach it."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from dragoman.connection import API_KEY_VARIABLE, DEFAULT_TARGET, TARGET_VARIABLE, Tls


def add_server(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say where the server is and how to reach it."""
    server = parser.add_argument_group(
        "server", f"The API key comes from ${API_KEY_VARIABLE}; arguments are seen by everyone."
    )
    text = f"host:port (${TARGET_VARIABLE}, else {DEFAULT_TARGET})"
    server.add_argument("--server", metavar="TARGET", help=text)
    server.add_argument("--tls", action="store_true", help="encrypt the connection")
    server.add_argument("--tls-roots", type=Path, help="trust these certificates (PEM)")
    server.add_argument("--tls-key", type=Path, help="the client's key (PEM)")
    server.add_argument("--tls-certificate", type=Path, help="the client's certificate (PEM)")


def seconds(text: str) -> float:
    """A duration from the command line.

    Raises:
        ValueError: it is none; argparse says so.
    """
    value = float(text)
    if not (math.isfinite(value) and value > 0):
        raise ValueError
    return value


def tls_of(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Tls | None:
    """What the flags say; a file that cannot be read is an error of the command line."""
    files = options.tls_roots, options.tls_key, options.tls_certificate
    if not (options.tls or any(files)):
        return None
    try:
        roots, key, certificate = (file.read_bytes() if file else None for file in files)
    except OSError as error:
        parser.error(f"{error.filename}: {error.strerror}")
    return Tls(root_certificates=roots, client_key=key, client_certificates=certificate)
