"""The gRPC server: services, health per service, reflection, channel settings."""

from __future__ import annotations

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from dragoman.v1 import models_pb2, models_pb2_grpc, translation_pb2, translation_pb2_grpc
from server.access.gate import Gate
from server.api.interceptors import Observer
from server.api.models import ModelService
from server.api.status import STATUS
from server.api.tls import server_credentials
from server.api.translation import TranslationService
from server.api.watch import Watcher
from server.errors import PortTaken
from server.metrics import Metrics
from server.settings import Settings
from server.tracing import Tracer

_DESCRIPTORS = (
    translation_pb2.DESCRIPTOR.services_by_name["TranslationService"],
    models_pb2.DESCRIPTOR.services_by_name["ModelService"],
)
SERVICES = tuple(service.full_name for service in _DESCRIPTORS)
_UNREQUESTED_SECONDS = 3600
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Door:
    """The server's gRPC side; health says NOT_SERVING until :meth:`open` is called."""

    def __init__(
        self,
        translation: TranslationService,
        models: ModelService,
        settings: Settings,
        metrics: Metrics,
        gate: Gate | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        """Register the services and take the port.

        Args:
            translation: translates.
            models: tells of models.
            settings: addresses, limits, TLS files.
            metrics: where requests are counted.
            gate: lets callers in; None = everybody.
            tracer: follows requests; None = nobody does.

        Raises:
            PortTaken: the port cannot be had.
            SettingsFault: a TLS file cannot be used.
        """
        credentials = server_credentials(settings)
        self._metrics = metrics
        methods = [method.name for service in _DESCRIPTORS for method in service.methods]
        metrics.expect(methods, {code.name for code in (grpc.StatusCode.OK, *STATUS.values())})
        self.watcher = Watcher(metrics, settings, gate or Gate(None), tracer)
        self._server = grpc.aio.server(
            interceptors=[Observer(self.watcher, open_reflection=settings.open_reflection)],
            options=channel_options(settings),
        )
        translation_pb2_grpc.add_TranslationServiceServicer_to_server(translation, self._server)
        models_pb2_grpc.add_ModelServiceServicer_to_server(models, self._server)
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names: tuple[str, ...] = (*SERVICES, health.SERVICE_NAME)
        if settings.reflection:
            names = (*names, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, self._server)
        self._names: tuple[str, ...] = ("", *names)
        address = f"{settings.host}:{settings.port}"
        try:
            self.port = (
                self._server.add_insecure_port(address)
                if credentials is None
                else self._server.add_secure_port(address, credentials)
            )
        except RuntimeError as error:
            msg = f"cannot listen on {address}: is the port taken?"
            raise PortTaken(msg) from error

    def add(self, name: str, service: grpc.GenericRpcHandler) -> None:
        """Serve another API too; before :meth:`start`."""
        self._server.add_generic_rpc_handlers((service,))
        self._names = (*self._names, name)

    async def start(self) -> None:
        """Listen; health is NOT_SERVING."""
        await self.set_serving(serving=False)
        await self._server.start()

    async def set_serving(self, *, serving: bool) -> None:
        """Tell balancers and watchers whether to send requests."""
        for name in self._names:
            await self._health.set(name, SERVING if serving else NOT_SERVING)
        self._metrics.set_serving(serving=serving)

    async def stop(self, grace_seconds: float) -> None:
        """Accept no more connections; what runs may finish within the grace."""
        await self._server.stop(grace_seconds)


def channel_options(settings: Settings) -> list[tuple[str, int]]:
    """Our settings under the names that gRPC has for them."""
    options = {
        "grpc.so_reuseport": 0,  # two servers on one port by mistake should fail, not share
        "grpc.max_send_message_length": settings.max_message_bytes,
        "grpc.max_receive_message_length": settings.max_message_bytes,
        "grpc.max_concurrent_streams": settings.max_concurrent_streams,
        # What waits for the event loop waits for its own deadline: gRPC would cancel it after 30 s,
        # a status that tells a caller nothing.
        "grpc.server_max_unrequested_time_in_server": _UNREQUESTED_SECONDS,
        "grpc.keepalive_time_ms": settings.keepalive_time_ms,
        "grpc.keepalive_timeout_ms": settings.keepalive_timeout_ms,
        # gRPC waits by this one for the answer to any ping, and by itself that is a minute.
        "grpc.http2.ping_timeout_ms": settings.keepalive_timeout_ms,
        "grpc.keepalive_permit_without_calls": 1,
        "grpc.http2.min_recv_ping_interval_without_data_ms": settings.min_ping_interval_ms,
        "grpc.max_connection_idle_ms": settings.max_connection_idle_ms,
        "grpc.max_connection_age_ms": settings.max_connection_age_ms,
        "grpc.max_connection_age_grace_ms": settings.max_connection_age_grace_ms,
    }
    return [(name, value) for name, value in options.items() if value is not None]
