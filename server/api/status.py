"""From our errors to gRPC status: one table, with google.rpc details."""

from __future__ import annotations

import math

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from server.errors import (
    DeadlineExceeded,
    DragomanError,
    FailedPrecondition,
    InvalidRequest,
    ModelFailure,
    NotReady,
    Overloaded,
    PermissionDenied,
    QuotaExceeded,
    RequestCancelled,
    ShuttingDown,
    Unauthenticated,
    UnknownModel,
)

Metadata = tuple[tuple[str, str | bytes], ...]

STATUS: dict[type[DragomanError], grpc.StatusCode] = {
    InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    UnknownModel: grpc.StatusCode.NOT_FOUND,
    Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    QuotaExceeded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    RequestCancelled: grpc.StatusCode.CANCELLED,
    NotReady: grpc.StatusCode.UNAVAILABLE,
    ShuttingDown: grpc.StatusCode.UNAVAILABLE,
    Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    ModelFailure: grpc.StatusCode.INTERNAL,
}

DETAILS_KEY = "grpc-status-details-bin"
PUSHBACK_KEY = "grpc-retry-pushback-ms"


def status_of(error: DragomanError) -> grpc.StatusCode:
    """The code of an error."""
    return STATUS[type(error)]


def metadata_of(error: DragomanError) -> Metadata:
    """Trailing metadata of an error: its details, and the delay that gRPC's own retries obey."""
    status = status_pb2.Status(code=code_pb2.Code.Value(status_of(error).name), message=str(error))
    metadata: list[tuple[str, str | bytes]] = []
    for detail in _details(error):
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    if status.details:
        metadata.append((DETAILS_KEY, status.SerializeToString()))
    seconds = _retry_after_seconds(error)
    if seconds is not None:
        metadata.append((PUSHBACK_KEY, str(math.ceil(seconds * 1000))))
    return tuple(metadata)


def _details(error: DragomanError) -> list[Message]:
    if isinstance(error, InvalidRequest):
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=error.field, description=error.description
        )
        return [error_details_pb2.BadRequest(field_violations=[violation])]
    if isinstance(error, QuotaExceeded):
        quota = error_details_pb2.QuotaFailure.Violation(
            subject=f"key:{error.subject}" if error.subject else "", description=str(error)
        )
        return [error_details_pb2.QuotaFailure(violations=[quota]), *_retry_info(error)]
    if isinstance(error, FailedPrecondition):
        unmet = error_details_pb2.PreconditionFailure.Violation(
            type=error.kind, subject=error.subject, description=str(error)
        )
        return [error_details_pb2.PreconditionFailure(violations=[unmet])]
    return _retry_info(error)


def _retry_info(error: DragomanError) -> list[Message]:
    seconds = _retry_after_seconds(error)
    if seconds is None:
        return []
    delay = duration_pb2.Duration()
    delay.FromNanoseconds(int(seconds * 1e9))
    return [error_details_pb2.RetryInfo(retry_delay=delay)]


def _retry_after_seconds(error: DragomanError) -> float | None:
    if isinstance(error, (Overloaded, NotReady, ShuttingDown, QuotaExceeded)):
        return error.retry_after_seconds
    return None
