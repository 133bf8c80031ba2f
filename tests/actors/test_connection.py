"""One connection against a real store: the session's effects performed, commands answered, everything freed at the end."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import ormsgpack
import pytest
import uvloop
from structlog.testing import capture_logs

from rt import keys
from rt.actors import connection
from rt.actors import messages as m
from rt.actors import session as s
from rt.actors.actor import Ended
from rt.actors.caller import Connection
from rt.actors.connection import ConnectionActor, Parts
from rt.actors.router import Router
from rt.actors.session import Session
from rt.actors.supervisor import Supervisor
from rt.app import App
from rt.errors import Refused
from rt.events import Event, encode
from rt.jobs.access import Access
from rt.jobs.context import JobContext
from rt.jobs.inputs import Inbox
from rt.jobs.queue import Accepted, JobQueue, NewJob
from rt.jobs.worker import Worker
from rt.keys import parse_stream
from rt.redis import Store
from rt.settings import Settings, load_settings
from rt.streams.commands import Commands
from rt.streams.log import PAGE_BYTES, PAGE_EVENTS, Page, StreamLog
from rt.streams.presence import Presence
from rt.streams.sessions import Cursors
from rt.streams.tail import Live, Tail
from rt.tokens import DEFAULT_SCOPES, Claims, mint, verify
from tests.actors.memorysocket import MemorySocket
from tests.conftest import SECRET
from tests.helpers import TENANT, eventually

app = App()


@app.job
async def words(job: JobContext, text: str) -> dict[str, str]:
    for word in text.split():
        await job.emit(word)
    return {"text": text}


class Ask(Event, type="ask"):
    text: str


class Break(Event, type="break"):
    times: int = 1


class Hold(Event, type="hold"):
    pass


@app.on(Ask)
async def ask(conn: Connection, event: Ask) -> dict[str, str]:
    return {"job_id": await conn.enqueue(words, text=event.text), "subject": conn.subject}


@app.on(Break)
async def fail(conn: Connection, event: Break) -> dict[str, Any]:
    """Has its effects, and then fails as often as it is told to."""
    job_id = await conn.enqueue(words, text="hi")
    seq = (await conn.send({"job": job_id})).seq
    broken[conn.session] = broken.get(conn.session, 0) + 1
    if broken[conn.session] <= event.times:
        raise RuntimeError("the text of this error is nobody's business")
    return {"job_id": job_id, "seq": seq}


broken: dict[str, int] = {}
held: dict[str, asyncio.Event] = {}


@app.on(Hold)
async def hold(conn: Connection, event: Hold) -> str:
    """Goes on when the test says so, and enqueues then."""
    began, go_on = held[conn.subject + " began"], held[conn.subject]
    began.set()
    await go_on.wait()
    return await conn.enqueue(words, text="hi")


class Authenticate:
    async def token(self, text: str) -> Claims:
        return verify(SECRET, text)

    async def ticket(self, word: str) -> Claims:
        raise Refused("unauthorized", "there are no tickets here")


class Client(MemorySocket):
    """A WebSocket in memory: what the actor sends is recorded."""

    def __init__(self, web: "Web", *, msgpack: bool, token: str | None) -> None:
        super().__init__(self._taken)
        self.msgpack = msgpack
        self.frames: list[dict[str, Any]] = []
        self.closed: tuple[int, str] | None = None
        self.aborted = False
        self._news = asyncio.Event()
        self.actor = ConnectionActor("test", web.parts, self, msgpack=msgpack, token=token)
        self.life: asyncio.Task[Ended] = web.supervisor.start(self.actor)

    def _taken(self, message: bytes) -> None:
        value = ormsgpack.unpackb(message) if self.msgpack else json.loads(message)
        self.frames += value if isinstance(value, list) else [value]
        self._news.set()

    async def close(self, code: int, reason: str) -> None:
        self.closed = (code, reason)

    def abort(self, code: int, reason: str) -> None:
        self.closed, self.aborted = (code, reason), True

    async def say(self, *frames: Any) -> None:
        await self.actor.receive(m.Received(list(frames) if len(frames) > 1 else frames[0]))

    async def until(self, true: Callable[[], Any]) -> Any:
        async with asyncio.timeout(20):
            while not (value := true()):
                self._news.clear()
                await self._news.wait()
        return value

    def find(self, type: str, **like: Any) -> dict[str, Any] | None:
        return next((one for one in self.frames if one["type"] == type and all(one.get(key) == like[key] for key in like)), None)

    async def get(self, type: str, **like: Any) -> dict[str, Any]:
        """The first frame of this type that is like this, once it is there."""
        found: dict[str, Any] = await self.until(lambda: self.find(type, **like))
        return found

    async def answer(self, frame: dict[str, Any]) -> dict[str, Any]:
        """Says a command, and returns what it was answered; answers to earlier ones with its id do not count."""
        before = len(self.frames)
        await self.say(frame)
        return await self.until(
            lambda: next((one for one in self.frames[before:] if one.get("id") == frame["id"] and one["type"] != "ping"), None)
        )

    def events(self, stream: str) -> list[dict[str, Any]]:
        return [one for one in self.frames if "seq" in one and "ts" in one and one["stream"] == stream]

    async def ended(self) -> Ended:
        return await asyncio.wait_for(asyncio.shield(self.life), 20)

    async def leave(self) -> None:
        self.actor.stop()
        await self.ended()


class Web:
    """What the connections of one process share."""

    def __init__(self, parts: Parts, supervisor: Supervisor) -> None:
        self.parts = parts
        self.supervisor = supervisor

    def client(self, *, msgpack: bool = False, token: str | None = None, **settings: Any) -> Client:
        web = Web(replace(self.parts, settings=self.parts.settings.model_copy(update=settings)), self.supervisor)
        return Client(web, msgpack=msgpack, token=token)

    async def connected(self, sub: str = "ann", *, session: str | None = None, **options: Any) -> Client:
        connect = {key: options.pop(key) for key in ("cursors", "batch") if key in options}
        client = self.client(**options)
        if session:
            connect["session"] = session
        await client.say({"type": "connect", "token": mint(SECRET, sub, DEFAULT_SCOPES, 60)} | connect)
        await client.get("connected")
        return client


@pytest.fixture
async def web(store: Store, settings: Settings) -> AsyncIterator[Web]:
    async with opened(store, settings) as web:
        yield web


@asynccontextmanager
async def opened(store: Store, settings: Settings) -> AsyncIterator[Web]:
    streams = StreamLog(store, settings)
    queue = JobQueue(store, streams, settings)
    tail, cursors = Tail(store, streams), Cursors(store, settings)
    parts = Parts(
        settings=settings,
        router=Router(app),
        store=store,
        streams=streams,
        queue=queue,
        access=Access(store, queue),
        inbox=Inbox(store, queue),
        commands=Commands(store),
        tail=tail,
        cursors=cursors,
        presence=Presence(store, streams, settings),
        authenticate=Authenticate(),
    )
    chores = [asyncio.create_task(tail.run()), asyncio.create_task(cursors.run())]
    try:
        async with Supervisor() as supervisor:
            yield Web(parts, supervisor)
    finally:
        for chore in chores:
            chore.cancel()
        await asyncio.gather(*chores, return_exceptions=True)


@asynccontextmanager
async def working(store: Store, settings: Settings) -> AsyncIterator[None]:
    worker = Worker(app, settings, store)
    task = asyncio.create_task(worker.main())
    try:
        yield
    finally:
        worker.stop()
        await task


async def publish(streams: StreamLog, name: str, count: int, size: int = 10) -> None:
    for number in range(count):
        event = encode("message", name, {"from": "", "data": "x" * size, "n": number}, 0)
        await streams.publish(keys.DEFAULT_TENANT, parse_stream(name), event)


def own(client: Client) -> str:
    return keys.session_stream(client.actor.session.id)


# connect


async def test_a_job_goes_the_whole_way(web: Web, store: Store, settings: Settings) -> None:
    async with working(store, settings):
        client = await web.connected()
        connected = await client.get("connected")
        assert (connected["subject"], connected["resumed"]) == ("ann", False)
        assert set(connected["streams"]) == {own(client), "user:ann"}
        reply = await client.answer({"type": "job.submit", "id": "1", "job": "words", "input": {"text": "one two three"}})
        job, stream = reply["data"]["job_id"], reply["data"]["stream"]
        assert reply["data"] == {"job_id": job, "stream": f"job:{job}", "duplicate": False}
        created = await client.get("job.created")
        assert created["stream"] == own(client)
        assert created["data"] == {"job_id": job, "job": "words", "request_id": "1"}
        final = await client.get("job.completed", stream=stream)
        assert (final["final"], final["data"]["result"]) == (True, {"text": "one two three"})
        subscribed = await client.get("subscribed", stream=stream)
        assert client.frames.index(subscribed) < client.frames.index(client.events(stream)[0])
        events = client.events(stream)
        assert [one["seq"] for one in events] == list(range(1, len(events) + 1))
        assert "".join(one["data"]["text"] for one in events if one["type"] == "job.delta") == "onetwothree"
        await client.leave()


async def test_a_job_is_given_as_it_is_announced_and_its_log_is_not_read(
    web: Web, store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    page = StreamLog.read_open

    async def counted(self: StreamLog, tenant: str, stream: str, after: int) -> Page:
        read.append(stream)
        return await page(self, tenant, stream, after)

    monkeypatch.setattr(StreamLog, "read_open", counted)
    async with working(store, settings):
        client = await web.connected()
        # Not always: the session's own log is read first, and a call may overtake the subscription, which is another connection's.
        for id in range(1, 20):
            reply = await client.answer({"type": "job.submit", "id": str(id), "job": "words", "input": {"text": "one two three"}})
            await client.get("job.completed", stream=(job := reply["data"]["stream"]))
            if job not in read:
                break
        assert job not in read
        await client.leave()
    assert web.parts.tail.statistics() == {"streams": 0, "sinks": 0}


async def test_a_connection_that_ends_before_its_submission_is_answered_listens_to_nothing_more(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept = JobQueue.accept

    async def unanswered(self: JobQueue, new: NewJob, **named: Any) -> Accepted:
        await accept(self, new, **named)
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(JobQueue, "accept", unanswered)
    client = await web.connected()
    await client.say({"type": "job.submit", "id": "1", "job": "words", "input": {"text": "hi"}})
    await client.get("job.created")
    await eventually(lambda: any(stream.startswith("job:") for stream in client.actor.session.follows))
    await client.leave()
    await eventually(lambda: web.parts.tail.statistics() == {"streams": 0, "sinks": 0})
    await asyncio.sleep(0)
    assert web.parts.tail.statistics() == {"streams": 0, "sinks": 0}


@pytest.mark.parametrize("held", [connection.MAX_HELD, 1])
async def test_a_job_s_events_come_after_the_answer_that_names_it(
    web: Web, store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch, held: int
) -> None:
    """However late that is; what was announced meanwhile is given, or read where it was too much."""
    accept, go_on = JobQueue.accept, asyncio.Event()

    async def slowly(self: JobQueue, new: NewJob, **named: Any) -> Accepted:
        accepted = await accept(self, new, **named)
        await go_on.wait()
        return accepted

    monkeypatch.setattr(JobQueue, "accept", slowly)
    monkeypatch.setattr(connection, "MAX_HELD", held)
    async with working(store, settings):
        client = await web.connected()
        await client.say({"type": "job.submit", "id": "1", "job": "words", "input": {"text": "one two three"}})
        created = await client.get("job.created")
        job_id = created["data"]["job_id"]
        while (job := await web.parts.queue.get(TENANT, job_id)) is None or job.status != "completed":
            await asyncio.sleep(0.01)
        stream = keys.job_stream(job_id)
        assert [one for one in client.frames if one.get("stream") == stream] == []
        go_on.set()
        await client.get("job.completed", stream=stream)
        about = [one for one in client.frames if one["type"] == "reply" or one.get("stream") == stream]
        assert [one["type"] for one in about[:3]] == ["reply", "subscribed", "job.queued"]
        assert [one["seq"] for one in about[2:]] == list(range(1, len(about) - 1))
        await client.leave()
    assert web.parts.tail.statistics() == {"streams": 0, "sinks": 0}


async def test_a_job_that_ended_as_soon_as_it_was_heard_of_may_be_replayed(web: Web, store: Store, settings: Settings) -> None:
    """What was told of the subscription is not told again after the stream was left: the next one would take it for its own."""
    client = await web.connected()
    job = keys.job_stream("quick")
    for stream in (own(client), "user:ann"):
        await eventually(lambda stream=stream: client.actor.session.follows[stream].watched)
    web.parts.tail.expect(TENANT, job, client.actor)
    await eventually(lambda: web.parts.tail.expect(TENANT, job, client.actor).open)
    raws = [b'{"seq":%d,' % seq + encode(type, job, {}, 0)[1:] for seq, type in ((1, "job.queued"), (2, "job.completed"))]
    created = b'{"seq":1,' + encode("job.created", own(client), {"job_id": "quick", "job": "words"}, 0)[1:]
    epoch = client.actor.session.follows[own(client)].epoch
    client.actor.on_live(own(client), Live(epoch, 1, 1, [created]))
    client.actor.on_live(job, Live("j", 1, 2, raws))
    await client.get("job.completed", stream=job)
    await client.say({"type": "ping"})
    await client.get("pong")
    assert not client.actor.session.follows[job].watched


@pytest.mark.parametrize("why", ["refused", "a repeat", "followed no more", "cancelled"])
async def test_a_job_that_was_expected_in_vain_is_listened_to_no_more(web: Web, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    client = await web.connected()
    submit: dict[str, Any] = {"type": "job.submit", "id": "1", "job": "words", "input": {"text": "hi"}}
    expected = {"streams": 2, "sinks": 2}
    match why:
        case "refused":
            assert (await client.answer(submit | {"input": {"text": 1}}))["code"] == "invalid_input"
        case "a repeat":
            first = await client.answer(submit)
            assert await client.answer(submit) == first
            expected = {"streams": 3, "sinks": 3}  # the job itself is followed
        case "followed no more":
            monkeypatch.setattr(s, "MAX_FOLLOWED", 2)
            await client.answer(submit)
            assert (await client.get("error"))["code"] == "rate_limited"
        case "cancelled":
            asked = asyncio.Event()

            async def never(*args: Any, **named: Any) -> None:
                asked.set()
                await asyncio.Event().wait()

            monkeypatch.setattr(JobQueue, "accept", never)
            await client.say(submit)
            await asyncio.wait_for(asked.wait(), 10)
            assert web.parts.tail.statistics() == {"streams": 3, "sinks": 3}
            client.actor.stop()
            await client.ended()
            expected = {"streams": 0, "sinks": 0}
    await eventually(lambda: web.parts.tail.statistics() == expected)


@pytest.mark.parametrize("msgpack", [False, True])
async def test_the_token_may_come_with_the_handshake(web: Web, msgpack: bool) -> None:
    client = web.client(token=mint(SECRET, "ann", DEFAULT_SCOPES, 60), msgpack=msgpack)
    await client.say({"type": "connect"})
    assert (await client.get("connected"))["subject"] == "ann"


@pytest.mark.parametrize(
    ("connect", "word", "code"),
    [
        ({}, "unauthorized", 4500),
        ({"token": "nonsense"}, "unauthorized", 4500),
        ({"ticket": "nonsense"}, "unauthorized", 4500),
    ],
)
async def test_who_cannot_say_who_they_are_is_told_so_and_closed(web: Web, connect: dict[str, str], word: str, code: int) -> None:
    client = web.client()
    await client.say({"type": "connect"} | connect)
    assert (await client.ended()).how == "stopped"
    assert [one["code"] for one in client.frames] == [word]
    assert client.closed is not None
    assert client.closed[0] == client.actor.close_code == code


async def test_a_session_of_another_subject_is_forbidden(web: Web) -> None:
    ann = await web.connected("ann")
    bob = web.client()
    await bob.say({"type": "connect", "token": mint(SECRET, "bob", DEFAULT_SCOPES, 3600), "session": ann.actor.session.id})
    await bob.ended()
    assert bob.frames[0]["code"] == "forbidden"
    assert bob.closed is not None
    assert bob.closed[0] == 4501
    assert (await ann.answer({"type": "publish", "id": "1", "stream": "room:a", "data": 1}))["type"] == "reply"


@pytest.mark.parametrize("session", ["unknown", "a" * 43])
async def test_an_unknown_session_is_answered_with_a_new_one(web: Web, session: str) -> None:
    client = await web.connected(session=session)
    connected = await client.get("connected")
    assert connected["resumed"] is False
    assert connected["session"] != session


async def test_who_sends_no_connect_is_closed_with_4506(web: Web) -> None:
    client = web.client(connect_timeout_s=0.01)
    await client.ended()
    assert client.closed is not None
    assert client.closed[0] == 4506


# resuming


async def test_a_resumed_session_goes_on_where_it_was(web: Web, streams: StreamLog) -> None:
    first = await web.connected()
    await first.answer({"type": "subscribe", "id": "1", "stream": "room:a"})
    await publish(streams, "room:a", 3)
    await first.until(lambda: len(first.events("room:a")) == 3)
    await first.say({"type": "ack", "cursors": {"room:a": 2}})
    await first.leave()
    await publish(streams, "room:a", 2)
    second = await web.connected(session=first.actor.session.id)
    connected = await second.get("connected")
    assert connected["resumed"] is True
    assert connected["streams"]["room:a"]["recovered"] is True
    assert connected["streams"]["room:a"]["seq"] == 5
    await second.until(lambda: len(second.events("room:a")) == 3)
    assert [one["seq"] for one in second.events("room:a")] == [3, 4, 5]


async def test_a_newer_connection_closes_the_older_one_with_4003(web: Web) -> None:
    older = await web.connected()
    newer = await web.connected(session=older.actor.session.id)
    await older.ended()
    assert older.closed is not None
    assert older.closed[0] == 4003
    assert (await newer.answer({"type": "publish", "id": "1", "stream": "room:a", "data": 1}))["type"] == "reply"


async def test_commands_of_an_older_generation_are_refused_and_close_it_with_4003(web: Web, store: Store, streams: StreamLog) -> None:
    """The nudge of the newer connection is lost here: the command itself finds out."""
    client = await web.connected()
    await store.call("HINCRBY", keys.cursors("-", client.actor.session.id), "generation", 1)
    await client.say({"type": "publish", "id": "1", "stream": "room:a", "data": 1})
    await client.ended()
    assert client.closed is not None
    assert client.closed[0] == 4003
    assert (await streams.read("-", "room:a", 0)).events == []


# commands


async def test_commands_are_answered_in_the_order_in_which_they_came(web: Web) -> None:
    client = await web.connected()
    commands: list[dict[str, Any]] = []
    for number in range(0, 200, 4):
        commands += [
            {"type": "publish", "id": f"{number}", "stream": "room:a", "data": number},
            {"type": "subscribe", "id": f"{number + 1}", "stream": f"room:{number}"},
            {"type": "unsubscribe", "id": f"{number + 2}", "stream": f"room:{number}"},
            {"type": "job.cancel", "id": f"{number + 3}", "job_id": "none"},
        ]
    await client.say(*commands[:100])
    for one in commands[100:]:
        await client.say(one)
    ids = await client.until(lambda: len(found := [one["id"] for one in client.frames if "id" in one]) == len(commands) and found)
    assert ids == [one["id"] for one in commands]


async def test_a_job_that_was_left_does_not_come_back_even_when_the_process_dies_at_once(web: Web, store: Store) -> None:
    client = await web.connected()
    own = keys.session_stream(client.actor.session.id)
    job = (await client.answer({"type": "job.submit", "id": "s", "job": "words", "input": {"text": "hi"}}))["data"]["stream"]
    created = await client.get("job.created", stream=own)
    await client.answer({"type": "unsubscribe", "id": "u", "stream": job})
    stored = await store.call("HGET", keys.cursors("-", client.actor.session.id), f"d:{job}")
    assert stored.decode() == f"{own} {created['seq']}"
    resumed = await web.connected(session=client.actor.session.id, cursors={own: "0"})
    await resumed.get("job.created", stream=own)
    assert job not in resumed.actor.session.follows


async def test_a_command_that_is_sent_again_gets_the_same_answer_and_takes_effect_once(web: Web, streams: StreamLog) -> None:
    first = await web.connected()
    submit = {"type": "job.submit", "id": "s", "job": "words", "input": {"text": "hi"}}
    say = {"type": "publish", "id": "p", "stream": "room:a", "data": {"x": 1}}
    answers = [await first.answer(submit), await first.answer(say)]
    assert [await first.answer(submit), await first.answer(say)] == answers
    await first.leave()
    second = await web.connected(session=first.actor.session.id)
    assert [await second.answer(submit), await second.answer(say)] == answers
    assert len((await streams.read("-", "room:a", 0)).events) == 1
    assert (await web.parts.queue.depth())["waiting"] == 1


@pytest.mark.parametrize(
    ("command", "other"),
    [
        ({"type": "publish", "stream": "room:a", "data": 1}, {"data": 2}),
        ({"type": "job.submit", "job": "words", "input": {"text": "a"}}, {"input": {"text": "b"}}),
        ({"type": "ask", "data": {"text": "a"}}, {"data": {"text": "b"}}),
    ],
)
async def test_the_same_id_with_another_body_is_a_conflict(web: Web, command: dict[str, Any], other: dict[str, Any]) -> None:
    client = await web.connected()
    assert (await client.answer(command | {"id": "1"}))["type"] == "reply"
    error = await client.answer(command | other | {"id": "1"})
    assert (error["type"], error["code"], error["temporary"]) == ("error", "conflict", False)


@pytest.mark.parametrize(
    ("command", "word"),
    [
        ({"type": "job.submit", "job": "nonsense"}, "unknown_job"),
        ({"type": "job.submit", "job": "words", "input": {"text": 5}}, "invalid_input"),
        ({"type": "job.cancel", "job_id": "nonsense"}, "not_found"),
        ({"type": "publish", "stream": "job:x", "data": 1}, "forbidden"),
        ({"type": "publish", "stream": "user:bob", "data": 1}, "forbidden"),
        ({"type": "publish", "stream": "room:a", "data": 1, "event": "job.delta"}, "invalid_frame"),
        ({"type": "publish", "stream": "nonsense", "data": 1}, "invalid_frame"),
        ({"type": "publish", "stream": "room:a", "data": "x" * 300_000}, "too_large"),
        ({"type": "subscribe", "stream": "user:bob"}, "forbidden"),
        ({"type": "subscribe", "stream": "job:x"}, "not_found"),
        ({"type": "subscribe", "stream": "room:a", "cursor": "x"}, "invalid_frame"),
        ({"type": "unsubscribe", "stream": "user:ann"}, "forbidden"),
        ({"type": "refresh", "token": "nonsense"}, "unauthorized"),
        ({"type": "refresh", "token": mint(SECRET, "bob", DEFAULT_SCOPES, 3600)}, "forbidden"),
    ],
)
async def test_a_refused_command_says_why_and_the_connection_stays(web: Web, command: dict[str, Any], word: str) -> None:
    client = await web.connected()
    error = await client.answer(command | {"id": "1"})
    assert (error["type"], error["code"]) == ("error", word)
    assert (await client.answer({"type": "publish", "id": "2", "stream": "room:a", "data": 1}))["type"] == "reply"


async def test_scopes_are_asked_for_each_command_and_a_refreshed_token_brings_new_ones(web: Web) -> None:
    client = web.client()
    await client.say({"type": "connect", "token": mint(SECRET, "ann", ["streams:read"], 60)})
    say = {"type": "publish", "id": "1", "stream": "room:a", "data": 1}
    assert (await client.answer(say))["code"] == "forbidden"
    reply = await client.answer({"type": "refresh", "id": "2", "token": mint(SECRET, "ann", DEFAULT_SCOPES, 60)})
    assert reply["data"]["expires_at"] > 0
    assert (await client.answer(say | {"id": "3"}))["type"] == "reply"


async def test_a_room_that_was_joined_is_remembered_though_the_process_dies_at_once(web: Web, streams: StreamLog) -> None:
    client = await web.connected()
    await client.answer({"type": "subscribe", "id": "1", "stream": "room:a", "cursor": "0"})
    web.parts.cursors._entries.clear()  # nothing more of it is stored
    again = await web.connected(session=client.actor.session.id)
    assert "room:a" in (await again.get("connected"))["streams"]


async def test_rooms_that_are_left_at_once_leave_nothing_behind(web: Web) -> None:
    client = await web.connected()
    await eventually(lambda: not client.actor._tasks)
    commands = [
        {"type": type, "id": f"{number} {type}", "stream": f"room:{number}"}
        for number in range(20)
        for type in ("subscribe", "unsubscribe")
    ]
    await client.say(*commands)
    await client.get("reply", id="19 unsubscribe")
    await eventually(lambda: not client.actor._tasks)
    assert web.parts.tail.statistics()["streams"] == 2


# an application's events


async def test_a_handler_answers_an_event_that_has_an_id(web: Web) -> None:
    client = await web.connected()
    reply = await client.answer({"type": "ask", "id": "1", "data": {"text": "hi"}})
    assert reply["data"]["subject"] == "ann"
    created = await client.get("job.created")
    assert created["data"] == {"job_id": reply["data"]["job_id"], "job": "words", "request_id": "1"}
    assert await client.get("subscribed", stream=f"job:{reply['data']['job_id']}")


async def test_a_handler_answers_nothing_to_an_event_without_an_id(web: Web) -> None:
    client = await web.connected()
    await client.say({"type": "ask", "data": {"text": "hi"}})
    await client.get("job.created")
    assert client.find("reply") is None


async def test_a_handlers_failure_is_an_internal_error_that_quotes_nothing_and_the_connection_stays(web: Web) -> None:
    client = await web.connected()
    with capture_logs() as logs:
        error = await client.answer({"type": "break", "id": "1"})
        assert (error["code"], error["temporary"]) == ("internal", True)
        assert "nobody" not in str(error)
        await client.say({"type": "break", "data": {"times": 2}})
        await client.until(lambda: next((one for one in client.frames if one["type"] == "error" and "id" not in one), None))
    assert [one["type"] for one in logs] == ["break", "break"]
    assert (await client.answer({"type": "ask", "id": "2", "data": {"text": "hi"}}))["type"] == "reply"


async def test_what_a_handler_did_before_it_failed_takes_effect_once_when_the_event_is_sent_again(web: Web, streams: StreamLog) -> None:
    client = await web.connected()
    event = {"type": "break", "id": "1", "data": {"times": 2}}
    with capture_logs():
        assert [(await client.answer(event))["type"] for _ in range(2)] == ["error", "error"]
    reply = await client.answer(event)
    assert await client.answer(event) == reply
    assert broken[client.actor.session.id] == 3
    await client.get("message")
    kinds = [json.loads(raw)["type"] for raw in (await streams.read("-", own(client), 0)).events]
    assert sorted(kinds) == ["job.created", "message"]
    assert (await web.parts.queue.depth())["waiting"] == 1
    assert (await client.get("job.created"))["data"]["job_id"] == reply["data"]["job_id"]


async def test_a_handler_that_was_overtaken_may_be_called_again_by_the_newer_connection(web: Web, store: Store) -> None:
    held["ann"], held["ann began"] = asyncio.Event(), asyncio.Event()
    older = await web.connected()
    await older.say({"type": "hold", "id": "1"})
    await asyncio.wait_for(held["ann began"].wait(), 10)
    await store.call("HINCRBY", keys.cursors("-", older.actor.session.id), "generation", 1)
    held["ann"].set()
    await older.ended()
    assert older.closed is not None
    assert older.closed[0] == 4003
    newer = await web.connected(session=older.actor.session.id)
    assert (await newer.answer({"type": "hold", "id": "1"}))["type"] == "reply"


async def test_a_slow_handler_does_not_hold_up_commands(web: Web) -> None:
    held["ann"], held["ann began"] = asyncio.Event(), asyncio.Event()
    client = await web.connected()
    await client.say({"type": "hold", "id": "slow"})
    assert (await client.answer({"type": "publish", "id": "1", "stream": "room:a", "data": 1}))["type"] == "reply"
    assert client.find("reply", id="slow") is None
    held["ann"].set()
    assert await client.get("reply", id="slow")


# a slow client


async def test_a_client_that_does_not_read_can_still_speak(web: Web, streams: StreamLog) -> None:
    client = await web.connected()
    client.hold()
    for number in range(30):
        await client.say({"type": "publish", "id": str(number), "stream": "room:a", "data": number})
    await eventually(lambda: _top(streams, "room:a", 30))
    assert client.find("reply") is None
    client.release()
    assert (await client.get("reply", id="29"))["data"] == {"stream": "room:a", "seq": 30}


async def _top(streams: StreamLog, name: str, top: int) -> bool:
    return (await streams.heads("-", [name]))[name].top == top


async def test_memory_is_bounded_while_a_client_does_not_read_and_it_gets_everything_afterwards(web: Web, streams: StreamLog) -> None:
    limit = 4096
    client = await web.connected(outbox_bytes=limit)
    await client.answer({"type": "subscribe", "id": "1", "stream": "room:a"})
    client.hold()
    await publish(streams, "room:a", 100, 1000)
    await eventually(lambda: client.actor.session.follows["room:a"].top == 100)
    # Live events while there is room, or the pages that were asked for while there was.
    assert client.actor.outbox.waiting <= limit + s.MAX_READS * PAGE_BYTES
    assert client.actor.outbox.waiting < 80_000
    await publish(streams, "room:a", 100, 1000)
    await eventually(lambda: client.actor.session.follows["room:a"].top == 200)
    assert client.actor.outbox.waiting < 80_000
    assert client.actor.mailbox.depth <= web.parts.settings.mailbox + 1
    client.release()
    await client.until(lambda: len(client.events("room:a")) == 200)
    assert [one["seq"] for one in client.events("room:a")] == list(range(1, 201))


async def test_a_replay_goes_on_when_its_pages_are_smaller_in_messagepack(web: Web, streams: StreamLog) -> None:
    """The session counted a page as it is stored, and waited for room; the outbox had never been full, and told of none."""
    await publish(streams, "room:a", 2 * PAGE_EVENTS, 0)
    page = (await streams.read("-", "room:a", 0)).events
    client = await web.connected(msgpack=True, outbox_bytes=sum(map(len, page)) - 1)
    await client.say({"type": "subscribe", "id": "1", "stream": "room:a", "cursor": "0"})
    async with asyncio.timeout(8):  # the next ping, or a check of the tops, would mend it later
        await client.until(lambda: len(client.events("room:a")) == 2 * PAGE_EVENTS)


async def test_a_client_that_takes_nothing_is_closed_with_4002_and_does_not_slow_its_neighbours(web: Web, streams: StreamLog) -> None:
    slow = await web.connected("ann", send_timeout_s=0.3)
    quick = await web.connected("bob")
    for one in (slow, quick):
        await one.answer({"type": "subscribe", "id": "1", "stream": "room:a"})
    slow.hold()
    await publish(streams, "room:a", 5)
    await quick.until(lambda: len(quick.events("room:a")) == 5)
    await slow.ended()
    assert slow.aborted
    assert slow.closed is not None
    assert slow.closed[0] == slow.actor.close_code == 4002
    assert slow.events("room:a") == []


async def test_a_slow_consumer_resumes_and_misses_nothing(web: Web, streams: StreamLog) -> None:
    slow = await web.connected(send_timeout_s=0.1, outbox_bytes=4096)
    await slow.answer({"type": "subscribe", "id": "1", "stream": "room:a", "cursor": "0"})
    slow.hold()
    await publish(streams, "room:a", 50, 1000)
    await slow.ended()
    again = await web.connected(session=slow.actor.session.id)
    await again.until(lambda: len(again.events("room:a")) == 50)
    assert [one["seq"] for one in again.events("room:a")] == list(range(1, 51))


# the end


def _our_tasks() -> set[str]:
    """What runs on behalf of connections: the store's own helpers come and go."""
    names = (getattr(one.get_coro(), "__qualname__", "") for one in asyncio.all_tasks())
    return {name for name in names if name.partition(".")[0] in ("ConnectionActor", "Outbox", "Commands", "Supervisor")}


