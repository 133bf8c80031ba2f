"""The janitor ends what nobody else can end and keeps what must not expire, with no worker alive."""

import asyncio
import time
from typing import Any

import pytest

from rt import events as rt_events
from rt import keys
from rt.app import App
from rt.jobs import janitor as janitor_module
from rt.jobs.context import JobContext
from rt.jobs.janitor import Janitor
from rt.jobs.queue import JobQueue
from rt.keys import Stream
from rt.redis import Store
from rt.settings import Settings
from rt.streams.log import StreamLog
from tests.helpers import TENANT, Jobs, eventually, read_all, running, types

app = App()


@app.job(max_attempts=2)
async def waits(job: JobContext) -> None:
    await job.emit("begun")
    await asyncio.Event().wait()


@pytest.fixture
def jobs(store: Store, settings: Settings) -> Jobs:
    return Jobs(app, store, settings)


@pytest.fixture
def janitor(store: Store, streams: StreamLog, queue: JobQueue, settings: Settings) -> Janitor:
    return Janitor(store, streams, queue, settings)


async def claimed_and_lost(store: Store, settings: Settings, job_id: str, **meta: Any) -> None:
    """What a worker leaves behind that was killed in its first run, some time ago."""
    key = keys.meta(TENANT, keys.job_stream(job_id))
    fields = {"status": "running", "fence": "1:dead", "attempt": 1, "tries": 1, "started": 1} | meta
    await store.call("HSET", key, *(part for pair in fields.items() for part in pair))
    await store.call("ZADD", keys.leases(settings.queue), 1, job_id)


async def overdue(store: Store, settings: Settings, job_id: str, tenant: str = TENANT) -> None:
    await store.call("ZADD", keys.deadlines(settings.queue), 1, f"{tenant} {job_id}")


async def clean(store: Store, settings: Settings) -> bool:
    left = await store.call("EXISTS", settings.queue, keys.leases(settings.queue), keys.deadlines(settings.queue), "arq:abort")
    return not left and not await store.call("KEYS", "arq:job:*")


async def test_a_job_that_no_worker_started_in_time_has_expired(janitor: Janitor, jobs: Jobs, store: Store, settings: Settings) -> None:
    job_id = await jobs.submit("waits")
    await janitor.round()
    assert await jobs.status(job_id) == "queued"
    await overdue(store, settings, job_id)
    await janitor.round()
    events = await jobs.events(job_id)
    assert types(events) == ["job.queued", "job.failed"]
    assert events[-1]["data"]["error"] == {"code": "expired", "message": "not finished in time", "temporary": False}
    record = await jobs.queue.get(TENANT, job_id)
    assert record is not None
    assert (record.status, record.error["code"]) == ("failed", "expired")
    assert await clean(store, settings)


async def test_a_running_job_past_its_deadline_has_timed_out_though_its_worker_is_gone(
    janitor: Janitor, jobs: Jobs, store: Store, settings: Settings
) -> None:
    job_id = await jobs.submit("waits")
    await claimed_and_lost(store, settings, job_id)
    await overdue(store, settings, job_id)
    await janitor.round()
    (_, event) = await jobs.events(job_id)
    assert event["data"]["error"]["code"] == "timeout"
    assert event["attempt"] == 1
    assert await clean(store, settings)


async def test_a_job_whose_deadline_comes_when_it_was_cancelled_is_cancelled(
    janitor: Janitor, jobs: Jobs, store: Store, settings: Settings
) -> None:
    job_id = await jobs.submit("waits")
    await claimed_and_lost(store, settings, job_id, cancel="ann")
    await store.call("SET", f"arq:in-progress:{job_id}", "1:dead", "PX", 60_000)  # its lease has not lapsed yet
    await overdue(store, settings, job_id)
    await janitor.round()
    assert (await jobs.events(job_id))[-1]["data"] == {"by": "ann"}
    assert await clean(store, settings)


