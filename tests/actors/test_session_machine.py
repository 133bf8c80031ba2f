"""The promise of the session, searched for counter-examples.

A model of the streams and of Redis' accidents, one of a client, and between them the real Session. Its effects are
performed in every order that can really happen: answers come late and show the log as it was when it was read,
announcements keep their order but get lost, the outbox fills, connections are cut, processes die with cursors unsaved.
"""

import copy
import itertools
import os
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rt import events
from rt.actors import messages as m
from rt.actors import session as s
from rt.actors.frames import Subscribe, Unsubscribe
from rt.actors.router import Router
from rt.app import App
from rt.codec import from_json_bytes
from rt.cursor import START, Cursor, parse_cursor
from rt.streams.log import Page
from rt.streams.replay import NOTHING, Head
from rt.streams.sessions import Known
from rt.streams.sessions import Session as StoredSession
from rt.streams.tail import Live
from rt.tokens import Claims

OWN, USER, ROOMS = "session:s", "user:u", ("room:a", "room:b")
#: Small, so that three events fill a page and a handful fills the outbox.
PAGE_EVENTS, OUTBOX_BYTES = 3, 700
#: Accidents that end much of what an example has built up.
SELDOM = st.sampled_from([False, False, False, True])
CLAIMS = Claims("u", "-", frozenset(), 2e9)


@dataclass
class Log:
    """One stream as the scripts keep it, and `truth`: what every (epoch, seq) that was ever written held."""

    name: str
    epoch: str = ""
    top: int = 0
    kept: int = 1
    past: tuple[Cursor, ...] = ()
    incarnation: int = 0
    ended: bool = False
    entries: dict[int, bytes] = field(default_factory=dict)
    truth: dict[tuple[str, int], int] = field(default_factory=dict)

    def head(self) -> Head:
        if not self.epoch:
            return NOTHING
        return Head(self.epoch, self.top, min(self.entries, default=self.top + 1), self.kept, self.past)

    def begin(self, incarnation: int, word: str) -> None:
        """As stream_open in stream.lua."""
        if not self.epoch:
            self.epoch, self.top, self.kept, self.past, self.incarnation = word, 0, 1, (), incarnation
        elif self.incarnation != incarnation:
            self.truth |= {(word, seq): n for (epoch, seq), n in self.truth.items() if epoch == self.epoch and seq <= self.top}
            self.past = (Cursor(self.epoch, self.top), *self.past)[:8]
            self.epoch, self.incarnation = word, incarnation

    def add(self, n: int, type: str, data: dict[str, Any]) -> bytes:
        self.top += 1
        raw = b'{"seq":%d,' % self.top + events.encode(type, self.name, data | {"n": n}, 0)[1:]
        self.entries[self.top] = raw
        self.truth[self.epoch, self.top] = n
        self.ended = self.ended or type == "job.completed"
        return raw

    def covers(self, cursor: Cursor) -> bool:
        """Whether what a client has up to `cursor` is what this log has up to there."""
        known = (Cursor(self.epoch, self.top), *self.past)
        return any(cursor.epoch == one.epoch and cursor.seq <= one.seq for one in known)

    def page(self, after: int) -> Page:
        found = sorted(seq for seq in self.entries if seq > after)[:PAGE_EVENTS]
        return Page(self.head(), [self.entries[seq] for seq in found])


@dataclass
class Place:
    """Where a client stands in a stream. `seq` None: after `gap epoch_changed`, until the first event says."""

    epoch: str
    seq: int | None
    #: The next frame about this stream must be its gap.
    owes_gap: bool = False
    #: What comes first may be anything up to here: the client is followed anew and drops what it has.
    repeats_to: int | None = None
    #: The client said at `connect` what it has, and nothing of this job: of one that has ended it says nothing.
    unsaid: bool = False


@dataclass
class Task:
    """Something the actor does beside its loop: `begin` looks at the model, `answer` is told to the session later."""

    effect: Any
    answer: m.Message | None = None


