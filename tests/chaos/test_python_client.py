"""`rt.client` on real servers, while its network, its servers, its workers and its own process are broken under it."""

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from rt.client import (
    Client,
    Config,
    FileStore,
    Gap,
    Job,
    JobCancelled,
    MemoryStore,
    Refused,
    SessionTaken,
    Stopped,
    StreamEvent,
    connect,
)
from rt.client.http import HttpClient
from tests.chaos.proxy import Proxy
from tests.chaos.stack import ROOT, Stack
from tests.chaos.test_main_job import words
from tests.helpers import eventually

QUICK = Config(backoff_s=0.05, backoff_cap_s=0.2, ack_every_s=0.2)


def dial(stack: Stack, subject: str = "alice", web: int = 0, **over: Any) -> Client:
    return connect(over.pop("url", stack.ws(web)), token=over.pop("token", stack.token(subject)), config=QUICK, **over)


async def whole(job: Job) -> tuple[list[int], str]:
    """Every seq that the iteration gave, and the text."""
    seqs = []
    async for item in job:
        assert isinstance(item, StreamEvent), item
        seqs.append(item.seq)
    return seqs, await job.text()


def check(read: tuple[list[int], str], text: str) -> None:
    seqs, said = read
    assert seqs == list(range(1, len(seqs) + 1))
    assert said == text


async def test_jobs_rooms_and_refusals(shared: Stack) -> None:
    async with dial(shared) as rt, dial(shared, "bob", web=1) as bob:
        text = words(30)
        assert await rt.submit("echo", {"text": text}).text() == text
        pieces = [piece async for piece in rt.submit("echo", {"text": text, "delay_ms": 2}).text()]
        assert len(pieces) > 2
        assert "".join(pieces) == text
        assert (await rt.submit("sentiment", {"text": "I love it"}).result())["label"] == "positive"
        async with rt.subscribe("room:lobby") as room:
            assert await bob.publish("room:lobby", {"say": "hi"}, idempotency_key="once") == 1
            assert await bob.publish("room:lobby", {"say": "hi"}, idempotency_key="once") == 1
            event = await anext(room)
            assert (event.type, isinstance(event, StreamEvent) and event.data) == ("message", {"from": "bob", "data": {"say": "hi"}})
        running = rt.submit("echo", {"text": text, "delay_ms": 200})
        await anext(running)
        assert await running.cancel() in ("running", "cancelled", "queued")
        with pytest.raises(JobCancelled) as cancelled:
            await running.result()
        assert cancelled.value.by == "alice"
        with pytest.raises(Refused, match="no job is named"):
            await rt.submit("nothing").result()
        with pytest.raises(Refused) as wrong:
            await rt.submit("echo", {"text": 7, "delay_ms": "x"}).accepted()
        assert wrong.value.code == "invalid_input"
        assert {tuple(one["loc"]) for one in wrong.value.details or []} == {("input", "text"), ("input", "delay_ms")}
        with pytest.raises(Refused, match="yours"):
            await anext(rt.subscribe("user:bob"))
        with pytest.raises(Refused) as unknown:
            await rt.input("1", "more")
        assert unknown.value.code == "not_found"
        assert rt.state == "open"


async def test_a_wrong_token_is_said_at_once(shared: Stack) -> None:
    with pytest.raises(Stopped, match="token") as stopped:
        async with dial(shared, token="wrong"):
            pass
    assert stopped.value.code == 4500


