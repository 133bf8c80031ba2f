"""The worker outlives whatever happens to it: broken jobs, unreadable payloads, a Redis that dies and comes back."""

import asyncio
import itertools
import pickle
import random
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from rt import keys
from rt.app import App
from rt.errors import Refused, TemporaryJobError
from rt.jobs import runner
from rt.jobs.context import JobContext
from rt.jobs.ends import SETTLE
from rt.jobs.job import Retry
from rt.jobs.worker import Worker
from rt.localredis import PrivateRedis, find_server
from rt.redis import Script, Store
from rt.settings import Settings, load_settings
from rt.telemetry import REGISTRY
from tests.helpers import TENANT, Jobs, alive, eventually, joined, running, standing, types

app = App()

gates: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
runs: Counter[str] = Counter()


@app.job
async def ok(job: JobContext, text: str = "ok") -> str:
    await job.emit(text)
    return text


@app.job
async def swallows(job: JobContext) -> str:
    """Goes on for a while after it was cancelled, as code with a bare `except` does."""
    await job.emit("begun")
    for _ in range(5):
        try:
            await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            await job.emit("what?")
    return "ended by itself"


@app.job
async def deaf(job: JobContext) -> None:
    """Never ends, whoever cancels it, until its gate opens."""
    await job.emit("begun")
    while not gates[job.id].is_set():
        try:
            await asyncio.wait_for(gates[job.id].wait(), 0.05)
        except (TimeoutError, asyncio.CancelledError):
            await job.emit("still here")


@app.job
def tidies(job: JobContext) -> None:
    """Looks whether it was cancelled, and needs a moment then."""
    while not job.cancelled:
        time.sleep(0.01)
    time.sleep(0.3)
    runs[job.id] += 1


@app.job(idle_timeout_s=0.5)
async def pours(job: JobContext, kilobytes: int) -> None:
    await job.emit("begun")
    while not gates[job.id].is_set():
        await asyncio.sleep(0.005)
        await job.emit("")
    for _ in range(kilobytes):
        await job.emit("x" * 1024)


@app.job(max_attempts=20, retry=Retry(base_s=0.01, cap_s=0.05))
async def long(job: JobContext, n: int, gate: str) -> dict[str, int]:
    runs[job.id] += 1
    for i in range(n):
        await job.emit(f"{i} ")
        await asyncio.sleep(0.003)
        if i == n // 2 and not gates[gate].is_set():
            await gates[gate].wait()
    return {"n": n}


@app.job
async def babbles(job: JobContext) -> None:
    """Waits for nothing but its emits, which never fill the buffer."""
    runs[job.id] += 1
    while True:
        await job.emit("")


@pytest.fixture
def jobs(store: Store, settings: Settings) -> Jobs:
    return Jobs(app, store, settings)


@pytest.fixture
async def worker(store: Store, settings: Settings) -> AsyncIterator[Worker]:
    async with running(app, settings, store) as one:
        yield one


async def still_works(jobs: Jobs) -> None:
    assert types(await jobs.wait_end(await jobs.submit("ok")))[-1] == "job.completed"


class Exploit:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.mkdir, (self.path,)


async def plant(store: Store, settings: Settings, id: str, payload: bytes) -> None:
    """A payload as another client would leave it."""
    await store.call("SET", f"arq:job:{id}", payload, "PX", 60_000)
    await store.call("ZADD", settings.queue, 1, id)


@pytest.mark.parametrize("payload", [b"", b"nonsense", b"\x80\x04nonsense", b"{}", b"[" * 500, b"\x00\xff", pickle.dumps(5)])
async def test_a_payload_that_cannot_be_read_fails_its_job(
    worker: Worker, jobs: Jobs, store: Store, settings: Settings, payload: bytes
) -> None:
    await plant(store, settings, "odd", payload)
    events = await jobs.wait_end("odd")
    assert events[-1]["data"]["error"]["code"] == "invalid_input"
    assert await store.call("ZCARD", settings.queue) == 0
    await still_works(jobs)


async def test_a_pickled_object_is_never_made(worker: Worker, jobs: Jobs, store: Store, settings: Settings, tmp_path: Path) -> None:
    made = tmp_path / "made"
    payload = pickle.dumps({"t": None, "f": "ok", "a": (Exploit(made),), "k": {}, "et": 1})
    await plant(store, settings, "exploit", payload)
    events = await jobs.wait_end("exploit")
    assert events[-1]["data"]["error"]["code"] == "invalid_input"
    assert not made.exists()
    assert await jobs.queue.get(TENANT, "exploit") is not None


