"""The HTTP door itself: what callers cannot do to it, and what it does for those who leave."""

from __future__ import annotations

import concurrent.futures
import gzip
import http.client
import itertools
import re
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import trustme
from running import RunningServer, running_server

GOOD = {"q": "I love you", "source": "en", "target": "zh-Hant"}


@pytest.fixture(scope="module")
def small() -> Iterator[RunningServer]:
    """A server whose limits are soon reached."""
    flags = (
        "--max-message-bytes", "40000", "--http-read-seconds", "1",
        "--http-max-connections", "8", "--slots", "2", "--engines", "1",
    )  # fmt: skip
    with running_server(*flags) as server:
        yield server


def sentences(count: int) -> list[str]:
    """Some that take a while, no two the same: in words, for figures alone make no other work."""
    people = (
        "farmer", "doctor", "soldier", "teacher", "sailor", "baker", "lawyer", "singer", "driver",
        "painter", "student", "nurse", "writer", "cook", "king", "judge", "hunter", "dancer",
        "guard", "priest", "clerk", "miner", "poet", "thief", "tailor",
    )  # fmt: skip
    places = (
        "river", "bridge", "market", "church", "school", "harbour", "forest", "castle", "factory",
        "hospital", "museum", "airport", "park", "prison", "hotel", "theatre", "library", "farm",
    )  # fmt: skip
    return [
        f"The old {person} who kept the small station near the {place} waited for a train that "
        "never came, and told his neighbours about it for many years."
        for person, place in itertools.islice(itertools.product(people, places), count)
    ]


def wait_until_busy(server: RunningServer) -> None:
    deadline = time.monotonic() + 20
    while not server.sample("dragoman_sequences_waiting"):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def connect(server: RunningServer) -> socket.socket:
    where = urlsplit(server.http_url)
    return socket.create_connection((where.hostname, where.port), timeout=10)


def everything(connection: socket.socket) -> bytes:
    """What comes until the other side closes."""
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def test_every_answer_has_a_request_id_and_no_sniffing(server: RunningServer) -> None:
    answer = httpx.get(f"{server.http_url}/languages", headers={"x-request-id": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "server" not in answer.headers
    other = httpx.get(f"{server.http_url}/nope", headers={"x-request-id": "no good id"})
    assert re.fullmatch(r"[0-9a-f]{16}-[0-9a-f]+", other.headers["x-request-id"])
    assert (other.status_code, other.json()) == (404, {"error": "Not found"})


def test_requests_are_counted_by_route_and_code(server: RunningServer) -> None:
    def count(method: str, code: str) -> float:
        return server.sample("dragoman_requests_total", method=method, code=code)

    names = [
        ("libretranslate.translate", "OK"), ("libretranslate.translate", "INVALID_ARGUMENT"),
        ("http.other", "UNIMPLEMENTED"),
    ]  # fmt: skip
    before = [count(*name) for name in names]
    httpx.post(f"{server.http_url}/translate", json=GOOD)
    httpx.post(f"{server.http_url}/translate", json={})
    for path in ("/a", "/b?c", "/v2/glossaries"):
        httpx.get(server.http_url + path)
    after = [count(*name) for name in names]
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 1, 3]
    assert server.sample("dragoman_requests_in_flight") == 0


def test_a_body_that_is_too_large_is_refused_unread(small: RunningServer) -> None:
    with connect(small) as connection:
        connection.sendall(
            b"POST /translate HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
            b"content-length: 9999999999999999999\r\n\r\n"
        )
        assert everything(connection).startswith(b"HTTP/1.1 413 ")
    with connect(small) as connection:  # nobody says how long it is
        connection.sendall(b"POST /v2/translate HTTP/1.1\r\nhost: a\r\n")
        connection.sendall(b"transfer-encoding: chunked\r\n\r\n")
        for _ in range(6):
            connection.sendall(b"2000\r\n" + b"x" * 0x2000 + b"\r\n")
        answer = everything(connection)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'{"message":"The body is larger than 40000 bytes"}' in answer


def test_a_compressed_body_is_refused(small: RunningServer) -> None:
    bomb = gzip.compress(b" " * 10_000_000)
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    answer = httpx.post(f"{small.http_url}/translate", content=bomb, headers=headers)
    assert answer.status_code == 415


@pytest.mark.parametrize(
    ("start", "status"),
    [
        (b"", b""),
        (b"GET /health HTTP/1.1\r\nhost: a\r\n", b""),
        (b"POST /translate HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n{", b"HTTP/1.1 408 "),
    ],
)
def test_who_sends_slowly_is_not_waited_for(
    small: RunningServer, start: bytes, status: bytes
) -> None:
    with connect(small) as connection:
        connection.sendall(start)
        began = time.monotonic()
        assert everything(connection)[:13] == status
        assert 0.5 < time.monotonic() - began < 5
    assert httpx.get(f"{small.http_url}/health").status_code == 200


def test_drops_of_headers_do_not_hold_a_connection(small: RunningServer) -> None:
    with connect(small) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\n")
        began = time.monotonic()
        while time.monotonic() - began < 8:
            try:
                connection.sendall(b"x: y\r\n")
            except OSError:  # reset or broken pipe, as it comes
                break
            time.sleep(0.1)
        assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "request_line",
    [
        b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/1.1\r\n" + b"x: " + b"y" * 40_000 + b"\r\n\r\n",
        b"GET /health HTTP/1.1\r\n" + b"x: y\r\n" * 10_000 + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /\xff\xfe HTTP/1.1\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\n\r\n",
        b"POST /translate HTTP/1.1\r\ncontent-length: -5\r\n\r\n",
        b"POST /translate HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
    ],
)
def test_what_is_no_http_is_a_bad_request(small: RunningServer, request_line: bytes) -> None:
    with connect(small) as connection:
        connection.sendall(request_line)
        answer = everything(connection)
    assert answer.startswith(b"HTTP/1.1 4") or answer == b""
    assert httpx.get(f"{small.http_url}/health").status_code == 200


