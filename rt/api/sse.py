"""Server-Sent Events: one stream from a cursor on, what was and then what comes, without a hole.

The rule is the one of `rt.actors.session`: an announcement is forwarded when it is the next one; for anything else the
log is read, and while it is read announcements only say how far it goes by now. What waits for a slow client is
bounded; beyond the bound it is read from the log later.
"""

import asyncio
import random
import time
from collections.abc import Iterator

from fastapi import Response
from starlette.types import Receive, Scope, Send

from rt.api.services import Services
from rt.codec import to_json_bytes
from rt.cursor import START, Cursor
from rt.errors import Refused, Unavailable
from rt.events import is_final, seq_of
from rt.jobs.job import TERMINAL_STATUSES
from rt.jobs.queue import JobRecord
from rt.streams.log import Page
from rt.streams.replay import Gap, Head, join, place
from rt.streams.tail import Live
from rt.telemetry import metrics
from rt.tokens import LEEWAY_S, Claims

#: A comment after this much silence: proxies cut connections that say nothing for 30 to 60 s.
KEEP_ALIVE_S = 15.0
_KEEP_ALIVE = b":\n\n"
#: Longest wait for the subscription; then Redis counts as away.
_OPEN_S = 2.0
_AGAIN_S = 0.5
#: How long a drain may wait for a client to take the last line.
_LAST_WORDS_S = 1.0
#: The last line after a job's end: a browser's EventSource comes back after every end, and would ask for nothing each time.
_STAY_AWAY = b"retry: 3600000\n\n"

#: More than any seq: "read once more, then it is known".
_UNKNOWN = 2**53


def told(at: Cursor, page: Page) -> Iterator[tuple[Cursor, bytes | Gap]]:
    """What a page that was read after `at` tells its reader: events and losses, each with the position behind it.

    Nothing after a gap that leads back (the log began anew): the page has to be read again from there.
    """
    head = page.head
    placed = place(at, head)
    seq = placed.seq
    if placed.gap:
        yield Cursor(head.epoch, seq), placed.gap
    if seq < at.seq:
        return
    for raw in page.events:
        next_seq = seq_of(raw)
        if next_seq > seq + 1:
            # Entries were taken out of the middle of the log by hand.
            yield Cursor(head.epoch, next_seq - 1), Gap("expired", seq + 1, next_seq - 1)
        seq = next_seq
        yield Cursor(head.epoch, seq), raw
    if not page.events and seq < head.top:
        yield Cursor(head.epoch, head.top), Gap("expired", seq + 1, head.top)


class Feed:
    """One reader's way through a stream. `open()`, then `next()` until it is None; `close()` in every case.

    `cursor` None: from now on. With the `record` of a job it ends after the job's terminal event.
    """

    def __init__(self, services: Services, who: Claims, stream: str, cursor: Cursor | None, record: JobRecord | None = None) -> None:
        self._services = services
        #: Whose it is.
        self.subject = who.subject
        self._tenant, self._stream, self._record = who.tenant, stream, record
        self._from_now = cursor is None
        #: What the reader has, once it has taken what waits.
        self._at = cursor or START
        self._behind = True
        self._top = 0
        self._waiting: list[bytes] = []
        self._bytes = 0
        self._wake = asyncio.Event()
        self._over = False

    @property
    def at(self) -> Cursor:
        """How far it was sent the stream, once it has taken what waits."""
        return self._at

    # the tail's sink

    def on_live(self, stream: str, live: Live) -> None:
        if self._behind:
            self._top = max(self._top, live.last if live.epoch == self._at.epoch else _UNKNOWN)
            return
        match join(self._at.epoch, self._at.seq, live.epoch, live.first, live.last):
            case "next" if live.events is not None and self._bytes < self._services.settings.outbox_bytes:
                fresh = live.events[self._at.seq + 1 - live.first :]
                self._waiting += fresh
                self._bytes += sum(map(len, fresh))
                self._at = Cursor(live.epoch, live.last)
                self._wake.set()
            case "old":
                pass
            case _:
                self._look()

    def on_checked(self, stream: str, head: Head) -> None:
        if (head.epoch, head.top) != self._at:
            self._look()

    def on_taken_over(self, stream: str, generation: int) -> None:
        """Says something about a session's connection; this is none."""

    def _look(self) -> None:
        self._behind, self._top = True, _UNKNOWN
        self._wake.set()

    # the reader's side

    async def open(self) -> None:
        """Begins to follow. Raises Unavailable while Redis is away."""
        try:
            async with asyncio.timeout(_OPEN_S):
                await self._services.tail.follow(self._tenant, self._stream, self)
        except TimeoutError:
            raise Unavailable() from None
        if self._from_now:
            head = (await self._services.streams.open(self._tenant, [self._stream]))[self._stream]
            self._at = Cursor(head.epoch, head.top)

    def close(self) -> None:
        self._services.tail.unfollow(self._tenant, self._stream, self)

    async def next(self) -> bytes | None:
        """The next bytes to send: events, gaps, a comment after a silence; None after the end. Waits for them."""
        if self._from_now:
            # An id without data moves a client's Last-Event-ID, and nothing else: it can resume before the first event.
            self._from_now = False
            return b"id: %s\n\n" % str(self._at).encode()
        while not self._over:
            if self._waiting:
                return self._take()
            if self._behind:
                if chunk := await self._read():
                    return chunk
                continue
            self._wake.clear()
            try:
                async with asyncio.timeout(KEEP_ALIVE_S):
                    await self._wake.wait()
            except TimeoutError:
                return _KEEP_ALIVE
        return None

    def _take(self) -> bytes:
        events, self._waiting, self._bytes = self._waiting, [], 0
        metrics.events_sent.inc(len(events))
        self._over = self._record is not None and is_final(events[-1])
        return b"".join(_event(self._at.epoch, raw) for raw in events)

    async def _read(self) -> bytes:
        """A page of the log; b"" when it had nothing new."""
        self._top = 0  # from here on it is what is announced while the log is read
        out: list[bytes] = []
        try:
            page = await self._services.streams.read_open(self._tenant, self._stream, self._at.seq)
            items = list(told(self._at, page))
            forgotten = any(isinstance(one, Gap) and one.reason == "epoch_changed" for _, one in items) and await self._is_forgotten()
        except Unavailable:
            metrics.redis_errors.labels("read").inc()
            await asyncio.sleep(_AGAIN_S)
            return _KEEP_ALIVE
        self._at = items[-1][0] if items else Cursor(page.head.epoch, self._at.seq)
        self._behind = self._at.seq < max(self._top, page.head.top)
        final = False
        for at, one in items:
            if isinstance(one, Gap):
                metrics.gaps.labels(one.reason).inc()
                frame = to_json_bytes(one.frame(self._stream, at.epoch))
                out.append(b"id: %s\nevent: gap\ndata: %s\n\n" % (str(at).encode(), frame))
            else:
                metrics.events_sent.inc()
                metrics.events_replayed.inc()
                out.append(_event(at.epoch, one))
                final = is_final(one)
        if self._record is not None:
            ended = self._record.status in TERMINAL_STATUSES and not self._behind
            self._over = final or ended or forgotten
        return b"".join(out)

    async def _is_forgotten(self) -> bool:
        """Whether Redis has lost the whole job: nothing will ever end it."""
        return self._record is not None and await self._services.queue.get(self._tenant, self._record.id) is None


