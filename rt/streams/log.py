"""Streams in Redis: append, publish, read in pages, look at heads, trim. The log is the truth.

Each function is one script, so that what it reads belongs together and what it writes happens at once or not at all.
All raise `Unavailable` when Redis does not answer; then the call may have happened, and may be repeated only where it
carries a batch number (`append`) or a record (`publish`).
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from rt import keys
from rt.codec import from_json_bytes
from rt.cursor import new_epoch, parse_cursor
from rt.errors import Refused, TakenOver
from rt.events import MAX_EVENT_BYTES
from rt.keys import Stream, parse_stream
from rt.redis import Store, load_script
from rt.settings import Settings
from rt.streams.replay import Head
from rt.telemetry import metrics

APPEND = load_script("streams/stream", "streams/append")
PUBLISH = load_script("streams/stream", "streams/publish")
OPEN = load_script("streams/stream", "streams/open")
READ = load_script("streams/head", "streams/read")
HEADS = load_script("streams/head", "streams/heads")
TRIM = load_script("streams/trim")

#: A page of a replay. 200 events and 64 KiB: several of them fit under a connection's bound of 256 KiB.
PAGE_EVENTS = 200
PAGE_BYTES = 64 * 1024

#: Command ids and idempotency keys are remembered for 24 h.
RECORD_TTL_S = 86_400

#: Heads are read in calls of this many streams: a script holds the whole server while it runs.
_HEADS_A_CALL = 500


class Page(NamedTuple):
    """Events in order, as stored; `head` is of the same instant."""

    head: Head
    events: list[bytes]


@dataclass(slots=True)
class Batch:
    """What one attempt appends in one step. `number` rises by one per batch of the attempt; a repeat keeps its number."""

    tenant: str
    stream: str
    fence: str
    number: int
    events: list[bytes] = field(default_factory=list)
    checkpoint: bytes = b""


class Appended(NamedTuple):
    """`verdict`: "ok"; "fenced" (another attempt owns the job, or it has ended); "cancelled" (`by` says by whom); "behind" (Redis
    was set back, and lacks a batch that it has answered)."""

    verdict: Literal["ok", "fenced", "cancelled", "behind"]
    epoch: str = ""
    first: int = 0
    last: int = 0
    by: str = ""


class Authorship(NamedTuple):
    """The session, and the generation of its connection, on whose behalf something is written; "" for no session."""

    session: str = ""
    generation: int | str = ""


NOBODY = Authorship()


class Published(NamedTuple):
    epoch: str
    seq: int
    duplicate: bool


class StreamLog:
    """The streams of one Redis. Holds no state of its own."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._settings = settings
        self._keep_jobs = self.keep("job:-")

    def keep(self, stream: Stream | str) -> tuple[int, int, int]:
        """`(length, log_ttl_s, meta_ttl_s)` of a stream, as the scripts take them."""
        kind = (stream if isinstance(stream, Stream) else parse_stream(stream)).kind
        kept = self._settings.retention(kind)
        return kept.length, kept.age_s, max(self._settings.meta_ttl_s, kept.age_s)

    async def append(self, batches: Sequence[Batch]) -> list[Appended]:
        """Appends batches of attempts, for any number of streams, in one call; answers in the same order."""
        names: list[str] = []
        args: list[Any] = [new_epoch(), *self._keep_jobs]
        count = 0
        for one in batches:
            names += (keys.log(one.tenant, one.stream), keys.meta(one.tenant, one.stream))
            args += (one.fence, one.number, one.checkpoint, len(one.events), *one.events)
            count += len(one.events)
        began = time.perf_counter()
        answers = [_appended(one) for one in await self._store.run(APPEND, names, args)]
        metrics.append_seconds.observe(time.perf_counter() - began)
        metrics.append_events.observe(count)
        return answers

    async def publish(
        self, tenant: str, stream: Stream, event: bytes, *, hash: str = "-", records: Iterable[str] = (), by: Authorship = NOBODY
    ) -> Published:
        """Appends one event, at most once for each of `records` (idempotency keys in Redis).

        `by` is the session on whose behalf it is written. Raises Refused("conflict") when a record was made by another
        request (`hash`), and TakenOver when the session has a newer connection.
        """
        name = str(stream)
        meta = keys.meta(tenant, name)
        reply = await self._store.run(
            PUBLISH,
            [keys.log(tenant, name), meta, keys.cursors(tenant, by.session) if by.session else meta, *records],
            [new_epoch(), event, *self.keep(stream), hash, RECORD_TTL_S, by.generation],
        )
        verdict = check_verdict(reply[0])
        answer = from_json_bytes(reply[1])
        return Published(answer["epoch"], answer["seq"], verdict == "duplicate")

    async def read(self, tenant: str, stream: str, after: int, *, count: int = PAGE_EVENTS, max_bytes: int = PAGE_BYTES) -> Page:
        """Up to `count` events after a seq, at least one when there is one; then no more than `max_bytes`."""
        reply = await self._store.run(READ, _names(tenant, [stream]), [after, count, max_bytes])
        return Page(_head(reply), reply[7:])

    async def read_open(self, tenant: str, stream: str, after: int, *, count: int = PAGE_EVENTS, max_bytes: int = PAGE_BYTES) -> Page:
        """As `read`, of a stream that exists and whose epoch counts: see `open`."""
        page = await self.read(tenant, stream, after, count=count, max_bytes=max_bytes)
        if not page.head.current:
            await self.open(tenant, [stream])
            page = await self.read(tenant, stream, after, count=count, max_bytes=max_bytes)
        return page

    async def heads(self, tenant: str, streams: Sequence[str], *, snapshots: bool = False) -> dict[str, Head]:
        """The heads of many streams; one that does not exist has epoch ""."""
        out: dict[str, Head] = {}
        for start in range(0, len(streams), _HEADS_A_CALL):
            part = streams[start : start + _HEADS_A_CALL]
            reply = await self._store.run(HEADS, _names(tenant, part), ["1" if snapshots else ""])
            out.update(zip(part, map(_head, reply), strict=True))
        return out

    async def open(self, tenant: str, streams: Sequence[str]) -> dict[str, Head]:
        """As `heads`, with snapshots, and with epochs that a cursor can name.

        A stream that does not exist is begun. One that was last written under another incarnation of Redis goes on in a new
        epoch: its old one no longer says which events a cursor means, as Redis may have lost some of them. Of a job that has
        ended Redis has lost nothing.
        """
        return await self.opened(tenant, await self.heads(tenant, streams))

    async def opened(self, tenant: str, heads: dict[str, Head]) -> dict[str, Head]:
        """As `open`, for heads that were read a moment ago."""
        new = [name for name, head in heads.items() if not head.current]
        if new:
            await self._store.run(OPEN, _names(tenant, new), [new_epoch(), self._settings.meta_ttl_s])
            heads = heads | await self.heads(tenant, new)
        trimmed = [name for name, head in heads.items() if head.first > 1 and name.startswith("job:")]
        return heads | await self.heads(tenant, trimmed, snapshots=True)

    async def trim(self, tenant: str, stream: str, oldest_ms: int, *, look_at: int = 1000) -> int:
        """Drops what was written before a time of Redis's own clock; returns how many events.

        Looks at `look_at` events at most: call again while it drops that many.
        """
        return int(await self._store.run(TRIM, [keys.log(tenant, stream), keys.meta(tenant, stream)], [oldest_ms, look_at]))


