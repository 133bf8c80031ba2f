"""What tests share: waiting for a condition, reading whole streams, and real workers on this loop."""

import asyncio
import inspect
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar
from unittest.mock import patch

from rt import keys
from rt.app import App
from rt.errors import Unavailable
from rt.jobs.models import EmbeddedModel
from rt.jobs.queue import JobQueue, NewJob
from rt.jobs.worker import Worker
from rt.redis import Store, insist
from rt.settings import Settings
from rt.streams.log import StreamLog

T = TypeVar("T")

TENANT = keys.DEFAULT_TENANT


async def eventually(condition: Callable[[], T | Awaitable[T]], *, within_s: float = 20.0) -> T:
    """What `condition` returned once it was true; fails when it does not become true in time."""
    loop = asyncio.get_running_loop()
    end = loop.time() + within_s
    while True:
        value: Any = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        assert loop.time() < end, f"did not come true within {within_s:g} s"
        await asyncio.sleep(0.005)


async def read_all(store: Store, settings: Settings, stream: str, *, after: int = 0, tenant: str = TENANT) -> list[dict[str, Any]]:
    """Every event of a stream, parsed."""
    log, found = StreamLog(store, settings), []
    while True:
        page = await insist("test", log.read, tenant, stream, after)
        if not page.events:
            return found
        found += map(json.loads, page.events)
        after = found[-1]["seq"]


def types(events: list[dict[str, Any]]) -> list[str]:
    return [one["type"] for one in events]


def joined(events: list[dict[str, Any]]) -> str:
    """The text of all deltas, as a client that drops nothing sees it."""
    return "".join(one["data"].get("text", "") for one in events if one["type"] == "job.delta")


def standing(events: list[dict[str, Any]]) -> str:
    """The text that a client holds which does what `job.restarted` says."""
    held: list[tuple[int, str]] = []
    for one in events:
        if one["type"] == "job.restarted":
            held = [pair for pair in held if pair[0] <= one["data"]["discard_after"]]
        elif one["type"] == "job.delta":
            held.append((one["seq"], one["data"].get("text", "")))
    return "".join(text for _, text in held)


class Jobs:
    """Submits jobs of an application and reads what became of them."""

    def __init__(self, app: App, store: Store, settings: Settings) -> None:
        self.app, self.store, self.settings = app, store, settings
        self.streams = StreamLog(store, settings)
        self.queue = JobQueue(store, self.streams, settings)

    async def submit(self, job: str, *, owner: str = "ann", records: list[str] | None = None, **over: Any) -> str:
        """Accepts a job; what `NewJob` does not know is its input. Returns the job's id."""
        known = {name: over.pop(name) for name in ("delay_s", "timeout_s", "reports", "request_id", "tenant") if name in over}
        new = NewJob(job=self.app.jobs[job], input=over, owner=owner, **({"tenant": TENANT} | known))
        # With a record, so that a Redis that has just come back may be asked again.
        once = records or [keys.idempotency(new.tenant, owner, secrets.token_hex(8))]
        return (await insist("test", partial(self.queue.accept, new, records=once))).job_id

    async def status(self, job_id: str, tenant: str = TENANT) -> str:
        record = await insist("test", self.queue.get, tenant, job_id)
        return record.status if record else "unknown"

    async def wait_status(self, job_id: str, *wanted: str, within_s: float = 10.0, tenant: str = TENANT) -> str:
        async def reached() -> str | None:
            status = await self.status(job_id, tenant)
            return status if status in wanted else None

        found = await eventually(reached, within_s=within_s)
        assert found is not None
        return found

    async def wait_end(self, job_id: str, *, within_s: float = 10.0, tenant: str = TENANT) -> list[dict[str, Any]]:
        """All events of a job that has ended."""
        await self.wait_status(job_id, "completed", "failed", "cancelled", within_s=within_s, tenant=tenant)
        return await self.events(job_id, tenant=tenant)

    async def events(self, job_id: str, tenant: str = TENANT) -> list[dict[str, Any]]:
        return await read_all(self.store, self.settings, keys.job_stream(job_id), tenant=tenant)


class _Unhurried(EmbeddedModel):
    """The embedded model, read when a job first uses it: half a second that the start of most tests' workers need not take."""

    def load(self) -> None: ...


_model = _Unhurried()


@asynccontextmanager
async def running(app: App, settings: Settings, store: Store, **options: Any) -> AsyncIterator[Worker]:
    """A worker that claims jobs on this loop; stopped, twice, at the end, so that nothing is waited for."""
    worker = Worker(app, settings, store, **options)
    with patch("rt.jobs.worker.load_model", lambda _: _model):
        main = asyncio.create_task(worker.main(), name="worker under test")
        await eventually(lambda: worker.runner.model is not None or main.done())
    try:
        yield worker
    finally:
        worker.stop()
        worker.stop()
        await asyncio.wait({main})
        if not main.cancelled():
            main.result()


async def alive(store: Store) -> bool:
    """Whether Redis answers, also while it still loads its file."""
    try:
        await store.call("GET", keys.INCARNATION)
    except Unavailable:
        return False
    return True
