"""``dragoman health``: whether a server takes requests, as an exit status for probes."""

from __future__ import annotations

import argparse
import sys
import urllib.error
import urllib.request
from http import HTTPStatus
from http.client import HTTPException

import grpc
from google.protobuf.wrappers_pb2 import Int32Value, StringValue

from dragoman.connection import Tls, resolve_target
from dragoman.errors import DragomanError
from dragoman.server_flags import add_server, seconds, tls_of

_TIMEOUT_SECONDS = 3.0
# A proxy that the environment names is for what goes out; that it answers says nothing of a server.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_NO_PROXY = [("grpc.enable_http_proxy", 0)]
_STATUS = {0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}


def health(arguments: list[str]) -> int:
    """Ask ``grpc.health.v1.Health/Check``, print the status; 0 if it is SERVING, else 1."""
    parser = argparse.ArgumentParser(
        prog="dragoman health", description="Exit 0 if a server takes requests, 1 if it does not."
    )
    parser.add_argument("--service", default="", help="ask of this service (default: the server)")
    parser.add_argument(
        "--timeout",
        type=seconds,
        default=_TIMEOUT_SECONDS,
        help=f"seconds to wait for an answer ({_TIMEOUT_SECONDS:.0f})",
    )
    parser.add_argument(
        "--url",
        help="ask there by HTTP instead, as http://127.0.0.1:9464/health, where no certificate "
        "is asked for",
    )
    add_server(parser)
    options = parser.parse_args(arguments)
    if options.url is not None:
        return _by_http(options.url, options.timeout)
    tls = tls_of(parser, options)
    try:
        status = check(resolve_target(options.server), options.service, options.timeout, tls=tls)
    except DragomanError as error:
        print(f"dragoman health: {error}", file=sys.stderr)
        return 1
    except grpc.RpcError as error:
        # Every error of a blocking call is a Call too, which the stubs do not know.
        reason = error.details() if isinstance(error, grpc.Call) else str(error)
        print(f"dragoman health: {reason}", file=sys.stderr)
        return 1
    print(status)
    return 0 if status == "SERVING" else 1


def _by_http(url: str, timeout_seconds: float) -> int:
    """0 if the answer is a 200."""
    if not url.startswith(("http://", "https://")):
        print(f"dragoman health: --url {url}: must begin with http:// or https://", file=sys.stderr)
        return 1
    try:
        with _DIRECT.open(url, timeout=timeout_seconds):
            print("SERVING")
            return 0
    except urllib.error.HTTPError as error:
        print("NOT_SERVING" if error.code == HTTPStatus.SERVICE_UNAVAILABLE else str(error))
    except (OSError, HTTPException, ValueError) as error:
        print(f"dragoman health: {error}", file=sys.stderr)
    return 1


def check(target: str, service: str, timeout_seconds: float, *, tls: Tls | None = None) -> str:
    """The health of a service, as grpc.health.v1 names it; "" is the server as a whole.

    The messages of grpc.health.v1 have one field each, a string and an enum, and are on the wire
    what protobuf's own wrappers are: the client needs no stubs of them.

    Raises:
        grpc.RpcError: it cannot be reached in time, or knows no such service.
        InvalidRequestError: the TLS files do not belong together.
    """
    channel = (
        grpc.insecure_channel(target, _NO_PROXY)
        if tls is None
        else grpc.secure_channel(target, tls.credentials(), _NO_PROXY)
    )
    with channel:
        ask = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=StringValue.SerializeToString,
            response_deserializer=Int32Value.FromString,
        )
        answer = ask(StringValue(value=service), timeout=timeout_seconds)
    return _STATUS.get(answer.value, f"status {answer.value}")
