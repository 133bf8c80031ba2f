"""Killed between every two Redis calls of accept, start, append and finish: an accepted job ends once all the same."""

import asyncio

import pytest
from arq.connections import ArqRedis

from rt import keys
from rt.app import App
from rt.jobs.access import Access
from rt.jobs.context import JobContext
from rt.jobs.janitor import Janitor
from rt.jobs.models import EmbeddedModel
from rt.jobs.queue import Accepted, JobQueue
from rt.jobs.runner import Run
from rt.jobs.submit import submit
from rt.redis import Store
from rt.settings import Settings
from rt.streams.log import Authorship, StreamLog
from rt.streams.sessions import open_session
from rt.tokens import Claims
from tests.contracts.hands import Hands
from tests.contracts.weather import Killed, Weather
from tests.helpers import TENANT, read_all, standing, types

app = App()

WHO = Claims("ann", TENANT, frozenset({"jobs:write"}), 2e9)
RECORDS = [keys.idempotency(TENANT, "ann", "once")]


@app.job(max_attempts=3)
async def says(job: JobContext, text: str) -> str:
    if not job.past:
        await job.emit(text[:1])
        await job.checkpoint(1)
    await job.emit(text[1:])
    return text


@app.job(max_attempts=3)
async def falters(job: JobContext, text: str) -> str:
    """Fails once, so that its first run ends as retrying."""
    await job.emit(text)
    if job.attempt == 1:
        raise ConnectionError
    return text


class Process:
    """A web process and a worker in one, which die together."""

    def __init__(self, store: Weather, settings: Settings, session: Authorship) -> None:
        self.store, self.settings, self.session = store, settings, session
        self.streams = StreamLog(store, settings)
        self.queue = JobQueue(store, self.streams, settings)
        self.worker = Hands(app, settings, store)
        self.worker.runner.model = EmbeddedModel()

    async def submit(self, job: str) -> Accepted:
        access = Access(self.store, self.queue)
        return await submit(
            self.queue, access, WHO, self.session, app.jobs[job], {"text": "abc"}, stream=None, delay_s=0, timeout_s=None, records=RECORDS
        )

    async def write(self) -> None:
        await asyncio.gather(self.worker.writer.run(), self.worker.ends.run())

    async def work(self) -> None:
        for claim in await self.worker.claim(1):
            await self.worker.runner.run(Run(claim))

    async def live(self, job: str, after: int | None) -> None:
        """Submits and works until it has died after so many calls, or nothing is left to do."""
        self.store.calls, self.store.calls_left = 0, after
        writer = asyncio.create_task(self.write())
        life = asyncio.create_task(self._live(job))
        dead = asyncio.create_task(self.store.dead.wait())
        await asyncio.wait({life, dead}, return_when=asyncio.FIRST_COMPLETED)
        for task in (life, writer, dead):
            task.cancel()
        await asyncio.wait({life, writer, dead})
        for task in (life, writer):
            if not task.cancelled() and (error := task.exception()) and not isinstance(error, Killed):
                raise error

    async def _live(self, job: str) -> None:
        if job == "plain":
            await ArqRedis(self.store.pool).enqueue_job("says", "abc", _job_id="plain")
        else:
            await self.submit(job)
        await self.work()
        await self.work()


async def lapse_all(store: Store, settings: Settings) -> None:
    """Ten seconds later, as far as leases and delays go."""
    for key in await store.call("KEYS", "arq:in-progress:*"):
        await store.call("DEL", key)
    for key in (keys.leases(settings.queue), settings.queue):
        for member in await store.call("ZRANGE", key, 0, -1):
            parked = key == settings.queue and await store.call("ZSCORE", keys.leases(settings.queue), member) is not None
            if not parked:
                await store.call("ZADD", key, 1 if key != settings.queue else 2, member)


@pytest.mark.parametrize("job", ["says", "falters", "plain"])
async def test_a_job_ends_once_wherever_its_process_is_killed(redis_url: str, store: Store, settings: Settings, job: str) -> None:
    settings = settings.model_copy(update={"lease_s": 3600.0})
    total, after = 1, 0
    while after <= total:
        await store.call("FLUSHALL")
        opened = await open_session(store, settings, TENANT, "ann", None)
        session = Authorship(opened.id, opened.generation)
        one = Weather(redis_url)
        if job == "plain":  # the library's own connection is no call of ours
            await ArqRedis(one.pool).ping()
        process = Process(one, settings, session)
        await process.live(job, after)
        total = max(total, one.calls + bool(one.dead.is_set()))
        await one.close()
        await check_the_rest(redis_url, settings, session, job, f"killed after {after} calls")
        after += 1
    assert total >= 4


async def check_the_rest(redis_url: str, settings: Settings, session: Authorship, job: str, story: str) -> None:
    """Other processes go on, and the client asks again."""
    store = Weather(redis_url)
    process = Process(store, settings, session)
    writer = asyncio.create_task(process.write())
    job_id = "plain" if job == "plain" else (await process.submit(job)).job_id
    for _ in range(3):
        await lapse_all(store, settings)
        await Janitor(store, process.streams, process.queue, settings).round()
        await process.work()
    writer.cancel()
    events = await read_all(store, settings, keys.job_stream(job_id))
    told = [one["data"]["job_id"] for one in await read_all(store, settings, keys.session_stream(session.session))]
    said = types(events)
    assert said[0] == "job.queued", story
    assert said.count("job.queued") == 1, story
    assert [one for one in said if one in ("job.completed", "job.failed", "job.cancelled")] == ["job.completed"] == said[-1:], story
    assert standing(events) == "abc", story
    attempts = [one["attempt"] for one in events if "attempt" in one]
    assert attempts == sorted(attempts), story
    assert [one["attempt"] for one in events if one["type"] == "job.restarted"] == sorted({one for one in attempts if one > 1}), story
    assert told == ([] if job == "plain" else [job_id]), story
    assert int(await store.call("ZCARD", keys.jobs(TENANT))) == 1, story
    left = [settings.queue, keys.leases(settings.queue), keys.deadlines(settings.queue)]
    assert await store.call("EXISTS", *left) == 0, story
    assert await store.call("KEYS", "arq:*") == [f"arq:result:{job_id}".encode()], story
    await store.close()
