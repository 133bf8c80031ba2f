"""The way to Redis: calls, scripts, listening, and the note of which incarnation of the server was reached.

Errors of the library stop here: callers get `rt.errors.Unavailable`, whatever the reason. No command is ever sent
twice by this module. Whether a lost call took effect is unknown, so only a caller whose call carries an id or a batch
number may repeat it.
"""

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, TypeVar

import redis as sync_redis
import redis.asyncio as aioredis
from redis.asyncio.client import PubSub
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import (
    BusyLoadingError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from rt import keys
from rt.errors import Unavailable
from rt.pipeline import Pipeline, Subscriber
from rt.pipeline import ReplyError as ReplyError
from rt.sentinel import SCHEMES as SENTINEL
from rt.sentinel import SentinelPool, thread_client
from rt.settings import BadSettings, Settings
from rt.telemetry import metrics

T = TypeVar("T")

#: Longest wait for an answer. A server that is slow by 100 ms a command is still in time; a dead one is noticed.
SOCKET_TIMEOUT_S = 5.0
CONNECT_TIMEOUT_S = 2.0
#: Silence of a connection after which another one is tried beside it: the network may have lost the one and be back.
DOUBT_S = 1.0
_BESIDE_S = 0.5
#: Shortest and longest wait before a call that Redis did not answer is repeated, where it may be.
_AGAIN_S = (0.02, 1.0)
#: Connections for what is not ours, such as arq's own client.
_POOLED = 4

_AWAY = (RedisConnectionError, RedisTimeoutError, BusyLoadingError, ReadOnlyError, OutOfMemoryError, OSError, asyncio.TimeoutError)

_fake_servers: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script and its digest. Made from one or more `.lua` files, libraries first."""

    name: str
    text: str
    sha: str


def load_script(*parts: str) -> Script:
    """Joins files named "package/name", e.g. `load_script("streams/stream", "streams/append")`; the last gives the name."""
    texts = [(files("rt") / f"{part}.lua").read_text() for part in parts]
    text = "\n".join(texts)
    return Script(parts[-1], text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


class Store:
    """One process's connections to Redis. Make one per event loop; `close()` at the end.

    Replies are Redis's own: bytes, int, None and lists, whatever the command. `pool` is the library's, for arq, which
    brings its own client. Cancelling a call is safe for the connection; whether the command took effect is then unknown.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.memory = url.startswith("memory://")
        self.pool: Any
        if self.memory:
            # One server per URL and process. Nothing persists, and no other process sees it.
            self.pool = aioredis.ConnectionPool(
                connection_class=_fake().FakeAsyncRedisConnection, server=_fake_server(url), retry=AsyncRetry(NoBackoff(), 0)
            )
            self._library: Any = aioredis.Redis(connection_pool=self.pool)
            self._library.response_callbacks.clear()
            return
        options: dict[str, Any] = {
            "max_connections": _POOLED,
            "socket_timeout": SOCKET_TIMEOUT_S,
            "socket_connect_timeout": CONNECT_TIMEOUT_S,
            "redis_connect_func": _note_incarnation,
            "retry": AsyncRetry(NoBackoff(), 0),
        }
        if not url.startswith("unix:"):
            options["socket_keepalive"] = True
        if url.startswith(SENTINEL):
            self.pool = SentinelPool(url, **options)
        else:
            self.pool = aioredis.BlockingConnectionPool.from_url(url, timeout=CONNECT_TIMEOUT_S, **options)
        self._pipeline = Pipeline(self._connect, timeout_s=SOCKET_TIMEOUT_S, doubt_s=DOUBT_S)

    @classmethod
    def of(cls, settings: Settings) -> "Store":
        """Raises BadSettings when no URL is set or it names a Cluster."""
        if not settings.redis_url:
            raise BadSettings("REDIS_URL is not set; for a private server in one command use `rt dev`")
        if not settings.redis_url.startswith(("redis://", "rediss://", "unix://", "memory://", *SENTINEL)):
            raise BadSettings(f"REDIS_URL must begin with redis://, rediss://, unix://, {' or '.join(SENTINEL)}")
        try:
            return cls(settings.redis_url)
        except ValueError as error:
            raise BadSettings(f"REDIS_URL: {error}") from None

    @property
    def db(self) -> int:
        """The number of the database that the URL names."""
        return int(self.pool.connection_kwargs.get("db") or 0)

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Any] = ()) -> Any:
        """Runs a script once. Raises Unavailable when its answer did not come: then it may or may not have run."""
        try:
            return await self.call("EVALSHA", script.sha, len(keys), *keys, *args)
        except ReplyError as error:
            if not str(error).startswith("NOSCRIPT"):
                raise
        # The server does not know it, so it did not run: sending the text is no repetition.
        return await self.call("EVAL", script.text, len(keys), *keys, *args)

    async def call(self, *command: Any) -> Any:
        """One command, which must not block. Raises Unavailable, and ReplyError when Redis will not do it."""
        try:
            if self.memory:
                return await _heeding_cancel(self._library.execute_command(*command))
            return await self._pipeline.call(*command)
        except NoScriptError as error:  # the library takes the word off
            raise ReplyError(f"NOSCRIPT {error}") from error
        except _AWAY as error:
            raise Unavailable() from error
        except (ReplyError, ResponseError) as error:
            if "READONLY" in str(error) and not self.memory:
                self._pipeline.close()  # a primary no longer: the address may lead to another one by now
            raise _refusal(error) from error

    async def takes_writes(self, timeout_s: float = 1.0) -> bool:
        """Whether Redis takes a write in time; never raises. One that is full, or a replica by now, still answers PING."""
        try:
            async with asyncio.timeout(timeout_s):
                await self.call("SET", keys.PROBE, 1, "PX", 1000)
        except (Unavailable, ReplyError, TimeoutError):
            return False
        return True

    async def now_ms(self) -> int:
        """Redis's own time, in Unix ms: what is compared between hosts is never a host's. Raises Unavailable."""
        seconds, micros = await self.call("TIME")
        return int(seconds) * 1000 + int(micros) // 1000

    async def info(self, section: str) -> dict[str, str]:
        """What `INFO` says of a section. Raises Unavailable, and ReplyError where it is not allowed."""
        lines = _text(await self.call("INFO", section)).splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line and not line.startswith("#"))

    async def refuse_cluster(self) -> None:
        """Raises BadSettings when the server is a Cluster: the queue's keys carry no hash tags. Unavailable when it is away."""
        try:
            info = await self.info("cluster")
        except ReplyError:
            return  # INFO is refused or unknown: nothing may need it.
        if info.get("cluster_enabled") == "1":
            raise BadSettings("REDIS_URL names a Redis Cluster; the queue needs a single primary (or Sentinel)")

    @asynccontextmanager
    async def listen(self) -> AsyncIterator["Listener"]:
        """A pub/sub connection of its own; closed at the end. Raises Unavailable."""
        if self.memory:
            pubsub = self._library.pubsub()
            try:
                yield Listener(_LibrarySubscriber(pubsub))
            finally:
                await pubsub.aclose()
            return
        try:
            subscriber = Subscriber(await self._connect())
        except _AWAY as error:
            raise Unavailable() from error
        try:
            yield Listener(subscriber)
        finally:
            subscriber.close()

    def thread_client(self) -> "ThreadStore":
        """A client with a connection of its own for one other thread."""
        return ThreadStore(self.url)

    async def close(self) -> None:
        if not self.memory:
            self._pipeline.close()
        await self.pool.aclose()

    async def _connect(self) -> AbstractConnection:
        """Of several tries, each begun beside those that are not answered yet, the first that is.

        A try that the network swallowed would only be heard of seconds after the network is back. A try that fails is
        the answer.
        """

        async def one() -> AbstractConnection:
            connection: AbstractConnection = self.pool.make_connection()
            try:
                await _heeding_cancel(connection.connect())  # type: ignore[no-untyped-call]
            except BaseException as error:
                await connection.disconnect(nowait=True)
                if isinstance(error, RuntimeError):  # uvloop's word for a connection that was lost between two writes of the greeting
                    raise RedisConnectionError(str(error)) from error
                raise
            return connection

        tries: list[asyncio.Task[AbstractConnection]] = []
        done: set[asyncio.Task[AbstractConnection]] = set()
        try:
            async with asyncio.timeout(SOCKET_TIMEOUT_S):
                while not done:
                    tries.append(asyncio.create_task(one()))
                    done, _ = await asyncio.wait(tries, timeout=_BESIDE_S, return_when=asyncio.FIRST_COMPLETED)
            first = done.pop()
            tries.remove(first)
            return first.result()
        finally:
            for late in tries:
                late.cancel()
            for result in await asyncio.gather(*tries, return_exceptions=True):
                if isinstance(result, AbstractConnection):
                    await result.disconnect(nowait=True)


