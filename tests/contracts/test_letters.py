"""The contract of dead letters: no job fails without one, none that does not fail has one, and each is run again once."""

import asyncio
import json
import pickle
import secrets
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from arq.connections import ArqRedis

from rt import events as rt_events
from rt import keys
from rt.app import App
from rt.errors import JobError, Refused, TemporaryJobError, Unavailable
from rt.jobs.context import JobContext
from rt.jobs.ends import SETTLE
from rt.jobs.janitor import Janitor
from rt.jobs.job import JobDef, Retry
from rt.jobs.letters import DeadLetter, DeadLetters
from rt.jobs.queue import JobQueue, NewJob
from rt.jobs.worker import CLAIM, Worker
from rt.redis import Script, Store
from rt.settings import Settings
from rt.streams.log import StreamLog
from rt.telemetry import metrics
from tests.helpers import TENANT, Jobs, eventually, running, types

app = App()

SOON = Retry(base_s=0.001, cap_s=0.002)


@app.job(retry=SOON, timeout_s=7)
async def fails(job: JobContext, how: str, n: int = 1) -> Any:
    match how:
        case "told":
            raise JobError("no_money", "top up first")
        case "raised":
            raise ValueError("postgres://user:password@host")
        case "at length":
            raise JobError("c" * 1000, "ü" * 100_000)
        case "in the end":
            raise TemporaryJobError("busy", f"attempt {job.attempt}")
        case "unreadable result":
            return object()
        case "silence":
            await asyncio.Event().wait()
    return {"how": how, "n": n}


@app.job(retry=SOON, max_attempts=25)
async def stubborn(job: JobContext) -> None:
    raise TemporaryJobError("busy", f"attempt {job.attempt}", retry_after_s=0)


def old_app() -> App:
    """An earlier deploy, which had another job and another input."""
    old = App()

    @old.job
    async def gone(job: JobContext, text: str) -> None: ...

    @old.job(name="fails")
    async def other(job: JobContext, manner: str) -> None: ...

    return old


@pytest.fixture
def jobs(store: Store, settings: Settings) -> Jobs:
    return Jobs(app, store, settings)


@pytest.fixture
async def worker(store: Store, settings: Settings) -> AsyncIterator[Worker]:
    async with running(app, settings, store) as one:
        yield one


@pytest.fixture
def janitor(store: Store, streams: StreamLog, queue: JobQueue, settings: Settings) -> Janitor:
    return Janitor(store, streams, queue, settings)


@pytest.fixture
def letters(store: Store, queue: JobQueue) -> DeadLetters:
    return DeadLetters(store, queue)


@pytest.fixture
async def arq(store: Store) -> ArqRedis:
    return ArqRedis(store.pool)


async def the_letter(letters: DeadLetters, job_id: str, tenant: str = TENANT) -> DeadLetter:
    """The job's letter, which is in the tenant's list once, as it is by itself, but for the payload."""
    letter = await letters.get(tenant, job_id)
    assert letter is not None
    listed = [one for one in await all_of(letters, tenant) if one.id == job_id]
    assert [one.public() for one in listed] == [letter.public()]
    return letter


async def all_of(letters: DeadLetters, tenant: str = TENANT, owner: str | None = None, **filters: Any) -> list[DeadLetter]:
    found, after = await letters.list(tenant, owner, limit=100, **filters)
    assert after is None or len(found) == 100
    return found


async def claim(queue: JobQueue, store: Store, lease_ms: int = 1) -> list[str]:
    """What a worker claims that is killed at once."""
    claimer = secrets.token_hex(4)
    reply = await store.run(CLAIM, [queue.name, keys.claimer(claimer)], [10, lease_ms, claimer, 1, 60_000, *queue.ends()])
    return [one[0].decode() for one in reply[2]]


async def claim_again(queue: JobQueue, store: Store, job_id: str) -> None:
    """The next worker's claim, once the lease of the one before has lapsed; it may end the job."""
    before = await queue.get(TENANT, job_id)

    async def taken() -> bool:
        await claim(queue, store)
        return await queue.get(TENANT, job_id) != before

    await eventually(taken)


