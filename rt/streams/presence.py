"""Who is in a room: sessions that follow it and have a connection, each subject counted once.

`presence.joined` and `presence.left` are events of the room's own stream. A process renews one lease for all its connections;
when it is killed they are no longer listed once that has lapsed, and have left when their clients do not come back in time. A
client that comes back, to whichever process, was never gone: a deploy tells nobody anything.

At rest a process costs Redis one script a second. What connections do gathers while a call is under way and leaves with the
next one: a join is two or three writes of one such call, and one event when the subject was not there.
"""

import asyncio
import secrets
from collections import Counter
from typing import Literal, NamedTuple

from rt import keys
from rt.cursor import new_epoch
from rt.errors import Unavailable
from rt.redis import ReplyError, Store, insist, load_script
from rt.settings import Settings
from rt.streams.log import StreamLog
from rt.telemetry import get_logger, metrics

ATTEND = load_script("streams/stream", "streams/presence", "streams/attend")
ATTENDANCE = load_script("streams/stream", "streams/presence", "streams/attendance")
PRESENT = load_script("streams/stream", "streams/present")

log = get_logger("rt.presence")

EVERY_S = 1.0
#: A process that does not renew for this long holds nobody any more: three renewals may fail.
LEASE_S = 4.0
#: How long somebody may be without a connection before `presence.left`.
AWAY_S = 15.0
#: What is known of a room, and of who is away, outlives its last change so long; who is there is said again in time.
TTL_S = 86_400
AGAIN_S = TTL_S / 4
#: Changes of one call: a script holds the whole server while it runs.
_A_CALL = 100

Change = Literal["here", "away", "left"]


class Attendee(NamedTuple):
    """One connection of a session in a room. A newer connection has a higher generation."""

    tenant: str
    room: str
    session: str
    generation: int
    subject: str


class Presence:
    """Run `run()` in a task of its own; tell it of connections from any task of the loop."""

    def __init__(self, store: Store, streams: StreamLog, settings: Settings) -> None:
        self._store, self._streams = store, streams
        self._told_up_to = settings.presence_events
        self.process = secrets.token_hex(8)
        self._here: set[Attendee] = set()
        #: In which rooms, and how many of them.
        self._rooms: Counter[tuple[str, str]] = Counter()
        #: What is still to be said; of each connection in a room only the newest.
        self._changes: dict[Attendee, Change] = {}
        self._some = asyncio.Event()
        self._incarnation = b""

    # what connections do

    def here(self, one: Attendee) -> None:
        if one not in self._here:
            self._here.add(one)
            self._rooms[one.tenant, one.room] += 1
        self._change(one, "here")

    def away(self, one: Attendee) -> None:
        """Its connection has ended: it has left when it is not back in time."""
        self._gone(one, "away")

    def left(self, one: Attendee) -> None:
        """It follows the room no longer, which is said at once."""
        self._gone(one, "left")

    def _gone(self, one: Attendee, change: Change) -> None:
        if one in self._here:
            self._here.discard(one)
            self._rooms[one.tenant, one.room] -= 1
            if not self._rooms[one.tenant, one.room]:
                del self._rooms[one.tenant, one.room]
            self._change(one, change)

    def _change(self, one: Attendee, change: Change) -> None:
        self._changes.pop(one, None)  # in the order in which they came
        self._changes[one] = change
        self._some.set()

    async def list(self, tenant: str, room: str) -> dict[str, int]:
        """The subjects that are there, in order, and with how many sessions. Raises Unavailable."""
        reply = await self._store.run(PRESENT, [keys.presence(tenant, room), keys.PROCESSES])
        return dict(sorted((subject.decode(), int(count)) for subject, count in zip(reply[::2], reply[1::2], strict=True)))

    # chores

    async def run(self) -> None:
        """Works until cancelled; survives the loss of Redis."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._tell(), name="presence changes")
            loop = asyncio.get_running_loop()
            again_at = loop.time() + AGAIN_S
            while True:
                try:
                    await self.round()
                    if loop.time() >= again_at:
                        again_at = loop.time() + AGAIN_S
                        self._all_again()
                except Unavailable:
                    metrics.redis_errors.labels("presence").inc()
                except Exception as error:
                    # Something in Redis that no version of ours wrote: the process that looks at it must live on.
                    log.error("a round of presence failed", exc_info=error)
                await asyncio.sleep(EVERY_S)

    async def round(self) -> None:
        """Renews the lease, and does for others what is due. Raises Unavailable."""
        names = [keys.PROCESSES, keys.AWAY, keys.ATTENDED, keys.ABSENCE_GRACE]
        args = [self.process, int(LEASE_S * 1000), int(AWAY_S * 1000), TTL_S, new_epoch(), *self._streams.keep("room:-"), self._told_up_to]
        lapsed, incarnation, _ = await self._store.run(ATTENDANCE, names, args)
        # Others took this process for dead, or Redis may have lost what it was told.
        if lapsed or incarnation != self._incarnation:
            self._all_again()
        self._incarnation = incarnation

    def _all_again(self) -> None:
        for one in self._here:
            self._changes.setdefault(one, "here")
            self._some.set()

    async def _tell(self) -> None:
        while True:
            await self._some.wait()
            part = dict(list(self._changes.items())[:_A_CALL])
            for one in part:
                del self._changes[one]
            if not self._changes:
                self._some.clear()
            try:
                await insist("presence", self.tell, part)
            except ReplyError:
                # One of them cannot be written, whatever the reason: the others can, and what was written is known as a repeat.
                for one, change in part.items():
                    try:
                        await insist("presence", self.tell, {one: change})
                    except ReplyError as error:
                        log.error("a change of presence could not be told", room=one.room, exc_info=error)

    async def tell(self, changes: dict[Attendee, Change]) -> None:
        """Says what has changed; may be repeated. Raises Unavailable."""
        names = [keys.AWAY, keys.attended(self.process), keys.PROCESSES, *(keys.presence(one.tenant, one.room) for one in changes)]
        args = [self.process, int(AWAY_S * 1000), TTL_S, new_epoch(), *self._streams.keep("room:-"), self._told_up_to]
        for one, change in changes.items():
            last = "" if (one.tenant, one.room) in self._rooms else "1"
            args += (change, one.tenant, one.room, one.session, one.generation, one.subject, last)
        await self._store.run(ATTEND, names, args)
