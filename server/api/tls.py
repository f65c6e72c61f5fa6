"""Credentials of an encrypted door, which follow their files without a restart."""

from __future__ import annotations

import grpc

from server.access.certificates import CertificateFiles, Certificates
from server.access.fresh import Fresh
from server.settings import Settings


def server_credentials(settings: Settings) -> grpc.ServerCredentials | None:
    """What the settings ask for; None = nothing is encrypted.

    Raises:
        SettingsFault: a file cannot be used.
    """
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    files = CertificateFiles(
        settings.tls_certificate, settings.tls_key, client_ca=settings.tls_client_ca
    )
    follow = files.follow()
    # gRPC asks before each handshake, and keeps what it has where it is given None.
    return grpc.dynamic_ssl_server_credentials(
        _configuration(follow.get()),
        _Changes(follow),  # type: ignore[arg-type]  # the stubs do not know that None may be
        require_client_authentication=settings.tls_client_ca is not None,
    )


class _Changes:
    """A new configuration, once, after the files have changed."""

    def __init__(self, follow: Fresh[Certificates]) -> None:
        self._follow = follow
        self._given = follow.get()

    def __call__(self) -> grpc.ServerCertificateConfiguration | None:
        current = self._follow.get()
        if current is self._given:
            return None
        self._given = current
        return _configuration(current)


def _configuration(certificates: Certificates) -> grpc.ServerCertificateConfiguration:
    pair = [(certificates.key, certificates.chain)]
    return grpc.ssl_server_certificate_configuration(pair, certificates.client_ca)
