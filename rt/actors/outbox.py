"""What waits to be sent to one client, and the task that sends it; there is no task while nothing waits.

Full means: the session forwards no more events and reads the log later. Control frames always go in: each is small,
and answers something that the client sent; while twice the limit waits, nothing more is read from it. A client that takes nothing for
`timeout_s` is given up.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from rt.codec import join_json, join_msgpack, pack, to_json_bytes, transcode
from rt.telemetry import metrics

#: Frames of one WebSocket message to a client that takes arrays.
_BATCH_BYTES = 64 * 1024


class Outbox:
    """`send` writes one WebSocket message; `on_room` is called when a full outbox is half empty; `on_lost` when the socket is
    gone ("gone") or takes nothing ("slow")."""

    def __init__(
        self,
        send: Callable[[bytes], Awaitable[None]],
        *,
        msgpack: bool,
        limit_bytes: int,
        timeout_s: float,
        on_room: Callable[[], None],
        on_lost: Callable[[str], None],
    ) -> None:
        self._send = send
        self._msgpack = msgpack
        self._limit = limit_bytes
        self._timeout_s = timeout_s
        self._on_room, self._on_lost = on_room, on_lost
        self._frames: deque[bytes] = deque()
        self._bytes = 0
        self._was_full = False
        self._lost = False
        self._writer: asyncio.Task[None] | None = None
        self._calm = asyncio.Event()
        self._calm.set()
        self.batch = False

    @property
    def room(self) -> int:
        """Bytes until it is full; 0 or less: full."""
        return self._limit - self._bytes

    @property
    def waiting(self) -> int:
        return self._bytes

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
        if self._lost:
            return
        self._frames.append(frame)
        self._bytes += len(frame)
        if self._bytes >= 2 * self._limit:
            self._calm.clear()
        if self._bytes >= self._limit and not self._was_full:
            self._was_full = True
            metrics.slow_consumers.labels("log").inc()
        if self._writer is None:
            self._writer = asyncio.create_task(self._write(), name="outbox")

    async def close(self, wait_s: float) -> None:
        """Sends what waits, for `wait_s` at most; then nothing more is sent."""
        writer = self._writer
        if writer is not None:
            await asyncio.wait({writer}, timeout=wait_s)
            self._lost = True
            writer.cancel()
            await asyncio.wait({writer})
        self._lost = True
        self._frames.clear()

    async def _write(self) -> None:
        try:
            while self._frames:
                message, size = self._next()
                async with asyncio.timeout(self._timeout_s):
                    await self._send(message)
                self._bytes -= size
                if self._bytes < 2 * self._limit:
                    self._calm.set()
                if self._was_full and self._bytes <= self._limit // 2:
                    self._was_full = False
                    self._on_room()
        except TimeoutError:
            self._give_up("slow")
        except Exception:  # whatever the server raises for a socket that is gone
            self._give_up("gone")
        finally:
            self._writer = None

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
        self._lost = True
        self._frames.clear()
        self._calm.set()
        self._on_lost(why)
