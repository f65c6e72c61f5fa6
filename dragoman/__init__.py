"""Client of the Dragoman translation server.

    import dragoman

    with dragoman.Client("localhost:50051") as client:
        print(client.translate("I love you", target_language="zh-TW").text)

:class:`AsyncClient` has the same methods, to be awaited. What they raise is drawn in
:mod:`dragoman.errors`.
"""

from importlib import metadata as _metadata

from dragoman.aio import AsyncClient
from dragoman.bulk import BulkResult
from dragoman.client import Client
from dragoman.connection import Tls
from dragoman.errors import (
    CancelledError,
    DeadlineExceededError,
    DragomanError,
    FailedPreconditionError,
    InvalidRequestError,
    OverloadedError,
    QuotaExceededError,
    RetryableError,
    ServerError,
    UnauthenticatedError,
    UnavailableError,
    UnknownModelError,
)
from dragoman.findings import (
    AppliedTerm,
    LanguageCandidate,
    Placeholder,
    PlaceholderOutcome,
    SentenceAnalysis,
    TextAnalysis,
)
from dragoman.options import Beam, Decoding, GlossaryTerm, Greedy, Priority, Sampling
from dragoman.results import (
    Candidate,
    Delta,
    FinishReason,
    LoadedModel,
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
    "AppliedTerm",
    "AsyncClient",
    "Beam",
    "BulkResult",
    "CancelledError",
    "Candidate",
    "Client",
    "DeadlineExceededError",
    "Decoding",
    "Delta",
    "DragomanError",
    "FailedPreconditionError",
    "FinishReason",
    "GlossaryTerm",
    "Greedy",
    "InvalidRequestError",
    "LanguageCandidate",
    "LoadedModel",
    "ModelInfo",
    "ModelReference",
    "OverloadedError",
    "Placeholder",
    "PlaceholderOutcome",
    "Priority",
    "QualityScore",
    "QuotaExceededError",
    "RetryableError",
    "Sampling",
    "SentenceAnalysis",
    "SentenceTranslation",
    "ServerError",
    "TextAnalysis",
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
