"""For those who like Locust: ``locust -f loadtest/locustfile.py --host 127.0.0.1:50051``.

A closed loop: each user waits for an answer and some time before it asks again, so a server that is
slow is asked less. ``dragoman loadtest`` is the one to take figures from.
"""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import grpc
from grpc.experimental import gevent as grpc_gevent
from locust import User, between, task
from locust.exception import LocustError

from dragoman.connection import call_metadata
from dragoman.v1 import translation_pb2, translation_pb2_grpc

# gRPC's own threads must yield to gevent's.
grpc_gevent.init_gevent()

_SENTENCES = (Path(__file__).parent / "sentences.txt").read_text(encoding="utf-8").splitlines()
_texts = itertools.cycle(_SENTENCES)


class TranslatingUser(User):  # type: ignore[misc]  # untyped library
    """Asks for a sentence, now and then as a stream."""

    wait_time = between(0.05, 0.5)

    def __init__(self, *arguments: Any, **named: Any) -> None:  # noqa: ANN401  Locust's own
        """Open a connection.

        Raises:
            LocustError: no --host was given.
        """
        super().__init__(*arguments, **named)
        if not self.host:
            msg = "give --host HOST:PORT"
            raise LocustError(msg)
        self._channel = grpc.insecure_channel(self.host)
        self._stub = translation_pb2_grpc.TranslationServiceStub(self._channel)
        self._metadata = call_metadata(None)

    @task(4)
    def translate(self) -> None:
        """One sentence."""
        request = translation_pb2.TranslateRequest(
            texts=[next(_texts)], source_language="en", target_language="zh-TW"
        )
        self._call("Translate", lambda: self._stub.Translate(request, metadata=self._metadata))

    @task(1)
    def stream(self) -> None:
        """One sentence as a stream."""
        request = translation_pb2.TranslateStreamRequest(
            text=next(_texts), source_language="en", target_language="zh-TW"
        )
        self._call(
            "TranslateStream",
            lambda: list(self._stub.TranslateStream(request, metadata=self._metadata)),
        )

    def on_stop(self) -> None:
        """Close it."""
        self._channel.close()

    def _call(self, name: str, call: Any) -> None:  # noqa: ANN401  any method
        start, error = time.perf_counter(), None
        try:
            call()
        except grpc.RpcError as failed:
            error = failed
        self.environment.events.request.fire(
            request_type="grpc",
            name=name,
            response_time=(time.perf_counter() - start) * 1e3,
            response_length=0,
            exception=error,
            context={},
        )
