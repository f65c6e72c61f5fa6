"""Garbage at the HTTP port: whatever is sent, nothing is answered by 5xx but 503 with Retry-After.

    python -m loadtest.fuzz_http [--requests 50000] [--seed 0]

Requests to every path, right ones made wrong: fields of other types, broken JSON, forms and
percent escapes, lengths that lie, headers and bytes that are none. Afterwards the server must
translate as before and hold no request. Exit status 1 if it does not.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import socket
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx

from loadtest.throughput import Served, served

_AT_ONCE = 32
_HANG_SECONDS = 30.0
_SHOWN = 10
_PATHS = (
    "/translate", "/translate", "/translate", "/detect", "/languages", "/frontend/settings",
    "/spec", "/health", "/openapi.json", "/v2/translate", "/v2/translate", "/v2/translate",
    "/v2/languages", "/v2/usage", "/v2/document", "/", "/..%2f..%2fetc/passwd", "/\u00e9", "//",
)  # fmt: skip
_TYPES = (
    "application/json", "application/json", "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=b", "multipart/form-data", "text/plain", "",
    "application/json; charset=utf-16", "x" * 300,
)  # fmt: skip
_TEXTS = (
    "I love you", "", " ", "\n", "a\0b", "今天天氣很好", "😀" * 20, "<p>I <b>love</b> you</p>",
    "<" * 50, "{name} %s {{x}}", "x" * 3000, "I love you. " * 30, "\u202e\u200f", "]]>",
    "&amp;&#0;&#x110000;",
)  # fmt: skip
_CODES = ("en", "EN", "zh-Hant", "zt", "ZH-HANT", "auto", "", "xx", "en-US", "x" * 100, "\u00e9")
_NAMES = (
    "q", "source", "target", "format", "alternatives", "api_key", "text", "source_lang",
    "target_lang", "tag_handling", "ignore_tags", "formality", "type", "glossary_id",
    "split_sentences", "show_billed_characters", "model_type",
)  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Send, look, print."""
    options = _parser().parse_args(arguments)
    started = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with served(options.bundle, "--http-port", str(port), "--http-read-seconds", "1") as server:
        found, improper = asyncio.run(_all(port, options.requests, options.seed))
        faults = _look(server, port)
    codes = ", ".join(f"{code} {count}" for code, count in found.most_common())
    seconds = time.monotonic() - started
    print(f"{options.requests} requests, seed {options.seed}, {seconds:.0f} s: {codes}")
    for line in [*improper, *faults]:
        print(line)
    print("FAILED" if improper or faults else "no 5xx; the server is as before")
    return 1 if improper or faults else 0


async def _all(port: int, count: int, seed: int) -> tuple[Counter[str], list[str]]:
    """What was answered, and the first of what should not have been."""
    found: Counter[str] = Counter()
    improper: list[str] = []
    numbers = iter(range(count))

    async def work() -> None:
        for number in numbers:
            data = request(random.Random(f"{seed}-{number}"))  # noqa: S311  the same each time
            answer = await _answer(port, data)
            code = answer[9:12].decode("latin-1") if answer.startswith(b"HTTP/1.1 ") else "none"
            found[code] += 1
            retry = code == "503" and b"\r\nretry-after: " in answer
            if code.startswith("5") and not retry and len(improper) < _SHOWN:
                improper.append(f"{code} {data[:2000]!r}")

    await asyncio.gather(*(work() for _ in range(_AT_ONCE)))
    return found, improper