async def test_stopping_frees_the_subscriptions_and_leaves_no_task(web: Web, streams: StreamLog) -> None:
    before = _our_tasks()
    client = await web.connected()
    await client.answer({"type": "subscribe", "id": "1", "stream": "room:a", "cursor": "0"})
    await client.answer({"type": "ask", "id": "2", "data": {"text": "hi"}})
    held["ann"], held["ann began"] = asyncio.Event(), asyncio.Event()
    await client.say({"type": "hold", "id": "3"})
    await asyncio.wait_for(held["ann began"].wait(), 10)
    client.hold()
    await publish(streams, "room:a", 3)
    await eventually(lambda: _our_tasks() > before)
    client.actor.stop()
    assert (await client.ended()).how == "stopped"
    assert web.parts.tail.statistics() == {"streams": 0, "sinks": 0}
    await eventually(lambda: _our_tasks() == before)


async def test_what_was_acknowledged_is_stored_when_the_connection_ends(web: Web, store: Store, streams: StreamLog) -> None:
    client = await web.connected()
    await publish(streams, "user:ann", 2)
    await client.until(lambda: len(client.events("user:ann")) == 2)
    await client.say({"type": "ack", "cursors": {"user:ann": 2}})
    await client.leave()
    stored = await store.call("HGET", keys.cursors("-", client.actor.session.id), "c:user:ann")
    assert stored.decode().endswith(":2")
    furthest = await store.call("GET", keys.furthest("-", "ann"))
    assert furthest == stored


