"""One connection to Redis that all calls of a process share, and one that listens.

The library takes a connection from a pool for every awaited command, writes and reads it through streams, timeouts and
tasks of its own: 0.4 ms of a cold round trip, and one write to the kernel per call under load. Here the library only
connects (address, TLS, password, database); then a bare protocol takes over its transport. The calls of one turn of the
loop leave in one write, and answers are handed out in the order of the calls: `bench/redis_calls.py` measures what that
buys. Blocking commands must never be sent here: everybody would wait for them.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

#: Calls that wait for their answers; the next ones wait for a place.
MAX_UNANSWERED = 256
#: Messages that a listener has not taken; the socket is not read until it has.
MAX_UNREAD = 1_000

_NOT_YET = object()

#: Makes a connected connection of the library's. Raises RedisError, OSError or TimeoutError.
Connect = Callable[[], Awaitable[AbstractConnection]]


class ReplyError(Exception):
    """Redis said no: its words, which begin with a code such as NOSCRIPT or OOM."""


class _Wire(asyncio.Protocol):
    """A live connection: packed commands out, replies in."""

    def __init__(self, connection: Any, on_reply: Callable[[Any], None], on_lost: Callable[[], None]) -> None:
        # The library's object is kept as the owner of its stream writer, which would close the transport with itself.
        self._library = connection
        self._on_reply, self._on_lost = on_reply, on_lost
        self._reader = hiredis.Reader(replyError=ReplyError, notEnoughData=_NOT_YET)
        self._out: list[bytes] = []
        self.loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport = self._library._writer.transport
        self.transport.set_protocol(self)

    @property
    def live(self) -> bool:
        return not self.transport.is_closing()

    def send(self, command: tuple[Any, ...]) -> None:
        packed = hiredis.pack_command(command)
        if not self._out:
            self.loop.call_soon(self._flush)
        self._out.append(packed)

    def _flush(self) -> None:
        out, self._out = self._out, []
        if self.live:
            self.transport.write(out[0] if len(out) == 1 else b"".join(out))

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not _NOT_YET:
                self._on_reply(reply)
        except hiredis.ProtocolError:  # not a Redis: no later byte can be understood either
            self.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self.abort()

    def abort(self) -> None:
        """Closes at once; `on_lost` is called before this returns, and once."""
        if self._library is None:
            return
        self.transport.abort()
        self._library._reader = self._library._writer = None
        self._library = None
        self._on_lost()


class Pipeline:
    """Calls over one connection, which is made by the first call and made anew by the next one after it was lost."""

    def __init__(self, connect: Connect, *, timeout_s: float, doubt_s: float) -> None:
        self._connect, self._timeout_s, self._doubt_s = connect, timeout_s, doubt_s
        self._wire: _Wire | None = None
        self._connecting = asyncio.Lock()
        self._failures = 0
        self._closes = 0
        self._unanswered: deque[asyncio.Future[Any]] = deque()
        self._places = asyncio.Semaphore(MAX_UNANSWERED)
        self._heard_at = 0.0
        self._watch: asyncio.TimerHandle | None = None
        self._other: asyncio.Task[None] | None = None

    async def call(self, *command: Any) -> Any:
        """Redis's reply as it came: bytes, int, None, lists. Raises ReplyError, RedisError, OSError or TimeoutError.

        Cancelling is safe for the connection; whether the command took effect is then unknown, as it is after any
        error but ReplyError. When Redis has been silent for `timeout_s` while answers are due, or for `doubt_s` and a new
        connection gets its answers, the connection is given up and all of them fail.
        """
        async with self._places:
            wire = self._wire
            if wire is None or not wire.live:
                wire = await self._connected()
            answer = wire.loop.create_future()
            wire.send(command)
            if not self._unanswered:
                self._heard_at = wire.loop.time()
                if self._watch is None:
                    self._watch = wire.loop.call_later(self._doubt_s, self._look)
            self._unanswered.append(answer)
            reply = await answer
            if isinstance(reply, Exception):
                raise reply
            return reply

    def close(self) -> None:
        """Closes at once, also what is being connected; what is unanswered fails. A later call connects anew."""
        self._closes += 1
        if self._other is not None:
            self._other.cancel()
        if self._wire is not None:
            self._wire.abort()

    async def _connected(self) -> _Wire:
        failures, closes = self._failures, self._closes
        async with self._connecting:
            if self._wire is not None and self._wire.live:
                return self._wire
            if self._failures != failures:  # the attempt that this call waited for was its own as well
                raise RedisConnectionError("connecting failed")
            try:
                connection = await self._connect()
            except Exception:
                self._failures += 1
                raise
            self._wire = _Wire(connection, self._answer, self._lost)
            if self._closes != closes:
                self._wire.abort()
                raise RedisConnectionError("closed")
            return self._wire

    def _answer(self, reply: Any) -> None:
        self._heard_at = self._wire.loop.time()  # type: ignore[union-attr]
        answer = self._unanswered.popleft()
        if not answer.done():  # its caller was cancelled
            answer.set_result(reply)

    def _lost(self) -> None:
        self._wire = None
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        unanswered, self._unanswered = self._unanswered, deque()
        for answer in unanswered:
            if not answer.done():
                answer.set_result(RedisConnectionError("the connection was lost"))

    def _look(self) -> None:
        self._watch = None
        wire = self._wire
        if wire is None or not self._unanswered:
            return
        silent_s = wire.loop.time() - self._heard_at
        if silent_s >= self._timeout_s:
            wire.abort()
            return
        if silent_s >= self._doubt_s and self._other is None:
            self._other = asyncio.create_task(self._try_another(wire))
        next_s = (self._doubt_s if silent_s < self._doubt_s else self._timeout_s) - silent_s
        self._watch = wire.loop.call_later(next_s, self._look)

    async def _try_another(self, doubted: _Wire) -> None:
        """A connection whose other end is gone is as silent as a Redis that is: only a new one tells which it is."""
        heard_at = self._heard_at
        try:
            connection = await self._connect()
        except (RedisError, OSError, TimeoutError):
            return  # it is Redis, or all of the network
        finally:
            self._other = None
        if self._wire is doubted and self._heard_at == heard_at:
            doubted.abort()
            self._wire = _Wire(connection, self._answer, self._lost)
        else:
            await connection.disconnect(nowait=True)


class Subscriber:
    """A connection that listens. Subscribing from one task while another reads is allowed."""

    def __init__(self, connection: AbstractConnection) -> None:
        self._messages: deque[Any] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._wire = _Wire(connection, self._heard, self._wake)

    async def subscribe(self, *channels: str) -> None:
        """Sends SUBSCRIBE; the confirmation comes as a `("subscribe", channel, b"")` message. Raises RedisError."""
        self._send("SUBSCRIBE", *channels)

    async def unsubscribe(self, *channels: str) -> None:
        self._send("UNSUBSCRIBE", *channels)

    async def ping(self) -> None:
        """Its answer comes as a message of kind "pong"."""
        self._send("PING")

    async def next(self, timeout_s: float) -> tuple[str, str, bytes] | None:
        """The next `(kind, channel, data)`; None when none came in time. One task reads. Cancelling is safe.

        Raises RedisError once the connection is lost and everything that it brought was taken, ReplyError when Redis
        refused what was sent.
        """
        if not self._messages and self._wire.live:
            self._waiter = self._wire.loop.create_future()
            timer = self._wire.loop.call_later(timeout_s, self._wake)
            try:
                await self._waiter
            finally:
                timer.cancel()
                self._waiter = None
            if not self._messages and self._wire.live:
                return None
        if not self._messages:
            raise RedisConnectionError("the connection was lost")
        return self.next_nowait()

    def next_nowait(self) -> tuple[str, str, bytes] | None:
        """As `next`, of what has come already. Raises ReplyError."""
        if not self._messages:
            return None
        message = self._messages.popleft()
        if len(self._messages) == MAX_UNREAD // 2 and self._wire.live:
            self._wire.transport.resume_reading()
        match message:
            case ReplyError():
                raise message
            case [bytes(kind), bytes(channel), data]:
                return kind.decode(), channel.decode(), data if isinstance(data, bytes) else b""
        return "pong", "", b""

    def close(self) -> None:
        self._wire.abort()

    def _send(self, *command: Any) -> None:
        if not self._wire.live:
            raise RedisConnectionError("the connection was lost")
        # Not gathered, as calls are: what is called after this, on the other connection, must not leave before it.
        self._wire.transport.write(hiredis.pack_command(command))

    def _heard(self, reply: Any) -> None:
        self._messages.append(reply)
        if len(self._messages) == MAX_UNREAD:
            self._wire.transport.pause_reading()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
