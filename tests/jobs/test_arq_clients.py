"""Plain arq beside ours: its clients enqueue, look and abort; its workers run functions of their own."""

import asyncio
import json
import pickle
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from arq.connections import ArqRedis
from arq.jobs import Job, JobStatus, ResultNotFound
from arq.worker import Worker as ArqWorker
from arq.worker import func

from rt import keys
from rt.app import App
from rt.errors import JobError, TemporaryJobError
from rt.jobs.context import JobContext
from rt.jobs.job import Retry
from rt.jobs.worker import Worker
from rt.keys import parse_stream
from rt.redis import Store
from rt.settings import Settings
from tests.helpers import TENANT, Jobs, eventually, joined, running, types

app = App()

gates: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)


@app.job
async def answer(job: JobContext, question: str, n: int = 1, *, loud: bool = False) -> dict[str, Any]:
    await job.emit(question)
    return {"question": question, "n": n, "loud": loud}


@app.job
async def waits(job: JobContext) -> str:
    await job.emit("begun")
    await gates[job.id].wait()
    return "done"


@app.job(retry=Retry(base_s=0.001, cap_s=0.002))
async def flaky(job: JobContext, how: str) -> int:
    match how:
        case "value":
            raise ValueError("wrong")
        case "told":
            raise JobError("no_money", "top up first")
        case "temporary" if job.attempt == 1:
            raise TemporaryJobError("busy", "later")
    return job.attempt


@pytest.fixture
async def arq(store: Store) -> ArqRedis:
    """A plain client, as another service has it."""
    return ArqRedis(store.pool)


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


@pytest.fixture
async def arq_json(store: Store) -> ArqRedis:
    return ArqRedis(store.pool, job_serializer=as_json, job_deserializer=json.loads)


@pytest.fixture
def jobs(store: Store, settings: Settings) -> Jobs:
    return Jobs(app, store, settings)


@pytest.fixture
async def worker(store: Store, settings: Settings) -> AsyncIterator[Worker]:
    async with running(app, settings, store) as one:
        yield one


async def enqueue(client: ArqRedis, *args: Any, **kwargs: Any) -> Job:
    job = await client.enqueue_job(*args, **kwargs)
    assert job is not None
    return job


async def result(job: Job) -> Any:
    return await job.result(timeout=10, poll_delay=0.01)


async def test_a_plain_client_s_job_runs_with_a_stream_of_its_own(worker: Worker, jobs: Jobs, arq: ArqRedis) -> None:
    job = await enqueue(arq, "answer", "what?", n=2, loud=True)
    assert await result(job) == {"question": "what?", "n": 2, "loud": True}
    events = await jobs.events(job.job_id)
    assert types(events) == ["job.queued", "job.started", "job.delta", "job.completed"]
    assert events[0]["data"] == {"job": "answer"}
    assert joined(events) == "what?"
    assert await job.status() == JobStatus.complete
    info = await job.result_info()
    assert info is not None
    assert (info.function, info.args, info.kwargs, info.success) == ("answer", ("what?",), {"n": 2, "loud": True}, True)
    record = await jobs.queue.get(TENANT, job.job_id)
    assert record is not None
    assert (record.job, record.status, record.owner, record.reports) == ("answer", "completed", "", ())
    assert record.created_ms > 1_600_000_000_000


@pytest.mark.parametrize(
    ("args", "kwargs", "expected"),
    [
        (("q",), {}, {"question": "q", "n": 1, "loud": False}),
        (("q", 5), {}, {"question": "q", "n": 5, "loud": False}),
        ((), {"question": "q", "loud": True}, {"question": "q", "n": 1, "loud": True}),
        (("q",), {"n": "7"}, {"question": "q", "n": 7, "loud": False}),
    ],
)
async def test_positional_and_named_arguments_reach_the_function(
    worker: Worker, arq: ArqRedis, arq_json: ArqRedis, args: Any, kwargs: Any, expected: Any
) -> None:
    assert await result(await enqueue(arq, "answer", *args, **kwargs)) == expected
    assert await result(await enqueue(arq_json, "answer", *args, **kwargs)) == expected