def _event(epoch: str, raw: bytes) -> bytes:
    # `type` is the second member of what is stored, and never holds a quote.
    begin = raw.index(b'"type":"') + 8
    return b"id: %s:%d\nevent: %s\ndata: %s\n\n" % (epoch.encode(), seq_of(raw), raw[begin : raw.index(b'"', begin)], raw)


class EventStream(Response):
    """The response that sends a feed. Until its first byte it may raise Refused("unavailable").

    It ends with the feed, when the client leaves or takes nothing for `send_timeout_s`, when the token expires, and on a
    drain; the client then resumes with its last id.
    """

    media_type = "text/event-stream"

    def __init__(self, services: Services, who: Claims, stream: str, cursor: Cursor | None, record: JobRecord | None = None) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers({"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._services = services
        self._expires_at = who.expires_at
        self._feed = Feed(services, who, stream, cursor, record)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        services = self._services
        if services.full:
            raise Refused("unavailable", "no more connections now", retry_after_ms=5000)
        services.sse_open += 1
        try:
            await self._feed.open()
            await self._serve(receive, send)
        finally:
            self._feed.close()
            services.sse_open -= 1

    async def _serve(self, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with asyncio.TaskGroup() as group:
            writing = group.create_task(self._write(send))
            gone = group.create_task(_disconnected(receive))
            draining = group.create_task(self._services.draining.wait())
            left_s = self._expires_at + LEEWAY_S - time.time()
            await asyncio.wait({writing, gone, draining}, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            # Writing is cut between two events: a chunk is taken whole or not at all.
            cut = not writing.done() and not gone.done()
            for task in (writing, gone, draining):
                task.cancel()
        if cut:
            await self._say_goodbye(send)

    async def _write(self, send: Send) -> None:
        while (chunk := await self._feed.next()) is not None:
            try:
                async with asyncio.timeout(self._services.settings.send_timeout_s):
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            except TimeoutError:
                metrics.slow_consumers.labels("closed").inc()
                return
        await send({"type": "http.response.body", "body": _STAY_AWAY})

    async def _say_goodbye(self, send: Send) -> None:
        """Ends the response; the clients of a process that drains come back spread over time."""
        window_ms = max(500.0, self._services.sse_open / self._services.settings.accept_rate * 1000)
        last = b"retry: %d\n\n" % random.uniform(0, window_ms)
        try:
            async with asyncio.timeout(_LAST_WORDS_S):
                await send({"type": "http.response.body", "body": last})
        except TimeoutError:
            metrics.slow_consumers.labels("closed").inc()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
