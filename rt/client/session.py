"""What a client does, decided: (what happened) → what is to be done. Read this first; `rt.js` is the same, name for name.

No await, no clock, no I/O: the connection feeds it messages together with the time, and performs the actions that come
back, in order. Two rules keep the promise:

- An item is taken when it is the next one after `seq`, and there is a reader with room for it. Anything else is passed over,
  and fetched again from the server's log when somebody has room: nothing is buffered without bound, nothing blocks others.
- What the application has processed is `done`: that is acknowledged, stored, and where a later connection resumes. What is
  repeated then, because it was taken and not yet processed, is dropped by its seq.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from rt.client.backoff import Backoff
from rt.client.errors import ClientError, Closed, OutboxFull, OutcomeUnknown, SessionTaken, Stopped
from rt.client.events import Gap, StreamEvent, event_of, gap_of
from rt.client.messages import (
    Abandon,
    Accepted,
    Action,
    Answered,
    Attach,
    Broken,
    Changed,
    Command,
    Deliver,
    Detach,
    Dial,
    Dropped,
    Failed,
    Hangup,
    Leave,
    Message,
    NotOpened,
    Opened,
    Processed,
    Ready,
    Received,
    Reconnect,
    Renew,
    Save,
    Saved,
    Send,
    Start,
    State,
    Tick,
    Token,
)
from rt.codec import to_json_bytes
from rt.cursor import START, Cursor, parse_cursor
from rt.errors import Refused, RtError
from rt.keys import job_stream, session_stream, user_stream

#: Jobs whose end was processed, and of which no new connection has shown that the server knows: of more the oldest is forgotten.
MAX_FINISHED = 500
#: A connection that has stood for so long shows that the server is well, whatever it is closed with.
STOOD_S = 10.0
#: How long the server is given to mend a lost last event by itself.
BEHIND_S = 1.0
#: Closes that say that the server has had too much: coming back is counted as one more failure.
TROUBLED = frozenset({1013, 4002, 4006, 4007})
#: Answers to a handshake below 500 that may be another one later.
LATER = frozenset({408, 425, 429})

_NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class Config:
    """What a client can be told; the defaults suit most. Times in seconds."""

    #: The longest first wait before coming back, and the longest of all; each wait is drawn between 0 and its bound.
    backoff_s: float = 1.0
    backoff_cap_s: float = 20.0
    #: Time for the socket to open, and again for `connected` to come.
    connect_timeout_s: float = 10.0
    #: What was processed is acknowledged this long after; more of it in the same message.
    ack_every_s: float = 1.0
    #: Commands that may wait for their answers, and the bytes of all of them; above either one more is OutboxFull.
    max_pending: int = 1000
    max_pending_bytes: int = 8 * 1024 * 1024
    #: Items of one stream that may wait for their reader, and their bytes (at most one item more); above it the stream is left, and
    #: fetched again when half of them are processed.
    max_waiting: int = 1000
    max_waiting_bytes: int = 4 * 1024 * 1024


@dataclass(slots=True)
class Pending:
    """A command that is not answered."""

    text: str
    command: Command
    sent: bool = False
    #: The stream of the job that it has submitted, once that is known.
    stream: str = ""
    reads: bool = False


@dataclass(slots=True)
class Follow:
    """A stream: how far the application has come in it, and how it stands with the server."""

    #: The epoch that counts now; "" before the server has named one.
    epoch: str = ""
    #: The last seq that was taken; None when any may come next.
    seq: int | None = None
    #: What the application has processed, and what of that the server was told.
    done: Cursor | None = None
    acked: Cursor | None = None
    #: The newest seq that the server has spoken of; and up to where it has sent the stream on this connection, repeats included:
    #: an acknowledgement above that is ignored.
    top: int = 0
    come: int = 0
    reader: bool = False
    #: Items that were delivered and not processed: the position behind each, and its bytes.
    waiting: deque[tuple[Cursor | None, int, bool]] = field(default_factory=deque)
    waiting_bytes: int = 0
    #: The server sends this stream on this connection.
    followed: bool = False
    #: Something after `seq` was passed over.
    missing: bool = False
    #: The id of the `subscribe` that is not answered, and the seq after which it asks.
    asked: str = ""
    asked_seq: int | None = None
    #: It is to be followed no more, once the server has said so.
    left: bool = False
    #: The end was processed.
    finished: bool = False

    def begin(self, at: Cursor) -> None:
        """Here it begins for the application: that is nothing that the server has to be told."""
        self.epoch, self.seq, self.done, self.acked = at.epoch, at.seq, at, at

    def take(self, cursor: Cursor | None, size: int, final: bool) -> None:
        self.waiting.append((cursor, size, final))
        self.waiting_bytes += size


class Session:
    """One client. `prefix` makes its command ids its own: random, as the session may outlive the process."""

    def __init__(
        self, config: Config, saved: Saved, *, token: str | None, renewable: bool, prefix: str, backoff: Backoff | None = None
    ) -> None:
        self.config = config
        self.state: State = "connecting"
        #: The server's names for this session and its subject; "" before the first connection.
        self.id = saved.session or ""
        self.subject = ""
        self.expires_at: int | None = None
        self.streams: dict[str, Follow] = {}
        for stream, text in saved.cursors.items():
            cursor = parse_cursor(text)
            self.streams[stream] = Follow(cursor.epoch, cursor.seq, cursor)
        self.pending: dict[str, Pending] = {}
        #: Streams whose readers have as much waiting as may wait.
        self.crowded: set[str] = set()
        self._pending_bytes = 0
        self._token, self._renewable, self._renewing = token, renewable, False
        self._backoff = backoff or Backoff(config.backoff_s, config.backoff_cap_s)
        self._prefix, self._ids = prefix, 0
        self._max_bytes = 262_144
        self._met = False
        self._finished: dict[str, None] = {}
        # of this connection
        self._asks: dict[str, tuple[str, str]] = {}
        self._refusal: Refused | None = None
        self._told_s: float | None = None
        self._behind: dict[str, int] = {}
        self._behind_at = _NEVER
        #: Streams to be asked for again, after an answer that was temporary.
        self._again: set[str] = set()
        self._again_at = _NEVER
        self._heartbeat_s = 20.0
        self._received_at = self._connected_at = 0.0
        # times
        self._connect_by = self._retry_at = self._ack_at = _NEVER
        self._changed = False

    def new_id(self) -> str:
        self._ids += 1
        return f"{self._prefix}-{self._ids}"

    def next_tick(self) -> float:
        """When a Tick is wanted; infinity: never."""
        silent_at = self._received_at + 2 * self._heartbeat_s if self.state == "open" else _NEVER
        return min(silent_at, self._again_at, self._connect_by, self._retry_at, self._ack_at, self._behind_at)

    def handle(self, message: Message, now: float) -> list[Action]:
        """What is to be done now that this has happened; `now` in seconds of any steady clock."""
        if self.state == "closed":
            return []
        actions = list(self._handle(message, now))
        if now >= self._ack_at:
            actions += self._flush()
        return actions

    def _handle(self, message: Message, now: float) -> Iterator[Action]:
        match message:
            case Start():
                yield from self._connect(now)
            case Token(text, problem):
                yield from self._renewed(text, problem, now)
            case Opened():
                yield from self._opened(now)
            case NotOpened():
                yield from self._not_opened(message, now)
            case Received(frames, size):
                self._received_at = now
                for frame in frames:
                    yield from self._frame(frame, size // len(frames), now)
            case Dropped(code, reason):
                yield from self._dropped(code, reason, now)
            case Tick():
                yield from self._tick(now)
            case Command():
                yield from self._command(message)
            case Attach(stream, cursor):
                yield from self._attach(stream, cursor)
            case Detach(stream):
                yield from self._detach(stream)
            case Abandon(id):
                if pending := self.pending.get(id):
                    pending.reads = False
            case Processed(stream):
                yield from self._processed(stream, now)
            case Reconnect():
                if self.state in ("waiting", "taken"):
                    yield from self._connect(now)
            case Leave():
                yield from self._flush()
                yield from self._end(Closed())

    # connecting

    def _connect(self, now: float) -> Iterator[Action]:
        self.state, self._retry_at = "connecting", _NEVER
        yield Changed("connecting")
        if self._token is None and self._renewable:
            self._renewing = True
            yield Renew()
        else:
            yield from self._dial(now)

    def _dial(self, now: float) -> Iterator[Action]:
        self._connect_by = now + self.config.connect_timeout_s
        yield Dial()

    def _renewed(self, text: str | None, problem: str, now: float) -> Iterator[Action]:
        self._renewing = False
        self._token = text or self._token
        if self.state == "connecting" and self._connect_by == _NEVER:
            if text is None:
                yield from self._wait(f"no token: {problem}", now)
            else:
                yield from self._dial(now)
        elif self.state == "open" and text is not None:
            yield self._ask("refresh", "", {"type": "refresh", "token": text})

    def _opened(self, now: float) -> Iterator[Action]:
        self._connect_by = now + self.config.connect_timeout_s
        frame: dict[str, Any] = {"type": "connect", "batch": True, "client": {"name": "rt-python"}}
        if self._token is not None:
            frame["token"] = self._token
        if self.id:
            frame["session"] = self.id
            cursors = {}
            for name, follow in self.streams.items():
                follow.acked, follow.come = None, 0
                if follow.done and follow.done.epoch and not follow.left:
                    # If the session is resumed this counts as acknowledged, and the stream goes on behind it.
                    cursors[name] = str(follow.done)
                    follow.acked, follow.come = follow.done, follow.done.seq
            if cursors:
                frame["cursors"] = cursors
        yield _send(frame)

    def _not_opened(self, message: NotOpened, now: float) -> Iterator[Action]:
        status = message.status or 0
        if 400 <= status < 500 and status not in LATER and not self._met:
            yield from self._end(Stopped(status, message.problem))
        else:
            yield from self._wait(message.problem, now, at_least_s=message.retry_after_s)

    def _dropped(self, code: int, reason: str, now: float) -> Iterator[Action]:
        refusal = self._refusal
        words = refusal.message if refusal else reason
        stood = self.state == "open" and now - self._connected_at >= STOOD_S
        if self.state == "open" and (stood or code not in TROUBLED):
            self._backoff.reset()
        if code == 1000 or 4500 <= code < 5000:
            yield from self._end(Stopped(code, words))
        elif code == 4003:
            self._disconnected()
            self.state = "taken"
            taken = SessionTaken()
            yield from self._fail_pending(taken)
            yield Changed("taken", error=taken)
        elif code == 4004 and not self._renewable:
            yield from self._end(Stopped(code, words))
        else:
            if code == 4004:
                self._token = None
            yield from self._wait(f"{code} {words}".strip(), now)

    def _wait(self, problem: str, now: float, *, at_least_s: float = 0.0) -> Iterator[Action]:
        # What the server told counts as it is: each client was told another delay.
        delay_s = self._told_s if self._told_s is not None else at_least_s + self._backoff.next_s()
        self._disconnected()
        self.state, self._retry_at = "waiting", now + delay_s
        yield Changed("waiting", delay_s, problem)

    def _disconnected(self) -> None:
        """Forgets what was true of the connection alone."""
        self._asks.clear()
        self._behind.clear()
        self._refusal = self._told_s = None
        self._connect_by = self._behind_at = self._again_at = _NEVER
        self._again.clear()
        for follow in self.streams.values():
            follow.followed, follow.asked = False, ""

    def _end(self, error: ClientError) -> Iterator[Action]:
        """For good."""
        had_socket = self.state in ("open", "connecting")
        self._disconnected()
        self.state, self._retry_at = "closed", _NEVER
        yield from self._flush()
        yield from self._fail_pending(error)
        if had_socket:
            yield Hangup(1000)
        yield Changed("closed", error=error)

    def _fail_pending(self, error: ClientError) -> Iterator[Action]:
        for id in list(self.pending):
            yield from self._fail(id, error)

    def _fail(self, id: str, error: RtError) -> Iterator[Action]:
        self._pending_bytes -= len(self.pending.pop(id).text)
        yield Failed(id, error)

    # what the server sends

    def _frame(self, frame: dict[str, Any], size: int, now: float) -> Iterator[Action]:
        match frame["type"]:
            case "connected":
                yield from self._connected(frame, now)
            case "subscribed":
                yield from self._subscribed(frame)
            case "gap":
                yield from self._gap(frame, size)
            case "reply":
                yield from self._reply(frame["id"], frame["data"])
            case "error":
                yield from self._error(frame, now)
            case "ping":
                yield _send({"type": "pong"})
                self._note_positions(frame.get("positions") or {}, now)
            case "token_expiring":
                if self._renewable and not self._renewing:
                    self._renewing = True
                    yield Renew()
            case "reconnect":
                # The connection is used until the server closes it.
                self._told_s = frame["delay_ms"] / 1000
            case _ if "seq" in frame:
                yield from self._event(frame, size)

    def _connected(self, frame: dict[str, Any], now: float) -> Iterator[Action]:
        resumed, before = frame["resumed"], self.id
        self._connect_by, self._connected_at, self._met = _NEVER, now, True
        self.id, self.subject, self.expires_at = frame["session"], frame["subject"], frame.get("expires_at")
        self._heartbeat_s, self._max_bytes = frame["heartbeat_s"], frame["max_message_bytes"]
        own = session_stream(self.id)
        for name, at in frame["streams"].items():
            if name not in self.streams:
                # A new session's own stream begins with it. Where its user's begins nobody tells.
                self.streams[name] = Follow(at["epoch"], 0, Cursor(at["epoch"], 0)) if name == own and not resumed else Follow(at["epoch"])
            follow = self.streams[name]
            # What was passed over on the last connection comes again: it was never processed.
            follow.followed, follow.missing, follow.top = True, False, at["seq"]
            if at["recovered"]:
                follow.epoch = at["epoch"]
            if not resumed:
                follow.acked, follow.come = None, 0
        if before and not resumed and not self._reads(session_stream(before)):
            self.streams.pop(session_stream(before), None)
        self.state = "open"
        self._moved(now)
        yield Changed("open")
        for name, follow in list(self.streams.items()):
            if follow.left:
                if follow.followed:
                    yield self._ask("leave", name, {"type": "unsubscribe", "stream": name})
                else:
                    del self.streams[name]
            elif follow.finished:
                if not follow.followed:
                    self._forget(name)
            elif follow.reader and (not follow.followed or not resumed or (follow.seq is not None and follow.acked is None)):
                # The server does not send it, or from elsewhere: another session begins elsewhere in its user's stream, and a cursor
                # that was given while there was no connection is not known there.
                if self._room(follow):
                    yield from self._fetch(name, follow)
                else:
                    follow.missing = True
            elif follow.reader:
                yield Ready(name)
        for id, pending in list(self.pending.items()):
            harmless = pending.command.keyed or not pending.sent or pending.command.frame["type"] == "job.cancel"
            if resumed or harmless:
                yield self._send_pending(pending)
            else:
                yield from self._fail(id, OutcomeUnknown())

    def _subscribed(self, frame: dict[str, Any]) -> Iterator[Action]:
        name, epoch = frame["stream"], frame["epoch"]
        asked = self._asks.pop(frame.get("id", ""), None)
        follow = self.streams.get(name)
        if follow is None:
            if asked:
                return
            follow = self.streams[name] = Follow(epoch, 0, Cursor(epoch, 0))
        if follow.left or (asked and follow.asked != frame["id"]):
            return
        follow.followed, follow.top = True, frame["seq"]
        if frame["recovered"]:
            follow.epoch = epoch
        if not asked:
            if follow.done == START and frame["recovered"] and not follow.waiting:
                # From now on it can be named: nothing of it is here yet.
                follow.begin(Cursor(epoch, 0))
            return
        follow.asked, follow.missing = "", False
        if follow.seq is None and frame["recovered"]:
            follow.seq = frame["seq"]
        # The server goes on from where it was asked to, whatever it has sent since then.
        follow.come = follow.asked_seq if follow.asked_seq is not None else follow.seq or 0
        if follow.done and follow.done.seq > follow.come:
            follow.acked = None
        if follow.seq is not None and not follow.waiting and (follow.done is None or not follow.done.epoch):
            follow.begin(Cursor(follow.epoch, follow.seq))
        yield Ready(name)

    def _gap(self, frame: dict[str, Any], size: int) -> Iterator[Action]:
        name, epoch = frame["stream"], frame["epoch"]
        first: int | None = frame.get("from")
        last: int | None = frame.get("to")
        follow = self.streams.setdefault(name, Follow(followed=True))
        if follow.left or follow.missing:
            return
        follow.come = last or 0
        if last is not None and epoch == follow.epoch and follow.seq is not None and last <= follow.seq:
            return
        behind = None if last is None else Cursor(epoch, last)
        if follow.reader:
            gap = gap_of(frame, after=follow.seq if epoch == follow.epoch else None, top=follow.top)
            if self._room(follow):
                follow.epoch, follow.seq = epoch, last
                yield from self._deliver(name, follow, gap, behind, size)
            else:
                yield from self._overflow(name, follow)
        elif name == session_stream(self.id):
            follow.epoch, follow.seq, follow.done = epoch, last, behind
        else:
            # Nobody reads it: whoever will is told then, by the server.
            follow.missing = True
            if follow.seq is None:
                follow.begin(Cursor(epoch, 0 if first is None else first - 1))

    def _event(self, frame: dict[str, Any], size: int) -> Iterator[Action]:
        name, seq = frame["stream"], frame["seq"]
        own = name == session_stream(self.id)
        created = own and frame["type"] == "job.created"
        if created:
            yield from self._created(frame["data"])
        follow = self.streams.setdefault(name, Follow(followed=True))
        follow.top, follow.come = max(follow.top, seq), seq
        if follow.left:
            return
        if follow.seq is not None and seq <= follow.seq:
            if follow.done and follow.done != follow.acked and follow.done.seq <= seq:
                # Processed before the connection was lost, and until now not to be acknowledged on this one.
                self._moved(self._received_at)
            return
        final = frame.get("final", False)
        if not follow.missing and follow.seq is not None and seq > follow.seq + 1:
            follow.missing = True
            if follow.reader:
                yield from self._fetch(name, follow)
        elif follow.missing:
            pass
        elif follow.reader:
            if self._room(follow):
                if follow.seq is None and not follow.waiting:
                    follow.begin(Cursor(follow.epoch, seq - 1))
                follow.seq = seq
                yield from self._deliver(name, follow, event_of(frame), Cursor(follow.epoch, seq), size)
            else:
                yield from self._overflow(name, follow)
        elif created:
            follow.seq, follow.done = seq, Cursor(follow.epoch, seq)
            self._moved(self._received_at)
        else:
            if follow.seq is None:
                follow.begin(Cursor(follow.epoch, seq - 1))
            follow.missing = True
        # A job of somebody else's that nobody here has looked at is not to come again with every connection. While a submission
        # is not answered it may be that one's.
        ours = follow.reader or any(one.reads and not one.stream for one in self.pending.values())
        if final and not ours and not (follow.done and follow.done.seq):
            yield from self._leave(name, follow)

    def _created(self, data: dict[str, Any]) -> Iterator[Action]:
        """A job that this session has submitted is announced; that may come before the command's reply, and its events as well."""
        pending = self.pending.get(data.get("request_id", ""))
        if pending:
            yield from self._begin(pending, job_stream(data["job_id"]))

    def _begin(self, pending: Pending, stream: str) -> Iterator[Action]:
        if not pending.command.reads or pending.stream:
            return
        pending.stream = stream
        yield Accepted(pending.command.id, stream)
        if stream in self.streams:
            # The answer was lost with a connection; on this one the job's events may have come before it, and nobody read them.
            yield from self._attach(stream, None)
        else:
            self.streams[stream] = Follow("", 0, START, START, reader=True)
        if not pending.reads:
            yield from self._detach(stream)

    def _reply(self, id: str, data: Any) -> Iterator[Action]:
        if pending := self.pending.pop(id, None):
            self._pending_bytes -= len(pending.text)
            if pending.command.reads:
                stream = data["stream"]
                yield from self._begin(pending, stream)
                follow = self.streams.get(stream)
                if data.get("duplicate") and follow and follow.reader and not follow.followed and not follow.asked:
                    # The job is one that this session may have had and left: the server does not follow it again by itself.
                    yield from self._fetch(stream, follow)
            yield Answered(id, data)
        elif asked := self._asks.pop(id, None):
            kind, stream = asked
            follow = self.streams.get(stream)
            if kind == "leave" and follow is not None and follow.left:
                del self.streams[stream]

    def _error(self, frame: dict[str, Any], now: float) -> Iterator[Action]:
        error = refused(frame)
        id = frame.get("id")
        if id in self.pending:
            yield from self._fail(id, error)
        elif id in self._asks:
            kind, stream = self._asks.pop(id)
            follow = self.streams.get(stream)
            if kind != "follow" or follow is None or follow.asked != id:
                return
            follow.asked = ""
            if error.temporary and error.code != "rate_limited":
                self._again.add(stream)
                self._again_at = max(now + (error.retry_after_ms or 1000) / 1000, 0 if self._again_at == _NEVER else self._again_at)
            else:
                del self.streams[stream]
                yield Broken(stream, error)
        elif id is None:
            # Said before the connection is closed; or of a job that cannot be followed, as too many streams are.
            self._refusal = error
            unfollowed = error.facts.get("stream")
            if unfollowed is not None and self._reads(unfollowed):
                del self.streams[unfollowed]
                yield Broken(unfollowed, error)

    def _note_positions(self, positions: dict[str, int], now: float) -> None:
        for name, seq in positions.items():
            follow = self.streams.get(name)
            if follow and follow.seq is not None and follow.seq < seq:
                self._behind[name] = seq
                self._behind_at = min(self._behind_at, now + BEHIND_S)

    # what the application does

    def _command(self, command: Command) -> Iterator[Action]:
        text = to_json_bytes(command.frame | {"id": command.id}).decode()
        size = len(text.encode())
        if size > self._max_bytes:
            # Not sent: the server would not read so far as the id that its answer needs.
            yield Failed(command.id, Refused("too_large", f"a message of {size} bytes; at most {self._max_bytes} are taken"))
            return
        if len(self.pending) >= self.config.max_pending or self._pending_bytes + len(text) > self.config.max_pending_bytes:
            yield Failed(command.id, OutboxFull(len(self.pending), self._pending_bytes))
            return
        pending = self.pending[command.id] = Pending(text, command, reads=command.reads)
        self._pending_bytes += len(text)
        if self.state == "open":
            yield self._send_pending(pending)

    def _send_pending(self, pending: Pending) -> Send:
        pending.sent = True
        return Send(pending.text)

    def _attach(self, name: str, cursor: Cursor | None) -> Iterator[Action]:
        follow = self.streams.get(name)
        if follow is None or follow.left or follow.finished:
            self._finished.pop(name, None)
            follow = self.streams[name] = Follow()
        follow.reader = True
        if cursor is None and follow.seq is None and name.startswith("job:") and not follow.followed:
            cursor = START
        if cursor is not None:
            # What comes before the answer is of the epoch that is known already.
            follow.begin(Cursor(follow.epoch, 0) if cursor == START and follow.followed else cursor)
        if self.state != "open":
            return
        if follow.followed and not follow.missing and cursor is None:
            yield Ready(name)
        else:
            yield from self._fetch(name, follow)

    def _detach(self, name: str) -> Iterator[Action]:
        follow = self.streams.get(name)
        if follow is None or not follow.reader:
            return
        follow.reader = False
        if follow.waiting:
            follow.seq = follow.done.seq if follow.done else None
            follow.missing = follow.seq is not None
            follow.waiting.clear()
            follow.waiting_bytes = 0
            self.crowded.discard(name)
        if not self._always(name):
            yield from self._leave(name, follow)

    def _leave(self, name: str, follow: Follow) -> Iterator[Action]:
        """The server is to send it no more, nor to remember it."""
        follow.left, self._changed = True, True
        follow.asked = ""
        if self.state == "open":
            yield self._ask("leave", name, {"type": "unsubscribe", "stream": name})

    def _processed(self, name: str, now: float) -> Iterator[Action]:
        follow = self.streams.get(name)
        if follow is None or not follow.waiting:
            return
        cursor, size, final = follow.waiting.popleft()
        follow.waiting_bytes -= size
        follow.done = cursor
        self.crowded.discard(name)
        self._moved(now)
        if final and name.startswith("job:"):
            follow.finished, follow.reader, follow.missing = True, False, False
            self._finished[name] = None
            if len(self._finished) > MAX_FINISHED:
                self._forget(next(iter(self._finished)))
        elif follow.missing and follow.reader and self.state == "open":
            half = self.config.max_waiting // 2, self.config.max_waiting_bytes // 2
            if len(follow.waiting) <= half[0] and follow.waiting_bytes <= half[1]:
                yield from self._fetch(name, follow)

    def _moved(self, now: float) -> None:
        """There is something to acknowledge, and to save."""
        self._changed = True
        self._ack_at = min(self._ack_at, now + self.config.ack_every_s)

    def _flush(self) -> Iterator[Action]:
        """Acknowledges what was processed, and has it saved."""
        self._ack_at = _NEVER
        if not self._changed:
            return
        self._changed = False
        if self.state == "open":
            news: dict[str, str] = {}
            for name, follow in self.streams.items():
                if not follow.followed or follow.left or follow.done is None or not follow.done.epoch:
                    continue
                if follow.done != follow.acked and follow.done.seq <= follow.come:
                    news[name] = str(follow.done)
                    follow.acked = follow.done
            if news:
                yield _send({"type": "ack", "cursors": news})
        kept = {
            name: str(one.done)
            for name, one in self.streams.items()
            if one.done and one.done.epoch and not one.left and not (one.finished and one.acked == one.done)
        }
        yield Save(Saved(self.id or None, kept))

    # streams

    def _deliver(self, name: str, follow: Follow, item: StreamEvent | Gap, behind: Cursor | None, size: int) -> Iterator[Action]:
        follow.take(behind, size, item.final)
        if not self._room(follow):
            self.crowded.add(name)
        yield Deliver(name, item)

    def _room(self, follow: Follow) -> bool:
        return len(follow.waiting) < self.config.max_waiting and follow.waiting_bytes < self.config.max_waiting_bytes

    def _overflow(self, name: str, follow: Follow) -> Iterator[Action]:
        """The reader is slower than the stream: the server need not send what is not taken."""
        follow.missing = True
        if not self._always(name):
            follow.followed = False
            yield self._ask("park", name, {"type": "unsubscribe", "stream": name})

    def _fetch(self, name: str, follow: Follow) -> Iterator[Action]:
        """Asks for everything after what was taken."""
        if follow.asked:
            return
        frame: dict[str, Any] = {"type": "subscribe", "stream": name}
        if follow.seq is not None:
            frame["cursor"] = str(Cursor(follow.epoch, follow.seq))
        asking = self._ask("follow", name, frame)
        follow.asked, follow.asked_seq = next(reversed(self._asks)), follow.seq
        # What comes before the answer comes again behind it.
        follow.missing = True
        yield asking

    def _ask(self, kind: str, stream: str, frame: dict[str, Any]) -> Send:
        """A command of the session's own: it is asked anew, if need be, on the next connection."""
        id = self.new_id()
        self._asks[id] = kind, stream
        return _send(frame | {"id": id})

    def _always(self, name: str) -> bool:
        """The server follows these for every session, and does not stop."""
        return name in (session_stream(self.id), user_stream(self.subject))

    def _reads(self, name: str) -> bool:
        return name in self.streams and self.streams[name].reader

    def _forget(self, name: str) -> None:
        del self.streams[name]
        self._finished.pop(name, None)

    # time

    def _tick(self, now: float) -> Iterator[Action]:
        if now >= self._retry_at:
            yield from self._connect(now)
        elif now >= self._connect_by:
            yield Hangup(1006)
            yield from self._wait("no answer in time", now)
        elif self.state == "open" and now >= self._received_at + 2 * self._heartbeat_s:
            yield Hangup(4001)
            yield from self._dropped(4001, "nothing came for two heartbeats", now)
        elif self.state == "open":
            if now >= self._again_at:
                again, self._again, self._again_at = self._again, set(), _NEVER
                for name in again:
                    if self._reads(name):
                        yield from self._fetch(name, self.streams[name])
            if now >= self._behind_at:
                yield from self._mend()

    def _mend(self) -> Iterator[Action]:
        """Fetches what `positions` spoke of and did not come."""
        behind, self._behind, self._behind_at = self._behind, {}, _NEVER
        for name, seq in behind.items():
            follow = self.streams.get(name)
            if follow and follow.followed and not follow.missing and not follow.left and follow.seq is not None and follow.seq < seq:
                yield from self._fetch(name, follow)


def refused(frame: dict[str, Any]) -> Refused:
    """The error that an `error` frame, or a problem document of HTTP, is."""
    details = frame.get("details")
    return Refused(
        frame["code"],
        frame.get("message") or frame.get("detail") or "",
        details=details if isinstance(details, list) else None,
        retry_after_ms=frame.get("retry_after_ms"),
        facts=details if isinstance(details, dict) else None,
    )


def _send(frame: dict[str, Any]) -> Send:
    return Send(to_json_bytes(frame).decode())
