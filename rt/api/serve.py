"""Running a web process: uvicorn from code, the ready line, and a drain that sends clients away one by one."""

import asyncio
import contextlib
import gc
import random
import socket
import sys
from collections.abc import Callable
from typing import Any

import uvicorn

from rt.actors.connection import ConnectionActor
from rt.actors.messages import Draining
from rt.api.app import create_app
from rt.api.services import Services
from rt.api.wire import WebSocketProtocol
from rt.app import App
from rt.errors import Unavailable
from rt.jobs.worker import Worker, run_until_stopped
from rt.redis import Store
from rt.settings import BadSettings, Settings
from rt.signals import heard
from rt.telemetry import get_logger, metrics

log = get_logger("rt.serve")

#: After the last drained connection, for responses that are still being written.
GRACE_S = 3
#: Data that a peer has not taken, or not acknowledged, for this long is for a dead one (Linux).
USER_TIMEOUT_MS = 30_000
#: New objects, and collections of the younger generation, until one of each generation is looked through for rings.
_COLLECT_AFTER = (20_000, 20, 50)
#: Between `reconnect` and the close: what is under way may still arrive.
CLOSE_IN_S = 3.0


class Server(uvicorn.Server):
    """uvicorn's server, which would close every WebSocket at once with 1012 and only then tell the application."""

    def __init__(self, config: uvicorn.Config, settings: Settings, web: Any) -> None:
        super().__init__(config)
        self._settings = settings
        self._web = web
        self.ready = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        """uvicorn would raise the signal again at the end and so end with another exit code than 0."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for server in self.servers:
            for one in server.sockets:
                if sys.platform == "linux" and one.family in (socket.AF_INET, socket.AF_INET6):
                    # Accepted sockets inherit it. uvicorn ends a connection by waiting until its peer has read everything.
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
        if not self.should_exit:
            _calm_collector()
            self.ready.set()

    @property
    def broken(self) -> bool:
        """Whether a part that lives as long as the process has ended: nobody can be served any more."""
        return self.ready.is_set() and bool(self.lifespan.error_occurred)

    async def on_tick(self, counter: int) -> bool:
        """uvicorn would go on to listen, and answer everybody with 500."""
        return await super().on_tick(counter) or self.broken

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        services: Services | None = getattr(self._web.state, "services", None)
        if services is not None:
            if sockets:
                # Whoever it was given by goes on: who connects from now on is another process's.
                for server in self.servers:
                    server.close()
            await drain(services, self._settings, lambda: self.force_exit)
        await super().shutdown(sockets)
        if self.force_exit:
            # uvicorn would skip it; it is what closes Redis and the actors, and it does not wait for clients.
            await self.lifespan.shutdown()

    @property
    def port(self) -> int:
        return int(self.servers[0].sockets[0].getsockname()[1])


def _calm_collector() -> None:
    """What was loaded lives as long as the process: not looked at again. What connections make is freed by its reference counts.

    At Python's own thresholds an announcement to a room of thousands is interrupted again and again, for up to 0.5 s.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT_AFTER)


async def drain(services: Services, settings: Settings, hurry: Callable[[], bool]) -> None:
    """Not ready at once; every client is told when to come back; cursors are stored; then connections end with 4000.

    The delays are spread over as many seconds as the fleet needs to take everybody back at `accept_rate` a second, so
    that a deploy is no stampede. Returns when all have left, after `drain_s`, or as soon as `hurry()` says so.
    """
    services.draining.set()
    metrics.draining.set(1)
    actors = [one for one in services.supervisor.actors if isinstance(one, ConnectionActor)]
    window_ms = max(500.0, len(actors) / settings.accept_rate * 1000)
    for actor in actors:
        actor.tell(Draining(int(random.uniform(0, window_ms)), min(CLOSE_IN_S, settings.drain_s / 2)))
    if actors:
        log.info("draining", connections=len(actors), over_ms=int(window_ms))
    deadline = asyncio.get_running_loop().time() + settings.drain_s
    while services.supervisor.actors and not hurry() and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.05)
    with contextlib.suppress(Unavailable):
        await services.cursors.flush()


def make_server(app: App, settings: Settings) -> Server:
    """A configured server that is not running yet. Raises BadSettings when the secret is missing."""
    if settings.secret is None:
        raise BadSettings(
            "RT_SECRET is not set: it signs tokens; make one with `python -c 'import secrets; print(secrets.token_hex(32))'`, "
            "or use `rt dev`, which keeps its own"
        )
    web = create_app(app, settings)
    config = uvicorn.Config(
        web,
        host=settings.host,
        port=settings.port,
        ws=WebSocketProtocol,
        ws_max_size=settings.max_message_bytes * 4,
        ws_per_message_deflate=settings.deflate,
        ws_ping_interval=20,
        ws_ping_timeout=20,
        timeout_graceful_shutdown=GRACE_S,
        workers=1,
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,  # an address is whose connection it is, which rt/api/dev.py relies on
        date_header=False,
        lifespan="on",
    )
    return Server(config, settings, web)


def serve_web(app: App, settings: Settings, fd: int | None = None) -> int:
    """Runs a web process until SIGTERM or SIGINT; returns the exit code (1 when it could not start, or a part of it broke).

    `fd` is a listening socket to serve instead of the settings' host and port; the process leaves it as soon as it drains.
    Prints a line that starts with `ready http://` once it listens. A second signal ends it without waiting for clients.
    Raises BadSettings.
    """
    server = make_server(app, settings)
    with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
        return runner.run(_serve(server, settings, [socket.socket(fileno=fd)] if fd is not None else None))


def serve_all(app: App, settings: Settings) -> int:
    """A web process and a worker in one, for a store that only one process can see (`memory://`)."""
    server = make_server(app, settings)
    with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
        return runner.run(_serve(server, settings, None, app))


async def _serve(server: Server, settings: Settings, sockets: list[socket.socket] | None, beside: App | None = None) -> int:
    """`beside` is the application whose worker runs in this process as well."""
    store = Store.of(settings)
    try:
        with contextlib.suppress(Unavailable):
            await store.refuse_cluster()
        worker = Worker(beside, settings, store) if beside else None

        def stop() -> None:
            if server.should_exit:
                server.force_exit = True
            server.should_exit = True
            if worker:
                worker.stop()

        with heard(stop, settings.drain_s):
            async with asyncio.TaskGroup() as group:
                if worker:
                    group.create_task(run_until_stopped(worker))
                serving = group.create_task(server.serve(sockets))
                saying = group.create_task(_say_ready(server, settings))
                await serving
                saying.cancel()
                if worker:
                    worker.stop()
    finally:
        await store.close()
    exit_code = 0 if server.ready.is_set() and not server.broken else 1
    if worker:
        worker.leave_behind(exit_code)
    return exit_code


async def _say_ready(server: Server, settings: Settings) -> None:
    await server.ready.wait()
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    print(f"ready http://{host}:{server.port}", flush=True)  # noqa: T201 - the line that hosts wait for
