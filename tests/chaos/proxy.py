"""The network's weather: a TCP proxy on loopback that delays, throttles, holds, swallows, cuts and refuses.

It stands between clients and `rt web`, or between our processes and Redis. Bytes are never changed, left out or moved:
a direction that has swallowed some is dead for good, as a connection is whose packets no longer arrive.
"""

import asyncio
import contextlib
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Self, TypeVar

T = TypeVar("T")

#: Bytes that wait in one direction of one connection before its source is no longer read.
_QUEUE_BYTES = 256 * 1024
#: A throttled direction sends what it may send in this time at once.
_SLICE_S = 0.02
#: How much of what a client says first is kept, to know its connection by.
_OPENING_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Weather:
    """What happens to bytes. `up` is from the client, `down` to it. Times in ms, rates in bytes per second (0: no limit).

    hold: bytes wait until it is over, then all of them go on: a network that is gone for a while.
    drop: bytes are swallowed, and nothing tells the other side, not even that the connection was closed; a direction
    that has swallowed something stays dead when the weather is better. Both ways it is a half-open connection.
    """

    up_ms: float = 0
    down_ms: float = 0
    up_rate: float = 0
    down_rate: float = 0
    hold_up: bool = False
    hold_down: bool = False
    drop_up: bool = False
    drop_down: bool = False


FAIR = Weather()
HALF_OPEN = Weather(drop_up=True, drop_down=True)
HELD = Weather(hold_up=True, hold_down=True)


@dataclass(slots=True)
class Statistics:
    """`up` and `down` are bytes that were passed on, `dropped` those that were swallowed."""

    accepted: int = 0
    open: int = 0
    cut: int = 0
    unreachable: int = 0
    up: int = 0
    down: int = 0
    dropped: int = 0


class Proxy:
    """`async with` runs it on this loop, `with` on a thread of its own: for tests that block their loop, or have none.

    `target` is a port of 127.0.0.1 or the path of a unix socket. Everything but the `with` may be called from any thread,
    and has happened when it returns. `port` is the same for its whole life, also while it refuses.
    """

    def __init__(self, target: int | str) -> None:
        self._target = target
        self._weather = FAIR
        self._statistics = Statistics()
        self._links: dict[int, Link] = {}
        self._numbers = 0
        self._listener: socket.socket | None = None
        self._connecting: set[asyncio.Task[None]] = set()
        # Bound and never listening: it keeps the port while nobody accepts there.
        self._place = _bound(0)
        self.port = int(self._place.getsockname()[1])

    # what tests do

    def set(self, weather: Weather = FAIR, which: "Callable[[Link], bool] | None" = None, **change: Any) -> None:
        """From now on, for all connections and those to come; with `which` only for those of now that it chooses.

        `set(HALF_OPEN)`, `set(down_ms=100)`, `set()` for fair weather.
        """
        weather = replace(weather, **change)

        def do() -> None:
            if which is None:
                self._weather = weather
            for link in self.links():
                if which is None or which(link):
                    link.weather = weather
                    link.pump()

        self._here(do)

    def cut(self, which: "Callable[[Link], bool] | None" = None) -> int:
        """Resets connections (RST) on both sides at once, whatever is under way in them. Returns how many."""

        def do() -> int:
            chosen = [link for link in self.links() if which is None or which(link)]
            for link in chosen:
                link.reset()
            self._statistics.cut += len(chosen)
            return len(chosen)

        return self._here(do)

    def refuse(self) -> None:
        """New connections are refused, as where no process listens; those that are open go on."""
        self._here(self._close_listener)

    def accept(self) -> None:
        """Ends `refuse`."""
        self._here(self._listen)

    def point(self, target: int | str) -> None:
        """New connections go there: what a name or a virtual address does at a failover."""
        self._here(lambda: setattr(self, "_target", target))

    def links(self) -> "list[Link]":
        return list(self._links.values())

    def statistics(self) -> Statistics:
        return self._here(lambda: replace(self._statistics, open=len(self._links)))

    # its life

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._listen()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._close_listener()
        for task in self._connecting:
            task.cancel()
        await asyncio.gather(*self._connecting, return_exceptions=True)
        for link in self.links():
            link.reset()
        self._place.close()
        await asyncio.sleep(0)  # the transports say that they are closed

    def __enter__(self) -> Self:
        running: list[asyncio.Event] = []
        started = threading.Event()

        async def main() -> None:
            running.append(asyncio.Event())
            async with self:
                started.set()
                await running[0].wait()

        self._own = threading.Thread(target=asyncio.run, args=(main(),), name="proxy", daemon=True)
        self._own.start()
        assert started.wait(10)
        self._end = running[0].set
        return self

    def __exit__(self, *exc: object) -> None:
        self._loop.call_soon_threadsafe(self._end)
        self._own.join(10)

    def _here(self, do: Callable[[], T]) -> T:
        if threading.get_ident() == self._thread:
            return do()

        async def there() -> T:
            return do()

        return asyncio.run_coroutine_threadsafe(there(), self._loop).result(10)

    def _listen(self) -> None:
        if self._listener is None:
            self._listener = _bound(self.port)
            self._listener.setblocking(False)
            self._listener.listen(1024)
            self._loop.add_reader(self._listener, self._accept, self._listener)

    def _close_listener(self) -> None:
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionError):
            client, _ = listener.accept()
            self._statistics.accepted += 1
            task = self._loop.create_task(self._connect(client))
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    async def _connect(self, accepted: socket.socket) -> None:
        """Opens the way to the target; until then the client's bytes wait in the kernel."""
        client, server = _Side(), _Side()
        self._numbers += 1
        link = self._links[self._numbers] = Link(self._numbers, self._weather, client, server, self._statistics)
        link.on_over = lambda: self._links.pop(link.number, None)
        try:
            if isinstance(self._target, int):
                await self._loop.create_connection(lambda: server, "127.0.0.1", self._target)
            else:
                await self._loop.create_unix_connection(lambda: server, self._target)
        except BaseException as error:
            link.reset()
            _reset_at_close(accepted)
            accepted.close()
            if not isinstance(error, OSError):
                raise
            self._statistics.unreachable += 1
            return
        await self._loop.connect_accepted_socket(lambda: client, accepted)
        if server.lost or link.number not in self._links:  # reset in between
            link.reset()


