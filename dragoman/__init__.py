"""Client of the Dragoman translation server.

    import dragoman

    with dragoman.Client("localhost:50051") as client:
        print(client.translate("I love you", target_language="zh-TW").text)

:class:`AsyncClient` has the same methods, to be awaited. What they raise is drawn in
:mod:`dragoman.errors`.
"""

from importlib import metadata as _metadata

from dragoman.aio import AsyncClient
from dragoman.client import Client
from dragoman.connection import Tls
from dragoman.errors import (
    CancelledError,
    DeadlineExceededError,
    DragomanError,
    InvalidRequestError,
    OverloadedError,
    QuotaExceededError,
    RetryableError,
    ServerError,
    UnauthenticatedError,
    UnavailableError,
    UnknownModelError,
)
from dragoman.options import Decoding, Greedy, Sampling
from dragoman.results import (
    Delta,
    FinishReason,
    ModelInfo,
    ModelReference,
    QualityScore,
    SentenceTranslation,
    Timing,
    TokenScore,
    Translation,
    TranslationWarning,
    WarningCode,
)

try:
    __version__ = _metadata.version("dragoman")
except _metadata.PackageNotFoundError:  # a checkout on the path, not installed
    __version__ = "0+unknown"

__all__ = [
    "AsyncClient",
    "CancelledError",
    "Client",
    "DeadlineExceededError",
    "Decoding",
    "Delta",
    "DragomanError",
    "FinishReason",
    "Greedy",
    "InvalidRequestError",
    "ModelInfo",
    "ModelReference",
    "OverloadedError",
    "QualityScore",
    "QuotaExceededError",
    "RetryableError",
    "Sampling",
    "SentenceTranslation",
    "ServerError",
    "Timing",
    "Tls",
    "TokenScore",
    "Translation",
    "TranslationWarning",
    "UnauthenticatedError",
    "UnavailableError",
    "UnknownModelError",
    "WarningCode",
    "__version__",
]
