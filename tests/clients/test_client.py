"""What is Python's own in the client: what it imports, whose objects hold a stream, what cancelling does, where a session is kept."""

import asyncio
import gc
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from rt.client import (
    Changed,
    Client,
    ClientError,
    Closed,
    Config,
    FileStore,
    Job,
    MemoryStore,
    Saved,
    Stopped,
    StreamEvent,
    Unreachable,
    connect,
)
from rt.client.backoff import Backoff
from rt.errors import Refused
from tests.clients.scripted import Play, Scripted

SERVER_LIBRARIES = (
    "fastapi",
    "starlette",
    "uvicorn",
    "arq",
    "redis",
    "structlog",
    "typer",
    "rich",
    "jwt",
    "prometheus_client",
    "fakeredis",
)
QUICK = Config(backoff_s=0.02, backoff_cap_s=0.05, ack_every_s=0.05)

CONNECT: list[dict[str, Any]] = [{"connect": {}}, {"connected": {}}]
ROOM: list[dict[str, Any]] = [
    *CONNECT,
    {"expect": {"type": "subscribe", "id": "$s", "stream": "room:a"}},
    {"subscribed": {"id": "$s", "stream": "room:a", "epoch": "e", "seq": 0}},
]
SUBMIT: list[dict[str, Any]] = [
    *CONNECT,
    {"expect": {"type": "job.submit", "id": "$j", "job": "echo", "input": {}}},
    {"send": {"type": "reply", "id": "$j", "data": {"job_id": "1", "stream": "job:1", "duplicate": False}}},
    {"subscribed": {"stream": "job:1", "epoch": "e", "seq": 0}},
]


@asynccontextmanager
async def playing(*connections: list[dict[str, Any]]) -> AsyncIterator[tuple[str, Play]]:
    """A server of one script; at the end it must have seen all of it."""
    async with Scripted.running({"s": {"server": list(connections)}}) as scripted:
        play = scripted.begin("s")
        yield scripted.url("s"), play
        async with asyncio.timeout(8):
            while play.busy:
                await asyncio.sleep(0.005)
        assert play.problems == []
        assert play.done


def dial(url: str, **over: Any) -> Client:
    return connect(url, **{"token": "t", "config": QUICK} | over)


def test_it_needs_no_server_library() -> None:
    """As on a machine that has only the package's own dependencies."""
    program = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {SERVER_LIBRARIES}:
            raise ImportError(name)
