"""The contract of jobs: accepted once, run in order, ended by exactly one terminal event."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from rt import events as rt_events
from rt import keys
from rt.app import App
from rt.errors import JobError, Refused, TakenOver, TemporaryJobError, Unavailable
from rt.jobs.context import JobContext
from rt.jobs.queue import JobQueue, NewJob
from rt.jobs.worker import Worker
from rt.keys import parse_stream
from rt.redis import Store
from rt.settings import Settings
from rt.streams.log import Authorship, StreamLog
from rt.streams.sessions import open_session
from tests.contracts.hands import Hands
from tests.helpers import TENANT, Jobs, eventually, joined, read_all, running, standing, types

app = App()

#: What jobs of these tests wait for; each test has its own.
gates: dict[str, asyncio.Event] = {}


@app.job
async def echo(job: JobContext, text: str) -> dict[str, str]:
    for word in text.split(" "):
        await job.emit(word)
    return {"text": text}


@app.job
async def everything(job: JobContext) -> dict[str, Any]:
    await job.emit("a")
    await job.progress(1, 2, unit="steps", message="half")
    await job.emit({"tool": "search", "args": [1, None]})
    job.use({"output_tokens": 2, "model": "x"})
    job.use({"output_tokens": 3, "model": "y"})
    await job.emit("")
    await job.emit("b")
    return {"attempt": job.attempt, "tries": job.tries, "id": job.id, "stream": job.stream, "past": bool(job.past)}


@app.job
async def held(job: JobContext, gate: str) -> str:
    await job.emit("begun")
    await gates[gate].wait()
    await job.emit("done")
    return "done"


@app.job(keep=lambda past: True)
async def tells(job: JobContext, silent: bool) -> str:
    """Says two words, a gate before the second and one after it, and (not `silent`) a third; but for those that were said before."""
    for number, word in enumerate(["one ", "two ", *([] if silent else ["three "])]):
        if number:
            await gates[f"word {number}"].wait()
        if number >= job.past.text.count(" "):
            await job.emit(word)
            await job.checkpoint(None)
    await gates["word 2"].wait()
    return "done"


@app.job
async def fails(job: JobContext, how: str) -> None:
    await job.emit("before")
    errors: dict[str, BaseException] = {
        "told": JobError("no_money", "top up first"),
        "secret": ValueError("postgres://user:password@host"),
        "cancels": asyncio.CancelledError(),
        "exits": SystemExit(3),
        "stops": StopAsyncIteration(),
        "times out": TimeoutError("password"),
    }
    raise errors[how]


@app.job(max_attempts=2)
async def busy(job: JobContext) -> None:
    raise TemporaryJobError("busy", "later", retry_after_s=0)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@app.job
async def returns(job: JobContext, what: str) -> Any:
    match what:
        case "nothing":
            return None
        case "large":
            return "x" * rt_events.MAX_EVENT_BYTES
        case "object":
            return object()
        case "odd usage":
            job.use({"when": object()})
        case "large usage":
            job.use({"what": "x" * rt_events.MAX_EVENT_BYTES})
        case "large event":
            await job.emit({"x": "x" * rt_events.MAX_EVENT_BYTES})
        case "bad event":
            await job.emit({"x": object()})
        case "deep":
            return nested(100)
        case "deep event":
            await job.emit(nested(100))
        case "deep checkpoint":
            await job.checkpoint(nested(100))
        case "large checkpoint":
            await job.checkpoint("x" * rt_events.MAX_EVENT_BYTES)
    return {"ok": True}


@app.job(timeout_s=0.3)
async def too_slow(job: JobContext) -> None:
    while True:
        await job.emit("x")
        await asyncio.sleep(0.01)


@app.job(idle_timeout_s=0.3)
async def falls_silent(job: JobContext, lively_s: float = 0) -> str:
    end = asyncio.get_running_loop().time() + lively_s
    while asyncio.get_running_loop().time() < end:
        await job.progress(1)
        await asyncio.sleep(0.05)
    if lively_s:
        return "ended in time"
    await asyncio.Event().wait()
    return "never"


@app.job
def in_a_thread(job: JobContext, text: str) -> str:
    for one in text:
        job.wait(job.emit(one))
    job.wait(job.progress(1))
    job.wait(job.checkpoint({"n": 1}))
    return text


@app.job
def loops_in_a_thread(job: JobContext) -> None:
    job.wait(job.emit("begun"))
    while not job.cancelled:
        job.wait(asyncio.sleep(0.005))
    gates["thread"].set()


@pytest.fixture
def jobs(store: Store, settings: Settings) -> Jobs:
    return Jobs(app, store, settings)


@pytest.fixture
async def worker(store: Store, settings: Settings) -> AsyncIterator[Worker]:
    async with running(app, settings, store) as one:
        yield one


@pytest.fixture
def gate(request: pytest.FixtureRequest) -> str:
    gates[request.node.name] = asyncio.Event()
    return str(request.node.name)


def new(name: str = "echo", **over: Any) -> NewJob:
    return NewJob(**({"job": app.jobs[name], "input": {"text": "a"}, "tenant": TENANT, "owner": "ann"} | over))


# Accepting


async def test_an_accepted_job_is_queued_with_its_first_event(queue: JobQueue, jobs: Jobs) -> None:
    accepted = await queue.accept(new())
    assert not accepted.duplicate
    (event,) = await jobs.events(accepted.job_id)
    assert event["type"] == "job.queued"
    assert event["data"] == {"job": "echo"}
    assert event["stream"] == accepted.stream == keys.job_stream(accepted.job_id)
    assert "attempt" not in event
    record = await queue.get(TENANT, accepted.job_id)
    assert record is not None
    assert record.public() == {
        "job_id": accepted.job_id,
        "job": "echo",
        "status": "queued",
        "attempt": 0,
        "created_at": record.public()["created_at"],
    }
    assert record.public()["created_at"].endswith("Z")
    assert await queue.depth() == {"waiting": 1, "running": 0}


async def test_a_hundred_accepts_with_one_record_make_one_job(redis_url: str, settings: Settings, queue: JobQueue, store: Store) -> None:
    other = Store(redis_url)
    try:
        queues = [queue, JobQueue(other, StreamLog(other, settings), settings)]
        record = keys.idempotency(TENANT, "ann", "k")
        answers = await asyncio.gather(*(queues[i % 2].accept(new(), hash="h", records=[record]) for i in range(100)))
    finally:
        await other.close()
    assert len({one.job_id for one in answers}) == 1
    assert sum(not one.duplicate for one in answers) == 1
    assert await store.call("ZCARD", settings.queue) == 1
    assert len(await store.call("KEYS", "arq:job:*")) == 1
    assert len(await store.call("KEYS", "rt:*:meta")) == 1


async def test_a_record_of_another_request_is_a_conflict_and_queues_nothing(queue: JobQueue, store: Store, settings: Settings) -> None:
    await queue.accept(new(), hash="h", records=["rt:-:idem:k:ann:1"])
    with pytest.raises(Refused) as refused:
        await queue.accept(new(), hash="other", records=["rt:-:idem:k:ann:1"])
    assert refused.value.code == "conflict"
    assert await store.call("ZCARD", settings.queue) == 1


async def test_a_command_sent_again_gets_its_own_answer_and_another_with_its_key_is_a_duplicate(queue: JobQueue) -> None:
    key, first, second = "rt:-:idem:k:ann:1", "rt:-:idem:c:s:1", "rt:-:idem:c:s:2"
    accepted = await queue.accept(new(), hash="h", records=[first, key])
    assert await queue.accept(new(), hash="h", records=[first, key]) == accepted
    assert not accepted.duplicate
    other = await queue.accept(new(), hash="h", records=[second, key])
    assert (other.job_id, other.duplicate) == (accepted.job_id, True)
    assert await queue.accept(new(), hash="h", records=[second, key]) == other
    assert await queue.accept(new(), hash="h", records=[first, key]) == accepted


async def test_a_full_queue_refuses_with_a_delay_and_keeps_nothing(store: Store, settings: Settings) -> None:
    small = settings.model_copy(update={"queue_limit": 2})
    queue = JobQueue(store, StreamLog(store, small), small)
    for _ in range(2):
        await queue.accept(new())
    with pytest.raises(Refused) as refused:
        await queue.accept(new(), records=["rt:-:idem:k:ann:1"])
    assert refused.value.code == "queue_full"
    assert refused.value.retry_after_ms
    assert await store.call("EXISTS", "rt:-:idem:k:ann:1") == 0
    assert len(await store.call("KEYS", "rt:*:meta")) == 2


async def test_a_known_record_is_answered_though_the_queue_is_full(store: Store, settings: Settings) -> None:
    small = settings.model_copy(update={"queue_limit": 1})
    queue = JobQueue(store, StreamLog(store, small), small)
    accepted = await queue.accept(new(), records=["rt:-:idem:k:ann:1"])
    assert (await queue.accept(new(), records=["rt:-:idem:k:ann:1"])).job_id == accepted.job_id


async def test_an_input_that_is_too_large_is_refused(queue: JobQueue, store: Store) -> None:
    with pytest.raises(Refused) as refused:
        await queue.accept(new(input={"text": "x" * rt_events.MAX_EVENT_BYTES}))
    assert refused.value.code == "too_large"
    assert await store.call("DBSIZE") <= 1  # the incarnation, where there is one


async def test_an_older_connection_accepts_nothing(queue: JobQueue, store: Store, settings: Settings) -> None:
    opened = await open_session(store, settings, TENANT, "ann", None)
    newer = await open_session(store, settings, TENANT, "ann", opened.id)
    with pytest.raises(TakenOver):
        await queue.accept(new(by=Authorship(opened.id, opened.generation)))
    assert (await queue.accept(new(by=Authorship(opened.id, newer.generation)))).job_id
    assert await store.call("ZCARD", settings.queue) == 1


async def test_nothing_is_accepted_when_redis_is_away(settings: Settings, tmp_path: object) -> None:
    away = Store(f"unix://{tmp_path}/nobody.sock")
    with pytest.raises(Unavailable):
        await JobQueue(away, StreamLog(away, settings), settings).accept(new())
    await away.close()


async def test_a_job_put_off_for_a_month_is_still_known_then(queue: JobQueue, store: Store, settings: Settings) -> None:
    month = 30 * 86_400
    accepted = await queue.accept(new(delay_s=month))
    assert await store.call("TTL", keys.meta(TENANT, accepted.stream)) > month
    assert await store.call("TTL", f"arq:job:{accepted.job_id}") > month


async def test_jobs_are_listed_newest_first_in_pages(queue: JobQueue, jobs: Jobs) -> None:
    ids = [await jobs.submit("echo", text=str(i), owner="ann" if i % 2 else "bob") for i in range(12)]

    async def pages(owner: str | None, **filters: Any) -> list[str]:
        found, after = [], None
        while True:
            page, after = await queue.list(TENANT, owner, limit=3, after=after, **filters)
            found += [one.id for one in page]
            if after is None:
                return found

    everyone = await pages(None)
    assert sorted(everyone) == sorted(ids)
    created = [record.created_ms for record in [await queue.get(TENANT, id) for id in everyone] if record]
    assert created == sorted(created, reverse=True)
    assert sorted(await pages("ann")) == sorted(ids[1::2])
    assert await pages("carl") == []
    assert await pages(None, status="running") == []
    assert sorted(await pages(None, job="echo", status="queued")) == sorted(ids)
    with pytest.raises(Refused):
        await queue.list(TENANT, None, after="nonsense")


# job.created


async def test_a_job_is_announced_in_every_stream_it_reports_to_with_its_accept(queue: JobQueue, store: Store, settings: Settings) -> None:
    one = new(reports=("room:tea", "user:ann"), request_id="7")
    record = f"{keys.command(TENANT, 's', '7')}"
    accepted = await queue.accept(one, records=[record])
    assert (await queue.accept(one, records=[record])).job_id == accepted.job_id
    for stream in ("room:tea", "user:ann"):
        (event,) = await read_all(store, settings, stream)
        assert event["type"] == "job.created"
        assert event["data"] == {"job_id": accepted.job_id, "job": "echo", "request_id": "7"}
        assert (event["seq"], "attempt" in event) == (1, False)
        retention = settings.retention(stream.partition(":")[0])  # type: ignore[arg-type]
        left_s = await store.call("TTL", keys.log(TENANT, stream))
        assert retention.age_s - 5 < left_s <= retention.age_s + 60


async def test_what_is_refused_is_announced_nowhere(store: Store, settings: Settings) -> None:
    queue = JobQueue(store, StreamLog(store, settings), settings.model_copy(update={"queue_limit": 0}))
    with pytest.raises(Refused):
        await queue.accept(new(reports=("room:tea",)))
    assert await read_all(store, settings, "room:tea") == []


# Running


async def test_a_job_runs_from_its_queue_to_its_result(worker: Worker, jobs: Jobs) -> None:
    job_id = await jobs.submit("echo", text="hello you there")
    events = await jobs.wait_end(job_id)
    assert types(events)[:2] == ["job.queued", "job.started"]
    assert types(events)[-1] == "job.completed"
    assert events[1]["data"] == {"worker": worker.name}
    assert joined(events) == "helloyouthere"
    assert events[-1]["data"]["result"] == {"text": "hello you there"}
    assert events[-1]["data"]["timings"].keys() == {"run_ms", "queued_ms"}
    assert events[-1]["final"] is True
    assert {one["attempt"] for one in events[1:]} == {1}
    assert [one["seq"] for one in events] == list(range(1, len(events) + 1))
    record = await jobs.queue.get(TENANT, job_id)
    assert record is not None
    assert (record.status, record.attempt, record.result) == ("completed", 1, {"text": "hello you there"})
    assert record.created_ms <= record.started_ms <= record.finished_ms
    assert record.public().keys() == {"job_id", "job", "status", "attempt", "created_at", "started_at", "finished_at", "result"}


async def test_everything_a_job_says_is_in_its_stream_in_order(worker: Worker, jobs: Jobs) -> None:
    job_id = await jobs.submit("everything")
    events = await jobs.wait_end(job_id)
    assert [(one["type"], one["data"]) for one in events[2:-1]] == [
        ("job.delta", {"text": "a"}),
        ("job.progress", {"current": 1, "total": 2, "unit": "steps", "message": "half"}),
        ("job.delta", {"data": {"tool": "search", "args": [1, None]}}),
        ("job.delta", {"text": "b"}),
    ]
    last = events[-1]["data"]
    assert last["result"] == {"attempt": 1, "tries": 1, "id": job_id, "stream": keys.job_stream(job_id), "past": False}
    assert last["usage"] == {"output_tokens": 5, "model": "y"}
    record = await jobs.queue.get(TENANT, job_id)
    assert record is not None
    assert record.usage == last["usage"]


async def test_nothing_of_the_queue_s_is_left_of_a_job_that_ended(worker: Worker, jobs: Jobs, store: Store, settings: Settings) -> None:
    job_id = await jobs.submit("echo", text="a")
    await jobs.wait_end(job_id)
    left = {one.decode() for one in await store.call("KEYS", "arq:*")}
    assert left == {f"arq:result:{job_id}"}
    assert await store.call("EXISTS", keys.leases(settings.queue), keys.deadlines(settings.queue)) == 0
    assert await store.call("HEXISTS", keys.meta(TENANT, keys.job_stream(job_id)), "fence") == 0


async def test_no_result_of_arq_s_is_written_where_none_is_kept(store: Store, settings: Settings) -> None:
    keeping_none = settings.model_copy(update={"keep_result_s": 0})
    jobs = Jobs(app, store, keeping_none)
    async with running(app, keeping_none, store):
        events = await jobs.wait_end(await jobs.submit("echo", text="a"))
    assert types(events)[-1] == "job.completed"
    assert await store.call("KEYS", "arq:result:*") == []


async def test_many_jobs_end_once_each(worker: Worker, jobs: Jobs) -> None:
    ids = await asyncio.gather(*(jobs.submit("echo", text=f"{i} x y") for i in range(60)))
    for i, id in enumerate(ids):
        events = await jobs.wait_end(id, within_s=20)
        assert types(events).count("job.completed") == 1
        assert joined(events) == f"{i}xy"


async def test_two_workers_share_a_queue_without_running_a_job_twice(
    worker: Worker, redis_url: str, jobs: Jobs, settings: Settings
) -> None:
    other_store = Store(redis_url)
    try:
        async with running(app, settings, other_store) as other:
            ids = await asyncio.gather(*(jobs.submit("echo", text="a b") for _ in range(60)))
            by = set()
            for id in ids:
                events = await jobs.wait_end(id, within_s=20)
                assert types(events).count("job.started") == types(events).count("job.completed") == 1
                by.add(events[1]["data"]["worker"])
            assert by <= {worker.name, other.name}
    finally:
        await other_store.close()


async def test_no_more_jobs_run_than_the_worker_may(store: Store, settings: Settings, gate: str) -> None:
    two = settings.model_copy(update={"max_jobs": 2})
    jobs = Jobs(app, store, two)
    async with running(app, two, store) as worker:
        ids = [await jobs.submit("held", gate=gate) for _ in range(5)]
        await eventually(lambda: len(worker.runs) == 2)
        assert await jobs.queue.depth() == {"waiting": 3, "running": 2}
        gates[gate].set()
        for id in ids:
            await jobs.wait_end(id)


async def test_jobs_start_in_the_order_of_their_accepts(store: Store, settings: Settings) -> None:
    one = settings.model_copy(update={"max_jobs": 1})
    jobs = Jobs(app, store, one)
    ids = []
    for i in range(5):
        ids.append(await jobs.submit("echo", text=str(i)))
        await asyncio.sleep(0.002)  # the queue's order is that of milliseconds
    async with running(app, one, store):
        started = []
        for id in ids:
            await jobs.wait_end(id)
            record = await jobs.queue.get(TENANT, id)
            assert record is not None
            started.append((await jobs.events(id))[1]["ts"])
    assert started == sorted(started)


async def test_lost_runs_that_only_end_take_no_slot(jobs: Jobs, store: Store, settings: Settings) -> None:
    # One page of lapsed leases was looked at: behind jobs that had been cancelled, the next one waited for the next poll.
    ids = [await jobs.submit("held", gate="-") for _ in range(3)]
    hands = Hands(app, settings, store)
    assert sorted(one.id for one in await hands.claim(3)) == sorted(ids)
    for n, id in enumerate(ids):
        await store.call("DEL", f"arq:in-progress:{id}")
        await store.call("ZADD", keys.leases(settings.queue), n + 1, id)
    for id in ids[:2]:
        await jobs.queue.cancel(TENANT, id, "ann")
    assert [one.id for one in await hands.claim(1)] == ids[2:]


async def test_a_plain_function_runs_in_a_thread_and_says_as_much(worker: Worker, jobs: Jobs) -> None:
    events = await jobs.wait_end(await jobs.submit("in_a_thread", text="threads"))
    assert joined(events) == "threads"
    assert events[-1]["data"]["result"] == "threads"


async def test_tenants_do_not_see_each_other_s_jobs(worker: Worker, jobs: Jobs) -> None:
    job_id = await jobs.submit("echo", text="a", tenant="acme")
    await jobs.wait_end(job_id, tenant="acme")
    assert await jobs.queue.get(TENANT, job_id) is None
    assert await jobs.events(job_id) == []
    assert await jobs.queue.list(TENANT, None) == ([], None)


async def test_a_job_whose_payload_is_lost_ends_in_its_own_tenant(jobs: Jobs, store: Store, settings: Settings) -> None:
    # Whose it is was read from the payload: it ended under the default tenant, and its own waited for the deadline.
    job_id = await jobs.submit("echo", text="a", tenant="acme")
    await store.call("DEL", f"arq:job:{job_id}")
    async with running(app, settings, store):
        events = await jobs.wait_end(job_id, tenant="acme")
    assert types(events) == ["job.queued", "job.failed"]
    assert events[-1]["data"]["error"]["code"] == "expired"
    assert await jobs.events(job_id) == []
    assert await store.call("EXISTS", settings.queue, keys.deadlines(settings.queue), keys.tenants(settings.queue)) == 0


async def test_a_job_whose_meta_is_lost_is_taken_up_again_from_its_payload(jobs: Jobs, store: Store, settings: Settings) -> None:
    job_id = await jobs.submit("echo", text="a", tenant="acme")
    await store.call("DEL", keys.meta("acme", keys.job_stream(job_id)))
    assert await jobs.status(job_id, "acme") == "unknown"
    async with running(app, settings, store):
        events = await jobs.wait_end(job_id, tenant="acme")
    assert types(events) == ["job.queued", "job.started", "job.delta", "job.completed"]
    record = await jobs.queue.get("acme", job_id)
    assert record is not None
    assert (record.job, record.owner) == ("echo", "")
    assert await store.call("EXISTS", settings.queue, keys.deadlines(settings.queue)) == 0


# Failing


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("told", {"code": "no_money", "message": "top up first", "temporary": False}),
        ("secret", {"code": "internal", "message": "the job raised ValueError", "temporary": False}),
        ("cancels", {"code": "internal", "message": "the job cancelled itself", "temporary": False}),
        ("exits", {"code": "internal", "message": "the job raised SystemExit", "temporary": False}),
        ("stops", {"code": "internal", "message": "the job raised StopAsyncIteration", "temporary": False}),
        ("times out", {"code": "internal", "message": "the job raised TimeoutError", "temporary": False}),
    ],
)
async def test_an_error_ends_the_job_at_once_and_tells_what_may_be_told(
    worker: Worker, jobs: Jobs, how: str, error: dict[str, Any], store: Store
) -> None:
    job_id = await jobs.submit("fails", how=how)
    events = await jobs.wait_end(job_id)
    assert types(events) == ["job.queued", "job.started", "job.delta", "job.failed"]
    assert events[-1]["data"] == {"error": error}
    record = await jobs.queue.get(TENANT, job_id)
    assert record is not None
    assert (record.status, record.error, record.public()["error"]) == ("failed", error, error)
    assert "password" not in json.dumps(events)
    assert b"password" not in b"".join(await store.call("HVALS", keys.meta(TENANT, keys.job_stream(job_id))))
    # The worker lives on.
    assert types(await jobs.wait_end(await jobs.submit("echo", text="a")))[-1] == "job.completed"


@pytest.mark.parametrize(
    ("what", "code"),
    [
        ("large", "too_large"),
        ("object", "bad_result"),
        ("odd usage", "bad_result"),
        ("large usage", "too_large"),
        ("large event", "too_large"),
        ("bad event", "bad_event"),
        ("large checkpoint", "too_large"),
        ("deep", "bad_result"),  # a status that nobody could read again
        ("deep event", "bad_event"),
        ("deep checkpoint", "bad_event"),
    ],
)
async def test_what_cannot_be_written_fails_the_job_that_wrote_it(worker: Worker, jobs: Jobs, what: str, code: str) -> None:
    events = await jobs.wait_end(await jobs.submit("returns", what=what))
    assert types(events) == ["job.queued", "job.started", "job.failed"]
    assert events[-1]["data"]["error"]["code"] == code
    assert [one.status for one in (await jobs.queue.list(TENANT, None))[0]] == ["failed"]


async def test_a_result_of_nothing_is_a_result(worker: Worker, jobs: Jobs) -> None:
    job_id = await jobs.submit("returns", what="nothing")
    assert (await jobs.wait_end(job_id))[-1]["data"]["result"] is None
    record = await jobs.queue.get(TENANT, job_id)
    assert record is not None
    assert record.public()["result"] is None


async def test_an_unknown_job_fails(worker: Worker, jobs: Jobs, queue: JobQueue) -> None:
    other = App()

    @other.job
    async def not_here(job: JobContext) -> None: ...

    accepted = await queue.accept(new(job=other.jobs["not_here"], input={}))
    events = await jobs.wait_end(accepted.job_id)
    assert events[-1]["data"]["error"]["code"] == "unknown_job"


async def test_an_input_that_no_longer_fits_fails(worker: Worker, jobs: Jobs, queue: JobQueue) -> None:
    accepted = await queue.accept(new(input={"txt": "my-secret"}))  # accepted by an older deploy
    events = await jobs.wait_end(accepted.job_id)
    assert events[-1]["data"]["error"]["code"] == "invalid_input"
    assert "my-secret" not in json.dumps(events)


async def test_a_job_that_takes_too_long_fails_with_a_timeout(worker: Worker, jobs: Jobs) -> None:
    events = await jobs.wait_end(await jobs.submit("too_slow"))
    assert events[-1]["type"] == "job.failed"
    assert events[-1]["data"]["error"]["code"] == "timeout"
    assert joined(events).startswith("x")


async def test_a_submitter_s_own_timeout_wins(worker: Worker, jobs: Jobs) -> None:
    events = await jobs.wait_end(await jobs.submit("falls_silent", timeout_s=0.1))
    assert events[-1]["data"]["error"]["code"] == "timeout"


async def test_a_job_that_falls_silent_fails_with_a_code_of_its_own(worker: Worker, jobs: Jobs) -> None:
    events = await jobs.wait_end(await jobs.submit("falls_silent"))
    assert events[-1]["data"]["error"]["code"] == "idle_timeout"


async def test_a_job_that_says_something_is_not_silent(worker: Worker, jobs: Jobs) -> None:
    events = await jobs.wait_end(await jobs.submit("falls_silent", lively_s=0.7))
    assert events[-1]["data"]["result"] == "ended in time"


async def test_a_temporary_error_at_the_last_attempt_is_final(worker: Worker, jobs: Jobs) -> None:
    events = await jobs.wait_end(await jobs.submit("busy"))
    assert types(events) == ["job.queued", "job.started", "job.retrying", "job.restarted", "job.started", "job.failed"]
    assert events[-1]["data"]["error"] == {"code": "busy", "message": "later", "temporary": True}


# Cancelling


async def test_a_queued_job_is_cancelled_at_once(jobs: Jobs, store: Store, settings: Settings) -> None:
    job_id = await jobs.submit("echo", text="a")
    assert await jobs.queue.cancel(TENANT, job_id, "user:ann") == ("queued", "cancelled")
    events = await jobs.events(job_id)
    assert types(events) == ["job.queued", "job.cancelled"]
    assert events[-1]["data"] == {"by": "user:ann"}
    assert events[-1]["final"] is True
    assert await store.call("ZCARD", settings.queue) == 0
    assert await store.call("EXISTS", f"arq:job:{job_id}") == 0
    record = await jobs.queue.get(TENANT, job_id)
    assert record is not None
    assert record.finished_ms
    assert record.status == "cancelled"


async def test_a_deferred_job_is_cancelled_at_once(worker: Worker, jobs: Jobs) -> None:
    job_id = await jobs.submit("echo", text="a", delay_s=60)
    assert await jobs.queue.cancel(TENANT, job_id, "ann") == ("queued", "cancelled")


async def test_who_cancelled_may_be_any_text(jobs: Jobs) -> None:
    by = 'user:"ä\n\\ \u2028'
    job_id = await jobs.submit("echo", text="a")
    await jobs.queue.cancel(TENANT, job_id, by)
    assert (await jobs.events(job_id))[-1]["data"] == {"by": by}


async def test_a_running_job_is_cancelled_by_a_nudge(store: Store, settings: Settings, gate: str) -> None:
    patient = settings.model_copy(update={"lease_s": 60.0})  # no renewal will report it
    jobs = Jobs(app, store, patient)
    async with running(app, patient, store):
        job_id = await jobs.submit("held", gate=gate)
        await eventually(lambda: _began(jobs, job_id))
        assert await jobs.queue.cancel(TENANT, job_id, "ann") == ("running", "running")
        events = await jobs.wait_end(job_id, within_s=2)
    assert types(events) == ["job.queued", "job.started", "job.delta", "job.cancelled"]
    assert events[-1]["data"] == {"by": "ann"}


async def _began(jobs: Jobs, job_id: str) -> bool:
    return "job.delta" in types(await jobs.events(job_id))


async def test_a_lost_nudge_is_made_up_for_by_the_renewal(worker: Worker, jobs: Jobs, store: Store, gate: str) -> None:
    job_id = await jobs.submit("held", gate=gate)
    await eventually(lambda: _began(jobs, job_id))
    await store.call("HSET", keys.meta(TENANT, keys.job_stream(job_id)), "cancel", "ann")
    events = await jobs.wait_end(job_id, within_s=3)
    assert events[-1]["data"] == {"by": "ann"}


async def test_cancelling_twice_is_one_cancel(worker: Worker, jobs: Jobs, gate: str) -> None:
    job_id = await jobs.submit("held", gate=gate)
    await eventually(lambda: _began(jobs, job_id))
    await jobs.queue.cancel(TENANT, job_id, "ann")
    await jobs.queue.cancel(TENANT, job_id, "bob")
    events = await jobs.wait_end(job_id)
    assert events[-1]["data"] == {"by": "ann"}
    assert await jobs.queue.cancel(TENANT, job_id, "bob") == ("cancelled", "cancelled")
    assert types(await jobs.events(job_id)).count("job.cancelled") == 1


async def test_a_job_that_has_ended_is_not_cancelled(worker: Worker, jobs: Jobs) -> None:
    job_id = await jobs.submit("echo", text="a")
    before = await jobs.wait_end(job_id)
    with pytest.raises(Refused) as refused:
        await jobs.queue.cancel(TENANT, job_id, "ann")
    assert refused.value.code == "conflict"
    assert refused.value.facts == {"job_id": job_id, "status": "completed"}
    assert await jobs.events(job_id) == before


async def test_a_job_that_does_not_exist_is_not_cancelled(jobs: Jobs) -> None:
    job_id = await jobs.submit("echo", text="a", tenant="acme")
    for tenant, id in ((TENANT, "nobody"), (TENANT, job_id), ("other", job_id)):
        assert await jobs.queue.get(tenant, id) is None
        with pytest.raises(Refused) as refused:
            await jobs.queue.cancel(tenant, id, "ann")
        assert refused.value.code == "not_found"
    assert await jobs.status(job_id, "acme") == "queued"


async def test_a_cancelled_run_writes_nothing_more(worker: Worker, jobs: Jobs, gate: str) -> None:
    job_id = await jobs.submit("held", gate=gate)
    await eventually(lambda: _began(jobs, job_id))
    run = worker.runs[job_id]
    await jobs.queue.cancel(TENANT, job_id, "ann")
    before = await jobs.wait_end(job_id)
    assert run.context is not None
    await run.context.emit("too late")
    await run.context.checkpoint({"too": "late"})
    assert await jobs.events(job_id) == before


async def test_a_cancel_that_meets_the_end_leaves_one_terminal_event(worker: Worker, jobs: Jobs, settings: Settings) -> None:
    ids = await asyncio.gather(*(jobs.submit("echo", text="a b") for _ in range(40)))
    told: dict[str, str] = {}

    async def cancel(id: str) -> None:
        try:
            told[id] = (await jobs.queue.cancel(TENANT, id, "ann"))[1]
        except Refused as refused:
            told[id] = refused.code

    await asyncio.gather(*map(cancel, ids))
    for id in ids:
        events = await jobs.wait_end(id)
        final = [one["type"] for one in events if one.get("final")]
        assert len(final) == 1
        assert events[-1]["type"] == final[0]
        if told[id] in ("cancelled", "running"):  # a cancel that was taken is kept
            assert final == ["job.cancelled"]
        else:
            assert final == ["job.completed"]


async def test_code_in_a_thread_is_told_to_stop(worker: Worker, jobs: Jobs) -> None:
    gates["thread"] = asyncio.Event()
    job_id = await jobs.submit("loops_in_a_thread")
    await eventually(lambda: _began(jobs, job_id))
    await jobs.queue.cancel(TENANT, job_id, "ann")
    assert (await jobs.wait_end(job_id))[-1]["type"] == "job.cancelled"
    await eventually(gates["thread"].is_set)


async def test_a_stream_of_a_job_is_a_stream_like_any_other(worker: Worker, jobs: Jobs, streams: StreamLog) -> None:
    job_id = await jobs.submit("echo", text="a")
    await jobs.wait_end(job_id)
    name = keys.job_stream(job_id)
    assert str(parse_stream(name)) == name
    head = (await streams.heads(TENANT, [name]))[name]
    assert head.top == len(await jobs.events(job_id))


@pytest.mark.parametrize("silent", [False, True], ids=["it goes on", "it ends"])
async def test_a_run_whose_output_redis_has_lost_in_part_is_handed_back(jobs: Jobs, store: Store, settings: Settings, silent: bool) -> None:
    """Redis comes back as it was when only the first word was there: nothing may follow on that hole, not even the end."""
    gates.update({f"word {number}": asyncio.Event() for number in (1, 2)})
    async with running(app, settings, store):
        job_id = await jobs.submit("tells", silent=silent)
        meta = keys.meta(TENANT, keys.job_stream(job_id))

        async def says(text: str) -> bool:
            return joined(await jobs.events(job_id)) == text and await store.call("HGET", meta, "checkpoint_seq") is not None

        await eventually(lambda: says("one "))
        copies = [(name, await store.call("DUMP", name)) for name in (meta, keys.log(TENANT, keys.job_stream(job_id)))]
        gates["word 1"].set()
        await eventually(lambda: says("one two "))
        for name, copy in copies:
            await store.call("RESTORE", name, 0, copy, "REPLACE")
        gates["word 2"].set()
        events = await jobs.wait_end(job_id)
    assert standing(events) == ("one two " if silent else "one two three ")
    assert [one["data"]["reason"] for one in events if one["type"] == "job.restarted"] == ["lease_lost"]
    assert [one["attempt"] for one in events if one["type"] == "job.completed"] == [2]
    assert await store.call("HGET", meta, "tries") == b"1"
