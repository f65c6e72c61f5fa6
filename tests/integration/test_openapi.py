"""The REST APIs against the document that describes them: schemathesis makes up the requests."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from running import RunningServer
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [
    not_a_server_error, status_code_conformance, content_type_conformance,
    response_schema_conformance,
]  # fmt: skip


PATHS = [
    "POST /translate", "POST /detect", "GET /languages", "GET /frontend/settings", "GET /spec",
    "GET /health", "POST /v2/translate", "GET /v2/languages", "GET /v2/usage",
]  # fmt: skip


@pytest.fixture(scope="module")
def described(server: RunningServer) -> schemathesis.BaseSchema:
    return schemathesis.openapi.from_url(f"{server.http_url}/openapi.json")


WRONG = ["POST /translate", "POST /detect", "POST /v2/translate", "GET /v2/languages"]


@pytest.mark.parametrize(
    ("path", "mode"),
    [
        *((path, GenerationMode.POSITIVE) for path in PATHS),
        # Of the others nothing can be wrong: they take nothing.
        *((path, GenerationMode.NEGATIVE) for path in WRONG),
    ],
)
def test_every_answer_is_one_that_the_document_knows(
    described: schemathesis.BaseSchema, path: str, mode: GenerationMode
) -> None:
    method, _, name = path.partition(" ")
    strategy = described[name][method].as_strategy(generation_mode=mode)

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def ask(case: schemathesis.Case[Any]) -> None:
        case.call_and_validate(checks=CHECKS)

    ask()


def test_the_document_holds_every_route(server: RunningServer) -> None:
    paths = httpx.get(f"{server.http_url}/openapi.json").json()["paths"]
    assert set(paths) == {path.partition(" ")[2] for path in PATHS}