# Kept


@pytest.mark.parametrize(
    ("how", "code"),
    [("told", "no_money"), ("raised", "internal"), ("unreadable result", "bad_result"), ("in the end", "busy"), ("silence", "timeout")],
)
async def test_a_job_that_its_worker_ends_as_failed_leaves_a_letter(
    worker: Worker, jobs: Jobs, letters: DeadLetters, how: str, code: str
) -> None:
    before = time.time() * 1000
    job_id = await jobs.submit("fails", how=how, n=2, timeout_s=0.3 if how == "silence" else 60, reports=("user:ann",), request_id="r1")
    events = await jobs.wait_end(job_id)
    letter = await the_letter(letters, job_id)
    error = events[-1]["data"]["error"]
    assert error["code"] == code
    attempts = 3 if how == "in the end" else 1
    assert letter.public()["error"] == error
    assert letter.input(app.jobs["fails"]) == {"how": how, "n": 2}
    assert (letter.job, letter.owner, letter.reports, letter.request_id) == ("fails", "ann", ("user:ann",), "r1")
    assert (letter.attempts, letter.max_attempts, letter.timeout_ms) == (attempts, 3, 300 if how == "silence" else 60_000)
    assert before - 1000 < letter.created_ms <= letter.started_ms <= letter.failed_ms
    record = await jobs.queue.get(TENANT, job_id)
    assert record is not None
    assert (record.finished_ms, record.attempt) == (letter.failed_ms, letter.attempts)
    assert (letter.retry_of, letter.retried_as) == ("", "")


async def test_the_errors_of_all_attempts_are_kept(worker: Worker, jobs: Jobs, letters: DeadLetters) -> None:
    job_id = await jobs.submit("fails", how="in the end")
    events = await jobs.wait_end(job_id)
    told = [one["data"]["error"] for one in events if one["type"] in ("job.retrying", "job.failed")]
    letter = await the_letter(letters, job_id)
    assert [{name: one[name] for name in ("code", "message", "temporary")} for one in letter.errors] == told
    assert [(one["attempt"], one["message"]) for one in letter.errors] == [(n, f"attempt {n}") for n in (1, 2, 3)]
    times = [letter.started_ms, *(one["at"] for one in letter.errors), letter.failed_ms]
    assert times == sorted(times)
    assert letter.errors[-1]["at"] == letter.failed_ms


async def test_the_newest_twenty_errors_are_kept_and_long_ones_are_cut(worker: Worker, jobs: Jobs, letters: DeadLetters) -> None:
    many, long = await jobs.submit("stubborn"), await jobs.submit("fails", how="at length")
    await jobs.wait_end(many)
    await jobs.wait_end(long)
    assert [one["attempt"] for one in (await the_letter(letters, many)).errors] == list(range(6, 26))
    (error,) = (await the_letter(letters, long)).errors
    assert (error["code"], error["message"]) == ("c" * 64, "ü" * 1000)
    record = await jobs.queue.get(TENANT, long)
    assert record is not None
    assert len(record.error["message"]) == 100_000, "the job's own error is whole"


async def test_a_job_that_is_lost_in_every_attempt_has_them_all_in_its_letter(
    queue: JobQueue, jobs: Jobs, store: Store, letters: DeadLetters
) -> None:
    job_id = await jobs.submit("fails", how="told")
    assert await claim(queue, store) == [job_id]
    for _ in range(3):
        assert await letters.get(TENANT, job_id) is None
        await claim_again(queue, store, job_id)
    assert (await jobs.events(job_id))[-1]["data"]["error"]["code"] == "lease_lost"
    letter = await the_letter(letters, job_id)
    assert [(one["attempt"], one["code"], one["temporary"]) for one in letter.errors] == [
        (1, "lease_lost", True),
        (2, "lease_lost", True),
        (3, "lease_lost", False),
    ]
    assert letter.attempts == 3
    assert letter.input(None) == {"how": "told"}


