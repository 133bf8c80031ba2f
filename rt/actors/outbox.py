"""What waits to be sent to one client. Nothing here waits itself: the socket takes what it has room for, and calls when it has more.

Full means: the session forwards no more events and reads the log later. What the socket has been given and the client has
not taken counts as waiting. Control frames always go in: each is small, and answers something that the client sent; while
twice the limit waits, nothing more is read from it. A client that takes nothing for `timeout_s` is given up.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from rt.codec import join_json, join_msgpack, pack, to_json_bytes, transcode
from rt.telemetry import metrics

#: Frames of one WebSocket message to a client that takes arrays.
_BATCH_BYTES = 64 * 1024


class Writable(Protocol):
    """The socket's way out."""

    @property
    def unsent(self) -> int:
        """Bytes that were written and have not left the process."""

    @property
    def writable(self) -> bool:
        """Whether `write` may be called; while it is not, `on_writable` is awaited. A socket that is gone is writable, and raises."""

    def write(self, message: bytes) -> None:
        """Writes one message at once. Raises ConnectionError when the socket is gone."""

    def watch(self, on_writable: Callable[[], None]) -> None:
        """Whom to call when it is writable again."""


class Outbox:
    """`on_room` is called when a full outbox is half empty; `on_lost` when the socket is gone ("gone") or takes nothing ("slow")."""

    def __init__(
        self,
        socket: Writable,
        *,
        msgpack: bool,
        limit_bytes: int,
        timeout_s: float,
        on_room: Callable[[], None],
        on_lost: Callable[[str], None],
    ) -> None:
        self._socket = socket
        self._msgpack = msgpack
        self._limit = limit_bytes
        self._timeout_s = timeout_s
        self._on_room, self._on_lost = on_room, on_lost
        self._loop = asyncio.get_running_loop()
        self._frames: deque[bytes] = deque()
        self._bytes = 0
        self._was_full = False
        self._closed = False
        self._flushing = False
        self._deadline: asyncio.TimerHandle | None = None
        self._calm = asyncio.Event()
        self._calm.set()
        self._empty: asyncio.Event | None = None
        self.batch = False
        socket.watch(self._on_writable)

    @property
    def room(self) -> int:
        """Bytes until it is full; 0 or less: full, and `on_room` will be called."""
        room = self._limit - self.waiting
        if room <= 0 and not self._was_full:
            self._was_full = True
            metrics.slow_consumers.labels("log").inc()
        return room

    @property
    def waiting(self) -> int:
        return self._bytes + self._socket.unsent

    async def wait_calm(self) -> None:
        """Returns when less than twice the limit waits: who asks for answers without reading them asks no more."""
        await self._calm.wait()

    def put_frame(self, frame: dict[str, Any]) -> None:
        self._put(pack(frame) if self._msgpack else to_json_bytes(frame))

    def put_events(self, events: list[bytes]) -> None:
        """Stored events, forwarded as they are, or transcoded once per event and process."""
        for raw in events:
            self._put(transcode(raw) if self._msgpack else raw)

    def _put(self, frame: bytes) -> None:
        if self._closed:
            return
        self._frames.append(frame)
        self._bytes += len(frame)
        if self._bytes >= 2 * self._limit:
            self._calm.clear()
        if not self._flushing:
            # At the end of this turn of the loop: what one turn has to say leaves in one go.
            self._flushing = True
            self._loop.call_soon(self._flush)

    async def close(self, wait_s: float) -> bool:
        """Sends what waits, for `wait_s` at most; then nothing more is sent. Returns whether the socket has taken all of it."""
        if wait_s > 0 and not self._closed and (self._frames or not self._socket.writable):
            self._empty = asyncio.Event()
            try:
                async with asyncio.timeout(wait_s):
                    await self._empty.wait()
            except TimeoutError:
                pass
        done = not self._closed and not self._frames and self._socket.writable
        self._end()
        return done

    def _flush(self) -> None:
        self._flushing = False
        if self._closed:
            return
        try:
            while self._frames and self._socket.writable:
                message, size = self._next()
                self._socket.write(message)
                self._bytes -= size
        except ConnectionError:
            self._give_up("gone")
            return
        if self._bytes < 2 * self._limit:
            self._calm.set()
        if not self._socket.writable:
            if self._deadline is None:
                self._deadline = self._loop.call_later(self._timeout_s, self._give_up, "slow")
        elif self._empty is not None:
            self._empty.set()
        if self._was_full and 2 * self.waiting <= self._limit:
            self._was_full = False
            self._on_room()

    def _on_writable(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._flush()

    def _next(self) -> tuple[bytes, int]:
        first = self._frames.popleft()
        if not self.batch or not self._frames:
            return first, len(first)
        taken, size = [first], len(first)
        while self._frames and size + len(self._frames[0]) <= _BATCH_BYTES:
            one = self._frames.popleft()
            taken.append(one)
            size += len(one)
        if len(taken) == 1:
            return first, size
        return (join_msgpack(taken) if self._msgpack else join_json(taken)), size

    def _give_up(self, why: str) -> None:
        self._end()
        self._on_lost(why)

    def _end(self) -> None:
        self._closed = True
        self._frames.clear()
        self._calm.set()
        if self._deadline is not None:
            self._deadline.cancel()
        if self._empty is not None:
            self._empty.set()