async def test_a_token_expires_and_is_asked_for_again(shared: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as yesterday:
        now = time.time()
        yesterday.setattr("rt.tokens.time.time", lambda: now - 86_400)
        given = [shared.token()]

    async def token() -> str:
        given.append(shared.token())
        return given[len(given) - 2]

    async with connect(shared.ws(), token=token, config=QUICK) as rt:
        assert await rt.submit("echo", {"text": "a b"}).text() == "a b"
    assert len(given) == 3


async def test_a_session_is_taken_by_another_process_and_taken_back(shared: Stack) -> None:
    store = MemoryStore()
    async with dial(shared, store=store) as one:
        job = one.submit("echo", {"text": words(40), "delay_ms": 20})
        await job.accepted()
        await eventually(lambda: store.load().session == one.session)
        taken = MemoryStore()
        taken.save(store.load())
        async with dial(shared, store=taken, web=1) as two:
            assert two.session == one.session
            await eventually(lambda: one.state == "taken")
            with pytest.raises(SessionTaken):
                await one.publish("room:x", 1)
            with pytest.raises(SessionTaken):
                await whole(job)
        one.reconnect()
        assert await job.text() == words(40)


async def test_cuts_of_the_network_lose_and_repeat_nothing(shared: Stack) -> None:
    async def one(number: int, proxy: Proxy) -> None:
        async with dial(shared, f"user{number}", url=f"http://127.0.0.1:{proxy.port}") as rt:
            text = words(150, number)
            room = rt.subscribe(f"room:cuts{number}")
            await room.ready()
            jobs = [rt.submit("echo", {"text": text, "delay_ms": 10}) for _ in range(2)]
            reading = [asyncio.create_task(whole(job)) for job in jobs]
            seqs = [await rt.publish(f"room:cuts{number}", {"n": n}) for n in range(20)]
            assert seqs == list(range(1, 21))
            for read in reading:
                check(await read, text)
            got = [await anext(room) for _ in seqs]
            assert [isinstance(item, StreamEvent) and (item.seq, item.data["data"]["n"]) for item in got] == [(n + 1, n) for n in range(20)]

    async with Proxy(shared.ports[0]) as proxy:
        async with asyncio.TaskGroup() as group:
            clients = [group.create_task(one(number, proxy)) for number in range(4)]
            cuts = 0
            while not all(task.done() for task in clients):
                await asyncio.sleep(0.1)
                cuts += proxy.cut()
                proxy.point(shared.ports[cuts % 2])
        assert cuts > 20
    assert shared.tracebacks() == []


async def test_a_dead_network_is_noticed(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing comes and nothing is reset: only the silence tells."""
    with Stack(tmp_path_factory.mktemp("stack"), RT_HEARTBEAT_S="0.5") as stack:
        stack.start()
        async with Proxy(stack.ports[0]) as proxy, dial(stack, url=f"http://127.0.0.1:{proxy.port}") as rt:
            text = words(60)
            job = rt.submit("echo", {"text": text, "delay_ms": 20})
            await anext(job)
            proxy.set(drop_up=True, drop_down=True)
            await eventually(lambda: rt.state != "open", within_s=5)
            proxy.set()
            assert await job.text() == text


@contextlib.asynccontextmanager
async def streaming(stack: Stack, tmp_path: Path) -> AsyncIterator[tuple[Client, Job, Path]]:
    """A client whose job counts aloud until the file is there."""
    end = tmp_path / "end"
    async with dial(stack) as rt:
        job = rt.submit("count", {"until": str(end), "every_ms": 10})
        for _ in range(5):
            await anext(job)
        yield rt, job, end


async def finish(job: Job, end: Path) -> None:
    await asyncio.to_thread(end.touch)
    text = await job.text()
    assert text == "".join(f"{n} " for n in range((await job.result())["count"]))


async def test_a_killed_server_a_killed_worker_and_a_drain_cost_nothing(stack: Stack, tmp_path: Path) -> None:
    stack.start(webs=1, workers=2)
    async with streaming(stack, tmp_path) as (rt, job, end):
        session = rt.session
        stack.webs[0].kill()
        await eventually(lambda: rt.state != "open")
        stack.web(stack.ports[0]).wait_ready()
        await eventually(lambda: rt.state == "open")
        assert rt.session == session
        # The worker that has the job dies; what it had said stands, as the job can go on from it.
        for worker in stack.workers[:2]:
            worker.kill()
        stack.worker().wait_ready()
        restarted = False
        while not restarted:
            restarted = (await anext(job)).type == "job.restarted"
        closing = asyncio.create_task(asyncio.to_thread(stack.webs[1].terminate))
        await eventually(lambda: rt.state == "waiting")
        assert await closing == 0
        stack.web(stack.ports[0]).wait_ready()
        await finish(job, end)
    assert stack.tracebacks() == []


_PROCESS = """
import asyncio, sys
from rt.client import Config, FileStore, connect

async def main(url, token, path, job_id, count):
    async with connect(url, token=token, store=FileStore(path), config=Config(ack_every_s=0.1)) as rt:
        job = rt.job(job_id) if job_id else rt.submit("echo", {"text": " ".join(map(str, range(120))), "delay_ms": 15})
        print(await job.accepted(), flush=True)
        async for event in job:
            print(event.seq, event.type, flush=True)
            count -= 1
            if not count:
                break

asyncio.run(main(*sys.argv[1:5], int(sys.argv[5])))
"""


async def _process(stack: Stack, path: Path, job_id: str, count: int, *, kill_after: int = 0) -> tuple[str, list[int], bool]:
    """A client process of its own: the job's id, the seqs that it printed, and whether the last was the job's end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", _PROCESS, stack.ws(), stack.token(), str(path), job_id, str(count)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    lines = []
    async for line in process.stdout:
        lines.append(line.decode().split())
        if kill_after and len(lines) == kill_after:
            process.send_signal(signal.SIGKILL)
    assert await process.wait() == (-signal.SIGKILL if kill_after else 0)
    return lines[0][0], [int(line[0]) for line in lines[1:]], lines[-1][-1] == "job.completed"


async def test_a_client_s_process_is_started_again_and_goes_on_where_it_stopped(shared: Stack, tmp_path: Path) -> None:
    path = tmp_path / "session"
    job_id, first, _ = await _process(shared, path, "", 15)
    _, second, _ = await _process(shared, path, job_id, 0, kill_after=30)
    _, third, ended = await _process(shared, path, job_id, 0)
    assert ended
    # A clean end is taken up exactly; after a kill what was not yet stored comes again, and nothing is left out.
    assert first + second == list(range(1, len(first + second) + 1))
    assert third[0] <= second[-1] + 1
    assert third == list(range(third[0], third[-1] + 1))
    assert path.stat().st_mode & 0o777 == 0o600
    assert FileStore(path).load().session


async def test_a_reader_that_does_not_read_holds_up_nobody_and_costs_a_bounded_memory(weathered: Stack) -> None:
    config = Config(max_waiting=50, max_waiting_bytes=20_000, ack_every_s=0.2)
    async with connect(weathered.ws(), token=weathered.token(), config=config) as rt:
        slow = rt.submit("pour", {"events": 2000, "size": 300})
        await anext(slow)
        await eventually(lambda: rt._session.crowded)
        # Others have their answers, and their events, past the one that does not read.
        for n in range(5):
            assert await rt.submit("paced", {"text": f"quick {n}", "delay_ms": 1}).text() == f"quick {n}"
        seqs, most = [1], 0
        async for item in slow:
            assert not isinstance(item, Gap)
            seqs.append(item.seq)
            waiting = rt._session.streams[item.stream].waiting
            most = max(most, len(waiting))
            if item.seq % 100 == 0:
                await asyncio.sleep(0.01)
        assert most <= 50
        assert seqs == list(range(1, len(seqs) + 1))
        assert (await slow.result())["events"] == 2000


def test_a_service_enqueues_follows_and_waits(shared: Stack) -> None:
    with HttpClient(f"http://127.0.0.1:{shared.ports[0]}", token=lambda: shared.token("service")) as rt:
        accepted = rt.submit("echo", {"text": "hello there", "delay_ms": 5}, idempotency_key="order-17")
        again = rt.submit("echo", {"text": "hello there", "delay_ms": 5}, idempotency_key="order-17")
        assert (accepted.duplicate, again.duplicate, again.job_id) == (False, True, accepted.job_id)
        seen: list[str] = []
        assert rt.wait(accepted.job_id, on_event=lambda event: seen.append(event.type)) == {"text": "hello there"}
        assert (seen[0], seen[-1]) == ("job.queued", "job.completed")
        assert [event.type for event in rt.follow(accepted.job_id)] == seen
        assert rt.job(accepted.job_id)["status"] == "completed"
        assert accepted.job_id in [one["job_id"] for one in rt.jobs(job="echo").items]
        with pytest.raises(Refused) as conflict:
            rt.cancel(accepted.job_id)
        assert conflict.value.code == "conflict"
        slow = rt.submit("echo", {"text": "a b c d e f", "delay_ms": 500})
        with pytest.raises(TimeoutError):
            rt.wait(slow.job_id, timeout_s=0.3)
        rt.cancel(slow.job_id)
        with pytest.raises(JobCancelled):
            rt.wait(slow.job_id)
        told = rt.publish("room:service", {"n": 1}, idempotency_key="p1")
        assert rt.publish("room:service", {"n": 1}, idempotency_key="p1") == told
        assert [one["data"]["data"] for one in rt.history("room:service").items] == [{"n": 1}]
        cursor, event = next(iter(rt.events("room:service", cursor="0")))
        assert (cursor, event.type) == (f"{told['epoch']}:1", "message")


def test_a_service_follows_through_cuts(shared: Stack) -> None:
    text = words(60)
    with Proxy(shared.ports[0]) as proxy, HttpClient(f"http://127.0.0.1:{proxy.port}", token=shared.token()) as rt:
        accepted = rt.submit("echo", {"text": text, "delay_ms": 10})
        seqs: list[int] = []
        said = ""
        for event in rt.follow(accepted.job_id):
            assert isinstance(event, StreamEvent)
            seqs.append(event.seq)
            said += event.text
            if event.seq in (3, 6, 9):
                proxy.cut()
        assert seqs == list(range(1, len(seqs) + 1))
        assert said == text