async def test_a_run_that_a_deploy_handed_back_is_no_error(store: Store, settings: Settings, letters: DeadLetters) -> None:
    jobs = Jobs(app, store, settings)
    async with running(app, settings, store) as first:
        job_id = await jobs.submit("fails", how="silence", timeout_s=60)
        await jobs.wait_status(job_id, "running")
        await eventually(lambda: job_id in first.runs)
    assert await jobs.status(job_id) == "queued"
    await store.call("ZADD", keys.deadlines(settings.queue), 1, f"{TENANT} {job_id}")
    await Janitor(store, jobs.streams, jobs.queue, settings).round()
    (error,) = (await the_letter(letters, job_id)).errors
    assert (error["attempt"], error["code"]) == (1, "timeout")


async def test_jobs_that_the_janitor_ends_leave_letters(
    janitor: Janitor, queue: JobQueue, jobs: Jobs, store: Store, settings: Settings, letters: DeadLetters
) -> None:
    late = await jobs.submit("fails", how="late", delay_s=60)
    stuck, lost = [await jobs.submit("fails", how=how) for how in ("stuck", "lost")]
    assert sorted(await claim(queue, store)) == sorted([stuck, lost])
    await store.call("HSET", keys.meta(TENANT, keys.job_stream(lost)), "tries", 3)
    for id in (late, stuck):
        await store.call("ZADD", keys.deadlines(settings.queue), 1, f"{TENANT} {id}")

    async def ended() -> bool:
        await janitor.round()
        return len(await all_of(letters)) == 3

    await eventually(ended)
    found = {one.id: [(error["attempt"], error["code"]) for error in one.errors] for one in await all_of(letters)}
    assert found == {late: [(0, "expired")], stuck: [(1, "timeout")], lost: [(1, "lease_lost")]}
    assert (await the_letter(letters, late)).input(app.jobs["fails"]) == {"how": "late"}
    await janitor.round()
    assert len(await all_of(letters)) == 3


async def test_a_claim_that_finds_a_job_too_late_leaves_its_letter(queue: JobQueue, jobs: Jobs, store: Store, letters: DeadLetters) -> None:
    late, lost = await jobs.submit("fails", how="told"), await jobs.submit("fails", how="told", tenant="acme")
    await store.call("HSET", keys.meta(TENANT, keys.job_stream(late)), "deadline", 1)
    await store.call("DEL", f"arq:job:{lost}")
    await store.call("ZADD", queue.name, 1, "unheard of")
    assert await claim(queue, store) == []
    assert (await the_letter(letters, late)).public()["error"]["code"] == "expired"
    letter = await the_letter(letters, "unheard of")
    assert (letter.job, letter.owner, letter.public()["error"]["code"]) == ("<unreadable>", "", "expired")
    assert letter.detail(None)["input_lost"] == "it had expired"


async def test_jobs_that_do_not_fail_leave_no_letter(worker: Worker, jobs: Jobs, letters: DeadLetters) -> None:
    done = await jobs.submit("fails", how="not at all")
    await jobs.wait_end(done)
    waiting = await jobs.submit("fails", how="told", delay_s=60)
    await jobs.queue.cancel(TENANT, waiting, "ann")
    runs = await jobs.submit("fails", how="silence")
    await jobs.wait_status(runs, "running")
    await jobs.queue.cancel(TENANT, runs, "ann")
    assert types(await jobs.wait_end(runs))[-1] == "job.cancelled"
    assert await all_of(letters) == []
    assert [await letters.get(TENANT, id) for id in (done, waiting, runs)] == [None] * 3


