"""Another attempt: when it follows, what it finds, and what the client is told to throw away."""

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any

import pytest

from rt import keys
from rt.app import App
from rt.errors import JobError, TemporaryJobError
from rt.jobs.context import JobContext
from rt.jobs.job import Past, Retry
from rt.jobs.worker import Worker
from rt.redis import Store
from rt.settings import Settings
from tests.helpers import TENANT, Jobs, eventually, joined, running, standing, types

app = App()

SOON = Retry(base_s=0.001, cap_s=0.01)
pasts: defaultdict[str, list[Past]] = defaultdict(list)


@app.job(retry=SOON, max_attempts=3)
async def flaky(job: JobContext, fails: int, how: str = "temporary") -> dict[str, int]:
    pasts[job.id].append(job.past)
    await job.emit(f"attempt {job.attempt}; ")
    if job.attempt <= fails:
        raise {"temporary": TemporaryJobError("busy", "later"), "connection": ConnectionError("password"), "bad": JobError("bad", "no")}[
            how
        ]
    return {"attempt": job.attempt, "tries": job.tries}


@app.job(retry=SOON, max_attempts=4)
async def counts(job: JobContext, to: int, checkpoint_at: int | None = None, fail_at: int = 3) -> list[int]:
    """Counts from its checkpoint; each attempt but the last fails at `fail_at`."""
    pasts[job.id].append(job.past)
    for i in range(job.past.checkpoint or 0, to):
        if job.attempt < 3 and i == fail_at:
            raise TemporaryJobError("busy", "later", retry_after_s=0)
        await job.emit(f"{i} ")
        if i + 1 == checkpoint_at:
            await job.checkpoint(i + 1)
    return list(range(to))


@app.job(retry=SOON, max_attempts=4, keep=lambda past: bool(past.text))
async def goes_on(job: JobContext, text: str) -> str:
    pasts[job.id].append(job.past)
    for at, one in enumerate(text[len(job.past.text) :]):
        if at == 2 and job.attempt < 4:
            raise TemporaryJobError("busy", "later", retry_after_s=0)
        await job.emit(one)
    return text


@app.job(retry=SOON, keep=lambda past: len(past.deltas) >= 2)
async def keeps_data(job: JobContext) -> None:
    pasts[job.id].append(job.past)
    await job.emit({"n": job.attempt})
    await job.emit({"n": job.attempt * 10})
    if job.attempt == 1:
        raise TemporaryJobError("busy", "later")


def broken_keep(past: Past) -> bool:
    raise ValueError("password")


@app.job(retry=SOON, keep=broken_keep)
async def asked_wrongly(job: JobContext) -> None:
    await job.emit("x")
    raise TemporaryJobError("busy", "later")


@pytest.fixture
def jobs(store: Store, settings: Settings) -> Jobs:
    return Jobs(app, store, settings)


@pytest.fixture
async def worker(store: Store, settings: Settings) -> AsyncIterator[Worker]:
    async with running(app, settings, store) as one:
        yield one


async def test_an_attempt_that_failed_is_followed_in_the_promised_order(worker: Worker, jobs: Jobs) -> None:
    events = await jobs.wait_end(await jobs.submit("flaky", fails=2))
    told = [(one["type"], one.get("attempt")) for one in events]
    assert told == [
        ("job.queued", None),
        ("job.started", 1),
        ("job.delta", 1),
        ("job.retrying", 1),
        ("job.restarted", 2),
        ("job.started", 2),
        ("job.delta", 2),
        ("job.retrying", 2),
        ("job.restarted", 3),
        ("job.started", 3),
        ("job.delta", 3),
        ("job.completed", 3),
    ]
    assert events[3]["data"]["error"] == {"code": "busy", "message": "later", "temporary": True}
    assert 0 <= events[3]["data"]["delay_ms"] <= 1
    assert events[4]["data"] == {"reason": "error", "discard_after": 0}
    assert events[-1]["data"]["result"] == {"attempt": 3, "tries": 3}
    assert standing(events) == "attempt 3; "


async def test_attempts_end_with_max_attempts(worker: Worker, jobs: Jobs) -> None:
    events = await jobs.wait_end(await jobs.submit("flaky", fails=9))
    assert types(events).count("job.started") == 3
    assert types(events)[-1] == "job.failed"
    assert types(events).count("job.failed") == 1


async def test_an_error_that_is_not_temporary_gets_no_second_attempt(worker: Worker, jobs: Jobs) -> None:
    events = await jobs.wait_end(await jobs.submit("flaky", fails=9, how="bad"))
    assert types(events) == ["job.queued", "job.started", "job.delta", "job.failed"]