async def test_a_job_without_attempts_left_fails_with_no_worker_alive(
    janitor: Janitor, jobs: Jobs, store: Store, settings: Settings
) -> None:
    job_id = await jobs.submit("waits")
    await claimed_and_lost(store, settings, job_id, tries=2, attempt=2)
    await janitor.round()
    events = await jobs.events(job_id)
    assert events[-1]["data"]["error"]["code"] == "lease_lost"
    assert events[-1]["attempt"] == 2
    assert await clean(store, settings)


async def test_a_cancelled_job_of_a_dead_worker_is_cancelled(janitor: Janitor, jobs: Jobs, store: Store, settings: Settings) -> None:
    job_id = await jobs.submit("waits")
    await claimed_and_lost(store, settings, job_id)
    assert await jobs.queue.cancel(TENANT, job_id, "ann") == ("running", "running")
    await janitor.round()
    assert (await jobs.events(job_id))[-1]["type"] == "job.cancelled"
    assert await clean(store, settings)


async def test_a_job_with_attempts_left_waits_for_a_worker(janitor: Janitor, jobs: Jobs, store: Store, settings: Settings) -> None:
    job_id = await jobs.submit("waits")
    await claimed_and_lost(store, settings, job_id)
    await janitor.round()
    assert await jobs.status(job_id) == "running"
    assert types(await jobs.events(job_id)) == ["job.queued"]


async def test_a_living_worker_s_jobs_are_left_alone(janitor: Janitor, jobs: Jobs, store: Store, settings: Settings) -> None:
    async with running(app, settings, store) as worker:
        job_id = await jobs.submit("waits")
        await eventually(lambda: job_id in worker.runs)
        before = await eventually(lambda: _running_events(jobs, job_id))
        for _ in range(3):
            await janitor.round()
        assert await jobs.status(job_id) == "running"
        assert (await jobs.events(job_id))[: len(before)] == before


async def _running_events(jobs: Jobs, job_id: str) -> list[dict[str, Any]]:
    events = await jobs.events(job_id)
    return events if "job.started" in types(events) else []


async def test_other_tenants_jobs_are_ended_in_their_own_streams(janitor: Janitor, jobs: Jobs, store: Store, settings: Settings) -> None:
    job_id = await jobs.submit("waits", tenant="acme")
    await overdue(store, settings, job_id, "acme")
    await janitor.round()
    assert types(await jobs.events(job_id, tenant="acme")) == ["job.queued", "job.failed"]
    assert await jobs.events(job_id) == []
    assert await clean(store, settings)


async def test_every_step_is_repeatable(janitor: Janitor, jobs: Jobs, store: Store, settings: Settings) -> None:
    ids = [await jobs.submit("waits") for _ in range(5)]
    for id in ids:
        await claimed_and_lost(store, settings, id, tries=2)
        await overdue(store, settings, id)
    for _ in range(3):
        await janitor.round()
        for id in ids:
            await overdue(store, settings, id)  # as a crash between two of its scripts would leave it
    for id in ids:
        assert types(await jobs.events(id)) == ["job.queued", "job.failed"]


async def test_many_jobs_end_over_several_rounds(janitor: Janitor, jobs: Jobs, store: Store, settings: Settings) -> None:
    ids = [await jobs.submit("waits") for _ in range(120)]
    for id in ids:
        await overdue(store, settings, id)
    await janitor.round()
    assert not await clean(store, settings)
    await janitor.round()
    assert await clean(store, settings)


# arq's aborts


async def test_a_plain_client_s_abort_of_a_waiting_job_needs_no_worker(
    janitor: Janitor, jobs: Jobs, store: Store, settings: Settings
) -> None:
    job_id = await jobs.submit("waits", delay_s=60)
    await store.call("ZADD", "arq:abort", 1, job_id)
    await janitor.round()
    assert (await jobs.events(job_id))[-1]["data"] == {"by": "arq"}
    assert await clean(store, settings)


async def test_an_abort_that_was_left_behind_does_not_kill_a_later_job(janitor: Janitor, store: Store) -> None:
    await store.call("ZADD", "arq:abort", 1, "long-gone")
    await store.call("ZADD", "arq:abort", 1, "of-another-queue")
    await store.call("SET", "arq:job:of-another-queue", "x")
    await janitor.round()
    assert await store.call("ZRANGE", "arq:abort", 0, -1) == [b"of-another-queue"]


