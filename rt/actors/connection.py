"""The connection actor: one WebSocket's mailbox, the pure session's effects performed, the outbox.

Sending never blocks receiving: what is sent waits in the outbox, commands run in the connection's lane, log reads and
subscriptions in tasks of their own; each answers with a message. All of them end with the actor.
"""

import asyncio
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from rt import keys
from rt.actors import messages as m
from rt.actors.actor import Actor, Ended
from rt.actors.caller import Connection
from rt.actors.frames import Cancel, Command, Connect, Input, Publish, Refresh, Submit, Subscribe, Unsubscribe
from rt.actors.mailbox import MailboxClosed, MailboxFull
from rt.actors.outbox import Outbox, Writable
from rt.actors.publish import publish_hash, published_event
from rt.actors.router import Handled, Router
from rt.actors.session import MAX_FOLLOWED, Config, Session, too_many
from rt.cursor import Cursor, parse_cursor
from rt.errors import Refused, TakenOver
from rt.gate import Gate
from rt.jobs.access import Access
from rt.jobs.inputs import Inbox
from rt.jobs.queue import JobQueue, new_job_id
from rt.jobs.submit import named_job, submit
from rt.keys import Stream, parse_stream
from rt.redis import Store, insist
from rt.settings import Settings
from rt.streams.commands import Commands, request_hash, until_not_busy
from rt.streams.log import Authorship, StreamLog
from rt.streams.presence import Attendee, Presence
from rt.streams.replay import Head
from rt.streams.sessions import Cursors, Entry, is_session_id, open_session, restore_session
from rt.streams.tail import Live, Tail
from rt.telemetry import get_logger, metrics
from rt.tokens import Claims

log = get_logger("rt.connection")

#: Application handlers of one connection that may run at a time; the next one waits in the lane.
MAX_HANDLERS = 8
#: Announcements of a job that are held while it is being accepted; of one that has more to say the log is read.
MAX_HELD = 16
#: Commands that wait in the lane before the socket is read no further.
LANE = 64
#: How long the last frames may take once the connection is to be closed.
_LAST_WORDS_S = 2.0


class Socket(Writable, Protocol):
    """What the actor needs of a WebSocket."""

    async def close(self, code: int, reason: str) -> None: ...

    def abort(self, code: int, reason: str) -> None:
        """Ends a connection whose client takes nothing: without waiting for what is still unsent."""


class Authenticate(Protocol):
    async def token(self, text: str) -> Claims: ...
    async def ticket(self, word: str) -> Claims: ...


@dataclass(frozen=True, slots=True)
class Parts:
    """What every connection of a process shares."""

    settings: Settings
    router: Router
    store: Store
    streams: StreamLog
    queue: JobQueue
    access: Access
    inbox: Inbox
    commands: Commands
    tail: Tail
    cursors: Cursors
    presence: Presence
    authenticate: Authenticate


