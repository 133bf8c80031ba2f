"""The one live reader of a process: announcements of all followed streams, over one pub/sub connection.

An announcement is only a wake-up that carries the bytes along. What it may lose is repaired from the log: a hole is
found by `seq` at once, a lost last event by a check of the tops (every 2 s for running jobs, 30 s for the rest), and
whatever a broken connection swallowed by a check of all of them after it is back.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from rt import keys
from rt.errors import Unavailable
from rt.events import is_plain
from rt.gate import Gate
from rt.redis import Listener, Store, insist
from rt.streams.log import StreamLog
from rt.streams.replay import Head
from rt.telemetry import get_logger, metrics

log = get_logger("rt.tail")

#: A running job's stream ought to move; its lost last event is noticed within one round.
ACTIVE_CHECK_S = 2.0
IDLE_CHECK_S = 30.0
_RECONNECT_S = (0.05, 1.0)
_ALWAYS = "rt:tail"


@dataclass(slots=True, init=False)
class Live:
    """An announcement. `events` is None when it was too large to carry them; one object is shared by all who follow the stream."""

    epoch: str
    first: int
    last: int
    events: list[bytes] | None
    #: Whether it has events, and nothing follows from them but that they are forwarded.
    plain: bool = field(compare=False)
    #: What the sockets of each kind write for it: made by the first one.
    written: dict[int, bytes] = field(compare=False)

    def __init__(self, epoch: str, first: int, last: int, events: list[bytes] | None) -> None:
        self.epoch, self.first, self.last, self.events = epoch, first, last, events
        self.plain = events is not None and (is_plain(events[0]) if first == last else all(map(is_plain, events)))
        self.written = {}


class Sink(Protocol):
    """Who follows a stream. All calls come from the reader's own task: they must return at once and never raise."""

    def on_live(self, stream: str, live: Live) -> None: ...

    def on_checked(self, stream: str, head: Head) -> None:
        """The stream's head, as the log has it: where it is ahead of what was sent, the log must be read."""

    def on_taken_over(self, stream: str, generation: int) -> None:
        """A connection of this generation has resumed the session whose stream this is."""


@dataclass(slots=True, eq=False)
class _Followed:
    tenant: str
    stream: str
    confirmed: Gate = field(default_factory=Gate.shut)
    #: In the order in which they came.
    sinks: dict[Sink, None] = field(default_factory=dict)
    epoch: str = ""
    top: int = -1