# What must not expire, and what must


async def test_payloads_of_unfinished_jobs_are_kept_from_expiring(
    janitor: Janitor, jobs: Jobs, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(janitor_module, "PAGE", 3)
    ids = [await jobs.submit("waits") for _ in range(8)]
    far = await jobs.submit("waits", delay_s=10 * 86_400)
    for id in ids:
        await store.call("PEXPIRE", f"arq:job:{id}", 60_000)
    before = await store.call("PTTL", f"arq:job:{far}")
    for _ in range(4):  # a page a round
        await janitor.round()
    for id in ids:
        assert await store.call("PTTL", f"arq:job:{id}") > 86_000_000
    assert abs(await store.call("PTTL", f"arq:job:{far}") - before) < 5000  # never shortened


async def test_streams_are_trimmed_by_age_and_jobs_are_not(streams: StreamLog, queue: JobQueue, store: Store, settings: Settings) -> None:
    """By Redis's clock: the events' own times are of their writers' and may be anything."""
    short = settings.model_copy(update={"room_age_s": 1, "user_age_s": 1})
    janitor = Janitor(store, streams, queue, short)
    hour_ms, now = 3_600_000, int(time.time() * 1000)
    await streams.publish("acme", Stream("user", "a%20b"), rt_events.encode("message", "user:a%20b", {}, now + hour_ms))
    await streams.publish(TENANT, Stream("job", "x"), rt_events.encode("job.delta", "job:x", {}, now - hour_ms))
    for ts in (now + hour_ms, now - hour_ms):
        await streams.publish(TENANT, Stream("room", "tea"), rt_events.encode("message", "room:tea", {}, ts))
    await janitor.round()
    assert len(await read_all(store, settings, "room:tea")) == 2
    young = await store.now_ms() + 500

    async def half_a_second_passed() -> bool:
        return await store.now_ms() > young

    await eventually(half_a_second_passed)
    await streams.publish(TENANT, Stream("room", "tea"), rt_events.encode("message", "room:tea", {}, now - hour_ms))

    async def trimmed() -> bool:
        await janitor.round()
        rooms, users = await read_all(store, settings, "room:tea"), await read_all(store, settings, "user:a%20b", tenant="acme")
        return [one["seq"] for one in rooms] == [3] and not users

    await eventually(trimmed)
    assert len(await read_all(store, settings, "job:x")) == 1


# One of them


async def test_only_one_of_two_janitors_works(
    store: Store, streams: StreamLog, queue: JobQueue, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(janitor_module, "EVERY_S", 0.005)
    monkeypatch.setattr(janitor_module, "LEASE_S", 0.5)
    janitors = [Janitor(store, streams, queue, settings) for _ in range(2)]
    rounds = [0, 0]
    for i, one in enumerate(janitors):

        async def counted(i: int = i) -> None:
            rounds[i] += 1

        monkeypatch.setattr(one, "round", counted)
    tasks = [asyncio.create_task(one.run()) for one in janitors]
    try:
        await eventually(lambda: max(rounds) > 20)
        leader = rounds.index(max(rounds))
        assert rounds[1 - leader] == 0
        tasks[leader].cancel()  # it dies: the other takes over when its lease has lapsed
        await eventually(lambda: rounds[1 - leader] > 5)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def test_a_janitor_survives_what_it_cannot_read(
    janitor: Janitor, jobs: Jobs, store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(janitor_module, "EVERY_S", 0.01)
    await store.call("SET", "rt:-:{room:odd}:log", "not a stream")
    await store.call("ZADD", keys.deadlines(settings.queue), 1, f"{TENANT} nobody")
    job_id = await jobs.submit("waits")
    await overdue(store, settings, job_id)
    task = asyncio.create_task(janitor.run())
    try:
        await jobs.wait_status(job_id, "failed")
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.wait({task})