class ConnectionActor(Actor[m.Message | None]):
    """One WebSocket. `token` is the credential of the handshake, when it carried one.

    A None in the mailbox says that the actor's own helpers have told something: those messages stand apart (`_told`),
    because their number is bounded by what the actor asked of them and not by a client.
    """

    __slots__ = (
        "_broken",
        "_entry",
        "_expected",
        "_handlers",
        "_lane",
        "_lane_room",
        "_loop",
        "_parts",
        "_socket",
        "_tasks",
        "_timer",
        "_timer_at",
        "_token",
        "_told",
        "_watches",
        "client",
        "close_code",
        "opened_at",
        "outbox",
        "session",
    )

    def __init__(self, name: str, parts: Parts, socket: Socket, *, msgpack: bool, token: str | None) -> None:
        settings = parts.settings
        super().__init__(name, settings.mailbox)
        self._parts = parts
        self._socket = socket
        self._token = token
        self._loop = asyncio.get_running_loop()
        #: When it was, by the loop's clock.
        self.opened_at = self._loop.time()
        #: What the client calls itself, "" for nothing; one object for all that say the same.
        self.client = ""
        config = Config(settings.heartbeat_s, settings.connect_timeout_s, settings.max_message_bytes)
        self.session = Session(parts.router, config, self.opened_at)
        self.outbox = Outbox(
            self._socket,
            msgpack=msgpack,
            limit_bytes=settings.outbox_bytes,
            timeout_s=settings.send_timeout_s,
            on_room=self._on_room,
            on_lost=self._on_lost,
        )
        self._entry: Entry | None = None
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._watches: dict[str, asyncio.Task[None]] = {}
        #: Streams of jobs that are being accepted: listened to, so that nothing of theirs has to be read. What they announce is held until
        #: the client has its answer; None once it was too much.
        self._expected: dict[str, list[Live] | None] = {}
        self._broken: BaseException | None = None
        #: None while no command is under way.
        self._lane: deque[Any] | None = None
        self._lane_room = Gate()
        self._handlers: asyncio.Semaphore | None = None
        self._timer: asyncio.TimerHandle | None = None
        #: uvloop's handle of what is due at once cannot say when that is.
        self._timer_at = 0.0
        self._told: dict[object, m.Message] = {}
        #: The code that the connection was closed with by this side; None while it lives.
        self.close_code: int | None = None

    # the tail's sink: called from the live reader

    def on_live(self, stream: str, live: Live) -> None:
        """At once, not by the mailbox: deciding waits for nothing, so it never meets a message that is half handled."""
        if stream in self._expected:
            self._hold(stream, live)
            return
        try:
            if self.session.takes(stream, live, self.outbox.free or self.outbox.room > 0):
                metrics.events_sent.inc(live.last - live.first + 1)
                self.outbox.put_live(live)
            else:
                for effect in self.session.handle(m.News(stream, live), self._loop.time(), self.outbox.room):
                    self._perform(effect)
                self._look_for_room()
        except Exception as error:
            self._break(error)

    def on_checked(self, stream: str, head: Head) -> None:
        self.tell(m.Checked(stream, head), key=("checked", stream))

    def on_taken_over(self, stream: str, generation: int) -> None:
        if stream == keys.session_stream(self.session.id):
            self.tell(m.TakenOver(generation))

    # the actor

    async def on_start(self) -> None:
        self._arm()

    async def receive(self, message: m.Message) -> None:
        """From the socket: waits while the mailbox, the lane or the outbox is full. Raises MailboxClosed when the actor has ended."""
        await self._lane_room.wait()
        await self.outbox.wait_calm()
        await self.mailbox.put(message)

    async def handle(self, message: m.Message | None) -> None:
        if self._broken is not None:
            raise self._broken
        if message is not None:
            await self._step(message)
        while self._told:
            await self._step(self._told.pop(next(iter(self._told))))
        self._arm()

    async def _step(self, message: m.Message) -> None:
        for effect in self.session.handle(message, self._loop.time(), self.outbox.room):
            match effect:
                case m.Open(connect, cursors):
                    # Nothing else can be done before this is: it runs in the actor itself.
                    await self._open(connect, cursors)
                case m.Close(code, reason):
                    await self._close(code, reason)
                case _:
                    self._perform(effect)
        if isinstance(message, m.Answered) and message.follow is not None:
            self._release(message.follow)
        self._look_for_room()

    def _look_for_room(self) -> None:
        # The session counts events as they are stored; in MessagePack they may be smaller, and the outbox was never full.
        if self.session.starved and self.outbox.room > 0:
            self.tell(m.Drained(), key="drained")

    def _perform(self, effect: m.Effect) -> None:
        """Of the effects that wait for nothing; what they begin answers with a message."""
        match effect:
            case m.Send(frame):
                self._count(frame)
                self.outbox.put_frame(frame)
            case m.Forward(events, replayed):
                metrics.events_sent.inc(len(events))
                if replayed:
                    metrics.events_replayed.inc(len(events))
                self.outbox.put_events(events)
            case m.Read(stream, after, ticket):
                self._spawn(self._read(stream, after, ticket))
            case m.Watch(stream):
                if stream not in self._expected:
                    self._begin_watch(stream)
                if stream.startswith("room:"):
                    self._parts.presence.here(self._attendee(stream))
            case m.Unwatch(stream):
                if watch := self._watches.pop(stream, None):
                    watch.cancel()  # the confirmation that it waits for need not come any more
                self._told.pop(("watched", stream), None)
                self._parts.tail.unfollow(self._tenant, stream, self)
                if stream.startswith("room:"):
                    self._parts.presence.left(self._attendee(stream))
            case m.Store(fields, furthest_):
                if self._entry is not None:
                    self._entry.fields |= fields
                    self._entry.furthest = furthest_ or self._entry.furthest
            case m.Run(command):
                if self._lane is None:
                    self._lane = deque()
                    self._spawn(self._run_lane(self._lane))
                self._lane.append(command)
                if len(self._lane) >= LANE:
                    self._lane_room.clear()

    async def on_stop(self, ended: Ended) -> None:
        """Frees everything; what was acknowledged is stored."""
        self.session.closed = True
        if ended.how == "failed":
            await self._close(4006, "server error")
        if self._timer:
            self._timer.cancel()
        tasks, self._tasks = self._tasks, {}
        for task in tasks:
            task.cancel()
        for stream in (*self.session.follows, *self._expected):
            self._parts.tail.unfollow(self._tenant, stream, self)
            if stream.startswith("room:"):
                self._parts.presence.away(self._attendee(stream))
        if tasks:
            await asyncio.wait(tasks)
        await self.outbox.close(0)
        if self._entry is not None:
            await self._parts.cursors.remove(self._entry)

    @property
    def _tenant(self) -> str:
        return self.session.claims.tenant if self.session.claims else keys.DEFAULT_TENANT

    def _attendee(self, room: str) -> Attendee:
        claims = self.session.claims
        assert claims is not None
        return Attendee(claims.tenant, room, self.session.id, self.session.generation, claims.subject)

    def tell(self, message: m.Message, key: object = None) -> None:
        """A message from within the process. Of those with one `key` only the newest is kept."""
        quiet = not self._told
        self._told[key or object()] = message
        if quiet:
            try:
                self.mailbox.put_nowait(None, reserved=True)
            except (MailboxClosed, MailboxFull):
                pass  # nobody listens any more; or the actor is busy, and looks here after every message

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._task(coroutine)

    def _task(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(coroutine)
        self._tasks[task] = None
        task.add_done_callback(self._spawned)
        return task

    def _spawned(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._break(error)

    def _break(self, error: BaseException) -> None:
        """What was to be done and was not would be a hole that nobody tells of: the actor fails, the client resumes."""
        self._broken = error
        self.session.closed = True
        self.tell(m.Drained(), key="broken")

    def _arm(self) -> None:
        """One timer a connection, set for when the session next wants to know the time."""
        at = self.session.next_tick()
        if self._timer is None or self._timer_at > at or self._timer_at <= self._loop.time():
            if self._timer:
                self._timer.cancel()
            self._timer, self._timer_at = self._loop.call_at(at, self._ring), at

    def _ring(self) -> None:
        self._timer = None
        if self._loop.time() >= self.session.next_tick():
            self.tell(m.Tick())
        else:
            self._arm()

    def _on_room(self) -> None:
        self.tell(m.Drained())

    def _on_lost(self, why: str) -> None:
        if why == "slow":
            metrics.slow_consumers.labels("closed").inc()
            self.close_code = 4002
            self.session.closed = True
            self._socket.abort(4002, "slow consumer")
        self.mailbox.close()

    async def _close(self, code: int, reason: str) -> None:
        if self.close_code is None:
            self.close_code = code
            if await self.outbox.close(_LAST_WORDS_S):
                await self._socket.close(code, reason)
            else:
                self._socket.abort(code, reason)
        self.mailbox.close()

    def _hold(self, stream: str, live: Live) -> None:
        held = self._expected[stream]
        if held is not None and len(held) < MAX_HELD:
            held.append(live)
        else:
            self._expected[stream] = None

    def _release(self, stream: str) -> None:
        """A job's announcements were asked for before it was accepted: it is followed by now, or never."""
        held = self._expected.pop(stream, None)
        follow = self.session.follows.get(stream)
        if follow is None or not follow.watching or self.session.closed:
            self._parts.tail.unfollow(self._tenant, stream, self)
            return
        for live in held or ():
            self.on_live(stream, live)
        if follow.watching and not follow.watched:
            self._begin_watch(stream)

    def _begin_watch(self, stream: str) -> None:
        if self._parts.tail.expect(self._tenant, stream, self).open:
            self.tell(m.Watched(stream), key=("watched", stream))
        elif stream not in self._watches:
            self._watches[stream] = self._task(self._watch(stream))

    # effects that wait

    async def _watch(self, stream: str) -> None:
        await self._parts.tail.follow(self._tenant, stream, self)
        self._watches.pop(stream, None)
        self.tell(m.Watched(stream), key=("watched", stream))

    async def _read(self, stream: str, after: int, ticket: int) -> None:
        # A log that vanished goes on in a new epoch, which has to have a name.
        page = await insist("read", self._parts.streams.read_open, self._tenant, stream, after)
        self.tell(m.PageRead(stream, ticket, page))

    async def _open(self, connect: Connect, given: dict[str, Cursor]) -> None:
        parts = self._parts
        try:
            claims = await self._authenticate(connect)
            # What could not be a session's id is as unknown as one that has expired.
            known = connect.session if connect.session and is_session_id(connect.session) else None
            stored = await open_session(parts.store, parts.settings, claims.tenant, claims.subject, known)
            own, user = keys.session_stream(stored.id), keys.user_stream(claims.subject)
            refused = await parts.access.no_longer_reads(claims, [name for name in stored.cursors if name not in (own, user)])
            for name in refused:
                del stored.cursors[name]
            streams = list(dict.fromkeys([own, user, *stored.cursors]))
            before = await parts.streams.heads(claims.tenant, streams)
            missing = frozenset(name for name, head in before.items() if not head.epoch)
            heads = await parts.streams.opened(claims.tenant, before)
        except Refused as error:
            self.outbox.put_frame(error.frame())
            code = {"unauthorized": 4500, "token_expired": 4004, "forbidden": 4501, "unavailable": 1013}.get(error.code, 4502)
            self.session.closed = True
            await self._close(code, error.code)
            return
        if stored.resumed or connect.session is not None:
            metrics.resumes.labels("resumed" if stored.resumed else "unknown").inc()
        self.outbox.batch = connect.batch
        if connect.client is not None:
            self.client = sys.intern(f"{connect.client.name} {connect.client.version}".rstrip())
        self._entry = Entry(claims.tenant, claims.subject, stored.id, stored.generation, lambda: self._spawn(self._refused()))
        parts.cursors.add(self._entry)
        self._entry.fields = {f"c:{name}": "" for name in refused}
        opened = m.Opened(stored, claims, claims.expires_at - time.time(), given, heads, missing)
        await self._step(opened)
        for name, why in refused.items():
            self.outbox.put_frame(Refused(why.code, why.message, facts={"stream": name}).frame())

    async def _authenticate(self, connect: Connect) -> Claims:
        if connect.ticket is not None:
            return await self._parts.authenticate.ticket(connect.ticket)
        token, self._token = connect.token if connect.token is not None else self._token, None
        if token is None:
            raise Refused("unauthorized", "a token is needed: in the connect frame, an Authorization header or a subprotocol")
        return await self._parts.authenticate.token(token)

    # commands

    async def _run_lane(self, lane: deque[Any]) -> None:
        """Commands one after the other, in the order in which they came; application handlers run beside it."""
        try:
            while lane:
                command = lane[0]
                if isinstance(command, Handled):
                    if self._handlers is None:
                        self._handlers = asyncio.Semaphore(MAX_HANDLERS)
                    await self._handlers.acquire()
                    self._spawn(self._handle_event(command, self._handlers))
                else:
                    await self._answer(command.type, command.id, partial(self._command, command))
                lane.popleft()
                if len(lane) < LANE:
                    self._lane_room.set()
        finally:
            self._lane = None

    async def _refused(self) -> None:
        if not await insist("restore", self._restored):
            self.tell(m.TakenOver(self.session.generation + 1))

    async def _restored(self) -> bool:
        """Whether the session is this connection's after all: Redis had lost it, and has it again. Raises Unavailable."""
        assert self._entry is not None
        if not await restore_session(self._parts.store, self._parts.settings, self._entry, self.session.stored()):
            return False
        if not self.session.closed:
            self._parts.cursors.add(self._entry)
        return True

    async def _answer(self, type: str, id: str | None, work: Callable[[], Awaitable[m.Message]]) -> None:
        began = time.perf_counter()
        try:
            try:
                message = await work()
            except TakenOver:
                if not await self._restored():
                    raise
                message = await work()
        except TakenOver:
            message = m.TakenOver(self.session.generation + 1)
        except Refused as error:
            message = m.Failed(id, error)
        except Exception as error:
            log.error("a command failed", type=type, exc_info=error)
            message = m.Failed(id, Refused("internal", "something went wrong on the server; nothing is remembered of this command"))
        metrics.command_seconds.labels(type).observe(time.perf_counter() - began)
        self.tell(message)

    async def _command(self, command: Command) -> m.Message:
        claims, entry = self.session.claims, self._entry
        assert claims is not None
        assert entry is not None
        parts, by = self._parts, self._by
        match command:
            case Submit(id=id, job=name, input=input, options=options):
                claims.need("jobs:write")
                job = named_job(parts.router.app, name)
                expected = keys.job_stream(job_id := new_job_id())
                self._expected[expected] = []
                parts.tail.expect(claims.tenant, expected, self)
                accepted = None
                try:
                    accepted = await submit(
                        parts.queue,
                        parts.access,
                        claims,
                        by,
                        job,
                        input,
                        stream=options.stream,
                        delay_s=options.delay_s,
                        timeout_s=options.timeout_s,
                        records=self._records(id, options.idempotency_key),
                        job_id=job_id,
                    )
                finally:
                    if accepted is None or accepted.stream != expected:  # refused, or a repeat
                        self._release(expected)
                data = {"job_id": accepted.job_id, "stream": accepted.stream, "duplicate": accepted.duplicate}
                return m.Answered(id, data, accepted.stream)
            case Publish(id=id, stream=name, data=data, event=type, idempotency_key=key):
                stream = parse_stream(name)
                await parts.access.publish(claims, stream)
                event = published_event(parts.router.app, claims, stream, type, data)
                records, hash = self._records(id, key), publish_hash(name, type, data)
                published = await until_not_busy(
                    lambda: parts.streams.publish(claims.tenant, stream, event, hash=hash, records=records, by=by)
                )
                return m.Answered(id, {"stream": name, "seq": published.seq})
            case Cancel(id=id, job_id=job_id):

                async def cancel() -> dict[str, Any]:
                    await parts.access.control_job(claims, job_id)
                    _, status = await parts.queue.cancel(claims.tenant, job_id, claims.subject)
                    return {"job_id": job_id, "status": status}

                record = keys.command(claims.tenant, self.session.id, id)
                return m.Answered(id, await parts.commands.once(claims.tenant, record, request_hash(["cancel", job_id]), cancel, by=by))
            case Input(id=id, job_id=job_id, data=data, final=final):
                await parts.access.control_job(claims, job_id)
                seq = await parts.inbox.send(claims.tenant, job_id, data, final=final, records=self._records(id, None), by=by)
                return m.Answered(id, {"seq": seq})
            case Subscribe(id=id, stream=name, cursor=text):
                stream = parse_stream(name)
                cursor = None if text is None else parse_cursor(text)
                if not self._is_own(stream):
                    await parts.access.read_stream(claims, stream)
                head = (await parts.streams.open(claims.tenant, [name]))[name]
                if name not in self.session.follows:
                    if len(self.session.follows) >= MAX_FOLLOWED:
                        raise too_many(name)
                    # Answered is kept: a process that dies now must not have forgotten it.
                    begins = Cursor(head.epoch, head.top) if cursor is None else cursor
                    await parts.cursors.put(entry, {f"c:{name}": str(begins)})
                return m.Subscribed(id, name, cursor, head)
            case Unsubscribe(id=id, stream=name):
                if self._is_own(parse_stream(name)):
                    raise Refused("forbidden", "the session's own stream and its user's are always followed")
                await parts.cursors.put(entry, self.session.leaving(name))
                return m.Unsubscribed(id, name)
            case Refresh(id=id, token=token):
                fresh = await parts.authenticate.token(token)
                if (fresh.subject, fresh.tenant) != (claims.subject, claims.tenant):
                    raise Refused("forbidden", "this token belongs to another subject")
                return m.Refreshed(id, fresh, fresh.expires_at - time.time())
            case _:
                raise Refused("unknown_type", "this frame cannot be handled")

    async def _handle_event(self, handled: Handled, places: asyncio.Semaphore) -> None:
        claims = self.session.claims
        assert claims is not None
        parts, by, id = self._parts, self._by, handled.id
        conn = Connection(
            app=parts.router.app,
            claims=claims,
            by=by,
            streams=parts.streams,
            queue=parts.queue,
            access=parts.access,
            command_id=id,
            followed=lambda stream: self.tell(m.Answered(None, None, stream)),
        )

        async def call() -> Any:
            return await handled.handler(conn, handled.event)

        async def work() -> m.Message:
            if id is None:
                await call()
                return m.Answered(None, None)
            record = keys.command(claims.tenant, self.session.id, id)
            hash = request_hash({key: value for key, value in handled.raw.items() if key != "id"})
            return m.Answered(id, await parts.commands.once(claims.tenant, record, hash, call, by=by))

        try:
            await self._answer(handled.event.type, id, work)
        finally:
            places.release()

    @property
    def _by(self) -> Authorship:
        return Authorship(self.session.id, self.session.generation)

    def _records(self, id: str, key: str | None) -> list[str]:
        claims = self.session.claims
        assert claims is not None
        records = [keys.command(claims.tenant, self.session.id, id)]
        return [*records, keys.idempotency(claims.tenant, claims.subject, key)] if key is not None else records

    def _is_own(self, stream: Stream) -> bool:
        claims = self.session.claims
        assert claims is not None
        return str(stream) in (keys.session_stream(self.session.id), keys.user_stream(claims.subject))

    def _count(self, frame: dict[str, Any]) -> None:
        if frame["type"] == "error":
            metrics.frame_errors.labels(frame["code"]).inc()
        elif frame["type"] == "gap":
            metrics.gaps.labels(frame["reason"]).inc()
