"""Credentials of an encrypted door, which follow their files without a restart."""

from __future__ import annotations

import ssl

import grpc

from server.access.certificates import CertificateFiles, Certificates
from server.access.fresh import Fresh
from server.settings import Settings


def server_credentials(settings: Settings) -> grpc.ServerCredentials | None:
    """What the settings ask for; None = nothing is encrypted.

    Raises:
        SettingsFault: a file cannot be used.
    """
    files = _files(settings)
    if files is None:
        return None
    follow = files.follow()
    # gRPC asks before each handshake, and keeps what it has where it is given None.
    return grpc.dynamic_ssl_server_credentials(
        _configuration(follow.get()),
        _Changes(follow),  # type: ignore[arg-type]  # the stubs do not know that None may be
        require_client_authentication=settings.tls_client_ca is not None,
    )


def ssl_context(settings: Settings) -> ssl.SSLContext | None:
    """The same for a door that Python's own TLS serves; None = nothing is encrypted.

    Raises:
        SettingsFault: a file cannot be used.
    """
    files = _files(settings)
    if files is None:
        return None
    current = Fresh(files.paths(), lambda: _context(files))

    def choose(
        connection: ssl.SSLObject | ssl.SSLSocket, _: str | None, __: ssl.SSLContext
    ) -> None:
        # Called in each handshake, with or without a name: the files may have changed.
        connection.context = current.get()

    context = _context(files)
    context.sni_callback = choose
    return context


def _context(files: CertificateFiles) -> ssl.SSLContext:
    files.read()  # says what is wrong with them, which loading them does not
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.chain, files.key)
    context.set_alpn_protocols(["http/1.1"])
    if files.client_ca is not None:
        context.load_verify_locations(files.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _files(settings: Settings) -> CertificateFiles | None:
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    return CertificateFiles(
        settings.tls_certificate, settings.tls_key, client_ca=settings.tls_client_ca
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
