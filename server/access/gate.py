"""Lets callers in: by their key, within their quota. Every door asks it, whatever it speaks."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextvars import ContextVar
from pathlib import Path

from server.access.fresh import Fresh
from server.access.keys import ApiKey, KeyRing, read_keys
from server.access.quota import Limits, Quota
from server.errors import PermissionDenied, Unauthenticated

_AUTHORIZATION = "authorization"
_API_KEYS = frozenset({"x-api-key", "x-goog-api-key"})
_BEARER = "bearer "


class Visit:
    """One request of a caller that was let in, until :meth:`leave`."""

    def __init__(self, key: ApiKey | None = None, quota: Quota | None = None) -> None:
        """Whose it is; without a key it is anybody's, and nothing is counted."""
        self._key = key
        self._quota = quota
        self._characters = 0
        self._left = False

    @property
    def tenant(self) -> str | None:
        """The key's name; None where the server asks for no keys."""
        return None if self._key is None else self._key.name

    def charge(self, characters: int) -> None:
        """Count source text, before anything is computed.

        Raises:
            QuotaExceeded: it is more than the caller has left.
        """
        if self._quota is not None:
            self._quota.take_characters(characters, time.monotonic())
            self._characters += characters

    def spend(self, tokens: int) -> None:
        """Count tokens that were read and written."""
        if self._quota is not None:
            self._quota.use(tokens, "tokens")

    def refund(self) -> None:
        """Give the characters back: the request was refused, and nothing was computed."""
        if self._quota is not None:
            self._quota.use(-self._characters, "characters")
            self._characters = 0

    def characters(self) -> tuple[int, int | None] | None:
        """Characters used, and how many may be in a day; None where the server asks for no keys."""
        return None if self._quota is None else self._quota.characters(time.monotonic())

    def leave(self) -> None:
        """The request has ended; calling it again does nothing."""
        if self._quota is not None and not self._left:
            self._left = True
            self._quota.end()

    def check_admin(self) -> None:
        """Pass.

        Raises:
            PermissionDenied: its key may not change the server's models.
        """
        if self._key is not None and not self._key.admin:
            msg = f"the key '{self._key.name}' may not change this server's models"
            raise PermissionDenied(msg)


ANYBODY = Visit()
current_visit: ContextVar[Visit] = ContextVar("current_visit", default=ANYBODY)
"""The visit that the running request belongs to; a door sets it."""


class Gate:
    """The keys in force, and what their owners have used. Used in one event loop."""

    def __init__(self, key_file: Path | None) -> None:
        """Read the key file; without one everybody may come in.

        Raises:
            SettingsFault: it cannot be used.
        """
        self._ring: Fresh[KeyRing] | None = None
        if key_file is not None:
            self._ring = Fresh([key_file], lambda: read_keys(key_file))
        self._quotas: dict[str, Quota] = {}

    @property
    def asks_for_keys(self) -> bool:
        """Whether a caller needs one."""
        return self._ring is not None

    def reload(self) -> None:
        """Look at the key file now."""
        if self._ring is not None:
            self._ring.look()

    def enter(self, credential: str | None) -> Visit:
        """Let a request in; call ``leave`` on what is returned when it has ended.

        Args:
            credential: the key that came with it, see :func:`credential_of`.

        Raises:
            Unauthenticated: no key came, or none that is known.
            QuotaExceeded: its owner has used what it may.
        """
        if self._ring is None:
            return ANYBODY
        key = self.identify(credential)
        quota = self._quota(key)
        quota.begin(time.monotonic())
        return Visit(key, quota)

    def identify(self, credential: str | None) -> ApiKey | None:
        """Whose key it is, counting nothing; None where no keys are asked for.

        Raises:
            Unauthenticated: no key came, or none that is known.
        """
        if self._ring is None:
            return None
        if credential is None:
            msg = "this server asks for a key: authorization: Bearer KEY"
            raise Unauthenticated(msg)
        key = self._ring.get().find(credential)
        if key is None:
            msg = "the key is not known here"
            raise Unauthenticated(msg, shown=True)
        return key

    def _quota(self, key: ApiKey | None) -> Quota:
        """What its owner has used; other limits begin anew."""
        name, limits = ("", Limits()) if key is None else (key.name, key.limits)
        quota = self._quotas.get(name)
        if quota is None or quota.limits != limits:
            quota = self._quotas[name] = Quota(name, limits, time.monotonic())
        return quota


def credential_of(headers: Iterable[tuple[str, str | bytes]]) -> str | None:
    """The key among a request's headers, by ``authorization: Bearer`` or ``x-api-key``."""
    for name, value in headers:
        if not isinstance(value, str):
            continue
        if name.lower() == _AUTHORIZATION and value[: len(_BEARER)].lower() == _BEARER:
            return value[len(_BEARER) :].strip()
        if name.lower() in _API_KEYS:
            return value.strip()
    return None
