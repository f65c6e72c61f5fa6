"""Where to call, with which channel options and credentials: what both clients share."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from importlib import resources

import grpc

from dragoman.errors import InvalidRequestError

DEFAULT_TARGET = "localhost:50051"
TARGET_VARIABLE = "DRAGOMAN_TARGET"
API_KEY_VARIABLE = "DRAGOMAN_API_KEY"
_MAX_MESSAGE_BYTES = 64 * 1024 * 1024

# gRFC A6, in a file of its own so that clients in other languages can be given the same. A
# translation has no side effects, so a call that met no server, or one that was warming up or
# leaving, may be made again; gRPC waits as long as the server's pushback asks. RESOURCE_EXHAUSTED
# is not among the codes: a caller should know that it is too fast. Retries stop while more than
# half of the throttling's tokens are gone, lest a server that is down meet four times the calls.
SERVICE_CONFIG = json.loads(
    resources.files("dragoman").joinpath("service_config.json").read_text(encoding="utf-8")
)

CHANNEL_OPTIONS: list[tuple[str, str | int]] = [
    ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    # Else gRPC waits up to two minutes before it tries a server again that was away; so the four
    # attempts of a call outlast the wait after a short restart.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 500),
    # A server that vanished without a word is noticed, also by a call without a timeout.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """What to trust and who we are, in PEM; with nothing given, gRPC's own roots are trusted."""

    root_certificates: bytes | None = None
    client_key: bytes | None = None
    """For a server that asks who calls; needs ``client_certificates``."""
    client_certificates: bytes | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """For a channel.

        Raises:
            InvalidRequestError: of key and certificates only one is there.
        """
        if (self.client_key is None) != (self.client_certificates is None):
            msg = "tls: client_key and client_certificates go together"
            raise InvalidRequestError(msg)
        return grpc.ssl_channel_credentials(
            self.root_certificates, self.client_key, self.client_certificates
        )


def resolve_target(target: str | None) -> str:
    """The address given, that of the environment, or the default.

    Raises:
        InvalidRequestError: it is a URL; gRPC would look for a host named ``http``.
    """
    found = target or os.environ.get(TARGET_VARIABLE) or DEFAULT_TARGET
    if found.startswith(("http://", "https://")):
        msg = f"target: '{found}' is a URL; give host:port"
        raise InvalidRequestError(msg)
    return found


def call_metadata(api_key: str | None, tenant: str | None = None) -> tuple[tuple[str, str], ...]:
    """Metadata of every call.

    Raises:
        InvalidRequestError: the key or the tenant cannot stand in a header; it is not repeated.
    """
    key = api_key or os.environ.get(API_KEY_VARIABLE)
    metadata = []
    if key:
        metadata.append(("authorization", f"Bearer {_header('api_key', key)}"))
    if tenant:
        metadata.append(("dragoman-tenant", _header("tenant", tenant)))
    return tuple(metadata)


def _header(name: str, value: str) -> str:
    if not (value.isascii() and value.isprintable()):
        msg = f"{name}: holds characters other than printable ASCII"
        raise InvalidRequestError(msg)
    return value
