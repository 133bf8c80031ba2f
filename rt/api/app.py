"""The web process as one ASGI callable: HTTP by FastAPI, the WebSocket beside it, both over the same parts."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.datastructures import State
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rt import __version__
from rt.api import console, dev, health, inputs, jobs, letters, notifications, problems, streams, tickets
from rt.api.auth import Authenticator
from rt.api.docs import docs
from rt.api.insight import web_looks
from rt.api.pages import pages
from rt.api.problems import BodyLimit, Unexpected, problem
from rt.api.services import open_services
from rt.api.socket import WebSocketEndpoint
from rt.app import App
from rt.errors import Refused
from rt.settings import Settings
from rt.telemetry import metrics

_WEBSOCKET = "/v1/ws"

#: Where a response does not say otherwise: answers are somebody's own, and no page.
_HEADERS = [
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]


class Web:
    """What a server runs. `state.services` is there from the lifespan's start to its end."""

    def __init__(self, app: App, settings: Settings) -> None:
        self.state = State()
        self._app, self._settings = app, settings
        middleware = [
            Middleware(Measured),
            Middleware(SecurityHeaders),
            Middleware(Unexpected),
            Middleware(BodyLimit, limit=settings.max_message_bytes),
        ]
        self._http = FastAPI(
            title="rt",
            version=__version__,
            lifespan=self._lifespan,
            docs_url=None,
            redoc_url=None,
            openapi_url=None,
            redirect_slashes=False,
            generate_unique_id_function=lambda route: route.name,
            middleware=middleware,
        )
        submissions: ASGIApp = jobs.Submissions(self.state)
        for one in reversed(middleware):
            submissions = one.cls(submissions, *one.args, **one.kwargs)
        self._submissions = submissions
        problems.install(self._http)
        known = [jobs.router, inputs.router, letters.router, streams.router, notifications.router, tickets.router, health.router]
        if settings.console != "off":
            known.append(console.router)
        for router in (*known, docs(self._http), pages(settings)):
            self._http.include_router(router)
        if settings.dev:
            self._http.include_router(dev.router)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            if scope["path"] == _WEBSOCKET:
                await self.state.websocket(scope, receive, send)
            else:
                await _no_websocket(scope, receive, send)
            return
        if scope["type"] == "http":
            if jobs.Submissions.takes(scope):
                await self._submissions(scope, receive, send)
                return
            # Routed as it was sent: decoded, an id with a slash in it would be two parts of a path.
            scope = {**scope, "path": scope["raw_path"].decode("latin-1")}
        await self._http(scope, receive, send)

    @asynccontextmanager
    async def _lifespan(self, http: FastAPI) -> AsyncIterator[None]:
        async with open_services(self._app, self._settings, web_looks) as services:
            authenticator = Authenticator(self._settings, services.store)
            http.state.services = self.state.services = services
            http.state.authenticator = self.state.authenticator = authenticator
            http.state.redis_check = health.RedisCheck(services.store)
            self.state.websocket = WebSocketEndpoint(services, authenticator)
            yield


def create_app(app: App, settings: Settings) -> Web:
    """The web process of an application. Its lifespan raises BadSettings for what cannot be served."""
    return Web(app, settings)


class Measured:
    """Counts answers by route and status, and times them until they begin."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()

        async def measuring(message: Message) -> None:
            if message["type"] == "http.response.start":
                # The route's template, of which there are few; paths hold ids.
                route = getattr(scope.get("route"), "path", "_none")
                metrics.http_requests.labels(route, str(message["status"])).inc()
                metrics.http_seconds.labels(route).observe(time.perf_counter() - began)
            await send(message)

        await self._app(scope, receive, measuring if scope["type"] == "http" else send)


class SecurityHeaders:
    """Adds the headers that keep a browser from doing more with an answer than it says."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def adding(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", ()))
                said = {name for name, _ in headers}
                message["headers"] = headers + [one for one in _HEADERS if one[0] not in said]
            await send(message)

        await self._app(scope, receive, adding)


async def _no_websocket(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()  # websocket.connect
    if "websocket.http.response" in scope.get("extensions", {}):
        await problem(Refused("not_found", f"there is no WebSocket here; it is at {_WEBSOCKET}"))(scope, receive, send)
    else:
        await send({"type": "websocket.close", "code": 1000})