async def test_arguments_nested_deeper_than_a_pickler_goes_end_their_job_like_others(
    worker: Worker, jobs: Jobs, store: Store, settings: Settings
) -> None:
    """The reader takes them and Python's writer does not, so arq's result cannot repeat them: the run broke at its very end, each time."""
    payload = pickle.dumps({"t": None, "f": "ok", "a": (), "k": {"deep": "@"}, "et": 1}, 3)
    await plant(store, settings, "deep", payload.replace(b"X\x01\x00\x00\x00@", b"]" * 100_000 + b"a" * 99_999))
    events = await jobs.wait_end("deep")
    assert [(one["type"], one.get("attempt")) for one in events] == [("job.queued", None), ("job.failed", 1)]
    assert events[-1]["data"]["error"]["code"] == "invalid_input"


async def test_a_payload_that_has_expired_fails_its_job(worker: Worker, jobs: Jobs, store: Store, settings: Settings) -> None:
    await store.call("ZADD", settings.queue, 1, "gone")
    events = await jobs.wait_end("gone")
    assert types(events) == ["job.failed"]
    assert events[-1]["data"]["error"]["code"] == "expired"
    await still_works(jobs)


async def test_an_id_that_no_text_has_does_not_end_the_worker(worker: Worker, jobs: Jobs, store: Store, settings: Settings) -> None:
    payload = pickle.dumps({"t": None, "f": "ok", "a": (), "k": {}, "et": 1})
    await store.call("SET", b"arq:job:\xff\xfe", payload, "PX", 60_000)
    await store.call("ZADD", settings.queue, 1, b"\xff\xfe")
    await still_works(jobs)
    await still_works(jobs)


async def test_a_job_that_swallows_its_cancel_writes_nothing_more(worker: Worker, jobs: Jobs) -> None:
    job_id = await jobs.submit("swallows")

    async def begun() -> bool:
        return joined(await jobs.events(job_id)) == "begun"

    await eventually(begun)
    await jobs.queue.cancel(TENANT, job_id, "ann")
    events = await jobs.wait_end(job_id)
    assert types(events) == ["job.queued", "job.started", "job.delta", "job.cancelled"]
    await still_works(jobs)


async def test_a_job_that_never_heeds_its_cancel_loses_its_slot_and_its_voice(
    store: Store, settings: Settings, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "STOP_GRACE_S", 0.2)
    async with running(app, settings.model_copy(update={"max_jobs": 1}), store) as worker:
        job_id = await jobs.submit("deaf")

        async def begun() -> bool:
            return joined(await jobs.events(job_id)).startswith("begun")

        await eventually(begun)
        await jobs.queue.cancel(TENANT, job_id, "ann")
        assert types(await jobs.wait_end(job_id, within_s=5))[-1] == "job.cancelled"
        await still_works(jobs)
        assert len(worker.runner.stuck) == 1
        ended = await jobs.events(job_id)
        await asyncio.sleep(0.2)  # it emits all the while
        assert await jobs.events(job_id) == ended
        gates[job_id].set()
        await eventually(lambda: not worker.runner.stuck)


async def test_a_worker_stops_although_a_job_never_heeds_its_cancel(
    store: Store, settings: Settings, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "STOP_GRACE_S", 0.2)
    async with running(app, settings.model_copy(update={"drain_s": 0.0}), store):
        job_id = await jobs.submit("deaf")

        async def begun() -> bool:
            return joined(await jobs.events(job_id)).startswith("begun")

        await eventually(begun)
        began = time.monotonic()
    assert time.monotonic() - began < 2
    record = await jobs.queue.get(TENANT, job_id)
    assert record is not None
    assert record.status == "queued", "handed back for another worker"
    gates[job_id].set()


async def test_a_job_in_a_thread_may_put_things_in_order_before_its_worker_ends(store: Store, settings: Settings, jobs: Jobs) -> None:
    async with running(app, settings.model_copy(update={"drain_s": 0.0}), store) as worker:
        job_id = await jobs.submit("tidies")
        await eventually(lambda: job_id in worker.runs and worker.runner.threads.alive)
        worker.stop()
        main = next(one for one in asyncio.all_tasks() if one.get_name() == "worker under test")
        await asyncio.wait({main}, timeout=10)
    assert runs[job_id] == 1