async def _heeding_cancel(awaitable: Awaitable[T]) -> T:
    """Raises CancelledError when the task was cancelled meanwhile, whatever the library made of it.

    Python 3.11's `asyncio.wait_for` answers with the result, and forgets the cancel, when both come in one turn of the
    loop; redis-py sends and fakeredis reads with it. A chore that is cancelled only once would then go on for good.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    try:
        return await awaitable
    finally:
        if task and task.cancelling() > before:
            raise asyncio.CancelledError


async def insist(where: str, call: Callable[..., Awaitable[T]], *args: Any) -> T:
    """Repeats `call(*args)`, with backoff, until Redis answers. For reads, and for writes that carry an id."""
    failures = 0
    while True:
        try:
            return await call(*args)
        except Unavailable:
            metrics.redis_errors.labels(where).inc()
            failures += 1
            low, high = _AGAIN_S
            await asyncio.sleep(random.uniform(low, min(high, low * 2.0**failures)))


class Listener:
    """Pub/sub on one connection. Subscribing from one task while another reads is allowed."""

    def __init__(self, subscriber: "Subscriber | _LibrarySubscriber") -> None:
        self._subscriber = subscriber

    async def subscribe(self, *channels: str) -> None:
        """Sends SUBSCRIBE; the confirmation comes as a `("subscribe", channel, b"")` message. Raises Unavailable."""
        await self._guard(self._subscriber.subscribe(*channels))

    async def unsubscribe(self, *channels: str) -> None:
        await self._guard(self._subscriber.unsubscribe(*channels))

    async def ping(self) -> None:
        await self._guard(self._subscriber.ping())

    async def next(self, timeout_s: float) -> tuple[str, str, bytes] | None:
        """The next `(kind, channel, data)`, or None when none came in time. Raises Unavailable when the connection is lost."""
        return await self._guard(self._subscriber.next(timeout_s))

    async def hear(self) -> tuple[str, str, bytes]:
        """The next `(kind, channel, data)`, however long it takes. Cancelling is safe.

        Raises Unavailable when the connection is lost, or says nothing for `DOUBT_S` and then nothing to a PING.
        """
        while True:
            message = await self.next(DOUBT_S)
            if message is None and isinstance(self._subscriber, Subscriber):
                await self.ping()
                message = await self.next(DOUBT_S)
                if message is None:
                    raise Unavailable()
            if message is not None and message[0] != "pong":
                return message

    def heard(self) -> tuple[str, str, bytes] | None:
        """As `hear`, of what has come already; None when that was all."""
        if not isinstance(self._subscriber, Subscriber):
            return None
        try:
            return self._subscriber.next_nowait()
        except ReplyError as error:
            raise _refusal(error) from error

    async def _guard(self, awaitable: Awaitable[T]) -> T:
        try:
            return await awaitable
        except _AWAY as error:
            raise Unavailable() from error
        except (ReplyError, ResponseError) as error:
            raise _refusal(error) from error


class _LibrarySubscriber:
    """As `Subscriber`, for the server inside this process."""

    def __init__(self, pubsub: PubSub) -> None:
        self._pubsub: Any = pubsub

    async def subscribe(self, *channels: str) -> None:
        await _heeding_cancel(self._pubsub.subscribe(*channels))

    async def unsubscribe(self, *channels: str) -> None:
        await _heeding_cancel(self._pubsub.unsubscribe(*channels))

    async def ping(self) -> None:
        await _heeding_cancel(self._pubsub.ping())

    async def next(self, timeout_s: float) -> tuple[str, str, bytes] | None:
        message: Any = await _heeding_cancel(self._pubsub.get_message(timeout=timeout_s))
        if message is None:
            return None
        data = message["data"]
        return message["type"], _text(message["channel"] or b""), data if isinstance(data, bytes) else b""


class ThreadStore:
    """Scripts from a thread that has no event loop."""

    def __init__(self, url: str) -> None:
        self._client: Any
        if url.startswith("memory://"):
            import fakeredis

            self._client = fakeredis.FakeRedis(server=_fake_server(url))
        else:
            options = {"socket_timeout": CONNECT_TIMEOUT_S, "socket_connect_timeout": CONNECT_TIMEOUT_S, "max_connections": 1}
            make = thread_client if url.startswith(SENTINEL) else sync_redis.Redis.from_url
            self._client = make(url, **options)

    def run(self, script: Script, keys: Sequence[str], args: Sequence[Any] = ()) -> Any:
        """Raises Unavailable when the answer did not come."""
        try:
            try:
                return self._client.evalsha(script.sha, len(keys), *keys, *args)
            except NoScriptError:
                return self._client.eval(script.text, len(keys), *keys, *args)
        except _AWAY as error:
            raise Unavailable() from error
        except ResponseError as error:
            raise _refusal(error) from error

    def close(self) -> None:
        self._client.close()


def _refusal(error: Exception) -> Exception:
    """A script's inner OOM, READONLY or LOADING arrives as a plain refusal with the word inside."""
    text = str(error)
    if any(word in text for word in ("OOM", "READONLY", "LOADING", "MISCONF", "MASTERDOWN", "BUSY", "NOREPLICAS")):
        return Unavailable()
    return error if isinstance(error, ReplyError) else ReplyError(text)


