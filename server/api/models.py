"""``dragoman.v1.ModelService``."""

from __future__ import annotations

from typing import Any

import grpc

from dragoman.v1 import models_pb2, models_pb2_grpc
from server.api import convert
from server.errors import InvalidRequest
from server.text.catalogue import Catalogue

Context = grpc.aio.ServicerContext[Any, Any]


class ModelService(models_pb2_grpc.ModelServiceServicer):
    """What the server holds."""

    def __init__(self, catalogue: Catalogue, provider: str) -> None:
        """Set the models and the execution provider that runs them."""
        self._catalogue = catalogue
        self._provider = provider

    async def ListModels(  # noqa: N802  the wire's name
        self, request: models_pb2.ListModelsRequest, context: Context
    ) -> models_pb2.ListModelsResponse:
        """All models, by name."""
        del request, context
        models = [convert.model_message(p.bundle, self._provider) for p in self._catalogue]
        return models_pb2.ListModelsResponse(models=models)

    async def GetModel(  # noqa: N802  the wire's name
        self, request: models_pb2.GetModelRequest, context: Context
    ) -> models_pb2.GetModelResponse:
        """One model."""
        del context
        if not request.name:
            raise InvalidRequest("name", "is missing")
        pipeline = self._catalogue.named(request.name)
        model = convert.model_message(pipeline.bundle, self._provider)
        return models_pb2.GetModelResponse(model=model)
