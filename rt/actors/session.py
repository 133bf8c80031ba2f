"""What one connection does, decided: (state, message) → effects. Read this first.

No await, no clock, no I/O: the connection actor feeds it messages together with the time and the room in its outbox,
and performs the effects that come back, in order. All of the promise about order and holes is kept here, by one rule:
an event is forwarded when it is the next one after `sent`; for anything else the log is read. Nothing is buffered.
While the log is read, or the client is slow, announcements only raise `top`, the goal of the next read.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from rt import keys
from rt.actors.follow import Follow
from rt.actors.frames import MAX_FAULTS, Ack, Connect, Ping, Pong, command_id
from rt.actors.messages import (
    Answered,
    Checked,
    Close,
    Drained,
    Draining,
    Effect,
    Failed,
    Forward,
    Malformed,
    Message,
    News,
    Open,
    Opened,
    PageRead,
    Read,
    Received,
    Refreshed,
    Run,
    Send,
    Store,
    Subscribed,
    TakenOver,
    Tick,
    Unsubscribed,
    Unwatch,
    Watch,
    Watched,
)
from rt.actors.router import Router
from rt.cursor import START, Cursor, parse_cursor
from rt.errors import Refused
from rt.events import created_job, is_final, seq_of
from rt.keys import parse_stream
from rt.streams.log import Page
from rt.streams.replay import GONE, Gap, Head, join, place, unsure
from rt.streams.tail import Live
from rt.tokens import LEEWAY_S, Claims

#: Streams that one session follows at most. Each costs a subscription and a place in every check of the tops.
MAX_FOLLOWED = 1000
#: Jobs that were done with before they were announced: of more than so many the oldest is forgotten. Their announcement
#: comes in the session's stream soon or (for a job that was only subscribed to) never.
MAX_UNANNOUNCED = 100
#: Jobs that a connection has done with, for announcements of theirs in other streams: of more the oldest is forgotten.
MAX_LEFT = 1000
#: Log reads under way for one connection: each brings a page of 64 KiB at most (or one event).
MAX_READS = 2
#: Malformed frames in a row before the connection is closed with 4502.
MAX_MALFORMED = 20
#: A token's holder is told this long before its end.
EXPIRING_S = 60.0


@dataclass(slots=True)
class Config:
    heartbeat_s: float = 20.0
    connect_timeout_s: float = 10.0
    max_message_bytes: int = 262_144


class Session:
    """The state of one connection and its session."""

    __slots__ = (
        "_config",
        "_connect_by",
        "_done",
        "_drain_close_at",
        "_draining",
        "_exact",
        "_expires_at",
        "_expiring_at",
        "_given",
        "_held",
        "_left",
        "_malformed",
        "_opening",
        "_ping_at",
        "_reads",
        "_received_at",
        "_router",
        "_tickets",
        "_wanted",
        "batch",
        "claims",
        "closed",
        "follows",
        "generation",
        "id",
    )

    def __init__(self, router: Router, config: Config, now: float) -> None:
        self._router = router
        self._config = config
        self.id = ""
        self.generation = 0
        self.claims: Claims | None = None
        self.batch = False
        self.closed = False
        self.follows: dict[str, Follow] = {}
        #: Jobs that are done with, and where they were announced (seq 0: not yet): kept until that announcement is acknowledged.
        self._done: dict[str, tuple[str, int]] = {}
        #: Jobs that were done with, or left, on this connection.
        self._left: dict[str, None] = {}
        #: What `connect` said of streams: a job may be found to be followed only later.
        self._given: dict[str, Cursor] = {}
        #: Whether it said anything: a client that keeps no cursors has what it acknowledged.
        self._exact = False
        self._wanted: dict[str, None] = {}
        self._reads = 0
        self._tickets = 0
        self._malformed = 0
        self._opening = False
        #: Frames that came behind a `connect` that is not answered yet, in the same message.
        self._held: deque[Any] | None = None
        self._received_at = now
        self._connect_by = now + config.connect_timeout_s
        self._ping_at = now + config.heartbeat_s
        self._expires_at = float("inf")
        self._expiring_at = float("inf")
        self._drain_close_at = float("inf")
        self._draining = False

    @property
    def connected(self) -> bool:
        return self.claims is not None

    def stored(self) -> dict[str, str]:
        """What stands in the session's hash beside its owner and generation, when all of it is stored."""
        fields = {f"c:{stream}": follow.stored() for stream, follow in self.follows.items()}
        return fields | {f"d:{job}": f"{by} {seq}" for job, (by, seq) in self._done.items()}

    @property
    def starved(self) -> bool:
        """Whether a log read waits for nothing but room in the outbox."""
        if not self._wanted or self._reads >= MAX_READS:
            return False
        return any(follow.watched and not follow.ticket for stream in self._wanted if (follow := self.follows.get(stream)))

    @property
    def received_at(self) -> float:
        """When the client last said something."""
        return self._received_at

    def next_tick(self) -> float:
        """When a Tick is wanted."""
        if not self.connected:
            return self._connect_by
        silent_at = self._received_at + 2 * self._config.heartbeat_s
        return min(silent_at, self._ping_at, self._expires_at, self._expiring_at, self._drain_close_at)

    def takes(self, stream: str, live: Live, room: bool) -> bool:
        """Whether the events of an announcement are just the next ones, and nothing follows from them: forward them as they are.

        That is nearly all that a busy connection hears, and this is `handle` of its `News` without an effect. False: nothing
        was done, and the `News` is to be handled.
        """
        follow = self.follows.get(stream)
        if (
            follow is None
            or not live.plain
            or live.first != follow.sent + 1
            or live.epoch != follow.epoch
            or not follow.watched
            or follow.ticket
            or stream in self._wanted
            or not room
            or self.closed
        ):
            return False
        follow.sent = live.last
        if follow.top < live.last:
            follow.top = live.last
        return True

    def handle(self, message: Message, now: float, room: int) -> list[Effect]:
        """`now` in seconds of any steady clock; `room` is how many bytes the outbox can take (0 or less: none)."""
        if self.closed:
            return []
        effects = list(self._handle(message, now, room))
        if self._wanted:
            effects += self._reads_due(room - _bytes(effects))
        return effects

    def _handle(self, message: Message, now: float, room: int) -> Iterator[Effect]:
        match message:
            case Received(value):
                self._received_at = now
                if self._held is None:
                    self._held = deque()
                self._held.extend(value if isinstance(value, list) else (value,))
                yield from self._frames()
            case Malformed(error):
                self._received_at = now
                yield from self._bad(None, error)
            case News(stream, live):
                yield from self._news(stream, live, room)
            case PageRead(stream, ticket, page):
                yield from self._page(stream, ticket, page)
            case Watched(stream):
                if (follow := self.follows.get(stream)) and not follow.watched:
                    follow.watched = True
                    self._want(stream)
            case Checked(stream, head):
                follow = self.follows.get(stream)
                if follow and follow.watched and (head.epoch != follow.epoch or head.top != follow.sent):
                    self._want(stream)
            case Drained():
                pass  # what waits for room is read below
            case Tick():
                yield from self._tick(now)
            case Opened():
                yield from self._opened(message, now)
                yield from self._frames()
            case Answered(id, data, follow_stream):
                if id is not None:
                    yield Send({"type": "reply", "id": id, "data": data})
                if follow_stream is not None:
                    yield from self._follow_job(follow_stream, None)
            case Failed(id, error):
                yield Send(error.frame(id))
            case Subscribed():
                yield from self._subscribed(message)
            case Unsubscribed(id, stream):
                if stream in self.follows:
                    yield Unwatch(stream)
                    yield Store(self._leave(stream))
                yield Send({"type": "reply", "id": id, "data": {}})
            case Refreshed(id, claims, expires_in_s):
                self.claims = claims
                self._expire(now, expires_in_s)
                yield Send({"type": "reply", "id": id, "data": {"expires_at": int(claims.expires_at * 1000)}})
            case TakenOver(generation):
                if self.connected and generation > self.generation:
                    yield from self._close(4003, "taken over by a newer connection")
            case Draining(delay_ms, close_in_s):
                if self.connected and not self._draining:
                    self._draining = True
                    self._drain_close_at = now + close_in_s
                    yield Send({"type": "reconnect", "delay_ms": delay_ms, "reason": "deploy"})
                elif not self.connected:
                    yield from self._close(1012, "restarting")

    # what the client sends

    def _frames(self) -> Iterator[Effect]:
        """What came, in order; what stands behind a `connect` waits for its answer."""
        while self._held and not self.closed and (self.connected or not self._opening):
            yield from self._frame(self._held.popleft())
        self._held = self._held or None  # an idle connection need not carry an empty queue

    def _frame(self, value: Any) -> Iterator[Effect]:
        try:
            routed = self._router.route(value)
            if not self.connected and not isinstance(routed, Connect):
                raise Refused("not_connected", "the first frame must be `connect`")
            match routed:
                case Connect():
                    if self._opening or self.connected:
                        raise Refused("invalid_frame", "this connection is connected already")
                    cursors = {name: _cursor(name, text) for name, text in (routed.cursors or {}).items()}
                    self._opening = True
                    self.batch = routed.batch
                    yield Open(routed, cursors)
                case Ack():
                    yield from self._ack(routed.cursors)
                case Ping():
                    yield Send({"type": "pong"})
                case Pong():
                    pass
                case _:
                    yield Run(routed)
        except Refused as error:
            yield from self._bad(command_id(value), error)
        else:
            self._malformed = 0

    def _bad(self, id: str | None, error: Refused) -> Iterator[Effect]:
        yield Send(error.frame(id))
        self._malformed += 1
        if self._malformed >= MAX_MALFORMED:
            yield from self._close(4502, f"{MAX_MALFORMED} malformed frames in a row")

    def _ack(self, cursors: dict[str, int | str]) -> Iterator[Effect]:
        acknowledged: list[tuple[str, Follow, int]] = []
        above: list[dict[str, Any]] = []
        for stream, value in cursors.items():
            parse_stream(stream, f"cursors.{stream[:64]}")
            cursor = _cursor(stream, value) if isinstance(value, str) else None
            seq = cursor.seq if cursor is not None else value
            assert isinstance(seq, int)
            if seq < 0:
                raise Refused.field("invalid_frame", f"cursors.{stream}", "a seq is not negative")
            follow = self.follows.get(stream)
            if follow is None or not follow.epoch or (cursor is not None and cursor.epoch != follow.epoch):
                continue
            if seq > max(follow.top, follow.sent):
                above.append({"loc": ["cursors", stream], "msg": f"the newest event is {max(follow.top, follow.sent)}"})
            elif follow.acked < seq <= follow.sent:
                acknowledged.append((stream, follow, seq))
        for stream, follow, seq in acknowledged:
            if follow.seen is not None:
                follow.claimed = max(follow.claimed, seq)  # counts once the log was looked at that far
            else:
                yield self._acknowledge(stream, follow, seq)
        if above:  # said once the others have counted
            first = above[0]
            raise Refused("invalid_frame", f"{'.'.join(first['loc'])}: {first['msg']}", details=above[:MAX_FAULTS])

    def _acknowledge(self, stream: str, follow: Follow, seq: int) -> Store:
        follow.acked, follow.kept = seq, None
        follow.settled = max(follow.settled, seq)
        ended = follow.final is not None and seq >= follow.final
        fields = self._leave(stream) if ended else {f"c:{stream}": follow.stored()}
        for job, (by, created) in list(self._done.items()):
            if by == stream and 0 < created <= seq:
                del self._done[job]
                fields[f"d:{job}"] = ""
        own = self.claims is not None and stream == keys.user_stream(self.claims.subject)
        return Store(fields, str(Cursor(follow.epoch, seq)) if own else "")

    def leaving(self, stream: str) -> dict[str, str]:
        """What is to be stored when a stream is left: it is followed no more, nor is a job because its `job.created` comes (again)."""
        origin = self._outstanding(stream)
        return {f"c:{stream}": ""} | ({f"d:{stream}": f"{origin[0]} {origin[1]}"} if origin else {})

    def _leave(self, stream: str) -> dict[str, str]:
        """The terminal event of a job was acknowledged, or the client has unsubscribed; what is to be stored of that."""
        fields = self.leaving(stream)
        if origin := self._outstanding(stream):
            self._done[stream] = origin
            unannounced = [job for job, (_, seq) in self._done.items() if not seq]
            if len(unannounced) > MAX_UNANNOUNCED:
                del self._done[unannounced[0]]
                fields[f"d:{unannounced[0]}"] = ""
        if stream.startswith("job:"):
            self._left[stream] = None
            if len(self._left) > MAX_LEFT:
                del self._left[next(iter(self._left))]
        del self.follows[stream]
        self._wanted.pop(stream, None)
        return fields

    def _outstanding(self, stream: str) -> tuple[str, int] | None:
        """The announcement of a followed job that may still come, or come again: stream, and seq or 0."""
        follow = self.follows.get(stream)
        if follow is None or not stream.startswith("job:"):
            return None
        by, seq = follow.origin or (keys.session_stream(self.id), 0)
        announcing = self.follows.get(by)
        return None if seq and announcing is not None and announcing.acked >= seq else (by, seq)

    # connecting

    def _opened(self, opened: Opened, now: float) -> Iterator[Effect]:
        stored, self.claims = opened.stored, opened.claims
        self.id, self.generation, self._done = stored.id, stored.generation, dict(stored.done)
        self._expire(now, opened.expires_in_s)
        self._ping_at = now + self._config.heartbeat_s
        self._given = opened.given if stored.resumed else {}
        self._exact = bool(self._given)
        streams: dict[str, Any] = {}
        after: list[Effect] = []
        fields: dict[str, str] = {}
        for stream, head in opened.heads.items():
            known = stored.cursors.get(stream)
            cursor = known.cursor if known else START
            acked = place(cursor, head)
            # The job is forgotten, terminal event and all: nothing will ever come.
            lost = stream in opened.missing and stream.startswith("job:")
            if lost:
                placed = GONE
            elif stream in self._given:
                placed = place(self._given[stream], head)
            else:
                placed = unsure(cursor, head) if self._may_hold(stream) else acked
            streams[stream] = {"epoch": head.epoch, "seq": head.top, "recovered": placed.gap is None}
            if placed.gap:
                after.append(Send(placed.gap.frame(stream, head.epoch)))
            if lost:
                fields[f"c:{stream}"] = ""
                continue
            follow = Follow(head.epoch, placed.seq, head.top, min(acked.seq, placed.seq), known.origin if known else None)
            follow.claimed = placed.seq
            # A new session's first position in its user's stream is what others have acknowledged.
            follow.settled = acked.seq if stored.resumed and acked.gap is None else 0
            if _is_new_epoch(placed.gap):
                follow.begin_anew(cursor, head)
            if stream.startswith("job:") and placed.seq > 0:
                follow.seen = placed.seq - 1
            elif acked.seq < placed.seq:
                follow.seen = acked.seq
            follow.pinged = head.top
            self.follows[stream] = follow
            fields[f"c:{stream}"] = follow.stored()
            after.extend(self._watch(stream, follow))
        frame = {
            "type": "connected",
            "session": self.id,
            "resumed": stored.resumed,
            "subject": self.claims.subject,
            "heartbeat_s": self._config.heartbeat_s,
            "max_message_bytes": self._config.max_message_bytes,
            "expires_at": int(self.claims.expires_at * 1000),
            "streams": streams,
        }
        yield Send(frame)
        yield Store(fields)
        yield from after

    def _may_hold(self, stream: str) -> bool:
        """Whether the client may have more of a job than it acknowledged, though it says what it has: of one that has ended it does not."""
        return self._exact and stream not in self._given and stream.startswith("job:")

    def _expire(self, now: float, expires_in_s: float) -> None:
        self._expires_at = now + expires_in_s + LEEWAY_S
        self._expiring_at = max(now, now + expires_in_s - EXPIRING_S) if expires_in_s > 0 else float("inf")

    # following

    def _subscribed(self, message: Subscribed) -> Iterator[Effect]:
        stream, head = message.stream, message.head
        follow = self.follows.get(stream)
        gap = None
        if follow is None or message.cursor is not None:
            placed = place(message.cursor if message.cursor is not None else Cursor(head.epoch, head.top), head)
            gap = placed.gap
            if follow is None:
                if len(self.follows) >= MAX_FOLLOWED:
                    yield Send(too_many(stream).frame(message.id))
                    return
                follow = self.follows[stream] = Follow(head.epoch, placed.seq, head.top, placed.seq)
            else:
                if follow.epoch != head.epoch or _is_new_epoch(gap):
                    follow.settled = 0
                # What lies between what was sent and a cursor ahead of it is still looked at.
                seen = follow.read_from if follow.epoch == head.epoch else placed.seq
                follow.top = max(follow.top, head.top) if follow.epoch == head.epoch else head.top
                follow.epoch, follow.sent, follow.final = head.epoch, placed.seq, None
                follow.seen = seen if seen < placed.seq else None
                follow.acked = min(follow.acked, placed.seq) if gap is None else placed.seq
            if message.cursor is not None and _is_new_epoch(gap):
                follow.begin_anew(message.cursor, head)
            if stream.startswith("job:") and placed.seq > 0:
                follow.seen = placed.seq - 1  # whether that is its end
            follow.ticket = 0  # a read that is under way answers another question
            follow.pinged = head.top
            yield Store({f"c:{stream}": follow.stored()})
        yield Send(_subscribed(stream, head.epoch, head.top, gap) | {"id": message.id})
        if gap:
            yield Send(gap.frame(stream, head.epoch))
        if follow.watched and follow.watching:
            self._want(stream)
        yield from self._watch(stream, follow)

    def _follow_job(self, stream: str, origin: tuple[str, int] | None, *, again: bool = False) -> Iterator[Effect]:
        """Begins to follow a job that was announced (`again`: maybe not for the first time), or submitted here.

        Says so once its first page is read.
        """
        follow = self.follows.get(stream)
        if follow is not None:
            if origin is not None and follow.origin is None:
                follow.origin = origin
                yield Store({f"c:{stream}": follow.stored()})
            return
        if done := self._done.get(stream):
            if origin is not None and done == (origin[0], 0):
                self._done[stream] = origin
                yield Store({f"d:{stream}": f"{origin[0]} {origin[1]}"})
            return
        announcing = self.follows.get(origin[0]) if origin is not None else None
        if stream in self._left or (origin is not None and announcing is not None and origin[1] <= announcing.settled):
            # The client asked for events that it once acknowledged, or this is the job's announcement in a second stream: the
            # job itself is not brought back by that.
            if origin is None:
                return
            self._done[stream] = origin
            yield Store({f"d:{stream}": f"{origin[0]} {origin[1]}"})
            return
        if len(self.follows) >= MAX_FOLLOWED:
            yield Send(too_many(stream).frame())
            return
        doubted = again and self._may_hold(stream)
        follow = self.follows[stream] = Follow("", 0, 0, 0, origin, start=self._given.pop(stream, START), doubted=doubted)
        follow.sent = follow.start.seq
        if follow.sent > 0:
            follow.seen = follow.sent - 1
        yield Store({f"c:{stream}": follow.stored()})
        yield from self._watch(stream, follow)

    def _watch(self, stream: str, follow: Follow) -> Iterator[Effect]:
        if not follow.watching:
            follow.watching = True
            yield Watch(stream)

    # what streams bring

    def _news(self, stream: str, live: Live, room: int) -> Iterator[Effect]:
        follow = self.follows.get(stream)
        if follow is None:
            return
        if follow.new and live.first == 1 and live.events is not None and room > 0 and not follow.ticket and stream not in self._wanted:
            # Heard from its first event on: the log has no more to tell.
            follow.epoch, follow.watched, follow.pinged = live.epoch, True, live.last
            yield Send(_subscribed(stream, live.epoch, live.last))
            yield Store({f"c:{stream}": follow.stored()})
            yield from self._forward(stream, follow, live.events, replayed=False)
            return
        self._raise_top(follow, live.epoch, live.last)
        if follow.ticket and live.epoch != follow.epoch:
            self._want(stream)
        if not follow.watched or follow.ticket or stream in self._wanted:
            return  # a read is under way or will be; it goes as far as `top`
        match join(follow.epoch, follow.sent, live.epoch, live.first, live.last):
            case "next" if live.events is not None and room > 0:
                yield from self._forward(stream, follow, live.events[follow.sent + 1 - live.first :], replayed=False)
            case "old":
                pass
            case _:
                self._want(stream)

    def _raise_top(self, follow: Follow, epoch: str, top: int) -> None:
        # A top of another epoch says nothing: raised by one, the reads would go on for an event that never comes.
        if epoch == follow.epoch and top > follow.top:
            follow.top, follow.announced = top, True

    def _page(self, stream: str, ticket: int, page: Page) -> Iterator[Effect]:
        self._reads -= 1
        follow = self.follows.get(stream)
        if follow is None or ticket != follow.ticket:
            return
        follow.ticket = 0
        head, events = page.head, page.events
        if not follow.announced:
            follow.top = min(follow.top, head.top)  # Redis may have less than it announced
        read_from = follow.read_from
        if follow.epoch == "":
            placed = unsure(follow.start, head) if follow.doubted else place(follow.start, head)
            if head.top == 0:
                placed = GONE  # an accepted job has its first event: Redis has lost this one
            gap = placed.gap
            if _is_new_epoch(gap):
                follow.begin_anew(follow.start, head)
            follow.epoch, follow.sent = head.epoch, placed.seq
            yield Send(_subscribed(stream, head.epoch, head.top, gap))
            if gap:
                yield Send(gap.frame(stream, head.epoch))
            follow.pinged = head.top
            yield Store({f"c:{stream}": follow.stored()})
        elif follow.epoch != head.epoch or head.top < follow.sent or head.first > follow.sent + 1:
            yield from self._moved(stream, follow, head)
        follow.top = max(follow.top, head.top)
        if follow.read_from < read_from:  # it was read from the wrong place
            self._want(stream)
            return
        yield from self._read_events(stream, follow, head, events)
        if (follow.sent < max(follow.top, head.top) or follow.seen is not None) and stream in self.follows:
            self._want(stream)

    def _moved(self, stream: str, follow: Follow, head: Head) -> Iterator[Effect]:
        """The log is not what it was: another epoch, or its beginning is gone."""
        placed = place(Cursor(follow.epoch, follow.sent), head)
        if _is_new_epoch(placed.gap):
            follow.begin_anew(follow.kept or Cursor(follow.epoch, follow.acked), head)
            follow.settled = follow.claimed = 0
            follow.seen = None
        if follow.epoch != head.epoch:
            yield Send(_subscribed(stream, head.epoch, head.top, placed.gap))
        if placed.gap:
            yield Send(placed.gap.frame(stream, head.epoch))
        # What was announced while the log was read stands, unless the log is another one: nobody would announce it again.
        ahead = follow.top if follow.announced and follow.epoch == head.epoch and head.top >= follow.sent else 0
        follow.epoch, follow.sent, follow.top = head.epoch, placed.seq, max(head.top, ahead)
        # What was acknowledged under the old epoch says nothing about the new one's numbers, unless nothing was lost.
        follow.acked = min(follow.acked, placed.seq) if placed.moved or (placed.gap and placed.gap.first) else placed.seq
        follow.pinged = head.top
        yield Store({f"c:{stream}": follow.stored()})

    def _read_events(self, stream: str, follow: Follow, head: Head, events: list[bytes]) -> Iterator[Effect]:
        run: list[bytes] = []
        expected = follow.sent + 1
        for raw in events:
            seq = seq_of(raw)
            if seq < expected:
                follow.seen = seq
                if stream.startswith("job:"):
                    follow.final = seq if is_final(raw) else follow.final
                elif job := created_job(raw):
                    yield from self._follow_job(keys.job_stream(job), (stream, seq), again=True)
                continue
            if seq > expected:
                # Entries were taken out of the middle of the log by hand: said, and never asked for again.
                yield from self._forward(stream, follow, run, replayed=True)
                run = []
                yield Send(Gap("expired", expected, seq - 1).frame(stream, head.epoch))
                follow.sent = seq - 1
            run.append(raw)
            expected = seq + 1
        if follow.seen is not None and (follow.seen >= follow.sent or not events or run):
            yield from self._looked_back(stream, follow)
        yield from self._forward(stream, follow, run, replayed=True)
        if not events and follow.sent < head.top and head.first <= follow.sent + 1:
            yield Send(Gap("expired", follow.sent + 1, head.top).frame(stream, head.epoch))
            follow.sent = head.top
        if follow.final is not None:
            if follow.watching:
                follow.watching = follow.watched = False
                yield Unwatch(stream)
            if follow.acked >= follow.final and stream in self.follows:
                yield Store(self._leave(stream))

    def _looked_back(self, stream: str, follow: Follow) -> Iterator[Effect]:
        """Everything that the client has was looked at: what it said at `connect` counts as acknowledged from here on."""
        follow.seen = None
        if min(follow.claimed, follow.sent) > follow.acked:
            yield self._acknowledge(stream, follow, min(follow.claimed, follow.sent))

    def _forward(self, stream: str, follow: Follow, events: list[bytes], *, replayed: bool) -> Iterator[Effect]:
        if not events:
            return
        yield Forward(events, replayed)
        first, follow.sent = follow.sent + 1, follow.sent + len(events)
        follow.top = max(follow.top, follow.sent)
        if stream.startswith("job:"):
            if is_final(events[-1]):
                follow.final = follow.sent
                if not replayed and follow.watching:
                    follow.watching = follow.watched = False
                    yield Unwatch(stream)
            return
        for seq, raw in enumerate(events, first):
            if job := created_job(raw):
                yield from self._follow_job(keys.job_stream(job), (stream, seq), again=seq <= follow.renewed)

    def _want(self, stream: str) -> None:
        self._wanted[stream] = None

    def _reads_due(self, room: int) -> Iterable[Effect]:
        """Asks for pages while there is room: one read a stream, few at a time, in turn."""
        if room <= 0 or self.closed:
            return
        for stream in list(self._wanted):
            if self._reads >= MAX_READS:
                return
            follow = self.follows.get(stream)
            if follow is None:
                del self._wanted[stream]
            elif not follow.ticket and follow.watched:
                del self._wanted[stream]
                self._tickets += 1
                follow.ticket, follow.announced = self._tickets, False
                self._reads += 1
                yield Read(stream, follow.read_from, follow.ticket)

    # time

    def _tick(self, now: float) -> Iterator[Effect]:
        if not self.connected:
            if now >= self._connect_by:
                yield from self._close(4506, "no connect frame in time")
            return
        if now >= self._drain_close_at:
            yield from self._close(4000, "draining")
        elif now >= self._expires_at:
            yield Send(Refused("token_expired", "the token has expired").frame())
            yield from self._close(4004, "token expired")
        elif now >= self._received_at + 2 * self._config.heartbeat_s:
            yield from self._close(4001, "no frame for two heartbeats")
        else:
            if now >= self._expiring_at:
                self._expiring_at = float("inf")
                yield Send({"type": "token_expiring", "expires_in_s": max(0, round(self._expires_at - LEEWAY_S - now))})
            if now >= self._ping_at:
                self._ping_at = now + self._config.heartbeat_s
                frame: dict[str, Any] = {"type": "ping"}
                if moved := {name: one.top for name, one in self.follows.items() if one.top > one.pinged}:
                    frame["positions"] = moved
                    for name in moved:
                        self.follows[name].pinged = self.follows[name].top
                yield Send(frame)

    def _close(self, code: int, reason: str) -> Iterator[Effect]:
        self.closed = True
        yield Close(code, reason)


def _subscribed(stream: str, epoch: str, top: int, gap: Gap | None = None) -> dict[str, Any]:
    return {"type": "subscribed", "stream": stream, "epoch": epoch, "seq": top, "recovered": gap is None}


def _is_new_epoch(gap: Gap | None) -> bool:
    return gap is not None and gap.first is None


def too_many(stream: str) -> Refused:
    """Why one more stream is not followed: the client may leave others, and then subscribe to it."""
    return Refused("rate_limited", f"a session follows {MAX_FOLLOWED} streams at most", facts={"stream": stream})


def _cursor(stream: str, text: str) -> Cursor:
    parse_stream(stream, f"cursors.{stream[:64]}")
    return parse_cursor(text, f"cursors.{stream}")


def _bytes(effects: list[Effect]) -> int:
    return sum(sum(map(len, one.events)) for one in effects if isinstance(one, Forward))
