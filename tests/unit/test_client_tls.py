"""Encrypted channels: both sides show a certificate, or there is no call."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from dragoman import AsyncClient, Client, Tls, UnavailableError
from dragoman.v1 import translation_pb2, translation_pb2_grpc


class Capitals(translation_pb2_grpc.TranslationServiceServicer):
    def Translate(self, request: Any, context: Any) -> translation_pb2.TranslateResponse:  # noqa: N802
        results = [translation_pb2.Translation(text=text.upper()) for text in request.texts]
        return translation_pb2.TranslateResponse(translations=results)

    def TranslateBulk(self, request_iterator: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        raise NotImplementedError

    def DetectLanguage(self, request: Any, context: Any) -> Any:  # noqa: N802
        raise NotImplementedError

    def Analyze(self, request: Any, context: Any) -> Any:  # noqa: N802
        raise NotImplementedError

    def TranslateStream(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        raise NotImplementedError


@dataclass(frozen=True)
class Certificate:
    """Of 127.0.0.1, signed by itself."""

    key: bytes
    chain: bytes


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    command = [
        openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
        "-days", "1", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1",
        "-keyout", str(folder / "key.pem"), "-out", str(folder / "chain.pem"),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    return Certificate((folder / "key.pem").read_bytes(), (folder / "chain.pem").read_bytes())


@pytest.fixture
def encrypted(certificate: Certificate) -> Iterator[str]:
    """The target of a server that asks its callers for a certificate too."""
    server = grpc.server(ThreadPoolExecutor(2))
    translation_pb2_grpc.add_TranslationServiceServicer_to_server(Capitals(), server)
    pair = [(certificate.key, certificate.chain)]
    credentials = grpc.ssl_server_credentials(pair, certificate.chain, require_client_auth=True)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0).wait()


@pytest.fixture
def mutual(certificate: Certificate) -> Tls:
    return Tls(
        root_certificates=certificate.chain,
        client_key=certificate.key,
        client_certificates=certificate.chain,
    )


def test_both_sides_may_show_certificates(encrypted: str, mutual: Tls) -> None:
    with Client(encrypted, tls=mutual, api_key="k") as client:
        assert client.translate("a", target_language="zh-TW").text == "A"


async def test_both_sides_may_show_certificates_asynchronously(encrypted: str, mutual: Tls) -> None:
    async with AsyncClient(encrypted, tls=mutual, api_key="k") as client:
        assert (await client.translate("a", target_language="zh-TW")).text == "A"


def test_a_server_that_asks_for_a_certificate_is_unavailable_without(
    encrypted: str, certificate: Certificate
) -> None:
    nameless = Tls(root_certificates=certificate.chain)
    with Client(encrypted, tls=nameless) as client, pytest.raises(UnavailableError):
        client.translate("a", target_language="zh-TW")


def test_a_server_of_another_authority_is_not_trusted(encrypted: str) -> None:
    with Client(encrypted, tls=Tls()) as client, pytest.raises(UnavailableError):
        client.translate("a", target_language="zh-TW")
