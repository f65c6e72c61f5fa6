"""Callers that never stop asking, and an account of every answer."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from dragoman.v1 import translation_pb2, translation_pb2_grpc

SENTENCES = Path(__file__).parents[2] / "loadtest/sentences.txt"
_TIMEOUT_SECONDS = 30.0
# What a server or a balancer says when it will not do it; anything else has been lost.
_REFUSALS = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED}


@dataclass
class Account:
    """Every request ends in exactly one of these."""

    right: int = 0
    wrong: int = 0
    refused: int = 0
    lost: int = 0
    reasons: list[str] = field(default_factory=list)
    slowest_seconds: float = 0.0
    differing: list[tuple[str, str, list[int]]] = field(default_factory=list)
    """Of each wrong answer what was asked, the answer, and the codes of its warnings."""

    @property
    def sent(self) -> int:
        return self.right + self.wrong + self.refused + self.lost

    def row(self, name: str) -> str:
        """A row of the table in docs/OPERATIONS.md."""
        return (
            f"| {name} | {self.sent:,} | {self.right:,} | {self.wrong} | {self.refused} "
            f"| {self.lost} | {self.slowest_seconds:.1f} s |"
        )


class Traffic:
    """A number of callers, each with one call in flight, by one connection without retries.

    The gRPC library would make failed calls again by itself; what the balancer does is looked at.
    """

    def __init__(self, target: str, callers: int = 16, key: str | None = None) -> None:
        self._target = target
        self._key = () if key is None else (("x-api-key", key),)
        self._callers = callers
        rows = (line.split("\t")[0] for line in SENTENCES.read_text().splitlines())
        self._sentences = [row for row in rows if row][:64]
        self._expected: dict[str, str] = {}

    @contextlib.asynccontextmanager
    async def flowing(self) -> AsyncIterator[Account]:
        """Requests all the time; at the end those in flight are waited for, and counted."""
        options = [("grpc.enable_retries", 0)]
        async with grpc.aio.insecure_channel(self._target, options) as channel:
            stub: translation_pb2_grpc.TranslationServiceAsyncStub = (
                translation_pb2_grpc.TranslationServiceStub(channel)
            )
            if not self._expected:
                await self._learn(stub)
            account, stop = Account(), asyncio.Event()
            numbers = itertools.count()
            callers = [
                asyncio.create_task(self._call(stub, account, stop, numbers))
                for _ in range(self._callers)
            ]
            try:
                yield account
            finally:
                stop.set()
                await asyncio.gather(*callers)

    async def _learn(self, stub: translation_pb2_grpc.TranslationServiceAsyncStub) -> None:
        """What each sentence is translated to while nothing is wrong."""
        request = self._request(*self._sentences)
        answer = await stub.Translate(request, timeout=_TIMEOUT_SECONDS, metadata=self._key)
        texts = [item.text for item in answer.translations]
        self._expected = dict(zip(self._sentences, texts, strict=True))

    async def _call(
        self,
        stub: translation_pb2_grpc.TranslationServiceAsyncStub,
        account: Account,
        stop: asyncio.Event,
        numbers: itertools.count[int],
    ) -> None:
        clock = asyncio.get_running_loop().time
        while not stop.is_set():
            number = next(numbers)
            sentence = self._sentences[number % len(self._sentences)]
            # Decoded anew, most of them: an answer from memory shows nothing of the engines.
            request = self._request(sentence, anew=number % 8 > 0)
            begun = clock()
            try:
                answer = await stub.Translate(request, timeout=_TIMEOUT_SECONDS, metadata=self._key)
            except grpc.aio.AioRpcError as error:
                if error.code() in _REFUSALS:
                    account.refused += 1
                else:
                    account.lost += 1
                account.reasons.append(f"{error.code().name}: {error.details()}")
                await asyncio.sleep(0.05)
            else:
                translation = answer.translations[0]
                if translation.text == self._expected[sentence]:
                    account.right += 1
                else:
                    account.wrong += 1
                    warned = [int(one.code) for one in translation.warnings]
                    account.differing.append((sentence, translation.text, warned))
            account.slowest_seconds = max(account.slowest_seconds, clock() - begun)

    @staticmethod
    def _request(*texts: str, anew: bool = True) -> translation_pb2.TranslateRequest:
        return translation_pb2.TranslateRequest(
            texts=texts, source_language="en", target_language="zh-TW", bypass_cache=anew
        )
