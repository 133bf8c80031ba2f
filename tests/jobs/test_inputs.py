"""What a job is sent while it runs: in order, once, again for another attempt, and never after its end."""

import asyncio
from typing import Any

import pytest

from rt import keys
from rt.app import App
from rt.errors import Refused, TemporaryJobError
from rt.jobs import inputs as inputs_module
from rt.jobs.context import JobContext
from rt.jobs.inputs import Inbox
from rt.jobs.job import Retry
from rt.jobs.queue import JobQueue
from rt.redis import Store
from rt.settings import Settings
from tests.helpers import TENANT, Jobs, eventually, running, types

app = App()


@app.job
async def collect(job: JobContext) -> list[Any]:
    return [one async for one in job.inputs]


@app.job
async def two(job: JobContext) -> list[Any]:
    return [await job.input(), await job.input()]


@app.job(idle_timeout_s=0.2)
async def patient(job: JobContext) -> Any:
    return await job.ask("Well?")


@app.job(idle_timeout_s=0.2)
async def listens(job: JobContext) -> list[Any]:
    return [one async for one in job.inputs]


@app.job(retry=Retry(base_s=0))
async def breaks(job: JobContext) -> list[Any]:
    """Fails once after its first input, and goes on from its checkpoint when it has one."""
    job.inputs.position = job.past.checkpoint or 0
    got = [await job.input()]
    if job.attempt == 1:
        if got == ["keep"]:
            await job.checkpoint(job.inputs.position)
        raise TemporaryJobError("again", "once more")
    return got


@app.job
async def typed(job: JobContext) -> Any:
    return [await job.ask("How many?", int), await job.ask()]


@pytest.fixture
def jobs(store: Store, settings: Settings) -> Jobs:
    return Jobs(app, store, settings)


@pytest.fixture
def inbox(store: Store, queue: JobQueue) -> Inbox:
    return Inbox(store, queue)


async def result(jobs: Jobs, job_id: str) -> Any:
    return (await jobs.wait_end(job_id))[-1]["data"].get("result")


async def refused(inbox: Inbox, job_id: str, data: Any = 1, **more: Any) -> tuple[str, dict[str, Any]]:
    with pytest.raises(Refused) as error:
        await inbox.send(TENANT, job_id, data, **more)
    return error.value.code, error.value.facts


async def test_what_came_before_and_during_the_run_is_read_in_order(jobs: Jobs, inbox: Inbox, store: Store, settings: Settings) -> None:
    job_id = await jobs.submit("collect")
    assert [await inbox.send(TENANT, job_id, one) for one in ({"a": 1}, None)] == [1, 2]
    async with running(app, settings, store):
        await jobs.wait_status(job_id, "running")
        assert await inbox.send(TENANT, job_id, "end", final=True) == 3
        assert await result(jobs, job_id) == [{"a": 1}, None, "end"]
    assert await store.call("EXISTS", keys.inputs(TENANT, keys.job_stream(job_id))) == 0


async def test_a_record_sends_once(jobs: Jobs, inbox: Inbox, store: Store) -> None:
    job_id = await jobs.submit("collect")
    record = [keys.idempotency(TENANT, "ann", "k")]
    assert await asyncio.gather(*(inbox.send(TENANT, job_id, "x", records=record) for _ in range(5))) == [1] * 5
    assert (await refused(inbox, job_id, "y", records=record))[0] == "conflict"
    assert await store.call("LLEN", keys.inputs(TENANT, keys.job_stream(job_id))) == 1


async def test_nothing_is_taken_after_the_last_one_or_the_end(jobs: Jobs, inbox: Inbox, queue: JobQueue, store: Store) -> None:
    job_id = await jobs.submit("collect")
    await inbox.send(TENANT, job_id, 1, final=True)
    assert await refused(inbox, job_id) == ("conflict", {"job_id": job_id})
    other = await jobs.submit("collect")
    await inbox.send(TENANT, other, 1)
    await queue.cancel(TENANT, other, "ann")
    assert await refused(inbox, other) == ("conflict", {"job_id": other, "status": "cancelled"})
    assert await store.call("EXISTS", keys.inputs(TENANT, keys.job_stream(other))) == 0, "it goes with the job"