class Link:
    """One connection through the proxy. `number` counts from 1; `opening` is what the client said first, up to 4 KiB."""

    def __init__(self, number: int, weather: Weather, client: "_Side", server: "_Side", statistics: Statistics) -> None:
        self.number = number
        self.weather = weather
        self.opening = b""
        self.on_over: Callable[[], object] = lambda: None
        self._client, self._server, self._statistics = client, server, statistics
        self._up, self._down = _Flow(client, server), _Flow(server, client)
        for side in (client, server):
            side.on_data = lambda data, side=side: self._data(side, data)  # type: ignore[misc]
            side.on_eof = lambda side=side: self._eof(side)  # type: ignore[misc]
            side.on_lost = lambda error, side=side: self._lost(side, error)  # type: ignore[misc]
            side.on_room = self.pump

    def reset(self) -> None:
        self._client.reset()
        self._server.reset()
        self._over()

    def _over(self) -> None:
        self._up.stop()
        self._down.stop()
        self.on_over()

    def _data(self, side: "_Side", data: bytes) -> None:
        flow = self._up if side is self._client else self._down
        if flow is self._up and len(self.opening) < _OPENING_BYTES:
            self.opening += data[:_OPENING_BYTES]
        flow.add(data)
        self.pump()

    def _eof(self, side: "_Side") -> None:
        (self._up if side is self._client else self._down).eof = True
        self.pump()

    def _lost(self, side: "_Side", error: Exception | None) -> None:
        """One side was reset; the other one hears of it, but not across a dead direction."""
        (self._down if side is self._client else self._up).stop()  # nobody is there to take it
        flow = self._up if side is self._client else self._down
        flow.failed, flow.ended = error is not None, False
        self.pump()
        if self._client.lost and self._server.lost:
            self._over()

    def pump(self) -> None:
        weather, told = self.weather, self._statistics
        told.up += self._up.pump(weather.up_ms / 1000, weather.up_rate, weather.hold_up, weather.drop_up)
        told.down += self._down.pump(weather.down_ms / 1000, weather.down_rate, weather.hold_down, weather.drop_down)
        for flow in (self._up, self._down):
            told.dropped += flow.taken_dropped()
            if flow.next_at is not None:
                flow.wake(self.pump)
        if self._up.ended and self._down.ended:
            for side in (self._client, self._server):
                side.transport.close()


