"""The client's errors and the one table that leads to them."""

from __future__ import annotations

import pickle
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

import dragoman
from dragoman import errors
from dragoman.errors import ERRORS, from_rpc_error, rpc_errors


class FakeRpcError(grpc.RpcError, grpc.Call):
    """As the synchronous client raises it."""

    def __init__(self, code: grpc.StatusCode, details: str, *metadata: tuple[str, Any]) -> None:
        self._code, self._details, self._metadata = code, details, metadata

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> Any:
        return self._metadata

    def initial_metadata(self) -> Any: ...
    def is_active(self) -> bool: ...  # type: ignore[empty-body]
    def time_remaining(self) -> float: ...  # type: ignore[empty-body]
    def cancel(self) -> bool: ...  # type: ignore[empty-body]
    def add_callback(self, callback: Any) -> bool: ...  # type: ignore[empty-body]


FakeRpcError.__abstractmethods__ = frozenset()


def asynchronous(code: grpc.StatusCode, details: str, *metadata: Any) -> grpc.aio.AioRpcError:
    trailing = grpc.aio.Metadata(*metadata)
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, details)


BOTH = pytest.mark.parametrize("raised", [FakeRpcError, asynchronous])


@BOTH
@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code.name != "OK"])
def test_every_status_has_its_error_and_keeps_the_message(raised: Any, code: Any) -> None:
    error = from_rpc_error(raised(code, "why"))
    assert type(error) is ERRORS[code]
    assert str(error) == "why"


def test_the_table_holds_every_status_and_every_error_is_in_it_or_derived() -> None:
    assert set(ERRORS) == set(grpc.StatusCode) - {grpc.StatusCode.OK}
    tree = {kind for kind in vars(errors).values() if isinstance(kind, type)} - {object}
    ours = {kind for kind in tree if issubclass(kind, errors.DragomanError)}
    bases = {errors.DragomanError, errors.RetryableError, errors.QuotaExceededError}
    assert ours - bases == set(ERRORS.values())


def test_every_error_is_drawn_in_the_tree_and_exported() -> None:
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, errors.DragomanError):
            assert name in (errors.__doc__ or "")
            assert getattr(dragoman, name) is kind


@BOTH
@pytest.mark.parametrize("code", [grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE])
@pytest.mark.parametrize(
    ("pushback", "seconds"),
    [("1500", 1.5), ("0", 0.0), ("-1", None), ("soon", None), ("", None), ("²", None)],
)
def test_the_servers_delay_is_kept(raised: Any, code: Any, pushback: str, seconds: Any) -> None:
    error = from_rpc_error(raised(code, "full", ("grpc-retry-pushback-ms", pushback)))
    assert isinstance(error, errors.RetryableError)
    assert error.retry_after_seconds == seconds


@BOTH
def test_a_spent_quota_is_told_from_an_overload_by_the_details(raised: Any) -> None:
    for detail, kind in [
        (error_details_pb2.QuotaFailure(), errors.QuotaExceededError),
        (error_details_pb2.RetryInfo(), errors.OverloadedError),
    ]:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status = status_pb2.Status(details=[packed]).SerializeToString()
        metadata = ("grpc-status-details-bin", status)
        error = from_rpc_error(raised(grpc.StatusCode.RESOURCE_EXHAUSTED, "no", metadata))
        assert type(error) is kind


@BOTH
def test_the_request_id_is_kept(raised: Any) -> None:
    error = from_rpc_error(raised(grpc.StatusCode.INTERNAL, "", ("x-request-id", "abc")))
    assert (error.request_id, str(error)) == ("abc", "internal")
    assert from_rpc_error(raised(grpc.StatusCode.INTERNAL, "")).request_id is None


def test_an_error_without_a_status_is_a_server_error() -> None:
    assert isinstance(from_rpc_error(grpc.RpcError("odd")), errors.ServerError)


def test_grpcs_own_error_is_the_cause_and_others_pass() -> None:
    inner = FakeRpcError(grpc.StatusCode.NOT_FOUND, "no such model")
    with pytest.raises(errors.UnknownModelError, match="no such model") as caught, rpc_errors():
        raise inner
    assert caught.value.__cause__ is inner
    with pytest.raises(KeyError), rpc_errors():
        raise KeyError


def test_errors_survive_pickling() -> None:
    error = errors.OverloadedError("full", retry_after_seconds=2.0)
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.retry_after_seconds) == ("full", 2.0)
