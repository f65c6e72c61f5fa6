"""``dragoman.v1.ModelService``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc

from dragoman.v1 import models_pb2, models_pb2_grpc
from server.access.gate import current_visit
from server.api import convert
from server.errors import InvalidRequest, PermissionDenied
from server.registry import ModelRegistry
from server.text.catalogue import Catalogue

Context = grpc.aio.ServicerContext[Any, Any]


class ModelService(models_pb2_grpc.ModelServiceServicer):
    """What the server holds, and changes of it."""

    def __init__(
        self,
        catalogue: Catalogue,
        requested: str,
        registry: ModelRegistry | None = None,
        pivots: Sequence[str] = (),
    ) -> None:
        """Set the models.

        Args:
            catalogue: the models.
            requested: the setting that says where they should run.
            registry: changes them; None = callers may not.
            pivots: languages by way of which pairs without a model go.
        """
        self._pivots = tuple(pivots)
        self._catalogue = catalogue
        self._requested = requested
        self._registry = registry

    async def ListModels(  # noqa: N802  the wire's name
        self, request: models_pb2.ListModelsRequest, context: Context
    ) -> models_pb2.ListModelsResponse:
        """All models, by name."""
        del request, context
        models = [convert.model_message(p.bundle, self._requested) for p in self._catalogue]
        routes = [
            models_pb2.Route(
                source_language=route[0].pair.source_language,
                target_language=route[-1].pair.target_language,
                models=[pipeline.ref.name for pipeline in route],
            )
            for route in self._catalogue.pivoted(self._pivots)
        ]
        return models_pb2.ListModelsResponse(models=models, routes=routes)

    async def GetModel(  # noqa: N802  the wire's name
        self, request: models_pb2.GetModelRequest, context: Context
    ) -> models_pb2.GetModelResponse:
        """One model."""
        del context
        if not request.name:
            raise InvalidRequest("name", "is missing")
        pipeline = self._catalogue.named(request.name)
        model = convert.model_message(pipeline.bundle, self._requested)
        return models_pb2.GetModelResponse(model=model)

    async def LoadModel(  # noqa: N802  the wire's name
        self, request: models_pb2.LoadModelRequest, context: Context
    ) -> models_pb2.LoadModelResponse:
        """A bundle, taking requests."""
        del context
        loaded = await self._admin().load(request.path)
        return models_pb2.LoadModelResponse(
            model=convert.model_message(loaded.bundle, self._requested),
            replaced_digest=loaded.replaced_digest,
        )

    async def UnloadModel(  # noqa: N802  the wire's name
        self, request: models_pb2.UnloadModelRequest, context: Context
    ) -> models_pb2.UnloadModelResponse:
        """A model, taking no more requests."""
        del context
        registry = self._admin()
        if not request.name:
            raise InvalidRequest("name", "is missing")
        bundle = await registry.unload(request.name)
        model = convert.model_message(bundle, self._requested)
        return models_pb2.UnloadModelResponse(model=model)

    def _admin(self) -> ModelRegistry:
        """Who changes models.

        Raises:
            PermissionDenied: nobody, on this server, or not this caller.
        """
        current_visit.get().check_admin()
        if self._registry is None:
            msg = "callers may not change this server's models (its setting model_admin is off)"
            raise PermissionDenied(msg)
        return self._registry
