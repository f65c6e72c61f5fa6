"""What a call can raise.

DragomanError
├── InvalidRequestError     the request cannot be served as it is
├── UnknownModelError       no such model or language pair
├── OverloadedError         no room now; try again after ``retry_after_seconds``
├── DeadlineExceededError   the timeout passed first
├── UnavailableError        not there, not ready or shutting down; may be tried again
├── UnauthenticatedError    no valid key
├── CancelledError          the call was cancelled
└── ServerError             the server failed
"""

from __future__ import annotations

import grpc

_PUSHBACK_KEY = "grpc-retry-pushback-ms"


class DragomanError(Exception):
    """Any failure of a call; the message is the server's."""

    def __init__(self, message: str, retry_after_seconds: float | None = None) -> None:
        """Keep the delay after which the server says to try again, if it says so."""
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class InvalidRequestError(DragomanError):
    """The request cannot be served as it is; the message begins with the field's name."""


class UnknownModelError(DragomanError):
    """No model of that name, or none for that language pair."""


class OverloadedError(DragomanError):
    """The server has no room; nothing was computed."""


class DeadlineExceededError(DragomanError):
    """The timeout passed before the answer came."""


class UnavailableError(DragomanError):
    """The server cannot be reached, is not ready, or shuts down."""


class UnauthenticatedError(DragomanError):
    """No key came with the call, or a wrong one."""


class CancelledError(DragomanError):
    """The call was cancelled."""


class ServerError(DragomanError):
    """The server failed, or answered with a status that no other error stands for."""


ERRORS: dict[grpc.StatusCode, type[DragomanError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequestError,
    grpc.StatusCode.NOT_FOUND: UnknownModelError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: OverloadedError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.PERMISSION_DENIED: UnauthenticatedError,
    grpc.StatusCode.CANCELLED: CancelledError,
}


def from_rpc_error(error: grpc.RpcError) -> DragomanError:
    """Our error of gRPC's."""
    assert isinstance(error, grpc.Call)
    code = error.code()
    message = error.details() or code.name.lower().replace("_", " ")
    delay = None
    for key, value in error.trailing_metadata() or ():
        if key == _PUSHBACK_KEY and str(value).isdigit():
            delay = int(value) / 1000
    return ERRORS.get(code, ServerError)(message, delay)