async def test_the_text_of_an_error_that_is_tried_again_is_not_told(worker: Worker, jobs: Jobs) -> None:
    events = await jobs.wait_end(await jobs.submit("flaky", fails=1, how="connection"))
    assert events[3]["data"]["error"] == {"code": "internal", "message": "the job raised ConnectionError", "temporary": False}
    assert "password" not in json.dumps(events)
    assert types(events)[-1] == "job.completed"


async def test_between_attempts_a_job_is_retrying_and_waits_its_delay(worker: Worker, jobs: Jobs, store: Store, settings: Settings) -> None:
    slow = App()
    seen: list[float] = []

    @slow.job
    async def later(job: JobContext) -> None:
        seen.append(asyncio.get_running_loop().time())
        if job.attempt == 1:
            raise TemporaryJobError("busy", "later", retry_after_s=0.4)

    other = settings.model_copy(update={"queue": "arq:later"})
    jobs = Jobs(slow, store, other)
    async with running(slow, other, store):
        job_id = await jobs.submit("later")
        await jobs.wait_status(job_id, "retrying")
        record = await jobs.queue.get(TENANT, job_id)
        assert record is not None
        assert record.error["code"] == "busy"
        assert await store.call("EXISTS", f"arq:in-progress:{job_id}") == 0
        events = await jobs.wait_end(job_id)
    assert 0.39 <= seen[1] - seen[0] <= 0.9
    assert events[-3]["data"] == {"reason": "error", "discard_after": 0}
    record = await jobs.queue.get(TENANT, job_id)
    assert record is not None
    assert record.status == "completed"


async def test_a_job_that_waits_for_its_next_attempt_is_cancelled_at_once(
    worker: Worker, jobs: Jobs, store: Store, settings: Settings
) -> None:
    slow = App()

    @slow.job
    async def later(job: JobContext) -> None:
        raise TemporaryJobError("busy", "later", retry_after_s=60)

    other = settings.model_copy(update={"queue": "arq:later"})
    jobs = Jobs(slow, store, other)
    async with running(slow, other, store):
        job_id = await jobs.submit("later")
        await jobs.wait_status(job_id, "retrying")
        assert await jobs.queue.cancel(TENANT, job_id, "ann") == ("retrying", "cancelled")
        events = await jobs.wait_end(job_id)
    assert types(events) == ["job.queued", "job.started", "job.retrying", "job.cancelled"]


async def test_without_a_checkpoint_everything_is_discarded(worker: Worker, jobs: Jobs) -> None:
    job_id = await jobs.submit("counts", to=5)
    events = await jobs.wait_end(job_id)
    assert [one["data"]["discard_after"] for one in events if one["type"] == "job.restarted"] == [0, 0]
    assert pasts[job_id] == [Past(), Past(), Past()]
    assert standing(events) == "0 1 2 3 4 "
    assert joined(events) == "0 1 2 0 1 2 0 1 2 3 4 "


async def test_with_a_checkpoint_what_stood_before_it_stands(worker: Worker, jobs: Jobs) -> None:
    job_id = await jobs.submit("counts", to=5, checkpoint_at=2)
    events = await jobs.wait_end(job_id)
    assert standing(events) == "0 1 2 3 4 "
    assert joined(events) == "0 1 2 2 2 3 4 "
    assert pasts[job_id][0] == Past()
    assert pasts[job_id][1:] == [Past(2, "0 1 ", ())] * 2
    by_seq = {one["seq"]: one for one in events}
    for restarted in (one for one in events if one["type"] == "job.restarted"):
        kept = by_seq[restarted["data"]["discard_after"]]
        assert (kept["type"], kept["attempt"]) == ("job.delta", 1)  # the seq of a whole event


async def test_a_checkpoint_before_anything_was_said_keeps_nothing_and_is_found(worker: Worker, jobs: Jobs) -> None:
    started = App()
    found: list[Any] = []

    @started.job(retry=SOON)
    async def begins(job: JobContext) -> None:
        found.append(job.past.checkpoint)
        if job.attempt == 1:
            await job.checkpoint({"ready": True})
            await job.emit("lost")
            raise TemporaryJobError("busy", "later")
        await job.emit("kept")

    settings = worker.settings.model_copy(update={"queue": "arq:begins"})
    own = Jobs(started, worker.store, settings)
    async with running(started, settings, worker.store):
        events = await own.wait_end(await own.submit("begins"))
    assert found == [None, {"ready": True}]
    assert standing(events) == "kept"


async def test_a_job_that_says_so_goes_on_from_what_it_has_streamed(worker: Worker, jobs: Jobs) -> None:
    job_id = await jobs.submit("goes_on", text="abcdefgh")
    events = await jobs.wait_end(job_id)
    assert joined(events) == standing(events) == "abcdefgh"
    assert [past.text for past in pasts[job_id]] == ["", "ab", "abcd", "abcdef"]
    restarted = [one for one in events if one["type"] == "job.restarted"]
    deltas = [one["seq"] for one in events if one["type"] == "job.delta"]
    for one in restarted:
        assert one["data"]["discard_after"] == max(seq for seq in deltas if seq < one["seq"])


