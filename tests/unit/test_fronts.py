"""What the HTTP fronts do before and after the engine."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request

from server import errors
from server.api import deepl, libretranslate
from server.api.body import read_body, replay
from server.api.fields import fields_of
from server.api.http import STATUS, Front, Refusal, core_front
from server.api.ignored_tags import hide, show
from server.api.status import STATUS as GRPC_STATUS


@pytest.fixture
def fronts() -> list[Front]:
    # Their tables do not depend on models.
    desk: object = None
    return [
        deepl.front(desk),  # type: ignore[arg-type]
        libretranslate.front(desk),  # type: ignore[arg-type]
        core_front(lambda: True, []),
    ]


def test_every_error_has_a_status_in_every_front(fronts: list[Front]) -> None:
    assert set(STATUS) == set(GRPC_STATUS)
    for front in fronts:
        assert set(front.statuses) == set(GRPC_STATUS), front.name
        for error, status in front.statuses.items():
            assert (status >= 500) == (
                error
                in {errors.Overloaded, errors.NotReady, errors.ShuttingDown,
                    errors.DeadlineExceeded, errors.ModelFailure}
            )  # fmt: skip


def test_every_refusal_is_json_of_the_fronts_own_shape(fronts: list[Front]) -> None:
    shapes = {"deepl": b'{"message":', "libretranslate": b'{"error":', "http": b'{"error":'}
    for front in fronts:
        for status in (400, 404, 413):
            assert bytes(front.refuse(Refusal(status, "why")).body).startswith(shapes[front.name])
        for error in (
            errors.QuotaExceeded("all", "web", None),
            errors.Unauthenticated("no key"),
            errors.InvalidRequest("text", "is bad"),
            errors.ModelFailure("internal error"),
        ):
            refusal = Refusal(front.statuses[type(error)], str(error), error)
            response = front.refuse(refusal)
            assert bytes(response.body).startswith(shapes[front.name])
            assert 400 <= response.status_code <= 504


TAGS = st.sampled_from(
    ["<x>", "</x>", '<x a="1>2">', "<X/>", "<y>", "</y>", "<!-- <x> -->", "<xx>"]
)


@given(st.lists(TAGS | st.text(alphabet="ab <>/\"'=&;!-x", max_size=8)).map("".join))
def test_marks_of_ignored_tags_leave_nothing_behind(document: str) -> None:
    names = frozenset({"x"})
    assert show(hide(document, names), names) == document
    assert hide(document, frozenset()) == document


def test_marks_stand_in_the_tags_that_are_named() -> None:
    hidden = hide('<X a="1">b</x><xy/><x/>', frozenset({"x"}))
    assert hidden == '<X translate="no" a="1">b</x><xy/><x translate="no"/>'


def request(content_type: str, body: bytes, query: str = "") -> Request:
    scope = {
        "type": "http", "method": "POST", "path": "/", "query_string": query.encode(),
        "headers": [(b"content-type", content_type.encode())],
    }  # fmt: skip
    return Request(scope, replay(body, _never))


async def _never() -> dict[str, str]:
    return {"type": "http.disconnect"}


async def test_a_list_in_a_form_is_a_field_given_often() -> None:
    form = "application/x-www-form-urlencoded"
    fields = await fields_of(request(form, b"text=a&text=b&x=%E6%84%9B", "text=c"), 10, 1000)
    assert fields.every("text") == ["c", "a", "b"]
    assert (fields.first("text"), fields.first("x"), fields.first("y")) == ("c", "愛", None)
    raw = await fields_of(request(form, "q=今天+好".encode()), 10, 1000)
    assert raw.first("q") == "今天 好"


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/x-www-form-urlencoded", b"&".join(b"a=1" for _ in range(200))),
        ("application/x-www-form-urlencoded", b"q=\xff"),
        ("application/x-www-form-urlencoded", b"q=%FF"),
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=b", b"--b\r\nno header\r\n\r\n--b--"),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\ncontent-disposition: form-data; name="q"; filename="f"\r\n\r\nx\r\n--b--\r\n',
        ),
        ("application/json", b"{"),
        ("application/json", b'{"a": "\\udc00"}'),
    ],
)
async def test_a_body_that_is_not_what_its_type_says_is_refused(kind: str, body: bytes) -> None:
    with pytest.raises((errors.InvalidRequest, HTTPException)):
        await fields_of(request(kind, body), 10, 1000)


KINDS = (
    "application/json",
    "multipart/form-data; boundary=b",
    "application/x-www-form-urlencoded",
    "text/plain",
    "",
)


@given(st.binary(max_size=300), st.sampled_from(KINDS))
async def test_any_bytes_are_fields_or_refused(body: bytes, kind: str) -> None:
    with contextlib.suppress(errors.InvalidRequest, HTTPException):
        await fields_of(request(kind, body), 10, 1000)


async def test_a_caller_who_leaves_while_sending_is_cancelled() -> None:
    with pytest.raises(errors.RequestCancelled):
        await read_body(Headers({}), _never, 100, 1.0)
