"""The real server, in this loop: uvicorn on a free port, a worker beside it, an application of the tests' own."""

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest
from pydantic import Field

from rt.api.serve import Server, make_server
from rt.api.services import Services
from rt.app import App
from rt.events import Event
from rt.jobs.context import JobContext
from rt.jobs.models import EmbeddedModel
from rt.jobs.worker import Worker
from rt.redis import Store
from rt.settings import Settings
from rt.tokens import DEFAULT_SCOPES, mint
from tests.conftest import SECRET


class Note(Event, type="note"):
    text: str = Field(max_length=100)


@dataclass
class Web:
    """A running server. `gates` hold jobs named `gated` until a test opens them."""

    server: Server
    services: Services
    url: str
    gates: dict[str, asyncio.Event] = field(default_factory=lambda: defaultdict(asyncio.Event))
    clients: list[httpx2.AsyncClient] = field(default_factory=list)

    def client(self, subject: str = "alice", *scopes: str, ttl_s: int = 600) -> httpx2.AsyncClient:
        """A client with a token of its own; closed with the server."""
        token = mint(SECRET, subject, scopes or DEFAULT_SCOPES, ttl_s)
        one = self.anonymous()
        one.headers["Authorization"] = f"Bearer {token}"
        return one

    def anonymous(self) -> httpx2.AsyncClient:
        one = httpx2.AsyncClient(base_url=self.url, timeout=10, trust_env=False, verify=False)
        self.clients.append(one)
        return one

    async def submit(self, client: httpx2.AsyncClient, job: str, **input: Any) -> str:
        response = await client.post("/v1/jobs", json={"job": job, "input": input})
        assert response.status_code == 202, response.text
        return str(response.json()["job_id"])

    async def finish(self, client: httpx2.AsyncClient, job: str, **input: Any) -> str:
        """A job that has ended."""
        job_id = await self.submit(client, job, **input)
        await read_events(client, f"/v1/jobs/{job_id}/events")
        return job_id


def make_app(gates: dict[str, asyncio.Event]) -> App:
    app = App()

    @app.job
    async def echo(job: JobContext, text: str) -> dict[str, str]:
        for word in text.split():
            await job.emit(word)
        return {"text": text}

    @app.job
    async def gated(job: JobContext, gate: str, before: int = 0, after: int = 0) -> None:
        for number in range(before):
            await job.emit({"number": number})
        await gates[gate].wait()
        for number in range(before, before + after):
            await job.emit({"number": number})

    @app.on(Note)
    async def note(conn: Any, event: Note) -> None: ...

    return app


Serve = Callable[..., AbstractAsyncContextManager[Web]]


@pytest.fixture
def serve(settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch) -> Serve:
    """`async with serve(queue_limit=1, worker=False) as web`: a server with other settings than the usual ones."""
    # No job here asks the model for anything, and its training takes half a second.
    monkeypatch.setattr(EmbeddedModel, "load", lambda self: None)

    @asynccontextmanager
    async def serving(*, worker: bool = True, **over: Any) -> AsyncIterator[Web]:
        gates: dict[str, asyncio.Event] = defaultdict(asyncio.Event)
        app = make_app(gates)
        mine = settings.model_copy(update={"host": "127.0.0.1", "port": 0, "drain_s": 0, **over})
        server = make_server(app, mine)
        stop = asyncio.Event()

        async def main_loop() -> None:
            """uvicorn's own looks ten times a second whether it should end."""
            await server.on_tick(0)
            await stop.wait()

        server.main_loop = main_loop  # type: ignore[method-assign]
        works = Worker(app, mine, store) if worker else None
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(server.serve())
            working = group.create_task(works.main()) if works else None
            await server.ready.wait()
            web = Web(server, server.config.app.state.services, f"http://127.0.0.1:{server.port}", gates)
            try:
                yield web
            finally:
                for client in web.clients:
                    await client.aclose()
                for gate in gates.values():
                    gate.set()
                stop.set()
                await serving
                if works and working:
                    works.stop()
                    await working

    return serving


@pytest.fixture
async def web(serve: Serve) -> AsyncIterator[Web]:
    async with serve() as running:
        yield running


async def read_sse(response: httpx2.Response) -> AsyncIterator[dict[str, Any]]:
    """Every block of a response: `{id, event, data, retry}` as far as it has them; a comment is `{"comment": …}`."""
    block: dict[str, Any] = {}
    async for line in response.aiter_lines():
        if not line:
            if block:
                yield block
            block = {}
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        block[name or "comment"] = json.loads(value) if name == "data" else value


async def read_events(client: httpx2.AsyncClient, path: str, stop_after: int | None = None, **more: Any) -> list[dict[str, Any]]:
    """The blocks with data, until the response ends or `stop_after` of them have come."""
    out: list[dict[str, Any]] = []
    async with client.stream("GET", path, **more) as response:
        assert response.status_code == 200, await response.aread()
        async for block in read_sse(response):
            if "data" in block:
                out.append(block)
                if len(out) == stop_after:
                    break
    return out


def code(response: httpx2.Response) -> str:
    """The error word of a problem document."""
    assert response.headers["content-type"] == "application/problem+json", response.text
    body = response.json()
    assert body["status"] == response.status_code
    return str(body["code"])