@dataclass(slots=True, eq=False)
class _Flow:
    """One direction: what waits in it, and whether it still leads anywhere."""

    source: "_Side"
    sink: "_Side"
    #: Times of arrival and bytes.
    queue: deque[tuple[float, bytes]] = field(default_factory=deque)
    queued: int = 0
    #: The source ended, or was reset; `ended` once the sink was told.
    eof: bool = False
    failed: bool = False
    ended: bool = False
    dead: bool = False
    paused: bool = False
    next_at: float | None = None
    _dropped: int = 0
    _free_at: float = 0
    _timer: asyncio.TimerHandle | None = None

    def add(self, data: bytes) -> None:
        self.queue.append((asyncio.get_running_loop().time(), data))
        self.queued += len(data)

    def pump(self, delay_s: float, rate: float, hold: bool, drop: bool) -> int:
        """Passes on what may go now, and says how many bytes that was; `next_at` is when more may go."""
        self._forget_timer()
        now, sent = asyncio.get_running_loop().time(), 0
        if drop and (self.queue or self.eof or self.failed):
            self.dead = True
        if self.dead:
            self._dropped += self.queued
            self.queue.clear()
            self.queued = 0
        while self.queue and not hold and not self.sink.full and not self.sink.lost:
            arrived, data = self.queue[0]
            at = max(arrived + delay_s, self._free_at if rate else 0)
            if at > now:
                self.next_at = at
                break
            self.queue.popleft()
            if rate:
                most = max(1, int(rate * _SLICE_S))
                if len(data) > most:
                    self.queue.appendleft((arrived, data[most:]))
                    data = data[:most]
                self._free_at = max(self._free_at, now) + len(data) / rate
            self.queued -= len(data)
            self.sink.transport.write(data)
            sent += len(data)
        if self.sink.transport and not (self.queue or self.dead or hold or self.ended or self.sink.lost):
            if self.failed:
                self.sink.reset()
            elif self.eof:
                self.sink.transport.write_eof()
            self.ended = self.failed or self.eof
        if not self.source.lost and self.paused != (self.queued > _QUEUE_BYTES):
            self.paused = not self.paused
            if self.paused:
                self.source.transport.pause_reading()
            else:
                self.source.transport.resume_reading()
        return sent

    def wake(self, pump: Callable[[], None]) -> None:
        assert self.next_at is not None
        self._timer = asyncio.get_running_loop().call_at(self.next_at, pump)

    def taken_dropped(self) -> int:
        dropped, self._dropped = self._dropped, 0
        return dropped

    def stop(self) -> None:
        self._forget_timer()
        self.dead = True
        self.queue.clear()
        self.queued = 0

    def _forget_timer(self) -> None:
        self.next_at = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Side(asyncio.Protocol):
    """One end of a link."""

    def __init__(self) -> None:
        self.transport: Any = None
        #: Nothing can be written, at first because there is no connection yet.
        self.full = True
        self.lost = False
        self.on_data: Callable[[bytes], None] = lambda data: None
        self.on_eof: Callable[[], None] = lambda: None
        self.on_lost: Callable[[Exception | None], None] = lambda error: None
        self.on_room: Callable[[], None] = lambda: None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.resume_writing()

    def data_received(self, data: bytes) -> None:
        self.on_data(data)

    def eof_received(self) -> bool:
        self.on_eof()
        return True  # the other direction goes on

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        self.on_lost(error)

    def reset(self) -> None:
        """Closes with RST: what lies in buffers, on either side, is gone."""
        if self.transport is not None:
            if not self.transport.is_closing():
                _reset_at_close(self.transport.get_extra_info("socket"))
            self.transport.abort()

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False
        self.on_room()


def _bound(port: int) -> socket.socket:
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.bind(("127.0.0.1", port))
    return one


def _reset_at_close(one: socket.socket) -> None:
    """Whenever it is closed: at once, and the other side is told so."""
    with contextlib.suppress(OSError):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
