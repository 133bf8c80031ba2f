"""Workers that die, freeze, hang and are redeployed: another attempt follows, and the older one can write nothing more."""

import asyncio
import threading
import time
from collections import defaultdict
from typing import Any
from unittest.mock import patch

import pytest

from rt import keys
from rt.app import App
from rt.jobs.context import JobContext
from rt.jobs.job import Retry
from rt.jobs.leases import Lease, Leases
from rt.jobs.worker import Worker
from rt.redis import Store
from rt.settings import Settings
from tests.helpers import TENANT, Jobs, eventually, joined, running, standing, types

app = App()

gates: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
#: (job id, attempt) of functions that were cancelled.
cancelled: set[tuple[str, int]] = set()
blocking: defaultdict[str, threading.Event] = defaultdict(threading.Event)


@app.job(retry=Retry(base_s=0.001, cap_s=0.001))
async def steady(job: JobContext, checkpoint: bool = False, keep: bool = False) -> int:
    """Says its attempt again and again until its gate opens; a second attempt says it once."""
    try:
        await job.emit(f"<{job.attempt}>")
        if checkpoint:
            await job.checkpoint({"attempt": job.attempt, "past": job.past.text})
        await job.emit("begun;")
        while job.attempt == 1 and not gates[job.id].is_set():
            await asyncio.sleep(0.02)
            await job.emit(f"{job.attempt}.")
        return job.attempt
    except asyncio.CancelledError:
        cancelled.add((job.id, job.attempt))
        raise


app.job(name="keeps", keep=lambda past: True)(steady)


@app.job(max_attempts=2)
async def deadly(job: JobContext) -> None:
    await job.emit(f"{job.attempt};")
    await asyncio.Event().wait()


@app.job
async def blocks_the_loop(job: JobContext, for_s: float) -> int:
    await job.emit("begun")
    await asyncio.sleep(0.1)  # so that it is written
    time.sleep(for_s)  # noqa: ASYNC251 - what nobody should write, and somebody will
    return job.attempt


@app.job
def blocks_a_thread(job: JobContext) -> int:
    job.wait(job.emit("begun"))
    blocking[job.id].wait(20)
    return job.attempt


@app.job
async def says_tries(job: JobContext) -> dict[str, int]:
    await job.emit(f"{job.attempt};")
    if job.attempt <= 4:
        await asyncio.Event().wait()
    return {"attempt": job.attempt, "tries": job.tries}