async def test_a_job_s_wait_is_told_by_redis_s_clock(worker: Worker, jobs: Jobs) -> None:
    """The web host that accepted it and the worker's host need not agree on the time."""

    def waited_s() -> float:
        return float(REGISTRY.get_sample_value("rt_queue_wait_seconds_sum", {"job": "ok"}) or 0)

    before, real = waited_s(), time.time
    with patch("time.time", lambda: real() + 3600):
        await still_works(jobs)
    assert 0 <= waited_s() - before < 60


async def test_a_job_that_waits_for_redis_is_not_idle(redis_kind: str, worker: Worker, jobs: Jobs, store: Store) -> None:
    if redis_kind == "fake":
        pytest.skip("fakeredis cannot be paused")
    job_id = await jobs.submit("pours", kilobytes=200)

    async def begun() -> bool:
        return joined(await jobs.events(job_id)) == "begun"

    await eventually(begun)
    await store.call("CLIENT", "PAUSE", 800, "ALL")  # longer than it may be idle, shorter than its lease
    gates[job_id].set()
    events = await jobs.wait_end(job_id)
    assert (events[-1]["type"], events[-1]["attempt"]) == ("job.completed", 1)


async def test_a_start_hook_that_breaks_is_raised_before_anything_is_claimed(store: Store, settings: Settings) -> None:
    broken = App()

    @broken.on_worker_start
    def load() -> None:
        raise FileNotFoundError("no model")

    with pytest.raises(FileNotFoundError):
        await Worker(broken, settings, store).main()
    assert await store.call("EXISTS", keys.WORKERS) == 0


async def test_start_hooks_run_in_order_before_the_first_job(store: Store, settings: Settings) -> None:
    hooked, order = App(), []

    @hooked.on_worker_start
    def first() -> None:
        order.append("plain")

    @hooked.on_worker_start
    async def second() -> None:
        order.append("async")

    @hooked.job
    async def after(job: JobContext) -> None:
        order.append("job")

    jobs = Jobs(hooked, store, settings)
    job_id = await jobs.submit("after")
    async with running(hooked, settings, store):
        await jobs.wait_end(job_id)
    assert order == ["plain", "async", "job"]


async def test_a_burst_ends_when_nothing_is_left_to_do(store: Store, settings: Settings, jobs: Jobs) -> None:
    ids = [await jobs.submit("ok", text=str(i)) for i in range(20)]
    deferred = await jobs.submit("ok", delay_s=0.3)
    async with running(app, settings, store, burst=True):
        main = next(one for one in asyncio.all_tasks() if one.get_name() == "worker under test")
        done, _ = await asyncio.wait({main}, timeout=30)
        assert done
    for id in (*ids, deferred):
        assert await jobs.status(id) == "completed"


async def test_a_burst_on_an_empty_queue_ends_at_once(store: Store, settings: Settings) -> None:
    async with asyncio.timeout(30):
        await Worker(app, settings, store, burst=True).main()


# Being woken


async def test_a_job_of_ours_starts_at_once_on_an_idle_worker(store: Store, settings: Settings) -> None:
    lazy = settings.model_copy(update={"poll_s": 30.0})
    jobs = Jobs(app, store, lazy)
    async with running(app, lazy, store) as worker:
        await idle(worker, store)
        waits = []
        for _ in range(5):
            job_id = await jobs.submit("ok")
            await jobs.wait_end(job_id)
            record = await jobs.queue.get(TENANT, job_id)
            assert record is not None
            waits.append(record.started_ms - record.created_ms)
    assert sorted(waits)[2] < 100
    assert max(waits) < 1000


async def idle(worker: Worker, store: Store) -> None:
    """Returns when the worker listens and has claimed what there was."""

    async def listens() -> bool:
        return dict([await numsub()])[keys.doorbell(worker.queue_name)] > 0

    async def numsub() -> tuple[str, int]:
        name, count = (await store.call("PUBSUB", "NUMSUB", keys.doorbell(worker.queue_name)))[:2]
        return (name[0] if isinstance(name, tuple) else name).decode(), int(count)

    await eventually(listens)
    await eventually(lambda: not worker._wake.is_set())


async def test_a_job_costs_an_idle_worker_one_claim(redis_kind: str, store: Store, settings: Settings) -> None:
    """Neither parking it nor its end rings for another one. (What accepts it rings twice, at once.)"""
    if redis_kind == "fake":
        pytest.skip("fakeredis has no keyspace notifications: its worker polls")
    lazy = settings.model_copy(update={"poll_s": 30.0})
    jobs = Jobs(app, store, lazy)
    async with running(app, lazy, store) as worker:
        await idle(worker, store)
        before = worker._claim_number
        for _ in range(5):
            await jobs.wait_end(await jobs.submit("ok"))
        assert 5 <= worker._claim_number - before <= 7, worker._claim_number - before