@pytest.mark.parametrize(("args", "kwargs"), [((), {}), (("q", 1, True, 4), {}), (("q",), {"more": 1}), ((["q"],), {})])
async def test_arguments_that_do_not_fit_fail_the_job(worker: Worker, jobs: Jobs, arq: ArqRedis, args: Any, kwargs: Any) -> None:
    job = await enqueue(arq, "answer", *args, **kwargs)
    with pytest.raises(RuntimeError, match="invalid_input"):
        await result(job)
    events = await jobs.events(job.job_id)
    assert types(events) == ["job.queued", "job.failed"]
    assert events[-1]["data"]["error"]["code"] == "invalid_input"


async def test_an_object_among_the_arguments_fails_the_job(worker: Worker, jobs: Jobs, arq: ArqRedis) -> None:
    job = await enqueue(arq, "answer", timedelta(seconds=1))
    with pytest.raises(RuntimeError, match="plain data"):
        await result(job)
    assert types(await jobs.events(job.job_id))[-1] == "job.failed"


async def test_a_function_that_nobody_registered_fails(worker: Worker, jobs: Jobs, arq: ArqRedis) -> None:
    job = await enqueue(arq, "nobody_knows_it")
    with pytest.raises(RuntimeError, match="unknown_job"):
        await result(job)
    events = await jobs.events(job.job_id)
    assert events[-1]["data"]["error"]["code"] == "unknown_job"


async def test_a_failure_is_raised_at_the_client(worker: Worker, arq: ArqRedis) -> None:
    with pytest.raises(ValueError, match="wrong"):
        await result(await enqueue(arq, "flaky", "value"))
    with pytest.raises(RuntimeError, match="JobError: top up first"):
        await result(await enqueue(arq, "flaky", "told"))


async def test_a_retried_job_answers_its_client_once_it_has_ended(worker: Worker, jobs: Jobs, arq: ArqRedis) -> None:
    job = await enqueue(arq, "flaky", "temporary")
    assert await result(job) == 2
    assert types(await jobs.events(job.job_id)) == [
        *("job.queued", "job.started", "job.retrying", "job.restarted", "job.started", "job.completed"),
    ]


async def test_a_json_client_gets_its_result_in_json(worker: Worker, arq_json: ArqRedis, store: Store) -> None:
    job = await enqueue(arq_json, "answer", "q")
    assert await result(job) == {"question": "q", "n": 1, "loud": False}
    assert json.loads(await store.call("GET", f"arq:result:{job.job_id}"))["s"] is True


async def test_a_json_client_s_failure_is_told_in_words(worker: Worker, arq_json: ArqRedis) -> None:
    job = await enqueue(arq_json, "flaky", "value")
    with pytest.raises(Exception, match="ValueError: wrong"):
        await result(job)
    assert await job.status() == JobStatus.complete


async def test_the_status_is_true_all_the_way(store: Store, settings: Settings, jobs: Jobs, arq: ArqRedis) -> None:
    queued, deferred = await enqueue(arq, "waits"), await enqueue(arq, "waits", _defer_by=60)
    assert (await queued.status(), await deferred.status()) == (JobStatus.queued, JobStatus.deferred)
    record = await jobs.queue.get(TENANT, queued.job_id)
    assert record is not None
    assert (record.job, record.status) == ("waits", "queued")
    async with running(app, settings, store):
        await jobs.wait_status(queued.job_id, "running")
        assert (await queued.status(), await deferred.status()) == (JobStatus.in_progress, JobStatus.deferred)
        gates[queued.job_id].set()
        assert await result(queued) == "done"
    assert await queued.status() == JobStatus.complete
    assert await Job("nobody", arq).status() == JobStatus.not_found


async def abort(job: Job) -> bool:
    return await job.abort(timeout=5, poll_delay=0.01)


async def test_a_running_job_is_aborted(worker: Worker, jobs: Jobs, arq: ArqRedis, store: Store) -> None:
    job = await enqueue(arq, "waits")
    await jobs.wait_status(job.job_id, "running")
    assert await abort(job) is True
    events = await jobs.events(job.job_id)
    assert events[-1]["type"] == "job.cancelled"
    assert events[-1]["data"] == {"by": "arq"}
    assert await store.call("ZCARD", "arq:abort") == 0