class Wire(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.logs: dict[str, Log] = {name: Log(name) for name in (OWN, USER, *ROOMS)}
        self.jobs: list[str] = []
        self.numbers = itertools.count(1)
        self.incarnation = 1
        self.lost_some = False
        # What Redis keeps of the session, and what has not been written there yet.
        self.stored: dict[str, str] = {}
        self.unsaved: dict[str, str] = {}
        self.generation = 0
        self.furthest: Cursor | None = None
        self.unsaved_furthest = ""
        # The connection.
        self.session: s.Session | None = None
        self.opening: m.Opened | None = None
        self.mailbox: deque[m.Message] = deque()
        #: What Redis has announced and the process has not heard yet.
        self.announced_live: deque[tuple[str, Live]] = deque()
        self.tasks: list[Task] = []
        self.lane: deque[Task] = deque()
        self.subscribed: set[str] = set()
        #: Jobs that were subscribed to before they were accepted.
        self.expected: set[str] = set()
        self.outbox: deque[dict[str, Any]] = deque()
        self.outbox_bytes = 0
        self.was_full = False
        self.reads = 0
        # The client: what it has processed, where it stands on this connection, what it asked for.
        self.has: dict[str, Cursor] = {}
        self.places: dict[str, Place] = {}
        self.asked: dict[str, tuple[str, Cursor | None]] = {}
        self.rooms: set[str] = set()
        self.ids = itertools.count(1)
        self.greeted = False
        self.given: dict[str, Cursor] = {}
        self.base: dict[str, Cursor] = {}
        #: Jobs that were announced to the client, and those whose terminal event the session knows to be acknowledged.
        self.announced: set[str] = set()
        self.claimed: set[str] = set()
        self.joined_at: dict[str, int] = {}
        self.announced_in: dict[str, str] = {}
        #: Those whose announcement comes a second time because a log begins anew, or the client asked for it.
        self.may_return: set[str] = set()
        self.finished: set[str] = set()
        self.finished_unsaved: set[str] = set()

    # the streams

    def word(self) -> str:
        return f"e{next(self.numbers)}"

    def append(self, name: str, bodies: list[tuple[str, dict[str, Any]]], heard: str) -> None:
        log = self.logs[name]
        log.begin(self.incarnation, self.word())
        first = log.top + 1
        raws = [log.add(next(self.numbers), type, data) for type, data in bodies]
        if heard != "lost":
            self.announce(name, Live(log.epoch, first, log.top, raws if heard == "whole" else None))

    def announce(self, name: str, live: Live) -> None:
        """Announcements keep their order, and may come later than what was read since."""
        if name in self.subscribed:
            self.announced_live.append((name, live))

    @precondition(lambda self: self.connected and self.announced_live)
    @rule(count=st.integers(1, 4))
    def hear(self, count: int) -> None:
        """As ConnectionActor.on_live: whatever waits in the mailbox. The short way must do what the long one does."""
        assert self.session is not None
        for _ in range(min(count, len(self.announced_live))):
            name, live = self.announced_live.popleft()
            if name not in self.subscribed:
                continue
            twin = copy.deepcopy(self.session, {id(ROUTER): ROUTER})
            if self.session.takes(name, live, self.room > 0):
                assert live.events is not None
                first, *others = twin.handle(m.News(name, live), 0.0, self.room)
                assert first == m.Forward(live.events)
                assert all(isinstance(one, m.Read) and one.stream != name for one in others)
                assert twin.follows[name] == replace(self.session.follows[name], announced=twin.follows[name].announced)
                self.perform(first)
            else:
                self.feed(m.News(name, live))

    heard = st.sampled_from(["whole", "whole", "whole", "bare", "lost"])
    plain = st.sampled_from([OWN, USER, *ROOMS])

    @rule(name=plain, count=st.integers(1, 4), heard=heard)
    def publish(self, name: str, count: int, heard: str) -> None:
        self.append(name, [("message", {"from": "", "data": ""})] * count, heard)

    @precondition(lambda self: len(self.jobs) < 4)
    @rule(
        by=st.sampled_from([OWN, OWN, USER, ROOMS[0]]),
        heard=heard,
        queued=heard,
        replied=st.booleans(),
        expected=st.booleans(),
        count=st.integers(0, 2),
        end=st.booleans(),
    )
    def accept_job(self, by: str, heard: str, queued: str, replied: bool, expected: bool, count: int, end: bool) -> None:
        """A job that was accepted; by this connection when `replied`, which may come before or after its `job.created`.

        `expected`: its stream was listened to in time.
        """
        job = f"j{len(self.jobs)}"
        name = f"job:{job}"
        self.jobs.append(name)
        self.logs[name] = Log(name)
        self.announced_in[name] = by
        if expected and self.connected:
            self.expected.add(name)
            self.subscribed.add(name)
        self.append(by, [("job.created", {"job_id": job, "job": "echo"})], heard)
        self.append(name, [("job.queued", {"job": "echo"})], queued)
        self.work(name, count, end, heard)
        if replied and self.connected:
            self.tasks.append(Task("answer", m.Answered("submitted", {}, name)))

    @precondition(lambda self: any(not self.logs[name].ended for name in self.jobs))
    @rule(data=st.data(), count=st.integers(0, 4), end=st.booleans(), heard=heard)
    def work_on(self, data: st.DataObject, count: int, end: bool, heard: str) -> None:
        self.work(data.draw(st.sampled_from([name for name in self.jobs if not self.logs[name].ended])), count, end, heard)

    def work(self, name: str, count: int, end: bool, heard: str) -> None:
        bodies: list[tuple[str, dict[str, Any]]] = [("job.delta", {"text": ""})] * count
        if end:
            bodies.append(("job.completed", {"result": 1}))
        if bodies:
            self.append(name, bodies, heard)

    def alive(self, *, losable: bool = False) -> list[str]:
        # A finished job is watched no more: an accident that takes its end back is noticed on the next resume only.
        return [name for name, log in self.logs.items() if log.epoch and not (losable and log.ended)]

    @precondition(lambda self: self.alive())
    @rule(data=st.data(), keep=st.integers(0, 4))
    def trim(self, data: st.DataObject, keep: int) -> None:
        log = self.logs[data.draw(st.sampled_from(self.alive()))]
        if len(log.entries) > keep:
            log.entries = {seq: log.entries[seq] for seq in sorted(log.entries)[len(log.entries) - keep :]}
            log.kept = min(log.entries, default=log.top + 1)

    @precondition(lambda self: self.alive())
    @rule(data=st.data(), now=SELDOM)
    def log_expires_under_its_meta(self, data: st.DataObject, now: bool) -> None:
        if not now:
            return
        self.logs[data.draw(st.sampled_from(self.alive()))].entries.clear()

    @precondition(lambda self: self.alive())
    @rule(data=st.data())
    def entries_are_deleted_by_hand(self, data: st.DataObject) -> None:
        log = self.logs[data.draw(st.sampled_from(self.alive()))]
        if log.entries and not log.ended:
            for seq in data.draw(st.sets(st.sampled_from(sorted(log.entries)), max_size=2)):
                del log.entries[seq]

    @precondition(lambda self: self.alive(losable=True))
    @rule(data=st.data(), now=SELDOM)
    def stream_vanishes(self, data: st.DataObject, now: bool) -> None:
        if not now:
            return
        name = data.draw(st.sampled_from(self.alive(losable=True)))
        log = self.logs[name]
        self.lost_some = True
        log.epoch, log.top, log.entries, log.past, log.kept = "", 0, {}, (), 1
        self.announced.discard(name)

    @rule(data=st.data(), some=st.integers(0, 3), now=SELDOM)
    def redis_restarts(self, data: st.DataObject, some: int, now: bool) -> None:
        """Its id changes; `some` is how many of its newest events one stream has lost."""
        if not now:
            return
        self.incarnation += 1
        names = self.alive(losable=True)
        if names and some:
            log = self.logs[data.draw(st.sampled_from(names))]
            self.lost_some = True
            log.top = max(log.top - some, 0)
            log.entries = {seq: raw for seq, raw in log.entries.items() if seq <= log.top}
            log.kept = min(log.kept, log.top + 1)

    # the actor

    @property
    def connected(self) -> bool:
        return self.session is not None and self.opening is None

    @property
    def room(self) -> int:
        return OUTBOX_BYTES - self.outbox_bytes

    def feed(self, message: m.Message) -> None:
        assert self.session is not None
        self.finished_unsaved |= self.finished_by(message)
        for effect in self.session.handle(message, 0.0, self.room):
            self.perform(effect)
        if self.session.starved and self.room > 0:
            self.tasks.append(Task("drained", m.Drained()))

    def finished_by(self, message: m.Message) -> set[str]:
        """Jobs whose terminal event this message acknowledges."""
        assert self.session is not None
        out = set()
        if isinstance(message, m.Received) and message.value["type"] == "ack":
            for name, value in message.value["cursors"].items():
                follow = self.session.follows.get(name)
                if follow is None or follow.final is None:
                    continue
                cursor = Cursor(follow.epoch, value) if isinstance(value, int) else parse_cursor(value)
                if cursor.epoch == follow.epoch and follow.final <= cursor.seq <= follow.sent:
                    out.add(name)
        return out

    def perform(self, effect: m.Effect) -> None:
        match effect:
            case m.Send(frame):
                self.put(frame, 20)
            case m.Forward(raws):
                for raw in raws:
                    self.put(from_json_bytes(raw), len(raw))
            case m.Watch(name):
                assert name not in self.subscribed - self.expected, "watched twice"
                self.expected.discard(name)
                self.tasks.append(Task(effect))
            case m.Unwatch(name):
                self.subscribed.discard(name)
                self.tasks = [one for one in self.tasks if one.effect != m.Watch(name)]
            case m.Read():
                self.reads += 1
                self.tasks.append(Task(effect))
            case m.Store(fields, furthest):
                self.unsaved |= fields
                self.unsaved_furthest = furthest or self.unsaved_furthest
            case m.Run(command):
                self.lane.append(Task(command))
            case m.Open(connect, given):
                self.open(connect.session is not None, given)
            case m.Close(code, reason):
                raise AssertionError(f"closed: {code} {reason}")

    def put(self, frame: dict[str, Any], size: int) -> None:
        self.outbox.append(frame | {"size": size})
        self.outbox_bytes += size
        self.was_full = self.was_full or self.outbox_bytes >= OUTBOX_BYTES

    def open(self, resumed: bool, given: dict[str, Cursor]) -> None:
        self.generation += 1
        if not resumed:
            self.stored = {f"c:{USER}": str(self.furthest) if self.furthest else "0"}
        stored = StoredSession("s", self.generation, resumed)
        for key, value in self.stored.items():
            kind, name = key[:2], key[2:]
            if kind == "c:":
                cursor, *origin = value.split(" ")
                stored.cursors[name] = Known(parse_cursor(cursor), (origin[0], int(origin[1])) if origin else None)
            else:
                by, seq = value.split(" ")
                stored.done[name] = (by, int(seq))
        names = list(dict.fromkeys([OWN, USER, *stored.cursors]))
        missing = frozenset(name for name in names if not self.logs[name].epoch)
        for name in names:
            self.logs[name].begin(self.incarnation, self.word())
        heads = {name: self.logs[name].head() for name in names}
        self.given = given
        self.base = {name: stored.cursors[name].cursor if name in stored.cursors else START for name in names}
        self.opening = m.Opened(stored, CLAIMS, 1e9, given, heads, missing)

    def begin(self, task: Task) -> None:
        """The part of a task that looks at Redis."""
        match task.effect:
            case m.Watch(name):
                self.subscribed.add(name)
                task.answer = m.Watched(name)
            case m.Read(name, after, ticket):
                log = self.logs[name]
                log.begin(self.incarnation, self.word())
                task.answer = m.PageRead(name, ticket, log.page(max(after, 0)))
            case Subscribe(id=id, stream=name, cursor=text):
                log = self.logs[name]
                log.begin(self.incarnation, self.word())
                cursor = parse_cursor(text) if text is not None else None
                if self.session and name not in self.session.follows:
                    begins = Cursor(log.epoch, log.top) if cursor is None else cursor
                    self.unsaved[f"c:{name}"] = str(begins) if begins.epoch else "0"
                    self.flush()
                task.answer = m.Subscribed(id, name, cursor, log.head())
            case Unsubscribe(id=id, stream=name):
                self.unsaved[f"c:{name}"] = ""
                self.flush()
                task.answer = m.Unsubscribed(id, name)

    @initialize(joins=st.sets(st.sampled_from(ROOMS)))
    def begins_in_rooms(self, joins: set[str]) -> None:
        self.connect(with_cursors=True, from_start=None)
        self.settle()
        for name in sorted(joins):
            self.subscribe(name, "start")
        self.settle()

    @precondition(lambda self: self.session is None)
    @rule(with_cursors=st.booleans(), from_start=st.sampled_from([None, None, None, *ROOMS, USER]))
    def connect(self, with_cursors: bool, from_start: str | None) -> None:
        self.session = s.Session(ROUTER, s.Config(), 0.0)
        self.greeted = False
        frame: dict[str, Any] = {"type": "connect", "token": "t"}
        if self.generation:
            frame["session"] = "s"
            if with_cursors:
                if from_start in self.has:  # the client forgot this one, and begins it anew
                    self.has[from_start] = Cursor(self.has[from_start].epoch, 0)
                    self.begins_again(from_start)
                # Who comes with the cursor of a terminal event has acknowledged it.
                self.claimed |= {name for name, cursor in self.has.items() if self.logs[name].ended and cursor.seq == self.logs[name].top}
                frame["cursors"] = {name: str(cursor) for name, cursor in self.has.items()}
        else:
            with_cursors = False
        if not with_cursors:
            self.has, self.announced = {}, {name[2:] for name in self.stored if name.startswith("c:job:")} & self.announced
        self.feed(m.Received(frame))

    @precondition(lambda self: self.opening is not None)
    @rule()
    def opened(self) -> None:
        message, self.opening = self.opening, None
        self.feed(message)

    @precondition(lambda self: self.connected and self.mailbox)
    @rule(count=st.integers(1, 4))
    def take(self, count: int) -> None:
        for _ in range(min(count, len(self.mailbox))):
            self.feed(self.mailbox.popleft())

    @precondition(lambda self: self.connected and self.tasks)
    @rule(data=st.data())
    def advance(self, data: st.DataObject) -> None:
        """A task looks at Redis, or its answer is handled; the others wait."""
        self.go_on(self.tasks[data.draw(st.integers(0, len(self.tasks) - 1))])

    def go_on(self, task: Task) -> None:
        if task.answer is None:
            self.begin(task)
        else:
            self.tasks.remove(task)
            self.feed(task.answer)

    @precondition(lambda self: self.connected and self.lane)
    @rule()
    def run_command(self) -> None:
        task = self.lane[0]
        if task.answer is None:
            self.begin(task)
        else:
            self.lane.popleft()
            self.feed(task.answer)

    @precondition(lambda self: self.connected and self.subscribed)
    @rule(data=st.data())
    def check(self, data: st.DataObject) -> None:
        """The round of the tops; its answer may be handled late, when it says little that is still true."""
        name = data.draw(st.sampled_from(sorted(self.subscribed)))
        self.tasks.append(Task("check", m.Checked(name, self.logs[name].head())))

    # the connection's ends

    @rule()
    def flush(self) -> None:
        for key, value in self.unsaved.items():
            if value:
                self.stored[key] = value
            else:
                self.stored.pop(key, None)
        self.unsaved = {}
        if self.unsaved_furthest:
            new = parse_cursor(self.unsaved_furthest)
            if self.furthest is None or new.epoch != self.furthest.epoch or new.seq > self.furthest.seq:
                self.furthest = new
            self.unsaved_furthest = ""
        self.finished |= self.finished_unsaved
        self.finished_unsaved = set()

    @precondition(lambda self: self.connected)
    @rule(now=SELDOM)
    def cut(self, now: bool) -> None:
        """The client is gone: what is in the mailbox is handled still, cursors are stored."""
        if not now:
            return
        while self.mailbox:
            self.feed(self.mailbox.popleft())
        self.flush()
        self.end()

    @precondition(lambda self: self.session is not None)
    @rule(now=SELDOM)
    def process_dies(self, now: bool) -> None:
        """Or the session is taken over before the flush: what was not stored never will be."""
        if not now:
            return
        self.unsaved, self.unsaved_furthest, self.finished_unsaved = {}, "", set()
        self.end()

    def end(self) -> None:
        self.session = self.opening = None
        self.mailbox.clear()
        self.announced_live.clear()
        self.tasks, self.lane, self.subscribed, self.expected = [], deque(), set(), set()
        self.outbox.clear()
        self.outbox_bytes, self.was_full = 0, False
        self.places, self.asked, self.base = {}, {}, {}

    # the client

    @precondition(lambda self: self.outbox)
    @rule(count=st.integers(1, 12))
    def client_reads(self, count: int) -> None:
        for _ in range(min(count, len(self.outbox))):
            frame = self.outbox.popleft()
            self.outbox_bytes -= frame.pop("size")
            self.client_gets(frame)
        if self.was_full and self.outbox_bytes <= OUTBOX_BYTES // 2:
            self.was_full = False
            self.tasks.append(Task("drained", m.Drained()))

    def client_sends(self, frame: dict[str, Any]) -> None:
        self.mailbox.append(m.Received(frame))

    @precondition(lambda self: self.connected and self.greeted and self.has)
    @rule(data=st.data(), as_cursor=st.booleans())
    def acknowledge(self, data: st.DataObject, as_cursor: bool) -> None:
        names = data.draw(st.sets(st.sampled_from(sorted(self.has))))
        whole = {name: self.has[name] for name in names if name in self.places}
        if whole:
            self.client_sends({"type": "ack", "cursors": {name: str(one) if as_cursor else one.seq for name, one in whole.items()}})

    @precondition(lambda self: self.connected and self.greeted)
    @rule(name=st.sampled_from([*ROOMS, OWN, USER]), how=st.sampled_from(["now", "start", "cursor", "older"]))
    def subscribe(self, name: str, how: str) -> None:
        cursor: Cursor | None = None
        if how == "start":
            cursor = START
        elif how != "now" and name in self.has:
            cursor = self.has[name] if how == "cursor" else Cursor(self.has[name].epoch, self.has[name].seq // 2)
        elif name in (OWN, USER):
            return
        if name in self.asked:
            return
        id = str(next(self.ids))
        self.asked[name] = (id, cursor)
        if cursor is not None:
            self.begins_again(name)
        frame = {"type": "subscribe", "id": id, "stream": name}
        if cursor is not None:
            frame["cursor"] = str(cursor) if cursor != START else "0"
        self.client_sends(frame)

    @precondition(lambda self: self.connected and self.greeted and self.rooms)
    @rule(data=st.data())
    def unsubscribe(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.rooms)))
        if name not in self.asked:
            self.asked[name] = (str(next(self.ids)), None)
            self.client_sends({"type": "unsubscribe", "id": self.asked[name][0], "stream": name})

    def client_gets(self, frame: dict[str, Any]) -> None:
        type = frame["type"]
        if "seq" in frame and "ts" in frame:
            self.client_gets_event(frame)
        elif type == "connected":
            self.client_is_greeted(frame)
        elif type == "subscribed":
            self.client_is_subscribed(frame)
        elif type == "gap":
            self.client_gets_gap(frame)
        elif type == "reply":
            for name, (id, _) in list(self.asked.items()):
                if id == frame["id"]:
                    del self.asked[name]
                    self.rooms.discard(name)
                    self.places.pop(name, None)
        elif type == "error" and self.lost_some:
            assert frame["message"].startswith("cursors."), frame  # an acknowledgement of what Redis has lost meanwhile
        else:
            raise AssertionError(f"the client did nothing wrong and was sent {frame}")

    def client_is_greeted(self, frame: dict[str, Any]) -> None:
        self.greeted = True
        assert {OWN, USER} <= set(frame["streams"])
        for name, one in frame["streams"].items():
            assert name not in self.finished, f"{name} was done with and is followed again"
            start = self.given.get(name, self.base[name])
            self.stand(name, start, one["epoch"], one["recovered"])
            self.places[name].unsaid = self.is_unsaid(name)
        self.rooms = {name for name in frame["streams"] if name.startswith("room:")}

    def stand(self, name: str, cursor: Cursor, epoch: str, recovered: bool) -> None:
        """The server follows this stream from `cursor` on."""
        self.places[name] = Place(epoch if recovered else cursor.epoch, cursor.seq, owes_gap=not recovered)
        self.has[name] = Cursor(epoch, cursor.seq) if recovered else cursor

    def client_is_subscribed(self, frame: dict[str, Any]) -> None:
        name, epoch, recovered = frame["stream"], frame["epoch"], frame["recovered"]
        place = self.places.get(name)
        if "id" in frame:
            id, cursor = self.asked.pop(name)
            assert id == frame["id"]
            if name.startswith("room:"):
                self.rooms.add(name)
            if cursor is not None:
                self.stand(name, cursor, epoch, recovered)
            elif place is None:
                assert recovered
                self.stand(name, Cursor(epoch, frame["seq"]), epoch, True)
                self.joined_at[name] = frame["seq"]
        elif place is None or name in self.may_return:
            assert name.startswith("job:")
            assert name not in self.finished, f"{name} was done with and is followed again"
            known = self.has.get(name)
            if known is not None or place is not None:
                self.places[name] = Place(epoch, None, owes_gap=not recovered, repeats_to=known.seq + 1 if known else 1)
            else:
                self.stand(name, Cursor(epoch, 0), epoch, True)
                self.places[name].owes_gap = not recovered
            self.places[name].unsaid = self.is_unsaid(name)
        else:
            assert not place.owes_gap
            if recovered:
                place.epoch = epoch
                if name in self.has:
                    self.has[name] = Cursor(epoch, self.has[name].seq)
            else:
                place.owes_gap = True

    def is_unsaid(self, name: str) -> bool:
        return bool(self.given) and name not in self.given and name.startswith("job:")

    def client_gets_gap(self, frame: dict[str, Any]) -> None:
        name, log = frame["stream"], self.logs[frame["stream"]]
        place = self.places[name]
        place.owes_gap = False
        if frame["reason"] == "epoch_changed":
            assert "from" not in frame
            is_gone = name.startswith("job:") and log.top == 0  # an accepted job has at least its first event
            if place.seq is not None and not place.unsaid and not is_gone:
                assert not log.covers(Cursor(place.epoch, place.seq)), f"nothing was lost: {frame} at {place}"
            place.epoch, place.seq, place.repeats_to, place.unsaid = frame["epoch"], None, None, False
            self.has.pop(name, None)
            self.begins_again(name)
            return
        first, last = frame["from"], frame["to"]
        assert first <= last
        assert place.seq is None or first == place.seq + 1, f"a gap that begins elsewhere: {frame} at {place}"
        place.epoch = frame["epoch"]
        if log.epoch == place.epoch:
            assert not [seq for seq in log.entries if first <= seq <= last], f"a gap over events that are there: {frame}"
        if place.seq is None and log.epoch == place.epoch and place.repeats_to is None:
            assert not [seq for seq in log.entries if seq < first]
        place.seq = last
        self.has[name] = Cursor(place.epoch, last)

    def client_gets_event(self, frame: dict[str, Any]) -> None:
        name, seq, log = frame["stream"], frame["seq"], self.logs[frame["stream"]]
        assert name in self.places, f"an event of a stream that is not followed: {frame}"
        place = self.places[name]
        assert not place.owes_gap, f"an event where a gap was promised: {frame}"
        if place.seq is not None:
            assert seq == place.seq + 1, f"{seq} after {place.seq} in {name}"
        elif place.repeats_to is not None:
            assert seq <= place.repeats_to, f"{seq} where the client has up to {place.repeats_to - 1} of {name}"
        elif log.epoch == place.epoch:
            assert not [one for one in log.entries if one < seq], f"replay of {name} begins with {seq}"
        assert log.truth[place.epoch, seq] == frame["data"]["n"], f"another event than {place.epoch}:{seq} of {name}"
        place.seq, place.repeats_to, place.unsaid = seq, None, False
        known = self.has.get(name)
        if known is None or known.epoch != place.epoch or known.seq < seq:
            self.has[name] = Cursor(place.epoch, seq)
        if frame["type"] == "job.created":
            job = f"job:{frame['data']['job_id']}"
            if self.logs[job].epoch:
                self.announced.add(job)
                if seq <= self.joined_at.get(name, 0):
                    self.claimed.add(job)  # from before the client joined the room: whether it is followed is not said

    def begins_again(self, stream: str) -> None:
        jobs = {job for job, by in self.announced_in.items() if by == stream}
        self.may_return |= jobs
        self.claimed |= jobs & (self.finished | self.finished_unsaved)
        self.finished -= jobs
        self.finished_unsaved -= jobs

    # what must hold

    @invariant()
    def few_reads_at_a_time(self) -> None:
        assert sum(isinstance(one.effect, m.Read) for one in self.tasks) <= s.MAX_READS

    @precondition(lambda self: self.session is not None)
    @rule()
    def settle(self) -> None:
        """Everything that is under way arrives; then the client has everything that still exists."""
        if self.opening:
            self.opened()
        before = self.reads
        for _ in range(4):
            self.run_until_quiet()
            for name in sorted(self.subscribed):
                self.tasks.append(Task("check", m.Checked(name, self.logs[name].head())))
        self.run_until_quiet()
        total = sum(log.top for log in self.logs.values())
        assert self.reads - before <= 60 + 5 * total, "reads without end"
        assert self.session is not None
        assert not self.session.starved
        for name, place in self.places.items():
            log = self.logs[name]
            if name not in self.session.follows:
                assert name in self.finished | self.finished_unsaved or name.startswith("job:"), f"{name} is followed no more"
                continue
            assert place.epoch == log.epoch, f"{name}: the client is in {place}, the log in {log.head()}"
            assert not place.owes_gap
            if place.seq is None:
                assert place.repeats_to is not None or not log.entries, f"{name}: nothing was replayed of {sorted(log.entries)}"
            else:
                assert place.seq == log.top, f"{name}: the client is at {place}, the log at {log.head()}"
        assert self.rooms <= set(self.session.follows)
        for job in self.announced - self.finished - self.finished_unsaved - self.claimed:
            # Where its follow was never stored, and its `job.created` is gone, the gap has said so.
            if job in self.base or self.announcement(job):
                assert job in self.places, f"{job} was announced and is not followed"

    def announcement(self, job: str) -> bool:
        word = b'"job_id":"%s"' % job.removeprefix("job:").encode()
        return any(word in raw for name in (OWN, USER, *ROOMS) for raw in self.logs[name].entries.values())

    def run_until_quiet(self) -> None:
        for _ in range(2_000):
            if self.outbox:
                self.client_reads(100)
            elif self.tasks:
                self.go_on(self.tasks[0])
            elif self.announced_live:
                self.hear(4)
            elif self.mailbox:
                self.take(4)
            elif self.lane:
                self.run_command()
            else:
                return
        raise AssertionError("it never gets quiet")

    def teardown(self) -> None:
        """However it went: in the end the client is back, and has everything."""
        if self.session is None:
            self.connect(with_cursors=True, from_start=None)
        self.settle()


ROUTER = Router(App())

TestWire = Wire.TestCase
TestWire.settings = settings(
    max_examples=int(os.environ.get("EXAMPLES", "50")),
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
