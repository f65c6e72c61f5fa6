"""TLS files, checked before gRPC sees them: it says nothing useful about a bad one."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from server.access.fresh import Fresh
from server.errors import SettingsFault


@dataclass(frozen=True, slots=True)
class Certificates:
    """What a TLS door shows and whom it trusts, in PEM."""

    chain: bytes
    key: bytes
    client_ca: bytes | None
    """Callers must show a certificate of this authority."""


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """Where they lie."""

    chain: Path
    key: Path
    client_ca: Path | None = None

    def read(self) -> Certificates:
        """Read and check them.

        Raises:
            SettingsFault: a file cannot be read, is no PEM, or key and certificate do not belong
                together.
        """
        contents = Certificates(
            _content("tls_certificate", self.chain),
            _content("tls_key", self.key),
            None if self.client_ca is None else _content("tls_client_ca", self.client_ca),
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            # An encrypted key would make OpenSSL ask the terminal for a password.
            context.load_cert_chain(self.chain, self.key, password=_no_password)
        except (ssl.SSLError, OSError, ValueError) as error:
            msg = f"tls_certificate {self.chain} and tls_key {self.key}: {_reason(error)}"
            raise SettingsFault(msg) from error
        if self.client_ca is not None:
            try:
                context.load_verify_locations(self.client_ca)
            except (ssl.SSLError, OSError) as error:
                msg = f"tls_client_ca: {self.client_ca}: {_reason(error)}"
                raise SettingsFault(msg) from error
        return contents

    def follow(self) -> Fresh[Certificates]:
        """Their contents, read again when they change.

        Raises:
            SettingsFault: as :meth:`read`.
        """
        return Fresh(self.paths(), self.read)

    def paths(self) -> list[Path]:
        """Every file."""
        return [self.chain, self.key, *([self.client_ca] if self.client_ca else [])]


def _content(setting: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        msg = f"{setting}: {path}: {error.strerror}"
        raise SettingsFault(msg) from error


def _no_password() -> str:
    msg = "the key is encrypted, and nobody is there to give a password"
    raise ValueError(msg)


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError) and error.reason:
        reason = error.reason.lower().replace("_", " ")
        return f"no certificate and key that belong together ({reason})"
    return str(error)