async def test_a_deferred_job_is_aborted(worker: Worker, jobs: Jobs, arq: ArqRedis) -> None:
    job = await enqueue(arq, "answer", "q", _defer_by=60)
    assert await abort(job) is True
    assert types(await jobs.events(job.job_id)) == ["job.cancelled"]


async def test_a_deferred_job_is_not_started_by_its_abort(
    worker: Worker, jobs: Jobs, arq: ArqRedis, store: Store, settings: Settings
) -> None:
    # arq makes it due first, and says in its next command that it is to be aborted: woken at once, we ran it in between.
    job = await enqueue(arq, "answer", "q", _defer_by=60)
    await store.call("ZADD", settings.queue, 1, job.job_id)

    async def looked_at() -> bool:
        return await store.call("ZSCORE", settings.queue, job.job_id) not in (b"1", 1.0)

    await eventually(looked_at)
    await store.call("ZADD", "arq:abort", 1, job.job_id)
    with pytest.raises(asyncio.CancelledError):
        await result(job)
    assert types(await jobs.events(job.job_id)) == ["job.cancelled"]


async def test_a_job_that_waits_for_a_free_slot_is_aborted_at_once(store: Store, settings: Settings, arq: ArqRedis) -> None:
    one = settings.model_copy(update={"max_jobs": 1})
    jobs = Jobs(app, store, one)
    async with running(app, one, store):
        first = await enqueue(arq, "waits")
        await jobs.wait_status(first.job_id, "running")
        second = await enqueue(arq, "waits")
        assert await abort(second) is True
        assert types(await jobs.events(second.job_id)) == ["job.cancelled"]
        gates[first.job_id].set()
        assert await result(first) == "done"


async def test_a_job_aborted_while_no_worker_lives_never_starts(store: Store, settings: Settings, jobs: Jobs, arq: ArqRedis) -> None:
    job = await enqueue(arq, "answer", "q")
    aborting = asyncio.create_task(abort(job))
    await eventually(lambda: store.call("ZCARD", "arq:abort"))
    async with running(app, settings, store):
        assert await aborting is True
    assert "job.started" not in types(await jobs.events(job.job_id))


async def test_our_own_jobs_answer_plain_clients_too(worker: Worker, jobs: Jobs, arq_json: ArqRedis, store: Store) -> None:
    job_id = await jobs.submit("waits")
    job = Job(job_id, arq_json, _deserializer=json.loads)
    await jobs.wait_status(job_id, "running")
    assert await job.status() == JobStatus.in_progress
    gates[job_id].set()
    assert await result(job) == "done"


async def test_a_job_of_a_plain_client_can_be_cancelled_by_ours(worker: Worker, jobs: Jobs, arq: ArqRedis) -> None:
    running_one, waiting_one = await enqueue(arq, "waits"), await enqueue(arq, "waits", _defer_by=60)
    await jobs.wait_status(running_one.job_id, "running")
    assert await jobs.queue.cancel(TENANT, running_one.job_id, "root") == ("running", "running")
    assert await jobs.queue.cancel(TENANT, waiting_one.job_id, "root") == ("queued", "cancelled")
    for job in (running_one, waiting_one):
        with pytest.raises(asyncio.CancelledError):
            await result(job)
        assert (await jobs.events(job.job_id))[-1]["data"] == {"by": "root"}


async def test_an_id_is_used_once_until_its_result_is_forgotten(worker: Worker, jobs: Jobs, arq: ArqRedis, store: Store) -> None:
    job = await enqueue(arq, "answer", "first", _job_id="nightly")
    assert (await result(job))["question"] == "first"
    old = (await jobs.streams.heads(TENANT, ["job:nightly"]))["job:nightly"]
    assert await arq.enqueue_job("answer", "second", _job_id="nightly") is None
    await store.call("DEL", "arq:result:nightly")
    job = await enqueue(arq, "answer", "third", _job_id="nightly")
    assert (await result(job))["question"] == "third"
    head = (await jobs.streams.heads(TENANT, ["job:nightly"]))["job:nightly"]
    assert head.epoch != old.epoch
    events = await jobs.events("nightly")
    assert joined(events) == "third"
    assert types(events) == ["job.queued", "job.started", "job.delta", "job.completed"]
    assert {one["attempt"] for one in events[1:]} == {1}