async def test_a_job_is_sent_so_much_and_no_more(jobs: Jobs, inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs_module, "MAX_INPUTS", 2)
    monkeypatch.setattr(inputs_module, "MAX_BYTES", 100)
    many, large = await jobs.submit("collect"), await jobs.submit("collect")
    for number in range(2):
        await inbox.send(TENANT, many, number)
    assert (await refused(inbox, many))[0] == "conflict"
    await inbox.send(TENANT, large, "x" * 60)
    assert (await refused(inbox, large, "x" * 60))[0] == "conflict"
    assert (await refused(inbox, large, "x" * 300_000))[0] == "too_large"


async def test_waiting_for_an_input_is_no_silence(jobs: Jobs, inbox: Inbox, store: Store, settings: Settings) -> None:
    async with running(app, settings, store):
        asks, listens = await jobs.submit("patient"), await jobs.submit("listens")

        async def asked() -> bool:
            return "job.input_required" in types(await jobs.events(asks))

        await eventually(asked)
        await jobs.wait_status(listens, "running")
        for job_id in (asks, listens):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):  # longer than its idle timeout
                    await jobs.wait_end(job_id)
            await inbox.send(TENANT, job_id, "fine", final=True)
        assert (await result(jobs, asks), await result(jobs, listens)) == ("fine", ["fine"])


async def test_another_attempt_reads_them_again_or_goes_on_from_its_checkpoint(
    jobs: Jobs, inbox: Inbox, store: Store, settings: Settings
) -> None:
    again, further = await jobs.submit("breaks"), await jobs.submit("breaks")
    for job_id, first in ((again, "first"), (further, "keep")):
        await inbox.send(TENANT, job_id, first)
        await inbox.send(TENANT, job_id, "second")
    async with running(app, settings, store):
        assert await result(jobs, again) == ["first"]
        assert await result(jobs, further) == ["second"]


async def test_an_input_of_another_type_is_asked_for_again(jobs: Jobs, inbox: Inbox, store: Store, settings: Settings) -> None:
    job_id = await jobs.submit("typed")
    for one in ("no", 3, "rest"):
        await inbox.send(TENANT, job_id, one)
    async with running(app, settings, store):
        assert await result(jobs, job_id) == [3, "rest"]
    assert "job.input_required" not in types(await jobs.events(job_id)), "what is there already is not asked for"
    job_id = await jobs.submit("typed")
    async with running(app, settings, store):

        async def asked(times: int) -> list[dict[str, Any]] | None:
            found = [one["data"] for one in await jobs.events(job_id) if one["type"] == "job.input_required"]
            return found if len(found) == times else None

        first = await eventually(lambda: asked(1))
        assert first == [{"prompt": "How many?", "schema": {"type": "integer"}}]
        await inbox.send(TENANT, job_id, "no")
        second = await eventually(lambda: asked(2))
        assert second
        assert second[1]["details"][0]["loc"] == ["data"]
        await inbox.send(TENANT, job_id, 3)
        third = await eventually(lambda: asked(3))
        assert third
        assert third[2] == {}
        await inbox.send(TENANT, job_id, "rest", final=True)
        assert await result(jobs, job_id) == [3, "rest"]


async def test_a_job_that_waits_for_more_than_the_last_one_fails_and_says_so(
    jobs: Jobs, inbox: Inbox, store: Store, settings: Settings
) -> None:
    job_id = await jobs.submit("two")
    await inbox.send(TENANT, job_id, 1, final=True)
    async with running(app, settings, store):
        end = (await jobs.wait_end(job_id))[-1]
    assert (end["type"], end["data"]["error"]["code"]) == ("job.failed", "input_ended")


async def test_a_lost_wake_up_is_made_good(
    jobs: Jobs, inbox: Inbox, store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs_module, "LOOK_S", 0.05)
    monkeypatch.setattr(inputs_module.Inputs, "wake", lambda self: None)
    async with running(app, settings, store):
        job_id = await jobs.submit("two")
        await jobs.wait_status(job_id, "running")
        for one in (1, 2):
            await inbox.send(TENANT, job_id, one)
        assert await result(jobs, job_id) == [1, 2]
