"""The HTTP app: fronts bring routes, and every request passes the same watch as those of gRPC.

A front is a module of this package with a function that returns a :class:`Front`: its Starlette
routes, the shape of its errors, and where its callers put their key. A handler takes a Starlette
``Request`` and returns a ``Response``; what it raises of ``server.errors`` becomes a status by the
front's table. When it is called the body has been read, the key checked, and ``current_visit`` set;
:func:`deadline_of` says until when it may work. If the caller leaves, it is cancelled.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import grpc
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Match, Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.access.gate import credential_of
from server.api.body import read_body, replay
from server.api.openapi import TEXT, Paths, document, fields, operation
from server.api.watch import REQUEST_ID, Watch, Watcher
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
from server.settings import Settings

STATUS: Mapping[type[DragomanError], int] = {
    InvalidRequest: 400,
    UnknownModel: 404,
    Overloaded: 503,
    QuotaExceeded: 429,
    DeadlineExceeded: 504,
    RequestCancelled: 499,
    NotReady: 503,
    ShuttingDown: 503,
    Unauthenticated: 401,
    PermissionDenied: 403,
    FailedPrecondition: 409,
    ModelFailure: 500,
}
"""What HTTP has for our errors; a front may have its own."""

# What metrics count a request as that HTTP itself was against.
_CODES = {
    404: grpc.StatusCode.UNIMPLEMENTED,
    405: grpc.StatusCode.UNIMPLEMENTED,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_ARRIVED = "dragoman.arrived"
_DEADLINE = "dragoman.deadline"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why there is no answer, for a front to put into its own shape."""

    status: int
    message: str
    error: DragomanError | None = None
    """None = the request was no good as HTTP: no such path, too large."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """One API on the app."""

    name: str
    """In metrics, before each route's own."""
    routes: Sequence[BaseRoute]
    """Starlette's ``Route`` and ``Mount``; the first front that has a path serves it."""
    refuse: Callable[[Refusal], Response]
    """An error in the API's own shape."""
    statuses: Mapping[type[DragomanError], int] = field(default_factory=lambda: STATUS)
    credential: Callable[[Request], Awaitable[str | None]] | None = None
    """The key that came with a request; None = ``authorization: Bearer`` or ``x-api-key``."""
    open_paths: frozenset[str] = frozenset()
    """Paths of routes that ask for no key."""
    paths: Paths = field(default_factory=dict)
    """What OpenAPI says of the routes."""
    prefix: str = "/"
    """Paths below it that nobody serves are refused in this front's shape."""


