"""The shared connection, against a real server that is frozen, killed and restarted, and against one that is no Redis."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio.connection import Connection, UnixDomainSocketConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from rt.localredis import PrivateRedis
from rt.pipeline import MAX_UNANSWERED, MAX_UNREAD, Pipeline, ReplyError, Subscriber
from tests.chaos.proxy import HALF_OPEN, Proxy
from tests.helpers import eventually

TIMEOUT_S = 0.5


class Library:
    """Counts the connections that are asked for."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.asked = 0

    async def connect(self) -> Any:
        self.asked += 1
        await asyncio.sleep(0)  # a network takes its time
        connection = UnixDomainSocketConnection(path=self.path, socket_timeout=TIMEOUT_S)
        await connection.connect()  # type: ignore[no-untyped-call]
        return connection


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PrivateRedis]:
    with PrivateRedis(tmp_path, aof=False) as one:
        yield one


@pytest.fixture
def library(server: PrivateRedis) -> Library:
    return Library(Path(server.url.removeprefix("unix://")))


@pytest.fixture
async def pipeline(library: Library) -> AsyncIterator[Pipeline]:
    one = Pipeline(library.connect, timeout_s=TIMEOUT_S, doubt_s=TIMEOUT_S)
    yield one
    one.close()


async def test_answers_come_to_the_calls_that_asked(pipeline: Pipeline, library: Library) -> None:
    async with asyncio.TaskGroup() as group:
        calls = [group.create_task(pipeline.call("ECHO", str(i))) for i in range(3 * MAX_UNANSWERED)]
    assert [one.result() for one in calls] == [str(i).encode() for i in range(3 * MAX_UNANSWERED)]
    assert library.asked == 1


async def test_replies_are_redis_s_own(pipeline: Pipeline) -> None:
    assert await pipeline.call("HSET", "h", "a", 1, b"b", 2.5) == 2
    assert await pipeline.call("HGETALL", "h") == [b"a", b"1", b"b", b"2.5"]
    assert await pipeline.call("GET", "nothing") is None
    assert await pipeline.call("SET", "k", b"\r\n\0") == b"OK"
    assert await pipeline.call("GET", "k") == b"\r\n\0"


async def test_a_refusal_is_the_one_call_s_alone(pipeline: Pipeline) -> None:
    said = await asyncio.gather(pipeline.call("PING"), pipeline.call("NOSUCH"), pipeline.call("ECHO", "x"), return_exceptions=True)
    assert (said[0], said[2]) == (b"PONG", b"x")
    assert isinstance(said[1], ReplyError)
    assert str(said[1]).startswith("ERR unknown command")


async def test_what_cannot_be_sent_disturbs_nobody(pipeline: Pipeline) -> None:
    with pytest.raises(TypeError):
        await pipeline.call("SET", "k", None)
    assert await pipeline.call("ECHO", "x") == b"x"


async def test_an_answer_whose_caller_is_gone_is_given_to_nobody_else(pipeline: Pipeline, server: PrivateRedis) -> None:
    await pipeline.call("PING")
    os.kill(server.pid, signal.SIGSTOP)
    gone = asyncio.create_task(pipeline.call("ECHO", "gone"))
    stays = asyncio.create_task(pipeline.call("ECHO", "stays"))
    await asyncio.sleep(0)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    os.kill(server.pid, signal.SIGCONT)
    assert await stays == b"stays"


async def test_a_silent_server_fails_what_waits_and_the_next_call_connects_anew(
    pipeline: Pipeline, library: Library, server: PrivateRedis
) -> None:
    await pipeline.call("PING")
    os.kill(server.pid, signal.SIGSTOP)
    try:
        async with asyncio.timeout(4 * TIMEOUT_S):
            said = await asyncio.gather(*(pipeline.call("PING") for _ in range(3)), return_exceptions=True)
    finally:
        os.kill(server.pid, signal.SIGCONT)
    assert [type(one) for one in said] == [RedisConnectionError] * 3
    assert await pipeline.call("PING") == b"PONG"
    assert library.asked == 2