async def test_what_was_discarded_never_comes_back(worker: Worker, jobs: Jobs, store: Store, settings: Settings) -> None:
    odd = App()
    seen: list[Past] = []

    # The second attempt throws everything away, the third would keep it: it finds the second's alone.
    @odd.job(retry=SOON, max_attempts=3, keep=lambda past: "two" in past.text)
    async def changes_its_mind(job: JobContext) -> None:
        seen.append(job.past)
        await job.emit(["one", "two", "three"][job.attempt - 1])
        if job.attempt < 3:
            raise TemporaryJobError("busy", "later")

    other = settings.model_copy(update={"queue": "arq:odd"})
    own = Jobs(odd, store, other)
    async with running(odd, other, store):
        events = await own.wait_end(await own.submit("changes_its_mind"))
    assert [past.text for past in seen] == ["", "", "two"]
    assert standing(events) == "twothree"


async def test_data_deltas_are_kept_as_they_were(worker: Worker, jobs: Jobs) -> None:
    job_id = await jobs.submit("keeps_data")
    await jobs.wait_end(job_id)
    assert pasts[job_id] == [Past(), Past(None, "", ({"n": 1}, {"n": 10}))]


async def test_a_past_of_many_pages_is_read_whole(worker: Worker, jobs: Jobs, store: Store, settings: Settings) -> None:
    long = App()
    seen: list[int] = []

    @long.job(retry=SOON, keep=lambda past: True)
    async def talks(job: JobContext) -> None:
        seen.append(len(job.past.deltas))
        if job.attempt == 1:
            for i in range(700):
                await job.emit({"i": i, "fill": "x" * 300})
            raise TemporaryJobError("busy", "later")

    other = settings.model_copy(update={"queue": "arq:long"})
    own = Jobs(long, store, other)
    async with running(long, other, store):
        await own.wait_end(await own.submit("talks"))
    assert seen == [0, 700]


async def test_where_the_log_s_beginning_is_gone_only_a_checkpoint_counts(store: Store, settings: Settings) -> None:
    cut = App()
    seen: list[Past] = []
    go = asyncio.Event()

    @cut.job(retry=SOON, keep=lambda past: True)
    async def cut_short(job: JobContext) -> None:
        seen.append(job.past)
        if job.attempt == 1:
            await job.emit("a")
            await job.checkpoint({"n": 1})
            await go.wait()
            raise TemporaryJobError("busy", "later")

    own = Jobs(cut, store, settings)
    async with running(cut, settings, store):
        job_id = await own.submit("cut_short")
        await eventually(lambda: _has(own, job_id, "job.delta"))
        await eventually(lambda: store.call("HGET", keys.meta(TENANT, keys.job_stream(job_id)), "checkpoint"))
        await store.call("DEL", keys.log(TENANT, keys.job_stream(job_id)))
        go.set()
        await own.wait_end(job_id)
    assert seen == [Past(), Past({"n": 1}, "", ())]


async def _has(jobs: Jobs, job_id: str, type: str) -> bool:
    return type in types(await jobs.events(job_id))


async def test_a_keep_that_breaks_fails_the_job_and_not_the_worker(worker: Worker, jobs: Jobs) -> None:
    events = await jobs.wait_end(await jobs.submit("asked_wrongly"))
    assert events[-1]["data"]["error"] == {"code": "internal", "message": "the job raised ValueError", "temporary": False}
    assert types(await jobs.wait_end(await jobs.submit("flaky", fails=0)))[-1] == "job.completed"


async def test_a_retry_at_once_keeps_its_lease(worker: Worker, jobs: Jobs, store: Store, settings: Settings) -> None:
    # The next attempt may be claimed here before the last one's task has quite ended; its end dropped the new lease,
    # which lapsed, and a third attempt ran beside the second.
    again = App()

    @again.job(max_attempts=2)
    async def twice(job: JobContext) -> int:
        if job.attempt == 1:
            raise TemporaryJobError("busy", "later", retry_after_s=0)
        await asyncio.sleep(1.6)  # longer than a lease
        return job.attempt

    other = settings.model_copy(update={"queue": "arq:again"})
    own = Jobs(again, store, other)
    async with running(again, other, store):
        ids = [await own.submit("twice") for _ in range(30)]
        for id in ids:
            events = await own.wait_end(id)
            assert types(events) == ["job.queued", "job.started", "job.retrying", "job.restarted", "job.started", "job.completed"]