class HttpApp:
    """The ASGI app."""

    def __init__(self, fronts: Sequence[Front], watcher: Watcher, settings: Settings) -> None:
        """Take the fronts; of two that have a path the first serves it."""
        self._fronts = fronts
        self._watcher = watcher
        self._timeout_seconds = settings.http_timeout_seconds
        self._read_seconds = settings.http_read_seconds
        self._most_bytes = settings.max_message_bytes
        self._labels = {
            id(route): f"{front.name}.{_name(route)}" for front in fronts for route in front.routes
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        assert scope["type"] == "http"
        front, route, scope = self._find(scope)
        headers = [(k.decode("latin-1"), v.decode("latin-1")) for k, v in scope["headers"]]
        label = "http.other" if route is None else self._labels[id(route)]
        watch = Watch(self._watcher, f"http.{front.name}", label, headers)
        reply = _Reply(send, watch.request_id)
        scope[_ARRIVED] = time.monotonic()
        scope[_DEADLINE] = scope[_ARRIVED] + self._timeout_seconds
        try:
            await self._serve(front, route, watch, scope, receive, reply)
        except HTTPException as error:
            watch.close(_CODES.get(error.status_code, grpc.StatusCode.INVALID_ARGUMENT))
            await reply.refuse(front, Refusal(error.status_code, error.detail), error.headers)
        except BaseException as error:
            ours = watch.fail(error)
            if isinstance(error, asyncio.CancelledError):
                raise
            refusal = Refusal(front.statuses[type(ours)], str(ours), ours)
            await reply.refuse(front, refusal, _retry_after(ours))
        else:
            watch.close(grpc.StatusCode.OK)

    def _find(self, scope: Scope) -> tuple[Front, BaseRoute | None, Scope]:
        """Who serves a path; the nearest front, for its shape of errors, if nobody does."""
        wrong_method: tuple[Front, BaseRoute, Scope] | None = None
        for front in self._fronts:
            for route in front.routes:
                match, more = route.matches(scope)
                if match is Match.FULL:
                    return front, route, {**scope, **more}
                if match is Match.PARTIAL and wrong_method is None:
                    wrong_method = front, route, {**scope, **more}
        if wrong_method is not None:
            return wrong_method
        path: str = scope["path"]
        near = [front for front in self._fronts if path.startswith(front.prefix)]
        return max(near, key=lambda front: len(front.prefix)), None, dict(scope)

    async def _serve(
        self, front: Front, route: BaseRoute | None, watch: Watch, scope: Scope,
        receive: Receive, reply: _Reply,
    ) -> None:  # fmt: skip
        if route is None:
            raise HTTPException(404, "Not found")
        if isinstance(route, Route) and route.methods and scope["method"] not in route.methods:
            raise HTTPException(
                405, "Method not allowed", {"Allow": ", ".join(sorted(route.methods))}
            )
        body = await read_body(Headers(scope=scope), receive, self._most_bytes, self._read_seconds)
        request = Request(scope, replay(body, receive))
        if _path(route) not in front.open_paths:
            credential = front.credential or _credential
            watch.enter(await credential(request))
        again = replay(body, receive)
        # A caller who leaves ends the work; what waits for that reads nothing else from then on.
        work = asyncio.ensure_future(route.handle(scope, again, reply))
        left = asyncio.ensure_future(_left(receive))
        try:
            await asyncio.wait({work, left}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                work.cancel()
                await asyncio.wait({work})
                if work.cancelled():
                    msg = "the caller left"
                    raise RequestCancelled(msg)
            await work
        finally:
            left.cancel()
            work.cancel()


class _Reply:
    """What is sent back, with the headers that every answer has."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._request_id = request_id
        self._started = False

    async def __call__(self, message: Message) -> None:
        """Send a message of ASGI."""
        if message["type"] == "http.response.start":
            self._started = True
            headers = MutableHeaders(scope=message)
            headers[REQUEST_ID] = self._request_id
            headers.setdefault("x-content-type-options", "nosniff")
            headers.setdefault("cache-control", "no-store")
        await self._send(message)

    async def refuse(
        self, front: Front, refusal: Refusal, headers: Mapping[str, str] | None
    ) -> None:
        """Send an error, unless an answer has begun: then the connection breaks, and that tells."""
        if self._started:
            return
        response = front.refuse(refusal)
        response.headers.update(headers or {})
        if refusal.status in {408, 413}:
            response.headers["connection"] = "close"  # of the body there is more to come
        await response({"type": "http"}, _nothing, self)


def arrived_at(request: Request) -> float:
    """When a request came; monotonic seconds."""
    moment: float = request.scope[_ARRIVED]
    return moment


def deadline_of(request: Request) -> float:
    """Until when its answer is of use; monotonic seconds."""
    moment: float = request.scope[_DEADLINE]
    return moment


def build_app(fronts: Sequence[Front], watcher: Watcher, settings: Settings) -> ASGIApp:
    """The app of some fronts; the last one's shape is for paths that no front has."""
    app: ASGIApp = HttpApp(fronts, watcher, settings)
    if settings.http_cors_origins:
        app = CORSMiddleware(
            app,
            allow_origins=settings.http_cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", "x-api-key", REQUEST_ID],
            expose_headers=[REQUEST_ID, "retry-after"],
        )
    return app


def core_front(ready: Callable[[], bool], others: Sequence[Front]) -> Front:
    """What is no API's own: whether the server takes requests, and what it can be asked."""
    status = fields("status", status=TEXT)
    own = {"/health": {"get": operation("Whether requests are taken", status, status, "503")}}
    openapi = document({path: item for each in others for path, item in each.paths.items()} | own)

    async def health(request: Request) -> Response:
        del request
        if ready():
            return JSONResponse({"status": "ok"})
        return JSONResponse({"status": "not serving"}, 503, {"retry-after": "1"})

    async def describe(request: Request) -> Response:
        del request
        return JSONResponse(openapi)

    return Front(
        name="http",
        routes=[
            Route("/health", health, methods=["GET"]),
            Route("/openapi.json", describe, methods=["GET"]),
        ],
        refuse=plain_refusal,
        open_paths=frozenset({"/health", "/openapi.json"}),
    )


def plain_refusal(refusal: Refusal) -> Response:
    """An error as most of the APIs have it: ``{"error": "..."}``."""
    return JSONResponse({"error": refusal.message}, refusal.status)


async def _credential(request: Request) -> str | None:
    return credential_of(request.headers.items())


def _retry_after(error: DragomanError) -> dict[str, str]:
    if isinstance(error, (Overloaded, NotReady, ShuttingDown, QuotaExceeded)):
        seconds = error.retry_after_seconds
        # Whole seconds, for that is what the header holds.
        return {} if seconds is None else {"retry-after": str(max(1, math.ceil(seconds)))}
    return {"www-authenticate": "Bearer"} if isinstance(error, Unauthenticated) else {}


def _path(route: BaseRoute) -> str:
    assert isinstance(route, (Route, Mount))
    return route.path


def _name(route: BaseRoute) -> str:
    return _path(route).strip("/") or "index"


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _nothing() -> Message:
    return {"type": "http.disconnect"}