async def test_a_socket_that_is_gone_ends_the_actor(web: Web) -> None:
    client = await web.connected()
    client.gone = True
    await client.say({"type": "ping"})
    assert (await client.ended()).how == "stopped"
    assert client.closed is None


async def test_a_read_that_fails_as_no_read_should_closes_with_4006_and_leaves_no_silent_hole(
    web: Web, streams: StreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await web.connected()
    await client.answer({"type": "subscribe", "id": "1", "stream": "room:a"})
    await eventually(lambda: not client.actor._tasks)

    async def broken_read(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no page")

    monkeypatch.setattr(StreamLog, "read", broken_read)
    await publish(streams, "room:a", 1, 40_000)  # too large to be carried along: it has to be read
    with capture_logs() as logs:
        assert (await client.ended()).how == "failed"
    assert [one["event"] for one in logs] == ["an actor failed"]
    assert client.closed is not None
    assert client.closed[0] == 4006


async def test_draining_says_reconnect_and_closes_with_4000(web: Web) -> None:
    client = await web.connected()
    client.actor.tell(m.Draining(250, 0.01))
    assert (await client.get("reconnect"))["delay_ms"] == 250
    await client.ended()
    assert client.closed is not None
    assert client.closed[0] == 4000


def test_a_session_that_wants_to_know_the_time_at_once_is_told_it_on_uvloop() -> None:
    """uvloop's handle of what is due at once has no `when()`: after a second's freeze every connection failed with 4006."""

    async def run() -> None:
        settings = load_settings(REDIS_URL=f"memory://{uuid.uuid4().hex}", secret=SECRET)
        async with opened(Store(settings.redis_url), settings) as web:
            client = await web.connected()
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Session, "next_tick", lambda _: asyncio.get_running_loop().time())
                for _ in range(3):
                    await client.say({"type": "ping"}, {"type": "ping"})
                await client.until(lambda: [one["type"] for one in client.frames].count("pong") == 6 or client.closed)
                assert client.closed is None
            await client.leave()
            await web.parts.store.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
