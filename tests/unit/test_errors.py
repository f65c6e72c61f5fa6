"""The tree of errors and its table to status codes police each other."""

from __future__ import annotations

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from server import errors
from server.api.status import DETAILS_KEY, PUSHBACK_KEY, STATUS, metadata_of, status_of


def subclasses(kind: type[Exception]) -> set[type[Exception]]:
    return {kind}.union(*(subclasses(child) for child in kind.__subclasses__()))


def test_every_error_a_caller_can_meet_has_a_status_and_none_is_unknown() -> None:
    reachable = {
        kind
        for kind in subclasses(errors.DragomanError)
        if kind.__module__ == "server.errors"
        and not kind.__name__.startswith("_")
        and kind is not errors.DragomanError
        and not issubclass(kind, errors.StartupError)
    }
    assert reachable == set(STATUS)
    assert grpc.StatusCode.UNKNOWN not in STATUS.values()


def test_every_error_is_drawn_in_the_tree() -> None:
    for kind in subclasses(errors.DragomanError):
        if kind.__module__ == "server.errors" and not kind.__name__.startswith("_"):
            assert kind.__name__ in (errors.__doc__ or "")


def details(error: errors.DragomanError) -> status_pb2.Status:
    packed = dict(metadata_of(error))[DETAILS_KEY]
    return status_pb2.Status.FromString(packed)


def test_invalid_request_names_the_field() -> None:
    status = details(errors.InvalidRequest("texts[3]", "holds nothing to translate"))
    bad = error_details_pb2.BadRequest()
    assert status.details[0].Unpack(bad)
    assert bad.field_violations[0].field == "texts[3]"
    assert status.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]


@pytest.mark.parametrize(
    "error",
    [
        errors.Overloaded("full", retry_after_seconds=1.5),
        errors.ShuttingDown("bye", retry_after_seconds=1.5),
        errors.NotReady("soon", retry_after_seconds=1.5),
    ],
)
def test_what_may_be_tried_again_says_when(error: errors.DragomanError) -> None:
    info = error_details_pb2.RetryInfo()
    assert details(error).details[0].Unpack(info)
    assert info.retry_delay.ToMilliseconds() == 1500
    assert dict(metadata_of(error))[PUSHBACK_KEY] == "1500"


def test_quota_says_so() -> None:
    error = errors.QuotaExceeded("1000 characters a minute")
    failure = error_details_pb2.QuotaFailure()
    assert status_of(error) is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert details(error).details[0].Unpack(failure)


def test_a_condition_that_is_not_met_is_named() -> None:
    error = errors.FailedPrecondition("BUNDLE", "en-fr", "en-fr/decoder.onnx: damaged")
    failure = error_details_pb2.PreconditionFailure()
    assert status_of(error) is grpc.StatusCode.FAILED_PRECONDITION
    assert details(error).details[0].Unpack(failure)
    (violation,) = failure.violations
    assert (violation.type, violation.subject) == ("BUNDLE", "en-fr")
    assert violation.description == str(error)