@pytest.fixture
async def beyond(server: PrivateRedis) -> AsyncIterator[tuple[Pipeline, Proxy]]:
    """A pipeline that reaches the server through a proxy, and doubts its connection long before it gives it up."""
    async with Proxy(server.url.removeprefix("unix://")) as proxy:

        async def connect() -> Any:
            connection = Connection(port=proxy.port)
            await connection.connect()  # type: ignore[no-untyped-call]
            return connection

        one = Pipeline(connect, timeout_s=30, doubt_s=0.1)
        yield one, proxy
        one.close()


async def test_a_connection_that_only_seems_open_is_given_up_when_a_new_one_gets_answers(beyond: tuple[Pipeline, Proxy]) -> None:
    pipeline, proxy = beyond
    await pipeline.call("PING")
    proxy.set(HALF_OPEN, which=lambda link: True)  # but not those to come
    async with asyncio.timeout(5):
        said = await asyncio.gather(*(pipeline.call("PING") for _ in range(3)), return_exceptions=True)
        assert [type(one) for one in said] == [RedisConnectionError] * 3
        assert await pipeline.call("PING") == b"PONG"
    assert proxy.statistics().accepted == 2, "the one that was tried is the one that is used"


async def test_a_server_that_is_silent_itself_keeps_its_connection(beyond: tuple[Pipeline, Proxy], server: PrivateRedis) -> None:
    pipeline, proxy = beyond
    id = await pipeline.call("CLIENT", "ID")
    os.kill(server.pid, signal.SIGSTOP)
    waiting = asyncio.create_task(pipeline.call("ECHO", "late"))
    await eventually(lambda: proxy.statistics().accepted == 2)
    await asyncio.sleep(0.2)
    os.kill(server.pid, signal.SIGCONT)
    assert await waiting == b"late"
    await eventually(lambda: proxy.statistics().open == 1)
    assert await pipeline.call("CLIENT", "ID") == id


async def test_a_killed_server_fails_what_waits_at_once(pipeline: Pipeline, server: PrivateRedis) -> None:
    await pipeline.call("PING")
    os.kill(server.pid, signal.SIGSTOP)
    waiting = asyncio.create_task(pipeline.call("PING"))
    await asyncio.sleep(0)
    server.kill()
    async with asyncio.timeout(TIMEOUT_S / 2):
        with pytest.raises(RedisConnectionError):
            await waiting
    with pytest.raises((RedisError, OSError)):
        await pipeline.call("PING")
    server.start()
    assert await pipeline.call("PING") == b"PONG"


async def test_many_calls_to_a_server_that_is_away_make_one_attempt(tmp_path: Path) -> None:
    library = Library(tmp_path / "nobody")
    pipeline = Pipeline(library.connect, timeout_s=TIMEOUT_S, doubt_s=TIMEOUT_S)
    said = await asyncio.gather(*(pipeline.call("PING") for _ in range(50)), return_exceptions=True)
    assert all(isinstance(one, RedisConnectionError) for one in said)
    assert library.asked == 1
    with pytest.raises(RedisConnectionError):
        await pipeline.call("PING")
    assert library.asked == 2, "a later call tries again"


async def test_a_caller_that_is_cancelled_while_connecting_leaves_the_others_a_connection(library: Library) -> None:
    pipeline = Pipeline(library.connect, timeout_s=TIMEOUT_S, doubt_s=TIMEOUT_S)
    first, second = asyncio.create_task(pipeline.call("ECHO", "1")), asyncio.create_task(pipeline.call("ECHO", "2"))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == b"2"
    pipeline.close()