def test_connections_are_bounded(small: RunningServer) -> None:
    connections = [connect(small) for _ in range(8)]
    try:
        for one in connections:
            one.sendall(b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n")
            assert one.recv(100).startswith(b"HTTP/1.1 200 ")
        with connect(small) as more:
            more.sendall(b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n")
            assert everything(more) == b""
    finally:
        for one in connections:
            one.close()
    time.sleep(0.1)
    assert httpx.get(f"{small.http_url}/health").status_code == 200


def test_who_leaves_has_the_work_dropped(small: RunningServer) -> None:
    before = small.sample("dragoman_cancellations_total")
    long = " ".join(sentences(100))
    body = httpx.Request("POST", "http://a", json=GOOD | {"q": long}).read()
    with connect(small) as connection:
        connection.sendall(
            b"POST /translate HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n%s" % (len(body), body)
        )
        wait_until_busy(small)
    deadline = time.monotonic() + 10
    while small.sample("dragoman_cancellations_total") == before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert small.sample("dragoman_cancellations_total") > before
    assert small.sample("dragoman_requests_total", code="CANCELLED") >= 1


def test_a_late_answer_is_a_gateway_timeout() -> None:
    with running_server("--http-timeout-seconds", "0.05", "--slots", "1", "--engines", "1") as slow:
        long = " ".join(sentences(100))
        answer = httpx.post(f"{slow.http_url}/translate", json=GOOD | {"q": long}, timeout=20)
        assert answer.status_code == 504
        assert "error" in answer.json()


def test_a_full_line_is_said_with_when_to_come_again() -> None:
    flags = ("--max-queue-sentences", "4", "--slots", "1", "--engines", "1")
    with running_server(*flags) as server:
        url = f"{server.http_url}/v2/translate"
        long = sentences(200)
        with concurrent.futures.ThreadPoolExecutor() as pool:
            first = pool.submit(
                httpx.post, url, json={"text": long, "target_lang": "ZH-HANT"}, timeout=60
            )
            wait_until_busy(server)
            answer = httpx.post(url, json={"text": ["Hello."], "target_lang": "ZH-HANT"})
            assert first.result().status_code == 200
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.json()["message"]


def test_other_origins_are_let_in_only_if_the_settings_say_so(server: RunningServer) -> None:
    asks = {"origin": "https://a.example", "access-control-request-method": "POST"}
    plain = httpx.options(f"{server.http_url}/translate", headers=asks)
    assert plain.status_code == 405
    answer = httpx.get(f"{server.http_url}/languages", headers=asks)
    assert "access-control-allow-origin" not in answer.headers
    with running_server("--http-cors-origins", "https://a.example,https://b.example") as open_one:
        url = f"{open_one.http_url}/translate"
        allowed = httpx.options(url, headers=asks).headers
        assert allowed["access-control-allow-origin"] == "https://a.example"
        refused = httpx.options(url, headers=asks | {"origin": "https://c.example"})
        assert refused.status_code == 400


def test_it_can_be_switched_off_and_a_taken_port_is_said() -> None:
    with running_server("--no-http") as silent:
        assert silent.http_url == ""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(AssertionError, match=rf"127\.0\.0\.1:{port} for HTTP"),
            running_server("--http-port", str(port)),
        ):
            pass


def test_it_drains_on_sigterm() -> None:
    with running_server("--slots", "2", "--engines", "1") as server:
        long = " ".join(sentences(450))
        with concurrent.futures.ThreadPoolExecutor() as pool:
            running = pool.submit(
                httpx.post, f"{server.http_url}/translate", json=GOOD | {"q": long}, timeout=60
            )
            idle = http.client.HTTPConnection(urlsplit(server.http_url).netloc, timeout=10)
            idle.request("GET", "/health")
            assert idle.getresponse().read() == b'{"status":"ok"}'
            wait_until_busy(server)
            server.process.terminate()
            time.sleep(0.1)
            idle.request("GET", "/health")
            draining = idle.getresponse()
            assert draining.status == 503
            draining.read()
            idle.request("POST", "/translate", "q=Hello&source=en&target=zt", {
                "content-type": "application/x-www-form-urlencoded",
            })  # fmt: skip
            refused = idle.getresponse()
            assert refused.status == 503
            assert int(refused.headers["retry-after"]) >= 1
            idle.close()
            answer = running.result()
        assert answer.status_code == 200
        assert answer.json()["translatedText"].count("。") > 360
        assert server.process.wait(30) == 0


def write_pair(folder: Path, authority: trustme.CA) -> list[str]:
    pair = authority.issue_cert("127.0.0.1")
    chain, key = folder / "chain.pem", folder / "key.pem"
    chain.write_bytes(b"".join(blob.bytes() for blob in pair.cert_chain_pems))
    key.write_bytes(pair.private_key_pem.bytes())
    return ["--tls-certificate", str(chain), "--tls-key", str(key)]


def trusting(authority: trustme.CA, client: trustme.CA | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    if client is not None:
        client.issue_cert("caller@example.org").configure_cert(context)
    return context


def test_it_is_encrypted_by_the_same_files_and_follows_them(tmp_path: Path) -> None:
    authority, renewed = trustme.CA(), trustme.CA()
    with running_server(*write_pair(tmp_path, authority)) as server:
        url = server.http_url.replace("http:", "https:") + "/health"
        assert httpx.get(url, verify=trusting(authority)).json() == {"status": "ok"}
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(url, verify=trusting(renewed))
        write_pair(tmp_path, renewed)
        time.sleep(1.1)
        assert httpx.get(url, verify=trusting(renewed)).json() == {"status": "ok"}
        (tmp_path / "key.pem").write_text("broken", encoding="utf-8")
        time.sleep(1.1)
        assert httpx.get(url, verify=trusting(renewed)).json() == {"status": "ok"}
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.get(server.http_url + "/health")


def test_mutual_tls_holds_for_it_too(tmp_path: Path) -> None:
    authority, callers = trustme.CA(), trustme.CA()
    (tmp_path / "callers.pem").write_bytes(callers.cert_pem.bytes())
    flags = [*write_pair(tmp_path, authority), "--tls-client-ca", str(tmp_path / "callers.pem")]
    with running_server(*flags) as server:
        url = server.http_url.replace("http:", "https:") + "/health"
        assert httpx.get(url, verify=trusting(authority, callers)).json() == {"status": "ok"}
        for other in (trusting(authority), trusting(authority, trustme.CA())):
            with pytest.raises(httpx.TransportError):
                httpx.get(url, verify=other)