async def test_an_id_used_again_and_aborted_before_it_starts_ends_its_own_stream(
    store: Store, settings: Settings, jobs: Jobs, arq: ArqRedis
) -> None:
    # Its end was written into the old job's stream, after that one's own end.
    async with running(app, settings, store):
        await result(await enqueue(arq, "answer", "first", _job_id="nightly"))
    await store.call("DEL", "arq:result:nightly")
    old = (await jobs.streams.heads(TENANT, ["job:nightly"]))["job:nightly"]
    job = await enqueue(arq, "answer", "second", _job_id="nightly", _defer_by=60)
    await store.call("ZADD", "arq:abort", 1, "nightly")
    await store.call("DEL", keys.JANITOR)  # the lease of the worker that has gone
    async with running(app, settings, store):
        with pytest.raises(asyncio.CancelledError):
            await result(job)
    assert types(await jobs.events("nightly")) == ["job.cancelled"]
    assert (await jobs.streams.heads(TENANT, ["job:nightly"]))["job:nightly"].epoch != old.epoch


async def test_an_id_used_again_is_another_job_at_once(store: Store, settings: Settings, jobs: Jobs, arq: ArqRedis) -> None:
    # Until a worker claimed it, its record was the old job's, and a cancel was told that the job had completed already.
    async with running(app, settings, store):
        await result(await enqueue(arq, "answer", "first", _job_id="nightly"))
    await store.call("DEL", "arq:result:nightly")
    job = await enqueue(arq, "waits", _job_id="nightly")
    record = await jobs.queue.get(TENANT, "nightly")
    assert record is not None
    assert (record.job, record.status, record.attempt, record.result) == ("waits", "queued", 0, None)
    assert await jobs.queue.cancel(TENANT, "nightly", "root") == ("queued", "cancelled")
    assert types(await jobs.events("nightly")) == ["job.cancelled"]
    with pytest.raises(asyncio.CancelledError):
        await result(job)
    assert await jobs.status("nightly") == "cancelled"


@pytest.mark.parametrize("id", ["x" * 129, "ü" * 22])
async def test_an_id_too_long_for_a_stream_s_name_is_refused_at_the_start(worker: Worker, jobs: Jobs, arq: ArqRedis, id: str) -> None:
    with pytest.raises(RuntimeError, match="invalid_input: the job's id is longer than 128 characters"):
        await result(await enqueue(arq, "answer", "q", _job_id=id))
    record = await jobs.queue.get(TENANT, id)
    assert record is not None
    assert record.error["code"] == "invalid_input"
    assert await result(await enqueue(arq, "answer", "q", _job_id=id[:21])) == {"question": "q", "n": 1, "loud": False}


@pytest.mark.parametrize("id", ["a b", "user:5/42", "{x}", "ünïcode-日本", "100%", "%41", "a" * 60 + "?", 'quo"te\\'])
async def test_ids_of_odd_characters_have_streams_that_can_be_named(worker: Worker, jobs: Jobs, arq: ArqRedis, id: str) -> None:
    job = await enqueue(arq, "answer", "q", _job_id=id)
    assert (await result(job))["question"] == "q"
    stream = parse_stream(keys.job_stream(id))
    assert stream.subject == id
    events = await jobs.events(id)
    assert types(events) == ["job.queued", "job.started", "job.delta", "job.completed"]
    assert {one["stream"] for one in events} == {str(stream)}


async def test_an_odd_id_is_ended_by_scripts_too(jobs: Jobs, arq: ArqRedis) -> None:
    id = 'ü "{x}" %'
    await enqueue(arq, "answer", "q", _job_id=id)
    await jobs.queue.cancel(TENANT, id, "ann")
    (event,) = await jobs.events(id)
    assert (event["type"], event["stream"]) == ("job.cancelled", keys.job_stream(id))