class Tail:
    """Run `run()` in a task of its own; follow and unfollow from any task of the same loop."""

    def __init__(self, store: Store, streams: StreamLog) -> None:
        self._store = store
        self._streams = streams
        self._followed: dict[str, _Followed] = {}
        #: Channels that are no stream's, and who hears them: the process needs no second connection for them.
        self._others: dict[str, Callable[[bytes], None]] = {}
        self._to_subscribe: set[str] = set()
        self._to_drop: set[str] = set()
        #: SUBSCRIBEs of this connection that Redis has not confirmed, by channel. An earlier one's confirmation says nothing
        #: of a channel that was dropped and followed again since.
        self._asked: Counter[str] = Counter()
        #: Channels that a new connection has still to confirm; then what the old one may have swallowed is looked for.
        self._unconfirmed: set[str] = set()
        self._changed = asyncio.Event()
        self._listener: Listener | None = None
        self._check_all = asyncio.Event()
        #: Set while announcements are being received.
        self.connected = asyncio.Event()

    def statistics(self) -> dict[str, int]:
        return {"streams": len(self._followed), "sinks": sum(len(one.sinks) for one in self._followed.values())}

    def sinks(self, tenant: str, stream: str) -> list[Sink]:
        """Who follows a stream in this process."""
        one = self._followed.get(keys.live(tenant, stream))
        return list(one.sinks) if one else []

    def hear(self, channels: Mapping[str, Callable[[bytes], None]]) -> None:
        """Calls each function with every message of its channel; it must return at once and never raise. To be said before `run`."""
        self._others |= channels

    async def follow(self, tenant: str, stream: str, sink: Sink) -> None:
        """Registers `sink` at once, and returns when announcements of the stream are certain to arrive.

        A log read that begins after this returns, and the announcements after it, leave nothing out. Waits while Redis
        is away. Cancelling is safe; `unfollow` undoes it in every case.
        """
        await self.expect(tenant, stream, sink).wait()

    def expect(self, tenant: str, stream: str, sink: Sink) -> Gate:
        """As `follow`, without waiting: the gate opens when announcements are certain to arrive.

        Of a stream that is begun by a call to Redis after this, its first announcement nearly always arrives.
        """
        channel = keys.live(tenant, stream)
        one = self._followed.get(channel)
        if one is None:
            one = self._followed[channel] = _Followed(tenant, stream)
            self._to_subscribe.add(channel)
            self._to_drop.discard(channel)
            self._changed.set()
        one.sinks[sink] = None
        return one.confirmed

    def unfollow(self, tenant: str, stream: str, sink: Sink) -> None:
        channel = keys.live(tenant, stream)
        one = self._followed.get(channel)
        if one is None or sink not in one.sinks:
            return
        del one.sinks[sink]
        if not one.sinks:
            del self._followed[channel]
            self._to_subscribe.discard(channel)
            self._confirm(channel)
            self._to_drop.add(channel)
            self._changed.set()

    async def run(self) -> None:
        """Reads until cancelled; survives the loss of Redis."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._checks(), name="tail checks")
            failures = 0
            while True:
                try:
                    async with self._store.listen() as listener:
                        await self._read(listener, group)
                except Unavailable:
                    metrics.redis_errors.labels("tail").inc()
                finally:
                    self._listener = None
                    failures = 0 if self.connected.is_set() else failures + 1
                    self.connected.clear()
                low, high = _RECONNECT_S
                await asyncio.sleep(random.uniform(low, min(high, low * 2.0**failures)))

    async def _read(self, listener: Listener, group: asyncio.TaskGroup) -> None:
        for followed in self._followed.values():
            followed.confirmed.clear()
        self._to_drop.clear()
        self._to_subscribe = set(self._followed)
        self._unconfirmed = {_ALWAYS, *self._followed}
        self._asked.clear()
        # A channel that nobody uses keeps the connection subscribed, so that it can be read before the first follow.
        await listener.subscribe(*self._others, _ALWAYS)
        subscriber = group.create_task(self._subscribe(listener), name="tail subscriptions")
        self._listener = listener
        try:
            while True:
                message: tuple[str, str, bytes] | None = await listener.hear()
                while message is not None:
                    kind, channel, data = message
                    if kind == "message":
                        # What comes before the confirmation may come from an earlier subscription, which has ended since.
                        if (one := self._followed.get(channel)) and one.confirmed.open:
                            self._announce(one, data)
                        elif other := self._others.get(channel):
                            other(data)
                    elif kind == "subscribe":
                        self._subscribed(channel)
                    message = listener.heard()
        finally:
            subscriber.cancel()

    def _subscribed(self, channel: str) -> None:
        self._asked[channel] -= 1
        if channel == _ALWAYS:
            self.connected.set()
        elif self._asked[channel] > 0 or channel in self._to_subscribe:
            return
        elif one := self._followed.get(channel):
            one.confirmed.set()
        del self._asked[channel]
        self._confirm(channel)

    def _confirm(self, channel: str) -> None:
        if channel in self._unconfirmed:
            self._unconfirmed.discard(channel)
            if not self._unconfirmed:
                self._check_all.set()

    async def _subscribe(self, listener: Listener) -> None:
        """Sends what followers asked for since the last time: many of them in one command."""
        while True:
            self._changed.clear()
            # In this order: a channel that was dropped and followed again is in `_to_subscribe` alone.
            drop, self._to_drop = self._to_drop, set()
            new, self._to_subscribe = self._to_subscribe, set()
            try:
                if drop:
                    await listener.unsubscribe(*drop)
                if new:
                    self._asked.update(new)
                    await listener.subscribe(*new)
            except Unavailable:
                return  # the reader notices as well, and the next connection subscribes to everything
            await self._changed.wait()

    def _announce(self, one: _Followed, data: bytes) -> None:
        head, newline, body = data.partition(b"\n")
        try:
            if head.startswith(b"!"):
                for sink in list(one.sinks):
                    sink.on_taken_over(one.stream, int(head[1:]))
                return
            epoch, first, last = head.decode().split(" ")
            live = Live(epoch, int(first), int(last), body.split(b"\n") if newline else None)
        except ValueError:  # not ours; whatever it was about, the log knows
            self._check_all.set()
            return
        one.epoch, one.top = live.epoch, live.last
        for sink in list(one.sinks):
            sink.on_live(one.stream, live)

    async def _checks(self) -> None:
        idle_in_s = IDLE_CHECK_S
        while True:
            try:
                async with asyncio.timeout(ACTIVE_CHECK_S):
                    await self._check_all.wait()
                everything = True
            except TimeoutError:
                idle_in_s -= ACTIVE_CHECK_S
                everything = idle_in_s <= 0
            self._check_all.clear()
            if everything:
                idle_in_s = IDLE_CHECK_S
            await insist("tail check", self.check, (lambda _: True) if everything else (lambda stream: stream.startswith("job:")))

    async def check(self, which: Callable[[str], bool] = lambda _: True) -> None:
        """Compares the tops that were announced with those of the log. Raises Unavailable."""
        tenants: dict[str, list[_Followed]] = {}
        for one in self._followed.values():
            if one.confirmed.open and which(one.stream):
                tenants.setdefault(one.tenant, []).append(one)
        for tenant, followed in tenants.items():
            before = [(one.epoch, one.top) for one in followed]
            heads = await self._streams.heads(tenant, [one.stream for one in followed])
            for one, (epoch, top) in zip(followed, before, strict=True):
                head = heads[one.stream]
                # Announcements may have come while the heads were read: only a top that is behind what was known
                # before the read is a loss, only one that is ahead of what is known now is news.
                if head.epoch == epoch and top <= head.top <= one.top:
                    continue
                if one.top >= 0:
                    metrics.repairs.inc()
                one.epoch, one.top = head.epoch, head.top
                for sink in list(one.sinks):
                    sink.on_checked(one.stream, head)
