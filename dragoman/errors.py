"""Everything a call can raise, and the one table from gRPC's status codes to it.

DragomanError
├── InvalidRequestError     the request cannot be served as it is
├── UnknownModelError       no such model, or none for the languages
├── UnauthenticatedError    no key, or a wrong one
├── FailedPreconditionError it cannot be done as things stand
├── DeadlineExceededError   the timeout passed first
├── CancelledError          the call was cancelled
├── ServerError             the server failed
└── RetryableError          may succeed after ``retry_after_seconds``
    ├── OverloadedError     no room now; nothing was computed
    ├── QuotaExceededError  this caller has used its share
    └── UnavailableError    not there, not ready, or shutting down
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import grpc

_PUSHBACK_KEY = "grpc-retry-pushback-ms"
_REQUEST_ID_KEY = "x-request-id"
_DETAILS_KEY = "grpc-status-details-bin"
# The type's name inside the packed google.rpc.Status. Unpacking it would take
# googleapis-common-protos, a dependency for one question with a yes or no.
_QUOTA_FAILURE = b"google.rpc.QuotaFailure"


class DragomanError(Exception):
    """Any failure of a call; the message is the server's where it answered."""

    request_id: str | None = None
    """The name of the request in the server's log, if the server answered."""


class InvalidRequestError(DragomanError):
    """The request cannot be served as it is; the message begins with the field's name."""


class UnknownModelError(DragomanError):
    """No model of that name, or none for that language pair."""


class UnauthenticatedError(DragomanError):
    """No key came with the call, or one that may not do this."""


class FailedPreconditionError(DragomanError):
    """It cannot be done as things stand, such as loading a bundle that is damaged."""


class DeadlineExceededError(DragomanError):
    """The timeout passed before the answer came; the server has dropped the work."""


class CancelledError(DragomanError):
    """The call was cancelled, by closing the client or by the server."""


class ServerError(DragomanError):
    """The server failed, or answered what no server of this version answers."""


class RetryableError(DragomanError):
    """The same call may succeed later."""

    def __init__(self, message: str, retry_after_seconds: float | None = None) -> None:
        """Keep the delay the server asks for; None if it asks for none."""
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class OverloadedError(RetryableError):
    """The server has no room; nothing was computed.

    Without ``retry_after_seconds`` the call itself is too large, and waiting will not help.
    """


class QuotaExceededError(RetryableError):
    """The caller has used its share; others may still be served.

    Without ``retry_after_seconds`` the call alone is larger than the share.
    """


class UnavailableError(RetryableError):
    """The server cannot be reached, is not ready, or shuts down; retries were of no use."""


ERRORS: dict[grpc.StatusCode, type[DragomanError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequestError,
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequestError,
    grpc.StatusCode.NOT_FOUND: UnknownModelError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.PERMISSION_DENIED: UnauthenticatedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: OverloadedError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
    grpc.StatusCode.CANCELLED: CancelledError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.INTERNAL: ServerError,
    grpc.StatusCode.UNKNOWN: ServerError,
    grpc.StatusCode.UNIMPLEMENTED: ServerError,
    grpc.StatusCode.DATA_LOSS: ServerError,
    grpc.StatusCode.ABORTED: ServerError,
    grpc.StatusCode.ALREADY_EXISTS: ServerError,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPreconditionError,
}
"""Every status but OK. RESOURCE_EXHAUSTED with QuotaFailure becomes QuotaExceededError."""


def error_of_code(number: int, message: str) -> DragomanError:
    """Our error of a google.rpc.Code, as the items of a bulk call have it."""
    kinds = {code.value[0]: kind for code, kind in ERRORS.items()}
    return kinds.get(number, ServerError)(message)


def from_rpc_error(error: grpc.RpcError) -> DragomanError:
    """Our error of gRPC's, of the synchronous or the asynchronous kind."""
    if not isinstance(error, (grpc.Call, grpc.aio.AioRpcError)):
        return ServerError(str(error))
    code = error.code()
    message = error.details() or code.name.lower().replace("_", " ")
    metadata: dict[str, str | bytes] = dict(error.trailing_metadata() or ())
    kind = ERRORS.get(code, ServerError)
    if kind is OverloadedError and _QUOTA_FAILURE in _bytes(metadata.get(_DETAILS_KEY)):
        kind = QuotaExceededError
    if issubclass(kind, RetryableError):
        ours: DragomanError = kind(message, _delay_seconds(metadata.get(_PUSHBACK_KEY)))
    else:
        ours = kind(message)
    request_id = metadata.get(_REQUEST_ID_KEY)
    ours.request_id = request_id if isinstance(request_id, str) else None
    return ours


@contextlib.contextmanager
def rpc_errors() -> Iterator[None]:
    """Inside it, what gRPC raises is one of ours.

    Raises:
        DragomanError: in place of ``grpc.RpcError``, which it keeps as its cause.
    """
    try:
        yield
    except grpc.RpcError as error:
        raise from_rpc_error(error) from error


def _delay_seconds(pushback: str | bytes | None) -> float | None:
    """Anything but a number of milliseconds asks not to retry (gRFC A6)."""
    if isinstance(pushback, str) and pushback.isascii() and pushback.isdigit():
        return int(pushback) / 1000
    return None


def _bytes(value: str | bytes | None) -> bytes:
    return value if isinstance(value, bytes) else b""
