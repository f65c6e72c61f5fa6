"""The key file: names, SHA-256 of the keys, and what each may. The keys themselves are nowhere.

    [keys.website]
    sha256 = ["9f86d0..."]          # several while one key replaces another
    characters_per_minute = 200000  # and the other limits of quota.py
    admin = true                    # may load and unload models

A key is 256 random bits, so a plain hash is enough: there is nothing to guess.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from server.access.quota import Limits
from server.errors import SettingsFault

# A prefix that scanners of repositories can look for.
KEY_PREFIX = "dgm_"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_Count = Annotated[int, Field(ge=1)]
_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A caller that the file knows."""

    name: str
    limits: Limits
    admin: bool = False
    """Whether it may load and unload models."""


class _Entry(BaseModel):
    """A table of the file."""

    model_config = ConfigDict(extra="forbid", strict=True)

    sha256: Annotated[
        list[_Digest],
        Field(min_length=1),
        BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
    ]
    admin: bool = False
    requests_per_minute: _Count | None = None
    characters_per_minute: _Count | None = None
    characters_per_day: _Count | None = None
    tokens_per_minute: _Count | None = None
    tokens_per_day: _Count | None = None
    concurrent_requests: _Count | None = None

    def limits(self) -> Limits:
        return Limits(**{one.name: getattr(self, one.name) for one in fields(Limits)})


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    keys: dict[str, _Entry] = {}


class KeyRing:
    """The keys of one reading of the file."""

    def __init__(self, entries: list[tuple[str, ApiKey]]) -> None:
        """Set (SHA-256 in hexadecimal, key) pairs."""
        self._salt = os.urandom(32)
        self._keys = {self._blind(digest): (digest, key) for digest, key in entries}

    def __len__(self) -> int:
        """How many hashes there are."""
        return len(self._keys)

    @property
    def names(self) -> set[str]:
        """Whose keys they are."""
        return {key.name for _, key in self._keys.values()}

    def find(self, secret: str) -> ApiKey | None:
        """The key that this is, or None.

        The time taken tells nothing of a hash: it is looked up under a digest that nobody outside
        can compute, and compared in constant time.
        """
        digest = digest_of(secret)
        known, key = self._keys.get(self._blind(digest), ("0" * 64, None))
        return key if hmac.compare_digest(known, digest) else None

    def _blind(self, digest: str) -> bytes:
        return hmac.digest(self._salt, digest.encode(), "sha256")


def digest_of(secret: str) -> str:
    """What the file keeps of a key."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def new_secret() -> str:
    """A new key, of 256 random bits."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def read_keys(path: Path) -> KeyRing:
    """The keys of a file.

    Raises:
        SettingsFault: it cannot be read, or is not of the form above; says where, and no hash.
    """
    try:
        parsed = _File.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is no UTF-8"
        msg = f"key_file: {path}: {reason}"
        raise SettingsFault(msg) from error
    except tomllib.TOMLDecodeError as error:
        msg = f"key_file: {path}: is no TOML: {error}"
        raise SettingsFault(msg) from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        msg = f"key_file: {path}: {place}: {first['msg']}"
        raise SettingsFault(msg) from None
    return KeyRing(_entries(path, parsed))


def _entries(path: Path, parsed: _File) -> list[tuple[str, ApiKey]]:
    found: dict[str, ApiKey] = {}
    for name, entry in parsed.keys.items():
        if not NAME.fullmatch(name):
            msg = f"key_file: {path}: keys.{name}: a name is letters, digits, '_', '.' and '-'"
            raise SettingsFault(msg)
        key = ApiKey(name, entry.limits(), entry.admin)
        for digest in entry.sha256:
            if digest in found:
                msg = (
                    f"key_file: {path}: keys.{name}: has a hash that keys.{found[digest].name} has"
                )
                raise SettingsFault(msg)
            found[digest] = key
    return list(found.items())