def request(draw: random.Random) -> bytes:
    """One request, more or less."""
    path = draw.choice(_PATHS)
    kind = draw.choice(_TYPES)
    values = {name: _value(draw) for name in draw.sample(_NAMES, draw.randint(0, 6))}
    if draw.random() < 0.7:  # noqa: PLR2004  mostly right, so that it gets far
        good = (
            {"text": [draw.choice(_TEXTS)], "target_lang": "ZH-HANT"}
            if path.startswith("/v2")
            else {"q": draw.choice(_TEXTS), "source": "en", "target": "zh-Hant"}
        )
        values = {**good, **dict(list(values.items())[:1])}
    body = _body(draw, kind, values)
    if draw.random() < 0.1:  # noqa: PLR2004
        path += "?" + urlencode({name: str(value) for name, value in values.items()}, doseq=True)
    length = len(body) if draw.random() < 0.95 else draw.choice((-1, 0, 5, 10**9, 10**30))  # noqa: PLR2004
    verb = draw.choice(("POST", "POST", "POST", "GET", "HEAD", "PUT", "OPTIONS", "X"))
    lines = [
        f"{verb} {path} HTTP/1.1", "host: a", "connection: close", f"content-type: {kind}",
        f"content-length: {length}",
    ]  # fmt: skip
    if draw.random() < 0.1:  # noqa: PLR2004
        lines.append(draw.choice((
            "authorization: DeepL-Auth-Key \u00e9", "authorization: " + "x" * 9000,
            "expect: 100-continue", "content-encoding: gzip", "transfer-encoding: chunked",
            "x-request-id: a b\tc", "upgrade: h2c", "dragoman-tenant: \u00ff",
            "accept-encoding: br", "cookie: " + "a=b; " * 500,
        )))  # fmt: skip
    data = "\r\n".join(lines).encode("utf-8") + b"\r\n\r\n" + body
    if draw.random() < 0.05:  # noqa: PLR2004
        place = draw.randrange(len(data))
        data = data[:place] + draw.randbytes(draw.randint(1, 8)) + data[place + 4 :]
    return data


def _value(draw: random.Random) -> Any:  # noqa: ANN401  whatever JSON has
    return draw.choice((
        draw.choice(_TEXTS), draw.choice(_CODES), draw.choice(("html", "text", "xml", "more")),
        draw.randint(-5, 2000), True, None, 1e300, [], {}, [draw.choice(_TEXTS)] * 3, [None], [[]],
        {"a": [1]}, 10**40,
    ))  # fmt: skip


def _body(draw: random.Random, kind: str, values: dict[str, Any]) -> bytes:
    if "json" in kind or draw.random() < 0.05:  # noqa: PLR2004
        body = json.dumps(values, ensure_ascii=draw.random() < 0.5).encode()  # noqa: PLR2004
    elif kind.startswith("multipart"):
        parts = (
            f'--b\r\ncontent-disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            for name, value in values.items()
        )
        body = "".join([*parts, "--b--\r\n"]).encode()
    else:
        body = urlencode(values, doseq=True).encode()
    if draw.random() < 0.1 and body:  # noqa: PLR2004
        place = draw.randrange(len(body))
        body = body[:place] + draw.randbytes(draw.randint(0, 3)) + body[place + 1 :]
    return body


async def _answer(port: int, data: bytes) -> bytes:
    """Everything that comes back."""
    answer = b""
    with contextlib.suppress(OSError, TimeoutError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            async with asyncio.timeout(_HANG_SECONDS):
                writer.write(data)
                await writer.drain()
                answer = await reader.read(1 << 20)
        finally:
            writer.transport.abort()
    return answer


def _look(server: Served, port: int) -> list[str]:
    """What is not as it was."""
    faults = []
    asked = {"q": "I love you.", "source": "en", "target": "zt"}
    answer = httpx.post(f"http://127.0.0.1:{port}/translate", json=asked, timeout=60).json()
    if answer != {"translatedText": "我愛你。"}:
        faults.append(f"the server translates otherwise than before: {answer}")
    deadline = time.monotonic() + 15
    while left := server.sample("dragoman_requests_in_flight"):
        if time.monotonic() > deadline:
            faults.append(f"{left:.0f} requests are left")
            break
        time.sleep(0.2)
    return faults


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtest.fuzz_http", description=__doc__)
    parser.add_argument("--bundle", type=Path, default=Path("bundles/en-zh-TW"))
    parser.add_argument("--requests", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    sys.exit(main())
