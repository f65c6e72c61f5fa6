"""Callers of the HTTP API that never stop asking, on the account that gRPC's have."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator

import httpx
from traffic import SENTENCES, Account

_REFUSALS = {429, 503}
_TIMEOUT_SECONDS = 30.0


class HttpTraffic:
    """A number of callers, each with one ``POST /translate`` in flight; none asks again."""

    def __init__(self, target: str, callers: int = 8) -> None:
        self._target = target
        self._callers = callers
        rows = (line.split("\t")[0] for line in SENTENCES.read_text().splitlines())
        self._sentences = [row for row in rows if row][:64]
        self._expected: dict[str, str] = {}

    @contextlib.asynccontextmanager
    async def flowing(self) -> AsyncIterator[Account]:
        """Requests all the time; at the end those in flight are waited for, and counted."""
        # Without connections that are kept: a server may close one as it is used again.
        limits = httpx.Limits(max_keepalive_connections=0)
        async with httpx.AsyncClient(
            base_url=f"http://{self._target}", limits=limits, timeout=_TIMEOUT_SECONDS
        ) as client:
            if not self._expected:
                answer = await client.post("/translate", json=self._body(self._sentences))
                answer.raise_for_status()
                texts = answer.json()["translatedText"]
                self._expected = dict(zip(self._sentences, texts, strict=True))
            account, stop, numbers = Account(), asyncio.Event(), itertools.count()
            callers = [
                asyncio.create_task(self._call(client, account, stop, numbers))
                for _ in range(self._callers)
            ]
            try:
                yield account
            finally:
                stop.set()
                await asyncio.gather(*callers)

    async def _call(
        self,
        client: httpx.AsyncClient,
        account: Account,
        stop: asyncio.Event,
        numbers: itertools.count[int],
    ) -> None:
        clock = asyncio.get_running_loop().time
        while not stop.is_set():
            sentence = self._sentences[next(numbers) % len(self._sentences)]
            begun = clock()
            try:
                answer = await client.post("/translate", json=self._body(sentence))
            except httpx.HTTPError as error:
                account.lost += 1
                account.reasons.append(repr(error))
            else:
                self._count(account, sentence, answer)
            account.slowest_seconds = max(account.slowest_seconds, clock() - begun)

    def _count(self, account: Account, sentence: str, answer: httpx.Response) -> None:
        if answer.status_code == httpx.codes.OK:
            right = answer.json()["translatedText"] == self._expected[sentence]
            account.right += right
            account.wrong += not right
            return
        account.refused += answer.status_code in _REFUSALS
        account.lost += answer.status_code not in _REFUSALS
        account.reasons.append(f"{answer.status_code}: {answer.text}")

    @staticmethod
    def _body(text: str | list[str]) -> dict[str, object]:
        return {"q": text, "source": "en", "target": "zh-Hant"}