async def test_a_slot_is_free_once_the_function_has_ended(store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only once Redis has taken the end."""
    answers = asyncio.Event()
    run = Store.run

    async def holding(self: Store, script: Script, keys: Any, args: Any = ()) -> Any:
        if script is SETTLE:
            await answers.wait()
        return await run(self, script, keys, args)

    monkeypatch.setattr(Store, "run", holding)
    single = settings.model_copy(update={"max_jobs": 1})
    jobs = Jobs(app, store, single)
    async with running(app, single, store):
        first, second = await jobs.submit("ok"), await jobs.submit("ok")
        for one in (first, second):  # in whichever order: they may be of one millisecond
            await jobs.wait_status(one, "running")
        assert [await jobs.status(one) for one in (first, second)] == ["running", "running"]
        answers.set()
        for one in (first, second):
            await jobs.wait_end(one)


async def test_a_job_that_never_waits_lets_others_run_and_heeds_its_cancel(worker: Worker, jobs: Jobs) -> None:
    job_id = await jobs.submit("babbles")
    await eventually(lambda: runs[job_id])
    await still_works(jobs)
    await jobs.queue.cancel(TENANT, job_id, "ann")
    assert types(await jobs.wait_end(job_id))[-1] == "job.cancelled"


async def test_deferred_jobs_start_on_time_without_polling(store: Store, settings: Settings) -> None:
    lazy = settings.model_copy(update={"poll_s": 30.0})
    jobs = Jobs(app, store, lazy)
    async with running(app, lazy, store) as worker:
        await idle(worker, store)
        late = []
        for delay_s in (0.6, 0.2, 0.4):
            late.append((await jobs.submit("ok", delay_s=delay_s), delay_s))
        assert [await jobs.status(job_id) for job_id, _ in late] == ["queued"] * 3
        for job_id, delay_s in late:
            await jobs.wait_end(job_id, within_s=3)
            record = await jobs.queue.get(TENANT, job_id)
            assert record is not None
            assert delay_s * 1000 <= record.started_ms - record.created_ms < delay_s * 1000 + 500


# Redis is killed and comes back


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[PrivateRedis]:
    if find_server() is None:
        pytest.skip("no server")
    with PrivateRedis(tmp_path, aof=True) as server:
        yield server


@pytest.fixture
def own_settings(own_redis: PrivateRedis) -> Settings:
    return load_settings(REDIS_URL=own_redis.url, lease_s=2, drain_s=1)


async def test_jobs_survive_a_redis_that_is_killed_and_comes_back(own_redis: PrivateRedis, own_settings: Settings) -> None:
    settings = own_settings
    store = Store(own_redis.url)
    await store.call("CONFIG", "SET", "appendfsync", "always")  # the promise is about us; what Redis loses is its own
    jobs = Jobs(app, store, settings)
    try:
        async with running(app, settings, store):
            ids = [await jobs.submit("long", n=40, gate="redis") for _ in range(10)]

            async def half() -> bool:
                return all([joined(await jobs.events(id)).count(" ") >= 20 for id in ids])

            await eventually(half)
            own_redis.kill()
            gates["redis"].set()  # the jobs go on talking while nobody hears them
            await eventually(_away(store))
            await asyncio.to_thread(own_redis.start)
            await eventually(lambda: alive(store))
            for id in ids:
                events = await eventually(lambda id=id: _end(jobs, id), within_s=20)
                assert types(events)[-1] == "job.completed"
                assert sum(bool(one.get("final")) for one in events) == 1
                assert standing(events) == "".join(f"{i} " for i in range(40))
                assert [one["seq"] for one in events] == list(range(1, len(events) + 1))
            await still_works(jobs)
    finally:
        await store.close()


def _away(store: Store) -> Any:
    async def away() -> bool:
        return not await alive(store)

    return away


async def _end(jobs: Jobs, id: str) -> list[dict[str, Any]] | None:
    events = await jobs.events(id)
    return events if events and events[-1].get("final") else None


async def test_an_outage_longer_than_a_lease_leaves_one_end_and_a_whole_text(own_redis: PrivateRedis, own_settings: Settings) -> None:
    settings = own_settings.model_copy(update={"lease_s": 1.0})
    store = Store(own_redis.url)
    jobs = Jobs(app, store, settings)
    try:
        async with running(app, settings, store):
            await store.call("CONFIG", "SET", "appendfsync", "always")
            job_id = await jobs.submit("long", n=20, gate="outage")
            await eventually(lambda: runs[job_id])
            own_redis.kill()
            await asyncio.to_thread(time.sleep, 1.5)  # an outage has a length
            await asyncio.to_thread(own_redis.start)
            gates["outage"].set()
            await eventually(lambda: alive(store))
            events = await eventually(lambda: _end(jobs, job_id), within_s=20)
        assert standing(events) == "".join(f"{i} " for i in range(20))
        assert sum(bool(one.get("final")) for one in events) == 1
    finally:
        await store.close()


async def test_a_worker_that_starts_before_redis_waits_for_it(own_redis: PrivateRedis, own_settings: Settings) -> None:
    server, settings = own_redis, own_settings
    server.stop()
    store = Store(server.url)
    jobs = Jobs(app, store, settings)
    try:
        async with running(app, settings, store):
            assert not await alive(store)
            await asyncio.to_thread(server.start)
            await eventually(lambda: alive(store))
            await still_works(jobs)
    finally:
        await store.close()


async def test_a_worker_stops_although_redis_is_away(
    own_redis: PrivateRedis, own_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rt.jobs.worker._LAST_WORDS_S", 0.5)
    settings = own_settings.model_copy(update={"drain_s": 0.0})
    store = Store(own_redis.url)
    jobs = Jobs(app, store, settings)
    try:
        async with running(app, settings, store) as worker:
            job_id = await jobs.submit("long", n=10, gate="never")
            await eventually(lambda: runs[job_id])
            own_redis.kill()
            worker.stop()
            main = next(one for one in asyncio.all_tasks() if one.get_name() == "worker under test")
            done, _ = await asyncio.wait({main}, timeout=8)
            assert done
    finally:
        await store.close()


async def test_connections_stay_few_however_many_jobs_run(redis_kind: str, store: Store, settings: Settings, jobs: Jobs) -> None:
    if redis_kind == "fake":
        pytest.skip("fakeredis has no connections to count")
    async with running(app, settings, store) as worker:
        ids = [await jobs.submit("long", n=30, gate="many") for _ in range(80)]
        await eventually(lambda: len(worker.runs) == 80)
        gates["many"].set()
        for id in ids:
            await jobs.wait_end(id, within_s=20)
        clients = [line for line in (await store.call("CLIENT", "LIST")).decode().splitlines() if line]
    # Calls, wake-ups, leases, and this test's own.
    assert len(clients) <= 4, clients


async def test_whatever_befalls_a_job_it_ends_once(store: Store, settings: Settings) -> None:
    """Errors, cancels, lost leases and redeploys by chance, seeded: each job has one terminal event, and its text is whole."""
    dice = random.Random(7)
    wild = App()
    quick = settings.model_copy(update={"drain_s": 0.0, "keep_result_s": 0})

    @wild.job(max_attempts=4, retry=Retry(base_s=0.001, cap_s=0.01), keep=lambda past: len(past.text) % 2 == 0)
    async def wildly(job: JobContext, words: int) -> int:
        done = job.past.text.count(" ")
        for i in range(done, words):
            await job.emit(f"{i} ")
            await asyncio.sleep(0.002)
            if dice.random() < 0.01:
                raise TemporaryJobError("busy", "later")
            if dice.random() < 0.05:
                await job.checkpoint(i)
        return words

    jobs = Jobs(wild, store, quick)
    ids = [await jobs.submit("wildly", words=dice.randint(1, 40)) for _ in range(25)]
    cancelled = dice.sample(ids, 6)
    for round in itertools.count():
        async with running(wild, quick if round < 4 else settings, store) as worker:
            await asyncio.sleep(0 if round >= 4 else dice.uniform(0.02, 0.15))
            for id in cancelled[round : round + 1]:
                try:
                    await jobs.queue.cancel(TENANT, id, "ann")
                except Refused:
                    pass  # it has ended already
            for id in dice.sample(list(worker.runs), min(2, len(worker.runs))):
                worker.leases.drop(id)
            if round >= 6:
                for id in ids:
                    await jobs.wait_end(id, within_s=20)
                break
    for id in ids:
        events = await jobs.events(id)
        assert sum(bool(one.get("final")) for one in events) == 1
        assert events[-1].get("final")
        assert [one["seq"] for one in events] == list(range(1, len(events) + 1))
        attempts = [one["attempt"] for one in events if "attempt" in one]
        assert attempts == sorted(attempts)
        if events[-1]["type"] == "job.completed":
            words = events[-1]["data"]["result"]
            assert standing(events) == "".join(f"{i} " for i in range(words))