class Doomed:
    """A worker that can be made to die like a process: at once, with nothing said."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._context = running(app, settings, store)

    async def start(self) -> Worker:
        worker = await self._context.__aenter__()
        self._main = next(one for one in asyncio.all_tasks() if one.get_name() == "worker under test" and not one.done())
        return worker

    async def kill(self) -> None:
        self._main.cancel()
        await asyncio.wait({self._main})
        assert self._main.cancelled()
        await self._context.__aexit__(None, None, None)


@pytest.fixture
def jobs(store: Store, settings: Settings) -> Jobs:
    return Jobs(app, store, settings)


async def began(jobs: Jobs, job_id: str, attempt: int = 1, text: str = "begun") -> bool:
    return any(one.get("attempt") == attempt and text in str(one["data"].get("text")) for one in await jobs.events(job_id))


def freeze(worker: Worker) -> None:
    """Its leases are renewed no more and it claims nothing, but what runs in it runs on: as after a long pause."""
    worker.allow_pick_jobs = False
    worker.leases._stop.set()


@pytest.mark.parametrize(("options", "name"), [({}, "steady"), ({"checkpoint": True}, "steady"), ({"keep": True}, "keeps")])
async def test_a_frozen_worker_s_job_starts_elsewhere_and_its_own_run_is_over(
    store: Store, settings: Settings, jobs: Jobs, redis_url: str, options: dict[str, Any], name: str
) -> None:
    other_store = Store(redis_url)
    try:
        async with running(app, settings, store, name="frozen") as first:
            job_id = await jobs.submit(name, **options)
            await eventually(lambda: began(jobs, job_id))
            run = first.runs[job_id]
            freeze(first)
            frozen_at = time.monotonic()
            async with running(app, settings, other_store, name="lively"):
                events = await jobs.wait_end(job_id)
                assert time.monotonic() - frozen_at < settings.lease_s + 2
                # The first attempt learns it from its next refused write.
                await eventually(lambda: (job_id, 1) in cancelled)
                await eventually(lambda: job_id not in first.runs)
                assert run.context is not None
                await run.context.emit("too late")
                await run.context.checkpoint("too late")
                assert await jobs.events(job_id) == events
    finally:
        await other_store.close()
    assert [one["data"]["worker"] for one in events if one["type"] == "job.started"] == ["frozen", "lively"]
    assert sum(bool(one.get("final")) for one in events) == 1
    assert events[-1]["data"]["result"] == 2
    restarted = next(one for one in events if one["type"] == "job.restarted")
    assert (restarted["attempt"], restarted["data"]["reason"]) == (2, "lease_lost")
    assert {one["attempt"] for one in events if one["seq"] > restarted["seq"]} == {2}  # the old one wrote nothing after it
    first_attempt = [one for one in events if one["type"] == "job.delta" and one["attempt"] == 1]
    match options:
        case {"checkpoint": True}:
            assert restarted["data"]["discard_after"] == first_attempt[0]["seq"]
            assert standing(events) == "<1><2>begun;"
        case {"keep": True}:
            assert restarted["data"]["discard_after"] == first_attempt[-1]["seq"]
            assert standing(events) == joined(events)
        case _:
            assert restarted["data"]["discard_after"] == 0
            assert standing(events) == "<2>begun;"


async def test_a_job_that_takes_its_worker_with_it_each_time_ends(store: Store, settings: Settings, jobs: Jobs) -> None:
    job_id = await jobs.submit("deadly")
    for attempt in (1, 2):
        doomed = Doomed(settings, store)
        await doomed.start()
        await eventually(lambda attempt=attempt: began(jobs, job_id, attempt, ";"))
        await doomed.kill()
    async with running(app, settings, store):
        events = await jobs.wait_end(job_id)
    assert types(events) == ["job.queued", "job.started", "job.delta", "job.restarted", "job.started", "job.delta", "job.failed"]
    assert events[-1]["data"]["error"]["code"] == "lease_lost"
    assert events[-1]["data"]["error"]["message"] == "its workers were lost 2 times"
    assert await store.call("EXISTS", keys.leases(settings.queue), keys.deadlines(settings.queue), settings.queue) == 0


async def test_a_killed_worker_s_job_is_cancelled_if_that_was_asked_for(store: Store, settings: Settings, jobs: Jobs) -> None:
    job_id = await jobs.submit("deadly")
    doomed = Doomed(settings, store)
    await doomed.start()
    await eventually(lambda: began(jobs, job_id, 1, ";"))
    await doomed.kill()
    assert await jobs.queue.cancel(TENANT, job_id, "ann") == ("running", "running")
    async with running(app, settings, store):
        events = await jobs.wait_end(job_id)
    assert types(events)[-1] == "job.cancelled"
    assert events[-1]["data"] == {"by": "ann"}
    assert types(events).count("job.started") == 1


async def test_a_worker_that_dies_leaves_no_task_behind(store: Store, settings: Settings, jobs: Jobs) -> None:
    job_id = await jobs.submit("steady")
    doomed = Doomed(settings, store)
    await doomed.start()
    await eventually(lambda: began(jobs, job_id))
    await doomed.kill()
    assert (job_id, 1) in cancelled
    left = {one.get_name() for one in asyncio.all_tasks() if one is not asyncio.current_task()}
    assert not {name for name in left if name.startswith(("run ", "job ", "worker "))}


async def test_a_redeployed_worker_hands_its_jobs_back_and_the_run_does_not_count(store: Store, settings: Settings, jobs: Jobs) -> None:
    hasty = settings.model_copy(update={"drain_s": 0.0})
    job_id = await jobs.submit("says_tries")
    for attempt in range(1, 5):  # more deploys than the job has attempts
        async with running(app, hasty, store):
            await eventually(lambda attempt=attempt: began(jobs, job_id, attempt, ";"))
        record = await jobs.queue.get(TENANT, job_id)
        assert record is not None
        assert (record.status, record.attempt) == ("queued", attempt)
        assert await store.call("EXISTS", f"arq:in-progress:{job_id}") == 0
    async with running(app, settings, store):
        events = await jobs.wait_end(job_id, within_s=1)  # no lease is waited for
    assert events[-1]["data"]["result"] == {"attempt": 5, "tries": 1}
    assert {one["data"]["reason"] for one in events if one["type"] == "job.restarted"} == {"deploy"}
    assert "job.retrying" not in types(events)


async def test_a_handed_back_job_goes_on_from_its_checkpoint_at_the_next_worker(store: Store, settings: Settings, jobs: Jobs) -> None:
    hasty = settings.model_copy(update={"drain_s": 0.0})
    job_id = await jobs.submit("steady", checkpoint=True)
    async with running(app, hasty, store):
        await eventually(lambda: began(jobs, job_id))
    async with running(app, settings, store):
        events = await jobs.wait_end(job_id)
    restarted = next(one for one in events if one["type"] == "job.restarted")
    assert restarted["data"] == {"reason": "deploy", "discard_after": 3}
    assert standing(events) == "<1><2>begun;"


async def test_what_was_said_until_the_hand_over_is_written(store: Store, settings: Settings, jobs: Jobs) -> None:
    hasty = settings.model_copy(update={"drain_s": 0.0})
    job_id = await jobs.submit("keeps")
    async with running(app, hasty, store):
        await eventually(lambda: began(jobs, job_id))
    gates[job_id].set()
    async with running(app, settings, store):
        events = await jobs.wait_end(job_id)
    assert standing(events) == joined(events)
    assert joined(events).startswith("<1>begun;")


async def test_a_handed_back_job_is_the_next_to_start(store: Store, settings: Settings, jobs: Jobs) -> None:
    hasty = settings.model_copy(update={"drain_s": 0.0, "max_jobs": 1})
    first = await jobs.submit("says_tries")
    async with running(app, hasty, store):
        await eventually(lambda: began(jobs, first, 1, ";"))
        later = await jobs.submit("says_tries")
    async with running(app, hasty, store):
        await eventually(lambda: began(jobs, first, 2, ";"))
        assert await jobs.status(later) == "queued"


async def test_a_stopping_worker_lets_jobs_end_and_claims_no_more(store: Store, settings: Settings, jobs: Jobs) -> None:
    patient = settings.model_copy(update={"drain_s": 20.0})
    job_id = await jobs.submit("steady")
    async with running(app, patient, store) as worker:
        await eventually(lambda: began(jobs, job_id))
        main = next(one for one in asyncio.all_tasks() if one.get_name() == "worker under test")
        worker.stop()
        late = await jobs.submit("steady")
        done, _ = await asyncio.wait({main}, timeout=0.2)
        assert not done
        gates[job_id].set()
        done, _ = await asyncio.wait({main}, timeout=5)
        assert done
    assert (await jobs.events(job_id))[-1]["type"] == "job.completed"
    assert await jobs.status(late) == "queued"


async def test_a_worker_that_stops_as_it_claims_waits_for_the_job_and_no_longer(store: Store, settings: Settings, jobs: Jobs) -> None:
    # Stopped in the turn of the claim, it knew no function to wait for, and waited out its whole time to drain.
    patient = settings.model_copy(update={"drain_s": 20.0})
    job_id = await jobs.submit("steady")
    gates[job_id].set()
    claim = Worker._poll_iteration

    async def claim_and_stop(worker: Worker) -> None:
        await claim(worker)
        if worker.runs:
            worker.stop()

    with patch.object(Worker, "_poll_iteration", claim_and_stop):
        async with running(app, patient, store) as worker:
            # It may have ended before anybody could look.
            await eventually(lambda: all(one.get_name() != "worker under test" for one in asyncio.all_tasks()))
            assert not worker._hurry.is_set()
    assert (await jobs.events(job_id))[-1]["type"] == "job.completed"


async def test_a_stopped_worker_is_gone_from_the_list_of_workers(store: Store, settings: Settings) -> None:
    async with running(app, settings, store) as worker:
        await eventually(lambda: store.call("ZSCORE", keys.WORKERS, worker.name))
        assert await store.call("EXISTS", keys.worker(worker.name))
    assert await store.call("ZSCORE", keys.WORKERS, worker.name) is None
    assert not await store.call("EXISTS", keys.worker(worker.name))


async def test_a_job_that_blocks_the_loop_keeps_its_lease(store: Store, settings: Settings, jobs: Jobs) -> None:
    async with running(app, settings, store):
        events = await jobs.wait_end(await jobs.submit("blocks_the_loop", for_s=1.6))
    assert events[-1]["data"]["result"] == 1
    assert types(events).count("job.started") == 1


async def test_a_job_that_blocks_a_thread_keeps_its_lease(store: Store, settings: Settings, jobs: Jobs) -> None:
    async with running(app, settings, store) as worker:
        job_id = await jobs.submit("blocks_a_thread")
        await eventually(lambda: began(jobs, job_id))
        fence = worker.runs[job_id].claim.fence
        lapses = await store.call("ZSCORE", keys.leases(settings.queue), job_id)

        async def renewed_twice() -> bool:
            return float(await store.call("ZSCORE", keys.leases(settings.queue), job_id)) > float(lapses) + 500

        await eventually(renewed_twice)
        assert (await store.call("GET", f"arq:in-progress:{job_id}")).decode() == fence
        blocking[job_id].set()
        assert (await jobs.wait_end(job_id))[-1]["data"]["result"] == 1


async def test_a_loop_that_hangs_for_good_loses_its_jobs(
    redis_kind: str, redis_url: str, settings: Settings, jobs: Jobs, store: Store
) -> None:
    if redis_kind == "fake":
        pytest.skip("two event loops do not share a fakeredis")
    stalled = settings.model_copy(update={"stall_limit_s": 1.0})
    hanging = App()
    release = threading.Event()

    @hanging.job(name="steady")
    async def hangs(job: JobContext, checkpoint: bool = False, keep: bool = False) -> int:
        await job.emit("<hangs>")
        await asyncio.sleep(0.1)
        release.wait(20)
        return 0

    ready = threading.Event()
    stop: list[Any] = []

    async def main() -> None:
        own = Store(redis_url)
        async with running(hanging, stalled, own, name="hanging") as worker:
            loop, done = asyncio.get_running_loop(), asyncio.Event()
            stop.append(lambda: loop.call_soon_threadsafe(done.set))
            ready.set()
            await done.wait()
            await eventually(lambda: not worker.runs)
        await own.close()

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    try:
        await asyncio.to_thread(ready.wait, 10)
        job_id = await jobs.submit("steady")
        await eventually(lambda: began(jobs, job_id, 1, "hangs"))
        async with running(app, settings, store, name="lively"):
            events = await jobs.wait_end(job_id)
    finally:
        release.set()
        stop[0]()
        await asyncio.to_thread(thread.join, 10)
    assert not thread.is_alive()
    assert [one["data"]["worker"] for one in events if one["type"] == "job.started"] == ["hanging", "lively"]
    assert await jobs.events(job_id) == events  # the old run's end was refused


async def test_leases_tell_what_has_happened_to_a_run(store: Store, settings: Settings) -> None:
    verdicts: list[tuple[str, str]] = []
    leases = Leases(store, settings.queue, lease_s=60, stall_limit_s=30, on_verdict=lambda lease, said: verdicts.append((lease.id, said)))
    for id in ("mine", "lost", "stopped", "aborted"):
        await store.call("HSET", keys.meta(TENANT, keys.job_stream(id)), "fence", "1:mine" if id != "lost" else "2:other")
        leases.hold(Lease(id, TENANT, "1:mine"))
    await store.call("HSET", keys.meta(TENANT, "job:stopped"), "cancel", "user:ann b")
    await store.call("ZADD", "arq:abort", 1, "aborted")
    await leases.ask()
    assert sorted(verdicts) == [("aborted", "cancel arq"), ("lost", "lost"), ("stopped", "cancel user:ann b")]
    assert await store.call("GET", "arq:in-progress:mine") == b"1:mine"
    assert await store.call("GET", "arq:in-progress:lost") is None
    assert 59_000 < await store.call("PTTL", "arq:in-progress:mine") <= 60_000
    verdicts.clear()
    leases.drop("lost")
    await leases.ask(["mine", "lost"])
    assert verdicts == []


async def test_a_lapsed_lease_that_nobody_took_is_taken_again(store: Store, settings: Settings) -> None:
    verdicts: list[str] = []
    leases = Leases(store, settings.queue, lease_s=60, stall_limit_s=30, on_verdict=lambda _, said: verdicts.append(said))
    await store.call("HSET", keys.meta(TENANT, "job:mine"), "fence", "1:mine")
    leases.hold(Lease("mine", TENANT, "1:mine"))
    await leases.ask()
    await store.call("DEL", "arq:in-progress:mine", keys.leases(settings.queue))  # Redis was away longer than the lease
    await leases.ask()
    assert verdicts == []
    assert await store.call("EXISTS", "arq:in-progress:mine", keys.leases(settings.queue)) == 2


async def test_two_attempts_in_one_worker_do_not_share_a_lease(store: Store, settings: Settings, jobs: Jobs) -> None:
    # A worker that hung may claim its own lapsed job again. The older run's end dropped the newer one's lease.
    async with running(app, settings, store) as worker:
        job_id = await jobs.submit("steady")
        await eventually(lambda: began(jobs, job_id))
        older = worker.runs[job_id]
        meta = keys.meta(TENANT, keys.job_stream(job_id))
        worker.leases.drop(job_id)  # as if the renewals had stopped
        await store.call("DEL", f"arq:in-progress:{job_id}")
        await store.call("ZADD", keys.leases(settings.queue), 1, job_id)
        worker._wake.set()
        events = await jobs.wait_end(job_id)
        assert (job_id, 1) in cancelled
        assert older.stopped is not None
        assert await store.call("HGET", meta, "attempt") == b"2"
    assert types(events).count("job.started") == 2
    assert sum(bool(one.get("final")) for one in events) == 1