async def test_a_plain_client_s_job_starts_at_once_on_an_idle_worker(
    redis_kind: str, store: Store, settings: Settings, arq: ArqRedis, redis_url: str
) -> None:
    lazy = settings.model_copy(update={"poll_s": 30.0})
    jobs = Jobs(app, store, lazy)
    async with running(app, lazy, store) as worker:
        channel = f"__keyspace@0__:{lazy.queue}"
        await eventually(lambda: _heard(store, channel))
        await eventually(lambda: not worker._wake.is_set())
        if redis_kind == "real":
            assert worker._poll_s == 30.0  # nothing is polled
        waits_ms = []
        for _ in range(5):
            began = time.perf_counter()
            job = await enqueue(arq, "answer", "q")

            async def started(job_id: str = job.job_id) -> bool:
                return await jobs.status(job_id) != "queued"

            await eventually(started)
            waits_ms.append((time.perf_counter() - began) * 1000)
    assert sorted(waits_ms)[2] < 100
    assert max(waits_ms) < 1000


async def _heard(store: Store, channel: str) -> bool:
    found = await store.call("PUBSUB", "NUMSUB", channel)
    return int(found[0][1] if isinstance(found[0], tuple) else found[1]) > 0


async def test_a_plain_worker_with_functions_of_its_own_stays_beside_ours(
    worker: Worker, jobs: Jobs, arq: ArqRedis, redis_url: str
) -> None:
    ran: list[str] = []

    async def theirs(ctx: dict[Any, Any], text: str) -> str:
        ran.append(text)
        return f"theirs: {text}"

    other_store = Store(redis_url)
    plain = PlainWorker([func(theirs, name="theirs")], queue_name="arq:theirs", pool=other_store, poll_delay=0.02)
    task = asyncio.create_task(plain.main())
    try:
        ours = [await enqueue(arq, "answer", str(i)) for i in range(10)]
        others = [await enqueue(arq, "theirs", str(i), _queue_name="arq:theirs") for i in range(10)]
        assert [(await result(job))["question"] for job in ours] == [str(i) for i in range(10)]
        assert [await result(job) for job in others] == [f"theirs: {i}" for i in range(10)]
        assert sorted(ran) == [str(i) for i in range(10)]
        for job in others:
            assert await jobs.events(job.job_id) == []
    finally:
        while not task.done():  # Python 3.11's `wait_for`, with which redis-py reads, may forget a cancel
            task.cancel()
            await asyncio.wait({task}, timeout=0.1)
        await other_store.close()


class PlainWorker(ArqWorker):
    """arq's own worker; only its log line about the server, which needs INFO, is left out."""

    def __init__(self, functions: Any, *, queue_name: str, pool: Store, poll_delay: float) -> None:
        redis = ArqRedis(pool.pool, default_queue_name=queue_name)
        super().__init__(functions, queue_name=queue_name, redis_pool=redis, handle_signals=False, poll_delay=poll_delay)

    async def main(self) -> None:
        from arq.utils import poll

        async for _ in poll(self.poll_delay_s):
            await self._poll_iteration()


async def test_a_lock_of_a_plain_worker_is_respected_on_our_queue(worker: Worker, jobs: Jobs, arq: ArqRedis, store: Store) -> None:
    await store.call("SET", "arq:in-progress:theirs", "1", "PX", 600)
    began = time.monotonic()
    job = await enqueue(arq, "answer", "q", _job_id="theirs")
    assert (await result(job))["question"] == "q"
    assert time.monotonic() - began >= 0.5


async def test_a_payload_with_a_pickled_function_does_nothing(worker: Worker, store: Store, settings: Settings, arq: ArqRedis) -> None:
    await store.call("SET", "arq:job:evil", pickle.dumps({"t": None, "f": "answer", "a": (print,), "k": {}, "et": 1}), "PX", 60_000)
    await store.call("ZADD", settings.queue, 1, "evil")
    with pytest.raises(RuntimeError, match="plain data"):
        await result(Job("evil", arq))


async def test_a_result_that_is_not_kept_is_not_found(store: Store, settings: Settings, arq: ArqRedis) -> None:
    forgetful = settings.model_copy(update={"keep_result_s": 0})
    async with running(app, forgetful, store):
        with pytest.raises(ResultNotFound):
            await result(await enqueue(arq, "answer", "q"))