async def test_an_end_whose_answer_is_lost_leaves_one_letter(
    jobs: Jobs, store: Store, settings: Settings, letters: DeadLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[Any] = []
    run = Store.run

    async def losing(self: Store, script: Script, keys: Any, args: Any = ()) -> Any:
        reply = await run(self, script, keys, args)
        if script is SETTLE and len(lost) < 4:
            lost.append(reply)
            raise Unavailable()
        return reply

    monkeypatch.setattr(Store, "run", losing)
    async with running(app, settings, store):
        job_id = await jobs.submit("fails", how="in the end")
        events = await jobs.wait_end(job_id)
    assert types(events).count("job.failed") == 1
    assert len(lost) == 4
    assert [one["attempt"] for one in (await the_letter(letters, job_id)).errors] == [1, 2, 3]


async def test_tenants_and_owners_see_their_own(worker: Worker, jobs: Jobs, letters: DeadLetters) -> None:
    ids = {}
    for tenant in (TENANT, "acme"):
        for owner in ("ann", "bob:ü"):
            ids[tenant, owner] = await jobs.submit("fails", how="told", tenant=tenant, owner=owner)
            await jobs.wait_end(ids[tenant, owner], tenant=tenant)
    for (tenant, owner), id in ids.items():
        assert [one.id for one in await all_of(letters, tenant, owner)] == [id]
        assert {one.id for one in await all_of(letters, tenant)} == {ids[tenant, "ann"], ids[tenant, "bob:ü"]}
        assert await letters.get("acme" if tenant == TENANT else TENANT, id) is None
        assert not await letters.delete("acme" if tenant == TENANT else TENANT, id)
    assert await letters.delete("acme", ids["acme", "ann"])
    assert await all_of(letters, "acme", "ann") == []
    assert len(await all_of(letters)) == 2


async def test_a_list_is_read_in_pages_newest_first_and_by_the_job_s_name(worker: Worker, jobs: Jobs, letters: DeadLetters) -> None:
    ids = []
    for number in range(5):
        ids.append(await jobs.submit("fails", how="told", n=number))
        await jobs.wait_end(ids[-1])
    await jobs.wait_end(await jobs.submit("stubborn"))
    seen: list[str] = []
    after = None
    while True:
        page, after = await letters.list(TENANT, "ann", job="fails", limit=2, after=after)
        seen += [one.id for one in page]
        assert len(page) <= 2
        assert all(one.payload is None for one in page)
        if after is None:
            break
    assert seen == ids[::-1]
    with pytest.raises(Refused):
        await letters.list(TENANT, None, after="x")


# Bounded


async def test_a_tenant_s_oldest_letters_make_room_for_new_ones(store: Store, settings: Settings, letters: DeadLetters) -> None:
    three = settings.model_copy(update={"dead_letter_length": 3})
    jobs = Jobs(app, store, three)
    kept, dropped = metrics.dead_letters._value.get(), metrics.dead_letters_dropped._value.get()
    async with running(app, three, store):
        other = await jobs.submit("fails", how="told", tenant="acme")
        await jobs.wait_end(other, tenant="acme")
        ids = []
        for number in range(5):
            ids.append(await jobs.submit("fails", how="told", owner=f"user{number % 2}"))
            await jobs.wait_end(ids[-1])
    assert [one.id for one in await all_of(letters)] == ids[:1:-1]
    assert [one.id for one in await all_of(letters, TENANT, "user0")] == [ids[4], ids[2]]
    assert [await store.call("EXISTS", keys.letter(TENANT, id)) for id in ids] == [0, 0, 1, 1, 1]
    assert await store.call("ZCARD", keys.letters_of(TENANT, "user0")) == 2
    assert len(await all_of(letters, "acme")) == 1
    await Janitor(store, jobs.streams, jobs.queue, three).round()
    assert metrics.dead_letters._value.get() - kept == 6
    assert metrics.dead_letters_dropped._value.get() - dropped == 2
    assert not await store.call("EXISTS", keys.LETTERS_KEPT, keys.LETTERS_DROPPED)


async def test_a_number_that_was_lowered_is_reached_in_steps(
    janitor: Janitor, jobs: Jobs, store: Store, settings: Settings, letters: DeadLetters
) -> None:
    async def expire(count: int, janitor: Janitor) -> None:
        for _ in range(count):
            await store.call("ZADD", keys.deadlines(settings.queue), 1, f"{TENANT} {await jobs.submit('fails', how='told')}")
        await janitor.round()

    await expire(15, janitor)
    two = settings.model_copy(update={"dead_letter_length": 2})
    lowered = Janitor(store, jobs.streams, JobQueue(store, jobs.streams, two), two)
    await expire(1, lowered)
    assert len(await all_of(letters)) == 6
    await expire(1, lowered)
    assert len(await all_of(letters)) == 2
    assert len(await store.call("KEYS", "rt:*}:dead")) == 2


async def test_letters_are_kept_for_their_time_and_no_longer(worker: Worker, jobs: Jobs, store: Store, letters: DeadLetters) -> None:
    job_id = await jobs.submit("fails", how="told")
    await jobs.wait_end(job_id)
    month = 30 * 86_400
    lists = [keys.letters(TENANT), keys.letters_of(TENANT, "ann")]
    for key in (keys.letter(TENANT, job_id), *lists):
        assert month - 60 < await store.call("TTL", key) <= month
    # What has expired stands in no answer, and leaves the lists with the next letter.
    for key in lists:
        await store.call("ZADD", key, int(time.time() - month) * 1000, "expired")
        await store.call("ZADD", key, int(time.time() - month + 60) * 1000, "expires soon")
    assert [one.id for one in await all_of(letters)] == [job_id]
    await jobs.wait_end(await jobs.submit("fails", how="told"))
    for key in lists:
        assert await store.call("ZSCORE", key, "expired") is None
        assert await store.call("ZCARD", key) == 3


async def test_a_letter_that_was_deleted_is_nowhere(worker: Worker, jobs: Jobs, store: Store, letters: DeadLetters) -> None:
    job_id = await jobs.submit("fails", how="told")
    await jobs.wait_end(job_id)
    letter = await the_letter(letters, job_id)
    assert await letters.delete(TENANT, job_id)
    assert not await letters.delete(TENANT, job_id)
    assert await letters.get(TENANT, job_id) is None
    assert not await store.call("EXISTS", keys.letters(TENANT), keys.letters_of(TENANT, "ann"))
    assert await jobs.status(job_id) == "failed"
    with pytest.raises(Refused) as refused:  # by somebody who still has seen it
        await letters.retry(TENANT, letter, app.jobs)
    assert refused.value.code == "not_found"
    assert await jobs.queue.depth() == {"waiting": 0, "running": 0}


# Run again


async def test_a_letter_is_run_again_as_another_job_of_the_same_owner(worker: Worker, jobs: Jobs, letters: DeadLetters) -> None:
    job_id = await jobs.submit("fails", how="told", n=5, timeout_s=45, reports=("user:ann", "room:x"), request_id="r1", tenant="acme")
    before = await jobs.wait_end(job_id, tenant="acme")
    accepted, status = await letters.retry("acme", await the_letter(letters, job_id, "acme"), app.jobs)
    assert not accepted.duplicate
    assert accepted.job_id != job_id
    assert status in ("queued", "running", "failed")
    events = await jobs.wait_end(accepted.job_id, tenant="acme")
    assert types(events) == ["job.queued", "job.started", "job.failed"]
    assert await jobs.events(job_id, tenant="acme") == before, "a stream that ended stays ended"
    for stream in ("user:ann", "room:x"):
        told = [json.loads(one) for one in (await jobs.streams.read("acme", stream, 0)).events]
        assert [(one["type"], one["data"]["job_id"]) for one in told] == [("job.created", job_id), ("job.created", accepted.job_id)]
        assert told[-1]["data"] == {"job_id": accepted.job_id, "job": "fails"}  # which no command of the client's submitted
    old, new = await the_letter(letters, job_id, "acme"), await the_letter(letters, accepted.job_id, "acme")
    assert (old.retried_as, new.retry_of) == (new.id, old.id)
    assert (old.retry_of, new.retried_as) == ("", "")
    for name in ("job", "owner", "reports", "timeout_ms", "max_attempts"):
        assert getattr(new, name) == getattr(old, name), name
    assert new.input(None) == old.input(None) == {"how": "told", "n": 5}
    assert {one.id for one in (await jobs.queue.list("acme", "ann"))[0]} == {old.id, new.id}


async def test_a_letter_is_run_again_once_however_often_it_is_asked_for(
    redis_url: str, settings: Settings, store: Store, letters: DeadLetters
) -> None:
    jobs = Jobs(app, store, settings)
    async with running(app, settings, store):
        job_id = await jobs.submit("fails", how="told")
        await jobs.wait_end(job_id)
    letter = await the_letter(letters, job_id)
    other = Store(redis_url)
    try:
        both = [letters, DeadLetters(other, JobQueue(other, StreamLog(other, settings), settings))]
        answers = await asyncio.gather(*(both[i % 2].retry(TENANT, letter, app.jobs) for i in range(40)))
    finally:
        await other.close()
    assert len({accepted.job_id for accepted, _ in answers}) == 1
    assert sorted(accepted.duplicate for accepted, _ in answers) == [False] + [True] * 39
    assert await jobs.queue.depth() == {"waiting": 1, "running": 0}
    # Also by whoever reads the letter anew, after an application has lost the job, and when the other job was cancelled.
    again = (await the_letter(letters, job_id)).retried_as
    await jobs.queue.cancel(TENANT, again, "ann")
    accepted, status = await letters.retry(TENANT, await the_letter(letters, job_id), {})
    assert (accepted.job_id, accepted.duplicate, status) == (again, True, "cancelled")


async def test_a_job_that_fails_again_is_run_again_from_its_own_letter(worker: Worker, jobs: Jobs, letters: DeadLetters) -> None:
    first = await jobs.submit("fails", how="told")
    await jobs.wait_end(first)
    seen = await the_letter(letters, first)
    second = (await letters.retry(TENANT, seen, app.jobs))[0].job_id
    await jobs.wait_end(second)
    for letter in (seen, await the_letter(letters, first)):
        with pytest.raises(Refused) as refused:
            await letters.retry(TENANT, letter, app.jobs)
        assert (refused.value.code, refused.value.facts) == ("conflict", {"job_id": first, "retried_as": second})
        assert "failed as well" in refused.value.message
    third = (await letters.retry(TENANT, await the_letter(letters, second), app.jobs))[0].job_id
    assert third not in (first, second)
    await jobs.wait_end(third)
    assert [one.id for one in await all_of(letters)] == [third, second, first]


async def test_a_job_that_nobody_remembers_is_not_run_twice(worker: Worker, jobs: Jobs, store: Store, letters: DeadLetters) -> None:
    job_id = await jobs.submit("fails", how="told")
    await jobs.wait_end(job_id)
    again = (await letters.retry(TENANT, await the_letter(letters, job_id), app.jobs))[0].job_id
    await jobs.wait_end(again)
    await store.call("DEL", keys.meta(TENANT, keys.job_stream(again)))
    with pytest.raises(Refused, match="forgotten") as refused:
        await letters.retry(TENANT, await the_letter(letters, job_id), app.jobs)
    assert refused.value.code == "conflict"


async def test_what_the_application_no_longer_takes_is_refused_and_the_letter_stays(
    worker: Worker, jobs: Jobs, queue: JobQueue, letters: DeadLetters
) -> None:
    old = old_app().jobs

    async def left_by(job: JobDef, **input: Any) -> DeadLetter:
        accepted = await queue.accept(NewJob(job=job, input=input, tenant=TENANT, owner="ann"))
        await jobs.wait_end(accepted.job_id)
        return await the_letter(letters, accepted.job_id)

    gone, changed = await left_by(old["gone"], text="my-secret"), await left_by(old["fails"], manner="my-secret")
    assert [one.public()["error"]["code"] for one in (gone, changed)] == ["unknown_job", "invalid_input"]
    for letter, code in ((gone, "unknown_job"), (changed, "invalid_input")):
        with pytest.raises(Refused) as refused:
            await letters.retry(TENANT, letter, app.jobs)
        assert refused.value.code == code
        assert "my-secret" not in str(refused.value.details) + refused.value.message
        assert (await the_letter(letters, letter.id)).retried_as == ""
    # A deploy that takes it again runs it.
    accepted, _ = await letters.retry(TENANT, gone, old)
    assert (await the_letter(letters, gone.id)).retried_as == accepted.job_id


async def test_a_full_queue_leaves_the_letter_as_it_was(store: Store, settings: Settings, letters: DeadLetters) -> None:
    jobs = Jobs(app, store, settings)
    async with running(app, settings, store):
        job_id = await jobs.submit("fails", how="told")
        await jobs.wait_end(job_id)
    full = DeadLetters(store, JobQueue(store, jobs.streams, settings.model_copy(update={"queue_limit": 1})))
    await jobs.submit("fails", how="told")
    with pytest.raises(Refused) as refused:
        await full.retry(TENANT, await the_letter(letters, job_id), app.jobs)
    assert refused.value.code == "queue_full"
    assert (await the_letter(letters, job_id)).retried_as == ""


# Plain arq clients


async def test_a_plain_client_s_job_is_kept_and_run_again_in_json(
    worker: Worker, jobs: Jobs, arq: ArqRedis, store: Store, letters: DeadLetters
) -> None:
    await arq.enqueue_job("fails", "told", n=3, _job_id="a/ü")
    await jobs.wait_end("a/ü")
    letter = await the_letter(letters, "a/ü")
    assert (letter.job, letter.owner, letter.attempts, letter.max_attempts) == ("fails", "", 1, 3)
    assert letter.created_ms
    assert letter.payload is not None
    assert letter.payload.startswith(b"\x80")
    assert letter.detail(app.jobs["fails"])["input"] == {"how": "told", "n": 3}
    assert letter.detail(None)["input"] == {"argument 1": "told", "n": 3}
    accepted, _ = await letters.retry(TENANT, letter, app.jobs)
    await jobs.wait_end(accepted.job_id)
    again = await the_letter(letters, accepted.job_id)
    assert again.payload is not None
    assert json.loads(again.payload)["k"] == {"how": "told", "n": 3}
    assert (again.owner, again.retry_of) == ("", "a/ü")


async def test_an_id_that_a_plain_client_uses_again_has_the_letter_of_its_last_failure(
    worker: Worker, jobs: Jobs, arq: ArqRedis, store: Store, letters: DeadLetters
) -> None:
    for n in (1, 2):
        await store.call("DEL", "arq:result:again")
        await arq.enqueue_job("fails", "told", n=n, _job_id="again")
        await eventually(lambda n=n: _input_n(letters, "again", n))  # type: ignore[misc]
        letter = await the_letter(letters, "again")
        assert (len(letter.errors), letter.retried_as) == (1, "")
        await letters.retry(TENANT, letter, app.jobs)
    assert await store.call("ZCARD", keys.letters(TENANT)) >= 1


async def _input_n(letters: DeadLetters, job_id: str, n: int) -> bool:
    letter = await letters.get(TENANT, job_id)
    return letter is not None and letter.input(app.jobs["fails"])["n"] == n


class Exploit:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.mkdir, (self.path,)


async def test_an_input_that_is_no_plain_data_is_never_made(
    worker: Worker, jobs: Jobs, arq: ArqRedis, letters: DeadLetters, tmp_path: Path
) -> None:
    made = tmp_path / "made"
    await arq.enqueue_job("fails", Exploit(made), _job_id="x")
    await jobs.wait_end("x")
    letter = await the_letter(letters, "x")
    assert letter.job == "<unreadable>"
    detail = letter.detail(app.jobs["fails"])
    assert detail["input"] is None
    assert "plain data" in detail["input_lost"]
    with pytest.raises(Refused) as refused:
        await letters.retry(TENANT, letter, app.jobs)
    assert refused.value.code == "unknown_job"
    assert not made.exists()


def _circular() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


def _pickled(how: Any) -> bytes:
    return pickle.dumps({"t": None, "f": "fails", "a": (), "k": {"how": how}, "et": 1}, 3)


#: A list in a list, 300 deep.
_DEEP = _pickled("@").replace(b"X\x01\x00\x00\x00@", b"]" * 300 + b"a" * 299)


@pytest.mark.parametrize(
    "payload",
    [_pickled(b"\xff"), _pickled({(1, 2): 3}), _pickled([[b"\xfe"]]), _pickled(_circular()), _DEEP],
    ids=["bytes", "keys", "inner bytes", "circular", "deep"],
)
async def test_an_input_without_a_json_form_does_no_harm(
    worker: Worker, jobs: Jobs, store: Store, settings: Settings, letters: DeadLetters, payload: bytes
) -> None:
    await store.call("SET", "arq:job:odd", payload, "PX", 60_000)
    await store.call("ZADD", settings.queue, 1, "odd")
    await jobs.wait_end("odd")
    letter = await the_letter(letters, "odd")
    detail = letter.detail(app.jobs["fails"])
    assert letter.job == "fails"
    if detail["input"] is None:
        assert detail["input_lost"] == "it has no JSON form, or is nested too deep"
    else:
        assert json.loads(json.dumps(detail["input"])) == detail["input"]
    with pytest.raises(Refused) as refused:
        await letters.retry(TENANT, letter, app.jobs)
    assert refused.value.code == "invalid_input"


async def test_an_input_above_the_limit_is_not_kept(worker: Worker, jobs: Jobs, arq: ArqRedis, letters: DeadLetters) -> None:
    size = rt_events.MAX_EVENT_BYTES
    await arq.enqueue_job("fails", "x" * (size - 1000), "no number", _job_id="fits")
    await arq.enqueue_job("fails", "x" * size, "no number", _job_id="large")
    for id in ("fits", "large"):
        await jobs.wait_end(id)
    assert len((await the_letter(letters, "fits")).input(None)["argument 1"]) == size - 1000
    letter = await the_letter(letters, "large")
    assert (letter.payload, letter.job) == (None, "fails")
    assert letter.payload_bytes > size
    assert letter.detail(None)["input_lost"] == f"its {letter.payload_bytes} bytes were too many to keep"
    with pytest.raises(Refused, match="too many to keep") as refused:
        await letters.retry(TENANT, letter, app.jobs)
    assert refused.value.code == "invalid_input"


async def test_a_job_that_is_lost_before_its_name_is_written_down_has_it_from_its_payload(
    janitor: Janitor, queue: JobQueue, arq: ArqRedis, store: Store, settings: Settings, letters: DeadLetters
) -> None:
    await arq.enqueue_job("fails", "told", _job_id="x")
    # Its client's clock may be a millisecond ahead of Redis's.
    assert await eventually(lambda: claim(queue, store)) == ["x"]
    await store.call("ZADD", keys.deadlines(settings.queue), 1, f"{TENANT} x")
    await janitor.round()
    assert (await the_letter(letters, "x")).job == "fails"
    assert [one.id for one in await all_of(letters, job="fails")] == ["x"]


async def test_an_id_that_is_no_text_does_not_spoil_the_list(
    queue: JobQueue, worker: Worker, jobs: Jobs, store: Store, letters: DeadLetters
) -> None:
    await store.call("ZADD", queue.name, 1, b"\xff\xfe")
    job_id = await jobs.submit("fails", how="told")
    await jobs.wait_end(job_id)
    assert await store.call("ZSCORE", keys.letters(TENANT), b"\xff\xfe") is not None
    assert [one.id for one in await all_of(letters)] == [job_id]


async def test_what_a_plain_client_gave_that_only_pickle_knows_arrives_as_json(
    worker: Worker, jobs: Jobs, arq: ArqRedis, letters: DeadLetters
) -> None:
    await arq.enqueue_job("fails", ("told", 1), _job_id="x")
    await jobs.wait_end("x")
    assert (await the_letter(letters, "x")).input(app.jobs["fails"]) == {"how": ["told", 1]}
    with pytest.raises(Refused):
        await letters.retry(TENANT, await the_letter(letters, "x"), app.jobs)