async def _note_incarnation(connection: AbstractConnection) -> None:
    """Writes down which incarnation of the server this is, before the first command of each new connection.

    A server that restarted or failed over may have less than was acknowledged. It is another incarnation, every
    connection to it is new, and so no append can happen before that stands in `rt:incarnation`: `stream.lua` compares
    it with the one that each stream was last written under. A restart changes `run_id`; a promotion `master_replid`,
    also where it leads back to a server that was the primary before. A server that refuses INFO is one incarnation.

    Where the note cannot be written, nothing may be: raises RedisConnectionError, also of a replica, which may be
    promoted while this connection lives.
    """
    await connection.on_connect()
    known: dict[str, str] = {}
    try:
        for section in ("server", "replication"):
            await connection.send_command("INFO", section)
            info: Any = await connection.read_response()
            known |= dict(line.split(":", 1) for line in _text(info).splitlines() if ":" in line)
    except ResponseError:
        pass  # INFO is not allowed here
    if "run_id" not in known:
        return
    incarnation = f"{known['run_id']}:{known.get('master_replid', '')}"
    try:
        await connection.send_command("GET", keys.INCARNATION)
        if _text(await connection.read_response()) != incarnation:  # a full Redis that knows it already may still be read
            await connection.send_command("SET", keys.INCARNATION, incarnation)
            await connection.read_response()
    except ResponseError as error:
        raise RedisConnectionError("no write is taken here") from error


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _fake() -> Any:
    import fakeredis.aioredis

    return fakeredis.aioredis


def _fake_server(url: str) -> Any:
    import fakeredis

    return _fake_servers.setdefault(url, fakeredis.FakeServer())


def forget_memory(url: str) -> None:
    """Drops what a memory:// URL held; for tests, which each want an empty server."""
    _fake_servers.pop(url, None)
