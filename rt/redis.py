"""The way to Redis: a bounded pool, scripts, and the note of which incarnation of the server was reached.

Errors of the library stop here: callers get `rt.errors.Unavailable`, whatever the reason. No command is ever sent
twice by this module. Whether a lost call took effect is unknown, so only a caller whose call carries an id or a batch
number may repeat it.
"""

import asyncio
import hashlib
import random
import time
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
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from rt import keys
from rt.errors import Unavailable
from rt.settings import BadSettings, Settings
from rt.telemetry import metrics

T = TypeVar("T")

#: Longest wait for an answer. A server that is slow by 100 ms a command is still in time; a dead one is noticed.
SOCKET_TIMEOUT_S = 5.0
CONNECT_TIMEOUT_S = 2.0
#: Shortest and longest wait before a call that Redis did not answer is repeated, where it may be.
_AGAIN_S = (0.02, 1.0)
#: A connection that answered this recently is not asked whether it lives before it is used again.
_FRESH_S = 1.0

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

    `client` is redis-py's, for single commands; wrap their awaits in `guard()`, or use `call()`. Cancelling a call is
    safe for the connection; whether the command took effect is then unknown.
    """

    def __init__(self, url: str, *, max_connections: int = 20) -> None:
        self.url = url
        self.memory = url.startswith("memory://")
        pool: Any
        common: dict[str, Any] = {"retry": AsyncRetry(NoBackoff(), 0)}
        if self.memory:
            # One server per URL and process. Nothing persists, and no other process sees it.
            pool = aioredis.ConnectionPool(connection_class=_fake().FakeAsyncRedisConnection, server=_fake_server(url), **common)
        else:
            pool = _Pool.from_url(
                url,
                max_connections=max_connections,
                timeout=CONNECT_TIMEOUT_S,
                socket_timeout=SOCKET_TIMEOUT_S,
                socket_connect_timeout=CONNECT_TIMEOUT_S,
                redis_connect_func=_note_incarnation,
                **({} if url.startswith("unix:") else {"socket_keepalive": True}),
                **common,
            )
        self.client: Any = aioredis.Redis(connection_pool=pool)

    @classmethod
    def of(cls, settings: Settings) -> "Store":
        """Raises BadSettings when no URL is set or it names a Cluster."""
        if not settings.redis_url:
            raise BadSettings("REDIS_URL is not set; for a private server in one command use `rt dev`")
        if not settings.redis_url.startswith(("redis://", "rediss://", "unix://", "memory://")):
            raise BadSettings("REDIS_URL must begin with redis://, rediss:// or unix://")
        return cls(settings.redis_url, max_connections=settings.redis_connections)

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Any] = ()) -> Any:
        """Runs a script once. Raises Unavailable when its answer did not come: then it may or may not have run."""
        try:
            try:
                return await _heeding_cancel(self.client.evalsha(script.sha, len(keys), *keys, *args))
            except NoScriptError:
                # The server does not know it, so it did not run: sending the text is no repetition.
                return await _heeding_cancel(self.client.eval(script.text, len(keys), *keys, *args))
        except _AWAY as error:
            raise Unavailable() from error
        except ResponseError as error:
            raise _response(error) from error

    async def call(self, *command: Any) -> Any:
        """One command. Raises Unavailable."""
        try:
            return await _heeding_cancel(self.client.execute_command(*command))
        except _AWAY as error:
            raise Unavailable() from error

    async def ping(self, timeout_s: float = 1.0) -> bool:
        """Whether Redis answers in time; never raises."""
        try:
            async with asyncio.timeout(timeout_s):
                return bool(await _heeding_cancel(self.client.ping()))
        except (RedisError, OSError, TimeoutError):
            return False

    async def refuse_cluster(self) -> None:
        """Raises BadSettings when the server is a Cluster: the queue's keys carry no hash tags. Unavailable when it is away."""
        try:
            info = await self.client.info("cluster")
        except _AWAY as error:
            raise Unavailable() from error
        except RedisError:
            return  # INFO is refused or unknown: nothing may need it.
        if info.get("cluster_enabled"):
            raise BadSettings("REDIS_URL names a Redis Cluster; the queue needs a single primary (or Sentinel)")

    @asynccontextmanager
    async def listen(self) -> AsyncIterator["Listener"]:
        """A pub/sub connection of its own; closed at the end."""
        pubsub: PubSub = self.client.pubsub()
        try:
            yield Listener(pubsub)
        finally:
            try:
                await pubsub.aclose()  # type: ignore[no-untyped-call]
            except (RedisError, OSError):
                pass

    def thread_client(self) -> "ThreadStore":
        """A client with a connection of its own for one other thread."""
        return ThreadStore(self.url)

    async def close(self) -> None:
        await self.client.aclose(close_connection_pool=True)


