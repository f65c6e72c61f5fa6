"""A real server with TLS: who is served, and what is no certificate."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import trustme
from running import BUNDLE, ROOT, RunningServer, running_server, wait_for

import dragoman
from dragoman.cli import main
from server.access.key_command import add_key


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def write_pair(folder: Path, authority: trustme.CA, name: str = "127.0.0.1") -> list[str]:
    pair = authority.issue_cert(name)
    chain, key = folder / "chain.pem", folder / "key.pem"
    chain.write_bytes(b"".join(blob.bytes() for blob in pair.cert_chain_pems))
    key.write_bytes(pair.private_key_pem.bytes())
    return ["--tls-certificate", str(chain), "--tls-key", str(key)]


def tls(authority: trustme.CA, client: trustme.CA | None = None) -> dragoman.Tls:
    roots = authority.cert_pem.bytes()
    if client is None:
        return dragoman.Tls(root_certificates=roots)
    pair = client.issue_cert("caller@example.org")
    chain = b"".join(blob.bytes() for blob in pair.cert_chain_pems)
    return dragoman.Tls(
        root_certificates=roots,
        client_key=pair.private_key_pem.bytes(),
        client_certificates=chain,
    )


def translated(server: RunningServer, channel: dragoman.Tls | None) -> str:
    with dragoman.Client(server.target, tls=channel) as client:
        return client.translate("I love you.", target_language="zh-TW", timeout_seconds=5).text


def test_tls_serves_those_who_trust_it_and_a_new_certificate_needs_no_restart(
    tmp_path: Path, authority: trustme.CA
) -> None:
    with running_server(*write_pair(tmp_path, authority)) as server:
        assert translated(server, tls(authority)) == "我愛你。"
        for other in (None, tls(trustme.CA())):
            with pytest.raises((dragoman.UnavailableError, dragoman.DeadlineExceededError)):
                translated(server, other)
        renewed = trustme.CA()
        write_pair(tmp_path, renewed)
        time.sleep(1.1)
        wait_for(lambda: translated(server, tls(renewed)), dragoman.DragomanError)
        (tmp_path / "key.pem").write_text("broken")
        time.sleep(1.1)
        assert translated(server, tls(renewed)) == "我愛你。"
        server.wait_for_log("what was read before stays in force")


def test_a_load_test_speaks_tls_and_shows_its_key(tmp_path: Path, authority: trustme.CA) -> None:
    key_file = tmp_path / "keys.toml"
    key = add_key(key_file, "web", {}, admin=False)
    roots = tmp_path / "roots.pem"
    roots.write_bytes(authority.cert_pem.bytes())
    flags = [*write_pair(tmp_path, authority), "--key-file", str(key_file)]
    with running_server(*flags) as server:
        command = [
            sys.executable, "-m", "loadtest.command", "--target", server.target, "--tls-roots",
            str(roots), "--rate", "10", "--seconds", "2", "--warmup", "0", "--count", "5",
            "--reference", "server",
        ]  # fmt: skip
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | {"DRAGOMAN_API_KEY": key}, timeout=120,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "0 refused, 0 failed, 0 wrong" in done.stderr


def test_mutual_tls_serves_nobody_without_a_certificate_of_its_authority(
    tmp_path: Path, authority: trustme.CA
) -> None:
    callers = trustme.CA()
    (tmp_path / "callers.pem").write_bytes(callers.cert_pem.bytes())
    flags = [*write_pair(tmp_path, authority), "--tls-client-ca", str(tmp_path / "callers.pem")]
    with running_server(*flags) as server:
        assert translated(server, tls(authority, callers)) == "我愛你。"
        for other in (tls(authority), tls(authority, trustme.CA())):
            with pytest.raises((dragoman.UnavailableError, dragoman.DeadlineExceededError)):
                translated(server, other)
        # Nor a probe, which has another port for that.
        assert main(["health", "--server", server.target, "--timeout", "2"]) == 1
        assert main(["health", "--url", server.metrics_url.replace("/metrics", "/health")]) == 0


def refused(*flags: str) -> str:
    """The one line of a server that does not start."""
    command = [sys.executable, "-m", "server", "--bundle", str(BUNDLE), "--port", "0",
               "--metrics-port", "0", "--no-http", "--log-level", "error", *flags]  # fmt: skip
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    return line


def test_bad_files_are_one_line_and_exit_2(tmp_path: Path, authority: trustme.CA) -> None:
    flags = write_pair(tmp_path, authority)
    (tmp_path / "other").mkdir()
    other = write_pair(tmp_path / "other", authority)
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate")
    assert "tls_certificate and tls_key go together" in refused(*flags[:2])
    assert "tls_client_ca needs" in refused("--tls-client-ca", str(broken))
    assert "No such file" in refused(*flags[:3], str(tmp_path / "none.pem"))
    assert "belong together" in refused(*flags[:2], *other[2:])
    assert "broken.pem" in refused("--tls-certificate", str(broken), *flags[2:])
    assert "tls_client_ca" in refused(*flags, "--tls-client-ca", str(broken))
    assert "key_file" in refused("--key-file", str(broken))
