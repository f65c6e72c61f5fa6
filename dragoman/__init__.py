"""Client of the Dragoman translation server.

import dragoman

with dragoman.Client("localhost:50051") as client:
    print(client.translate("I love you", target_language="zh-TW").text)
"""

from dragoman.aio import AsyncClient
from dragoman.client import Client
from dragoman.connection import Tls
from dragoman.errors import (
    CancelledError,
    DeadlineExceededError,
    DragomanError,
    InvalidRequestError,
    OverloadedError,
    ServerError,
    UnauthenticatedError,
    UnavailableError,
    UnknownModelError,
)
from dragoman.options import Decoding, Sampling
from dragoman.results import (
    Delta,
    FinishReason,
    Model,
    ModelReference,
    QualityScore,
    SentenceTranslation,
    Timing,
    TokenScore,
    Translation,
    TranslationWarning,
    WarningCode,
)

__all__ = [
    "AsyncClient",
    "CancelledError",
    "Client",
    "DeadlineExceededError",
    "Decoding",
    "Delta",
    "DragomanError",
    "FinishReason",
    "InvalidRequestError",
    "Model",
    "ModelReference",
    "OverloadedError",
    "QualityScore",
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
]