class _Pool(aioredis.BlockingConnectionPool):
    """The library's bounded pool, which takes a lock for each connection that it hands out or gets back, and asks each
    whether it still lives: a third of a command's time on an idle process. One that has just answered is taken at its
    word, and the lock is for when somebody waits."""

    _waiting = 0

    async def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> Any:
        free: Any = self._available_connections
        if free and free[-1].is_connected and time.monotonic() - getattr(free[-1], "rt_released", 0.0) < _FRESH_S:
            return self.get_available_connection()  # type: ignore[no-untyped-call]
        self._waiting += 1
        try:
            return await super().get_connection()
        finally:
            self._waiting -= 1

    async def release(self, connection: Any) -> None:
        connection.rt_released = time.monotonic()
        if self._waiting:
            await super().release(connection)
        else:
            self._in_use_connections.remove(connection)
            self._available_connections.append(connection)


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

    def __init__(self, pubsub: PubSub) -> None:
        self._pubsub = pubsub

    async def subscribe(self, *channels: str) -> None:
        """Sends SUBSCRIBE; the confirmation comes as a `("subscribe", channel, b"")` message. Raises Unavailable."""
        await self._guard(self._pubsub.subscribe(*channels))

    async def unsubscribe(self, *channels: str) -> None:
        await self._guard(self._pubsub.unsubscribe(*channels))

    async def ping(self) -> None:
        await self._guard(self._pubsub.ping())

    async def next(self, timeout_s: float) -> tuple[str, str, bytes] | None:
        """The next `(kind, channel, data)`, or None when none came in time. Raises Unavailable when the connection is lost."""
        message: Any = await self._guard(self._pubsub.get_message(timeout=timeout_s))
        if message is None:
            return None
        channel, data = message["channel"], message["data"]
        return (
            message["type"],
            channel.decode() if isinstance(channel, bytes) else str(channel or ""),
            data if isinstance(data, bytes) else b"",
        )

    async def _guard(self, awaitable: Any) -> Any:
        try:
            return await _heeding_cancel(awaitable)
        except _AWAY as error:
            raise Unavailable() from error
        except RuntimeError as error:  # "pubsub connection not set": it was lost before anything was subscribed
            raise Unavailable() from error


class ThreadStore:
    """Scripts from a thread that has no event loop."""

    def __init__(self, url: str) -> None:
        self._client: Any
        if url.startswith("memory://"):
            import fakeredis

            self._client = fakeredis.FakeRedis(server=_fake_server(url))
        else:
            self._client = sync_redis.Redis.from_url(
                url,
                socket_timeout=CONNECT_TIMEOUT_S,
                socket_connect_timeout=CONNECT_TIMEOUT_S,
                max_connections=1,
            )

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
            raise _response(error) from error

    def close(self) -> None:
        self._client.close()


def _response(error: ResponseError) -> Exception:
    """A script's inner OOM, READONLY or LOADING arrives as a plain ResponseError with the word inside."""
    text = str(error)
    return (
        Unavailable()
        if any(word in text for word in ("OOM", "READONLY", "LOADING", "MISCONF", "MASTERDOWN", "BUSY", "NOREPLICAS"))
        else error
    )


async def _note_incarnation(connection: AbstractConnection) -> None:
    """Writes down the server's `run_id` before the first command of each new connection.

    A server that restarted or failed over may have less than was acknowledged. It has another `run_id`, every
    connection to it is new, and so no append can happen before the new id stands in `rt:incarnation`: `append.lua`
    compares it with the one that each stream was last written under. A server that refuses INFO is one incarnation.
    """
    await connection.on_connect()
    try:
        await connection.send_command("INFO", "server")
        info: Any = await connection.read_response()
        run_id = next((line[7:] for line in _text(info).splitlines() if line.startswith("run_id:")), "")
        if run_id:
            await connection.send_command("SET", keys.INCARNATION, run_id.strip())
            await connection.read_response()
    except ResponseError:
        return  # INFO is not allowed here, or this is a replica that takes no writes


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