sys.meta_path.insert(0, Absent())
import rt, rt.client, rt.client.http
print(rt.Refused.__name__, rt.client.connect.__name__, [name for name in {SERVER_LIBRARIES} if name in sys.modules])
"""
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert out == "Refused connect []\n"


async def test_a_reader_that_nobody_holds_any_more_leaves_its_stream() -> None:
    leaving = [{"expect": {"type": "unsubscribe", "id": "$u", "stream": "job:1"}}, {"send": {"type": "reply", "id": "$u", "data": {}}}]
    events = {"events": [["job:1", 1, "job.delta", {"text": "a"}], ["job:1", 2, "job.delta", {"text": "b"}]]}
    async with playing([*SUBMIT, events, *leaving]) as (url, play), dial(url) as rt:
        async for event in rt.submit("echo"):
            assert event.type == "job.delta"
            break
        del event
        gc.collect()
        async with asyncio.timeout(5):
            while not play.played:
                await asyncio.sleep(0.005)


async def test_a_wait_that_is_cancelled_takes_nothing() -> None:
    gate = [{"expect": {"type": "ask", "id": "$a", "data": {}}}, {"events": [["room:a", 1, "message", 1], ["room:a", 2, "message", 2]]}]
    async with playing([*ROOM, *gate, {"send": {"type": "reply", "id": "$a", "data": 1}}]) as (url, _), dial(url) as rt:
        room = await rt.subscribe("room:a").ready()
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(room), 0.02)
        waiting = asyncio.create_task(anext(room))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="somebody else"):
            await anext(room)
        await rt.call("ask", {})
        got = [await waiting, await anext(room)]
        assert [isinstance(one, StreamEvent) and one.seq for one in got] == [1, 2]


async def test_a_stream_has_one_reader() -> None:
    async with playing(ROOM) as (url, _), dial(url) as rt:
        room = await rt.subscribe("room:a").ready()
        with pytest.raises(ValueError, match="room:a is being read"):
            rt.subscribe("room:a")
        with pytest.raises(Refused, match="cursor"):
            rt.subscribe("room:b", cursor="nonsense")
        assert room.stream == "room:a"


async def test_what_was_given_out_last_is_processed_when_the_client_is_left_and_not_when_it_fails() -> None:
    events = {"events": [["room:a", 1, "message", 1], ["room:a", 2, "message", 2]]}
    async with playing([*ROOM, events, {"gone": 1000}, {"acked": {"room:a": "e:2"}}]) as (url, _), dial(url) as rt:
        room = await rt.subscribe("room:a").ready()
        await anext(room)
        await anext(room)

    async def fail(url: str) -> None:
        async with dial(url) as rt:
            room = await rt.subscribe("room:a").ready()
            await anext(room)
            await anext(room)
            raise ZeroDivisionError

    async with playing([*ROOM, events, {"gone": 1000}, {"acked": {"room:a": "e:1"}}]) as (url, _):
        with pytest.raises(ZeroDivisionError):
            await fail(url)


async def test_after_the_end_everything_says_so() -> None:
    async with playing(ROOM) as (url, _):
        async with dial(url) as rt:
            room = await rt.subscribe("room:a").ready()
            waiting = asyncio.create_task(anext(room))
            await asyncio.sleep(0)
        with pytest.raises(Closed):
            await waiting
        with pytest.raises(Closed):
            rt.submit("echo")
        with pytest.raises(Closed):
            await rt.publish("room:a", 1)
        await rt.close()


async def test_a_client_that_is_cancelled_ends_at_once_and_leaves_nothing_behind() -> None:
    before = asyncio.all_tasks()

    async def use(url: str) -> None:
        async with dial(url) as rt:
            await anext(rt.subscribe("room:a"))

    async with playing([*ROOM, {"gone": 1000}]) as (url, play):
        task = asyncio.create_task(use(url))
        async with asyncio.timeout(5):
            while not play.captured.get("$s"):
                await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert asyncio.all_tasks() == before


async def test_a_server_that_is_not_there_is_said_with_what_was_met() -> None:
    states: list[Changed] = []
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1/v1/ws: .*Connect"):
        async with dial("http://127.0.0.1:1", open_timeout_s=0.2, on_state=states.append):
            pass
    assert [one.state for one in states[:3]] == ["connecting", "waiting", "connecting"]


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://host", "http://", "http://host/?token=x"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="URL"):
        connect(url)


async def test_a_token_that_cannot_be_had_is_asked_for_again() -> None:
    asked, states = [], []

    async def token() -> str:
        asked.append(1)
        if len(asked) == 1:
            raise LookupError("the vault is shut")
        return "t"

    async with playing(CONNECT) as (url, _), dial(url, token=token, on_state=states.append):
        pass
    assert len(asked) == 2
    assert states[1].problem == "no token: LookupError: the vault is shut"


async def test_jobs_are_told_apart_by_who_reads_them_whatever_order_they_end_in() -> None:
    server: list[dict[str, Any]] = [*CONNECT]
    for n in (1, 2):
        server += [
            {"expect": {"type": "job.submit", "id": f"${n}", "job": "echo", "input": {"n": n}}},
            {"send": {"type": "reply", "id": f"${n}", "data": {"job_id": str(n), "stream": f"job:{n}", "duplicate": False}}},
            {"subscribed": {"stream": f"job:{n}", "epoch": "e", "seq": 0}},
        ]
    server += [{"events": [[f"job:{n}", 1, "job.completed", {"result": n}]]} for n in (2, 1)]
    async with playing(server) as (url, _), dial(url) as rt:
        jobs: list[Job] = [rt.submit("echo", {"n": n}) for n in (1, 2)]
        assert [await job.result() for job in jobs] == [1, 2]


# Where a session is kept


def test_a_file_keeps_a_session_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "session"
    assert FileStore(path).load() == Saved()
    saved = Saved("s1", {"room:a": "e:7"})
    FileStore(path).save(saved)
    assert FileStore(path).load() == saved
    assert path.stat().st_mode & 0o777 == 0o600
    FileStore(str(path)).save(Saved("s2"))
    assert FileStore(path).load() == Saved("s2")
    assert [one.name for one in tmp_path.iterdir()] == ["session"]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"session": 1, "cursors": {}}', '{"session": "s", "cursors": {"room:a": "x"}}'])
def test_a_file_that_holds_something_else_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "session"
    path.write_text(text)
    with pytest.raises(ValueError, match="holds no session"):
        FileStore(path).load()
    assert path.read_text() == text


def test_a_file_that_cannot_be_written_is_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "session"
    FileStore(path).save(Saved("s1"))

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        FileStore(path).save(Saved("s2"))
    assert FileStore(path).load() == Saved("s1")
    assert [one.name for one in tmp_path.iterdir()] == ["session"]


async def test_a_store_that_fails_ends_the_client_with_its_error() -> None:
    class Full(MemoryStore):
        def save(self, saved: Saved) -> None:
            raise OSError(28, "No space left on device")

    async def use(url: str) -> None:
        async with dial(url, store=Full()) as rt:
            room = await rt.subscribe("room:a").ready()
            await anext(room)
            await anext(room)
            with pytest.raises(ClientError, match="the client has failed: OSError"):
                await anext(room)

    async with playing([*ROOM, {"events": [["room:a", 1, "message", 1], ["room:a", 2, "message", 2]]}]) as (url, _):
        with pytest.raises(OSError, match="No space"):
            await use(url)


async def test_a_job_that_is_over_is_kept_no_more_once_the_server_knows() -> None:
    store = MemoryStore()
    done = [{"events": [["job:1", 1, "job.completed", {"result": 1}]]}, {"acked": {"job:1": "e:1"}}]
    async with playing([*SUBMIT, *done]) as (url, play), dial(url, store=store) as rt:
        assert await rt.submit("echo").result() == 1
        async with asyncio.timeout(5):
            while not play.played:
                await asyncio.sleep(0.005)
    assert store.load() == Saved("s1", {"session:s1": "s:0"})


async def test_what_was_processed_is_kept_also_when_the_server_ends_it() -> None:
    store = MemoryStore()
    gone = [{"expect": {"type": "ask", "id": "$a", "data": {}}}, {"close": 4504}]
    events = {"events": [["room:a", 1, "message", 1], ["room:a", 2, "message", 2]]}
    async with playing([*ROOM, events, *gone]) as (url, _), dial(url, store=store, config=Config()) as rt:
        room = await rt.subscribe("room:a").ready()
        await anext(room)
        await anext(room)
        with pytest.raises(Stopped):
            await rt.call("ask", {})
    assert store.load().cursors["room:a"] == "e:1"


async def test_a_store_is_called_on_another_thread_and_last_with_everything() -> None:
    threads = set()

    class Seen(MemoryStore):
        def save(self, saved: Saved) -> None:
            threads.add(threading.current_thread())
            super().save(saved)

    store = Seen()
    async with playing([*ROOM, {"events": [["room:a", 1, "message", 1]]}]) as (url, _), dial(url, store=store, config=Config()) as rt:
        await anext(await rt.subscribe("room:a").ready())
    assert store.load() == Saved("s1", {"session:s1": "s:0", "room:a": "e:1"})
    assert threading.main_thread() not in threads


# How long is waited


def test_the_bound_of_the_wait_doubles_up_to_its_cap_and_all_of_it_may_be_drawn() -> None:
    bounds: list[tuple[float, float]] = []
    backoff = Backoff(1, 5, lambda low, high: bounds.append((low, high)) or high)  # type: ignore[func-returns-value]
    assert [backoff.next_s() for _ in range(5)] == [1, 2, 4, 5, 5]
    assert {low for low, _ in bounds} == {0}
    backoff.failures = 10_000
    assert backoff.next_s() == 5
    backoff.reset()
    assert backoff.next_s() == 1
    drawn = [Backoff(1, 5).next_s() for _ in range(200)]
    assert min(drawn) < 0.2 < 0.8 < max(drawn) <= 1
