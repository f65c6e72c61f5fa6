"""Everything that can go wrong, once.

    DragomanError
    ├── InvalidRequest       the caller's input        INVALID_ARGUMENT + BadRequest
    ├── UnknownModel         no such model or pair     NOT_FOUND
    ├── Overloaded           no room now               RESOURCE_EXHAUSTED + RetryInfo
    ├── QuotaExceeded        this caller's share       RESOURCE_EXHAUSTED + QuotaFailure, RetryInfo
    ├── DeadlineExceeded     the caller's time is up   DEADLINE_EXCEEDED
    ├── RequestCancelled     the caller left           CANCELLED
    ├── NotReady             not warm yet              UNAVAILABLE + RetryInfo
    ├── ShuttingDown         draining                  UNAVAILABLE + RetryInfo
    ├── Unauthenticated      no or a wrong key         UNAUTHENTICATED
    ├── PermissionDenied     not served here           PERMISSION_DENIED
    ├── FailedPrecondition   not as things stand       FAILED_PRECONDITION + PreconditionFailure
    ├── ModelFailure         the graph failed          INTERNAL, without the text
    └── StartupError         at start: one line, exit 2
        ├── BundleError      a bundle cannot be used
        ├── CorpusFault      a file of a corpus cannot be used
        ├── ProviderUnavailable  where it should run cannot be reached
        ├── SettingsFault    a setting is unknown or out of range
        └── PortTaken        an address cannot be listened on

``server/api/status.py`` holds the one table to status codes; a test walks the subclasses.
"""

from __future__ import annotations


class DragomanError(Exception):
    """Any error of the server. Its message is meant for the caller and holds no text of theirs."""


class InvalidRequest(DragomanError):
    """The request cannot be served as it is; trying again will not help."""

    def __init__(self, field: str, description: str) -> None:
        """Name the field as the wire names it, such as ``texts[3]``."""
        super().__init__(f"{field}: {description}")
        self.field = field
        self.description = description


class UnknownModel(DragomanError):
    """No model of that name, or none for that language pair."""


class _Retryable(DragomanError):
    """May succeed if tried again after ``retry_after_seconds``."""

    def __init__(self, message: str, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class Overloaded(_Retryable):
    """The queue is full; nothing of the request was computed."""


class QuotaExceeded(DragomanError):
    """The caller has used its share; others may still be served."""

    def __init__(
        self, message: str, subject: str = "", retry_after_seconds: float | None = None
    ) -> None:
        """Say whose share.

        Args:
            message: what was used up.
            subject: the caller's name, as the key file has it.
            retry_after_seconds: until there is enough again; None = there never will be.
        """
        super().__init__(message)
        self.subject = subject
        self.retry_after_seconds = retry_after_seconds


class DeadlineExceeded(DragomanError):
    """The caller's deadline passed before the work was done."""


class RequestCancelled(DragomanError):
    """The caller left; what was in flight for it has been dropped."""


class NotReady(_Retryable):
    """The server is still warming up."""


class ShuttingDown(_Retryable):
    """The server is draining and takes nothing new."""


class Unauthenticated(DragomanError):
    """No valid key came with the request."""

    def __init__(self, message: str, *, shown: bool = False) -> None:
        """Say whether a key was shown, which then is none of this server's."""
        super().__init__(message)
        self.shown = shown


class PermissionDenied(DragomanError):
    """The server does not do this for anybody, or not for this caller."""


class FailedPrecondition(DragomanError):
    """It cannot be done as things stand; somebody must change them first."""

    def __init__(self, kind: str, subject: str, description: str) -> None:
        """Say what is in the way.

        Args:
            kind: of condition, in capitals, for programs: ``BUNDLE``.
            subject: what does not meet it, as the caller named it.
            description: one line for people.
        """
        super().__init__(description)
        self.kind = kind
        self.subject = subject


class ModelFailure(DragomanError):
    """The model failed while computing; the cause is in the server's log."""


class StartupError(DragomanError):
    """The server cannot start; the message is one line that says what to look at."""


class BundleError(StartupError):
    """A bundle cannot be used; the message says which file and why."""


class CorpusFault(StartupError):
    """A file of a corpus cannot be read or written as asked; the message says which and why."""


class ProviderUnavailable(StartupError):
    """The execution provider that is asked for, or that a bundle needs, is not there."""


class SettingsFault(StartupError):
    """A setting is unknown or out of range; the message names it."""


class PortTaken(StartupError):
    """An address cannot be listened on; the message names it."""