def check_verdict(word: bytes) -> str:
    """What a script with records said, once the refusals that all of them share are raised."""
    match word:
        case b"conflict":
            raise Refused("conflict", "this id or key was used for another request")
        case b"busy":
            raise Refused("unavailable", "the first request with this id is still under way", retry_after_ms=100)
        case b"taken":
            raise TakenOver()
    return word.decode()


def _names(tenant: str, streams: Sequence[str]) -> list[str]:
    return [name for one in streams for name in (keys.log(tenant, one), keys.meta(tenant, one), keys.text(tenant, one))]


def _head(reply: list[Any]) -> Head:
    epoch, top, first, kept, past, current, before = reply[:7]
    known = tuple(parse_cursor(one) for one in past.decode().split())
    return Head(epoch.decode() if epoch else "", top, first, kept, known, _snapshot(first - 1, before), current=bool(current))


def _snapshot(seq: int, before: list[Any] | None) -> dict[str, Any] | None:
    """What a job's lost beginning came to: its status, its text so far (the whole of it or nothing), its result."""
    if before is None:
        return None
    status, attempt, result, error, text = before
    data: dict[str, Any] = {"status": status.decode(), "attempt": int(attempt or 0)}
    data |= {name: from_json_bytes(raw) for name, raw in (("result", result), ("error", error)) if raw}
    if text is not None and len(text) + len(result or b"") <= MAX_EVENT_BYTES:
        data["text"] = text.decode()
    return {"seq": seq, "data": data}


def _appended(reply: list[Any]) -> Appended:
    match reply[0].decode():
        case "ok":
            return Appended("ok", reply[1].decode(), reply[2], reply[3])
        case "cancelled":
            return Appended("cancelled", by=reply[1].decode())
        case "behind":
            return Appended("behind")
        case _:
            return Appended("fenced")
