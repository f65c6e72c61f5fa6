"""Whose work a request is, where keys do not say it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable

_TENANT_KEY = "dragoman-tenant"
# Stochastic fairness queueing (McKenney 1990): the line tells this many tenants apart and no more,
# whatever callers say; who shares a number with whom changes with every start.
_TENANTS = 1024
_SALT = os.urandom(16)


def tenant_of(headers: Iterable[tuple[str, str | bytes]]) -> str:
    """What the caller or a proxy in front says: a number that tells no name; "" = nothing."""
    for key, value in headers:
        if key == _TENANT_KEY and isinstance(value, str) and value:
            digest = hashlib.blake2b(
                value.encode("utf-8", "surrogateescape"), key=_SALT, digest_size=8
            ).digest()
            return str(int.from_bytes(digest) % _TENANTS)
    return ""
