"""What waits to be sent to one client. Nothing here waits itself: the socket takes what it has room for, and calls when it has more.

What one turn of the loop has to say leaves at its end, joined where the client takes arrays. An announcement that is all that a turn
has to say is not even put into the queue: it leaves in bytes that all sockets of a kind share, for a room of thousands that is the cost.

Full means: the session forwards no more events and reads the log later. What the socket has been given and the client has
not taken counts as waiting. Control frames always go in: each is small, and answers something that the client sent; while
twice the limit waits, nothing more is read from it. A client that takes nothing for `timeout_s` is given up.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from rt.codec import join_json, join_msgpack, pack, to_json_bytes, transcode
from rt.gate import Gate
from rt.streams.tail import Live
from rt.telemetry import metrics

#: Frames of one WebSocket message to a client that takes arrays.
_BATCH_BYTES = 64 * 1024


class Writable(Protocol):
    """The socket's way out."""

    @property
    def unsent(self) -> int:
        """Bytes that were written and have not left the process."""

    @property
    def writable(self) -> Gate:
        """Open while `write` may be called; opened again, `on_writable` is called. A socket that is gone is writable, and raises."""

    def write(self, message: bytes) -> None:
        """Writes one message at once. Raises ConnectionError when the socket is gone."""

    def framed(self, messages: list[bytes]) -> bytes | None:
        """What `write` would write for all of them, if every socket that asks for the same would write just that; otherwise None."""

    def write_framed(self, framed: bytes) -> None:
        """As `write`, of what a socket of the same kind has made by `framed`."""

    def watch(self, on_writable: Callable[[], None]) -> None:
        """Whom to call when it is writable again."""


class Outbox:
    """`on_room` is called when a full outbox is half empty; `on_lost` when the socket is gone ("gone") or takes nothing ("slow")."""

    __slots__ = (
        "_bytes",
        "_calm",
        "_closed",
        "_deadline",
        "_empty",
        "_flushing",
        "_frames",
        "_limit",
        "_live",
        "_loop",
        "_msgpack",
        "_on_lost",
        "_on_room",
        "_socket",
        "_timeout_s",
        "_was_full",
        "_writable",
        "batch",
    )

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
        self._writable = socket.writable
        self._msgpack = msgpack
        self._limit = limit_bytes
        self._timeout_s = timeout_s
        self._on_room, self._on_lost = on_room, on_lost
        self._loop = asyncio.get_running_loop()
        self._frames: list[bytes] = []
        #: An announcement behind which nothing was put yet; `_frames` is empty then.
        self._live: Live | None = None
        self._bytes = 0
        self._was_full = False
        self._closed = False
        self._flushing = False
        self._deadline: asyncio.TimerHandle | None = None
        self._calm = Gate()
        self._empty: Gate | None = None
        self.batch = False
        socket.watch(self._on_writable)

    @property
    def free(self) -> bool:
        """Whether nothing waits in it. Then there is room: a writable socket holds less than half of what may wait."""
        return not self._bytes and self._writable.open

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

    @property
    def frames(self) -> int:
        """Frames that wait; an announcement counts as one."""
        return len(self._frames) + (self._live is not None)

    async def wait_calm(self) -> None:
        """Returns when less than twice the limit waits: who asks for answers without reading them asks no more."""
        await self._calm.wait()

    def put_frame(self, frame: dict[str, Any]) -> None:
        self._put(pack(frame) if self._msgpack else to_json_bytes(frame))

    def put_events(self, events: list[bytes]) -> None:
        """Stored events, forwarded as they are, or transcoded once per event and process."""
        for raw in events:
            self._put(transcode(raw) if self._msgpack else raw)

    def put_live(self, live: Live) -> None:
        """The events of an announcement, as `put_events`, but made ready for the wire once for all who get it."""
        assert live.events is not None
        if self._frames or self._live or self._closed:
            self.put_events(live.events)
            return
        self._live = live
        self._bytes = sum(map(len, live.events))
        self._flush_soon()

    def _put(self, frame: bytes) -> None:
        if self._closed:
            return
        if self._live is not None:
            self._spread()
        self._frames.append(frame)
        self._bytes += len(frame)
        if self._bytes >= 2 * self._limit:
            self._calm.clear()
        self._flush_soon()

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _spread(self) -> None:
        """The announcement becomes frames like others."""
        live, self._live = self._live, None
        assert live is not None
        assert live.events is not None
        self._frames = [transcode(raw) for raw in live.events] if self._msgpack else live.events.copy()
        self._bytes = sum(map(len, self._frames))

    async def close(self, wait_s: float) -> bool:
        """Sends what waits, for `wait_s` at most; then nothing more is sent. Returns whether the socket has taken all of it."""
        if wait_s > 0 and not self._closed and (self._bytes or not self._writable.open):
            self._empty = Gate.shut()
            try:
                async with asyncio.timeout(wait_s):
                    await self._empty.wait()
            except TimeoutError:
                pass
        done = not self._closed and not self._bytes and self._writable.open
        self._end()
        return done

    def _flush(self) -> None:
        self._flushing = False
        if self._closed:
            return
        taken = 0
        try:
            if self._live is not None and self._writable.open:
                self._flush_live(self._live)
            while taken < len(self._frames) and self._writable.open:
                message, size, taken = self._next(taken)
                self._socket.write(message)
                self._bytes -= size
            del self._frames[:taken]
        except ConnectionError:
            self._give_up("gone")
            return
        if self._bytes < 2 * self._limit:
            self._calm.set()
        if not self._writable.open:
            self._await_room()
        elif self._empty is not None:
            self._empty.set()
        if self._was_full and 2 * self.waiting <= self._limit:
            self._was_full = False
            self._on_room()

    def _await_room(self) -> None:
        if self._deadline is None:
            self._deadline = self._loop.call_later(self._timeout_s, self._give_up, "slow")

    def _on_writable(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._flush()

    def _next(self, at: int) -> tuple[bytes, int, int]:
        """The message that begins with frame `at`, the bytes of its frames, and where the next one begins."""
        frames = self._frames
        end, size = at + 1, len(frames[at])
        if self.batch:
            while end < len(frames) and size + len(frames[end]) <= _BATCH_BYTES:
                size += len(frames[end])
                end += 1
        return (frames[at] if end == at + 1 else self._joined(frames[at:end])), size, end

    def _joined(self, frames: list[bytes]) -> bytes:
        return join_msgpack(frames) if self._msgpack else join_json(frames)

    def _flush_live(self, live: Live) -> None:
        kind = 2 * self._msgpack + self.batch
        framed = live.written.get(kind)
        if framed is None:
            self._spread()
            framed = self._socket.framed([self._joined(self._frames)] if self.batch and len(self._frames) > 1 else self._frames)
            if framed is None:
                return
            live.written[kind] = framed
            self._frames.clear()
        self._live, self._bytes = None, 0
        self._socket.write_framed(framed)

    def _give_up(self, why: str) -> None:
        self._end()
        self._on_lost(why)

    def _end(self) -> None:
        self._closed = True
        self._frames.clear()
        self._live, self._bytes = None, 0
        self._calm.set()
        if self._deadline is not None:
            self._deadline.cancel()
        if self._empty is not None:
            self._empty.set()