async def test_something_that_is_no_redis_is_an_error(tmp_path: Path) -> None:
    left = asyncio.Event()

    async def gibberish(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while await reader.read(1000):
                writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()
        left.set()

    async def bare() -> Any:
        connection = UnixDomainSocketConnection(path=str(tmp_path / "web"), redis_connect_func=lambda _: None)
        await connection.connect()  # type: ignore[no-untyped-call]
        return connection

    async with await asyncio.start_unix_server(gibberish, tmp_path / "web"):
        pipeline = Pipeline(bare, timeout_s=5, doubt_s=5)
        async with asyncio.timeout(1):
            with pytest.raises(RedisConnectionError):
                await pipeline.call("PING")
            await left.wait()


async def test_closing_fails_what_waits_and_leaves_no_connection(library: Library, pipeline: Pipeline, server: PrivateRedis) -> None:
    other = Pipeline(library.connect, timeout_s=TIMEOUT_S, doubt_s=TIMEOUT_S)
    await other.call("PING")
    os.kill(server.pid, signal.SIGSTOP)
    waiting = asyncio.create_task(other.call("PING"))
    await asyncio.sleep(0)
    other.close()
    with pytest.raises(RedisConnectionError):
        await waiting
    os.kill(server.pid, signal.SIGCONT)

    async def alone() -> bool:
        return len((await pipeline.call("CLIENT", "LIST")).splitlines()) == 1

    await eventually(alone)


async def test_closing_while_it_connects_leaves_no_connection(library: Library) -> None:
    made, go_on = asyncio.Event(), asyncio.Event()

    async def connect() -> Any:
        connection = await library.connect()
        made.set()
        await go_on.wait()
        return connection

    one = Pipeline(connect, timeout_s=TIMEOUT_S, doubt_s=TIMEOUT_S)
    early = asyncio.create_task(one.call("PING"))
    await made.wait()
    one.close()
    go_on.set()
    with pytest.raises(RedisConnectionError, match="closed"):
        await early

    async def alone() -> bool:  # a later call connects anew
        return len((await one.call("CLIENT", "LIST")).splitlines()) == 1

    await eventually(alone)
    one.close()


async def test_a_subscriber_hears_what_is_published_in_order(library: Library, pipeline: Pipeline) -> None:
    """More than it holds unread: the rest waits in the socket."""
    listener = Subscriber(await library.connect())
    await listener.subscribe("a", "b")
    assert await listener.next(1) == ("subscribe", "a", b"")
    assert await listener.next(1) == ("subscribe", "b", b"")
    for i in range(3 * MAX_UNREAD):
        await pipeline.call("PUBLISH", "ab"[i % 2], f"{i}".rjust(500))
    heard = [await listener.next(1) for _ in range(3 * MAX_UNREAD)]
    assert heard == [("message", "ab"[i % 2], f"{i}".rjust(500).encode()) for i in range(3 * MAX_UNREAD)]
    await listener.unsubscribe("a")
    assert await listener.next(1) == ("unsubscribe", "a", b"")
    listener.close()


async def test_a_subscriber_s_silence_and_its_ping(library: Library) -> None:
    listener = Subscriber(await library.connect())
    await listener.ping()
    assert await listener.next(1) == ("pong", "", b""), "before anything is subscribed"
    await listener.subscribe("a")
    assert await listener.next(1) == ("subscribe", "a", b"")
    assert await listener.next(0.01) is None
    await listener.ping()
    assert await listener.next(1) == ("pong", "", b"")
    listener.close()


async def test_a_subscriber_gives_out_what_came_before_its_connection_was_lost(library: Library, pipeline: Pipeline) -> None:
    listener = Subscriber(await library.connect())
    await listener.subscribe("a")
    assert await listener.next(1)
    await pipeline.call("PUBLISH", "a", "last")
    await pipeline.call("CLIENT", "KILL", "TYPE", "pubsub")
    await asyncio.sleep(0.05)
    assert await listener.next(1) == ("message", "a", b"last")
    with pytest.raises(RedisConnectionError):
        await listener.next(1)
    with pytest.raises(RedisConnectionError):
        await listener.subscribe("b")


async def test_a_subscriber_that_waits_hears_of_the_loss(library: Library, pipeline: Pipeline) -> None:
    listener = Subscriber(await library.connect())
    await listener.subscribe("a")
    assert await listener.next(1)
    waiting = asyncio.create_task(listener.next(5))
    await asyncio.sleep(0)
    await pipeline.call("CLIENT", "KILL", "TYPE", "pubsub")
    async with asyncio.timeout(1):
        with pytest.raises(RedisConnectionError):
            await waiting


async def test_a_subscription_that_is_refused_says_why(library: Library, pipeline: Pipeline) -> None:
    listener = Subscriber(await library.connect())
    await pipeline.call("ACL", "SETUSER", "default", "resetchannels")
    await listener.subscribe("a")
    with pytest.raises(ReplyError, match="NOPERM"):
        await listener.next(1)
    listener.close()
