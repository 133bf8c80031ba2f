"""Notifications: events of a subject's own stream, muted levels, and the mark of what was read.

A notification is kept while nobody is there, like all that is in a stream. What is unread is what the subject, on
whichever device, has not marked as read; acknowledging an event only says that it has arrived.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from rt import events, keys
from rt.codec import from_json_bytes
from rt.cursor import Cursor, new_epoch
from rt.errors import Refused
from rt.events import Level
from rt.redis import Store, load_script
from rt.settings import Settings
from rt.streams.log import RECORD_TTL_S, StreamLog, check_verdict
from rt.streams.replay import place

NOTIFY = load_script("streams/stream", "streams/inbox", "streams/notify")
BROADCAST = load_script("streams/stream", "streams/inbox", "streams/broadcast")
UNREAD = load_script("streams/stream", "streams/inbox", "streams/unread")

#: A preference that is neither written nor asked for is forgotten after a year.
MUTED_TTL_S = 365 * 86_400


@dataclass(frozen=True, slots=True)
class Notification:
    """What one says. `metadata` is the application's own: anything with a JSON form."""

    title: str
    message: str
    level: Level
    metadata: dict[str, Any]

    def encode(self, stream: str) -> bytes:
        """The event for a subject's stream. Raises Refused("too_large") above 256 KiB."""
        data = {"title": self.title, "message": self.message, "level": self.level, "metadata": self.metadata}
        event = events.encode("notification", stream, data, int(time.time() * 1000))
        if len(event) > events.MAX_EVENT_BYTES:
            raise Refused("too_large", f"a notification of {len(event)} bytes; at most {events.MAX_EVENT_BYTES} are taken")
        return event


class Notified(NamedTuple):
    """Where a notification stands; `muted`: nowhere, the subject does not want its level."""

    muted: bool
    epoch: str
    seq: int
    duplicate: bool


class Unread(NamedTuple):
    """How many notifications are not marked as read (of those that the stream still has), and the mark."""

    unread: int
    read: Cursor


class Notifications:
    """All calls raise Unavailable when Redis does not answer; those that carry a record, or only read, may then be repeated."""

    def __init__(self, store: Store, streams: StreamLog, settings: Settings) -> None:
        self._store, self._streams, self._settings = store, streams, settings

    async def send(self, tenant: str, subject: str, one: Notification, *, hash: str = "-", records: Iterable[str] = ()) -> Notified:
        """Appends to the subject's stream, once for each of `records`. Raises Refused("conflict") when another request made one."""
        stream = keys.user_stream(subject)
        args = [new_epoch(), one.encode(stream), one.level, *self._streams.keep(stream), MUTED_TTL_S, hash, RECORD_TTL_S]
        reply = await self._store.run(NOTIFY, [*_names(tenant, subject), *records], args)
        verdict = check_verdict(reply[0])
        answer = from_json_bytes(reply[1])
        return Notified(answer["muted"], answer.get("epoch", ""), answer.get("seq", 0), verdict == "duplicate")

    async def send_part(self, tenant: str, id: str, subjects: Sequence[str], one: Notification) -> tuple[int, int]:
        """A part of the broadcast `id`: each of the subjects gets it once, however often it is asked for.

        Returns to how many the broadcast was sent so far, and how many have its level muted.
        """
        # As long as the broadcast may be run again from its dead letter.
        known_s = max(RECORD_TTL_S, self._settings.dead_letter_age_s + RECORD_TTL_S)
        names, args = [keys.broadcast(tenant, id)], [new_epoch(), one.level, *self._streams.keep("user:-"), MUTED_TTL_S, known_s]
        for subject in subjects:
            names += _names(tenant, subject)
            args += (subject, one.encode(keys.user_stream(subject)))
        sent, muted = await self._store.run(BROADCAST, names, args)
        return int(sent), int(muted)

    async def sent_all(self, tenant: str, id: str) -> None:
        """A broadcast has reached everybody: whom it has reached need not be known for much longer."""
        await self._store.call("EXPIRE", keys.broadcast(tenant, id), RECORD_TTL_S)

    async def seen(self, tenant: str, since: float, count: int) -> list[tuple[str, float]]:
        """Up to `count` subjects that had a session within the retention of their streams, and when (Redis's own time, µs), from
        a time on, oldest first. Who comes back meanwhile moves to the end."""
        found = await self._store.call("ZRANGE", keys.seen(tenant), since, "+inf", "BYSCORE", "LIMIT", 0, count, "WITHSCORES")
        return [(subject.decode(), float(at)) for subject, at in zip(found[::2], found[1::2], strict=True)]

    async def unread(self, tenant: str, subject: str) -> Unread:
        """What is unread now."""
        return await self._unread(tenant, subject, "", "")

    async def mark_read(self, tenant: str, subject: str, cursor: Cursor) -> Unread:
        """Marks everything up to a cursor as read, and tells the subject's other devices (`notification.read`).

        The mark never goes back. Raises Refused("conflict") for a cursor that no longer says which events it means.
        """
        stream = keys.user_stream(subject)
        head = (await self._streams.open(tenant, [stream]))[stream]
        placed = place(cursor, head)
        if placed.gap is None or placed.gap.first is not None:
            # What was trimmed is gone, read or not.
            seq = cursor.seq if placed.gap is None else max(cursor.seq, placed.seq)
            return await self._unread(tenant, subject, seq, head.epoch)
        raise _moved()

    async def _unread(self, tenant: str, subject: str, seq: int | str, epoch: str) -> Unread:
        stream = keys.user_stream(subject)
        begun = events.encode("notification.read", stream, None, int(time.time() * 1000)).removesuffix(b"null}")
        args = [seq, epoch, begun, new_epoch(), *self._streams.keep(stream)]
        reply = await self._store.run(UNREAD, _names(tenant, subject)[:3], args)
        if reply[0] == b"moved":
            raise _moved()
        head = (await self._streams.heads(tenant, [stream]))[stream]
        return Unread(int(reply[0]), Cursor(head.epoch, int(reply[1])))

    async def muted(self, tenant: str, subject: str) -> list[str]:
        """The levels that the subject does not want."""
        levels = await self._store.call("GET", keys.muted(tenant, subject))
        return levels.decode().split() if levels else []

    async def mute(self, tenant: str, subject: str, levels: Sequence[Level]) -> None:
        """Sets the levels that the subject does not want from now on; what it was sent stays."""
        key = keys.muted(tenant, subject)
        if levels:
            await self._store.call("SET", key, " ".join(levels), "EX", MUTED_TTL_S)
        else:
            await self._store.call("DEL", key)


def _names(tenant: str, subject: str) -> list[str]:
    stream = keys.user_stream(subject)
    return [keys.log(tenant, stream), keys.meta(tenant, stream), keys.unread(tenant, subject), keys.muted(tenant, subject)]


def _moved() -> Refused:
    return Refused("conflict", "this cursor is not of the stream as it is now; read the stream again")
