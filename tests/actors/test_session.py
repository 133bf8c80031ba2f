"""The session by example: what the protocol's page says of one connection, sentence by sentence.

`test_session_machine.py` searches the same promise for counter-examples.
"""

from collections.abc import Iterable
from typing import Any

import pytest

from rt import events
from rt.actors import messages as m
from rt.actors import session as s
from rt.actors.frames import Submit, Subscribe
from rt.actors.router import Handled, Router
from rt.app import App
from rt.cursor import START, Cursor, parse_cursor
from rt.errors import Refused
from rt.events import Event
from rt.streams.log import Page
from rt.streams.replay import NOTHING, Head
from rt.streams.sessions import Known
from rt.streams.sessions import Session as StoredSession
from rt.streams.tail import Live
from rt.tokens import LEEWAY_S, Claims

OWN, USER, ROOM, JOB = "session:s", "user:u", "room:a", "job:j"
PLENTY = 1 << 20


class Ask(Event, type="ask"):
    question: str = ""


APP = App()


@APP.on(Ask)
async def ask(conn: Any, event: Ask) -> None: ...


ROUTER = Router(APP)


def head(epoch: str, top: int, *, first: int = 1, kept: int | None = None, past: str = "") -> Head:
    return Head(epoch, top, first, first if kept is None else kept, tuple(parse_cursor(one) for one in past.split()))


def entry(stream: str, seq: int, type: str = "message", **data: Any) -> bytes:
    return b'{"seq":%d,' % seq + events.encode(type, stream, data, 0)[1:]


def entries(stream: str, first: int, last: int) -> list[bytes]:
    return [entry(stream, seq) for seq in range(first, last + 1)]


def created(stream: str, seq: int, job: str = "j") -> bytes:
    return entry(stream, seq, "job.created", job_id=job, job="echo")


def ended(seq: int, stream: str = JOB) -> bytes:
    return entry(stream, seq, "job.completed", result=1)


class Driven:
    """A session, what it was told, and what it did: frames, events, and what waits for an answer."""

    def __init__(self, *, config: s.Config | None = None) -> None:
        self.session = s.Session(ROUTER, config or s.Config(), 0.0)
        self.now = 0.0
        self.room = PLENTY
        self.effects: list[m.Effect] = []
        self.stored: dict[str, str] = {}
        self.furthest = ""

    def feed(self, message: m.Message) -> list[m.Effect]:
        done = self.session.handle(message, self.now, self.room)
        self.effects += done
        for one in done:
            if isinstance(one, m.Store):
                self.stored |= one.fields
                self.furthest = one.furthest or self.furthest
        return done

    def receive(self, *frames: Any) -> list[dict[str, Any]]:
        """What the client is sent in answer to one message."""
        return sent(self.feed(m.Received(list(frames) if len(frames) > 1 else frames[0])))

    def open(
        self,
        heads: dict[str, Head] | None = None,
        *,
        known: dict[str, str] | None = None,
        done: dict[str, tuple[str, int]] | None = None,
        given: dict[str, str] | None = None,
        resumed: bool = True,
        missing: Iterable[str] = (),
        expires_in_s: float = 3600,
        watch: bool = True,
    ) -> list[m.Effect]:
        """A connect that went well. `known` is what the session's hash holds, `given` what the client says."""
        stored = StoredSession("s", 7, resumed, done=done or {})
        for stream, text in (known or {}).items():
            cursor, *origin = text.split(" ")
            stored.cursors[stream] = Known(parse_cursor(cursor), (origin[0], int(origin[1])) if origin else None)
        frame: dict[str, Any] = {"type": "connect", "token": "t", "session": "s", "cursors": given or {}}
        [asked] = self.feed(m.Received(frame))
        assert isinstance(asked, m.Open)
        all_heads = {OWN: head("o", 0), USER: head("u", 0)} | (heads or {})
        claims = Claims("u", "-", frozenset(), 5000.0)
        effects = self.feed(m.Opened(stored, claims, expires_in_s, asked.cursors, all_heads, frozenset(missing)))
        if watch:
            self.watch(effects)
        return effects

    def watch(self, effects: Iterable[m.Effect] | None = None) -> None:
        """Subscribes to what is to be watched, and answers the reads of streams that hold nothing new."""
        for one in list(self.effects if effects is None else effects):
            if isinstance(one, m.Watch):
                for read in self.feed(m.Watched(one.stream)):
                    if isinstance(read, m.Read) and (follow := self.session.follows[read.stream]).epoch and follow.top == follow.sent:
                        seen = [] if follow.seen is None else [entry(read.stream, follow.sent)] * (follow.sent > 0)
                        self.feed(m.PageRead(read.stream, read.ticket, Page(head(follow.epoch, follow.top), seen)))

    def read(self, stream: str) -> m.Read:
        """The read of this stream that was asked for last."""
        return [one for one in self.effects if isinstance(one, m.Read) and one.stream == stream][-1]

    def page(self, stream: str, at: Head, found: list[bytes]) -> list[m.Effect]:
        return self.feed(m.PageRead(stream, self.read(stream).ticket, Page(at, found)))

    def news(self, stream: str, epoch: str, found: list[bytes]) -> list[m.Effect]:
        first = events.seq_of(found[0])
        return self.feed(m.News(stream, Live(epoch, first, first + len(found) - 1, found)))

    def check(self, stream: str, at: Head) -> list[m.Effect]:
        return self.feed(m.Checked(stream, at))

    def tick(self, at: float) -> list[m.Effect]:
        self.now = at
        return self.feed(m.Tick())

    def ack(self, **cursors: Any) -> list[dict[str, Any]]:
        return self.receive({"type": "ack", "cursors": {name.replace("_", ":"): value for name, value in cursors.items()}})

    def acked(self, stream: str) -> int:
        return self.session.follows[stream].acked


def sent(effects: Iterable[m.Effect]) -> list[dict[str, Any]]:
    return [one.frame for one in effects if isinstance(one, m.Send)]


def seqs(effects: Iterable[m.Effect]) -> list[int]:
    return [events.seq_of(raw) for one in effects if isinstance(one, m.Forward) for raw in one.events]


def reads(effects: Iterable[m.Effect]) -> list[tuple[str, int]]:
    return [(one.stream, one.after) for one in effects if isinstance(one, m.Read)]


def closes(effects: Iterable[m.Effect]) -> list[int]:
    return [one.code for one in effects if isinstance(one, m.Close)]


def runs(effects: Iterable[m.Effect]) -> list[Any]:
    return [one.command for one in effects if isinstance(one, m.Run)]


def watches(effects: Iterable[m.Effect]) -> list[str]:
    return [one.stream for one in effects if isinstance(one, m.Watch)]


def in_room(top: int, **more: Any) -> Driven:
    """A client that is in a room, has everything in it, and has acknowledged nothing of it."""
    it = Driven()
    it.open({ROOM: head("r", top)}, known={ROOM: "r:0"}, given={ROOM: f"r:{top}"} if top else {}, **more)
    return it


def with_job(top: int = 2) -> Driven:
    """A client that follows a job, announced by event 1 of its session's stream, whose events it has up to `top`."""
    it = Driven()
    it.open()
    it.news(OWN, "o", [created(OWN, 1)])
    it.watch(it.effects[-2:])
    it.page(JOB, head("j", top), entries(JOB, 1, top))
    return it


# connect


def test_connected_names_the_session_and_every_stream_with_its_top() -> None:
    it = Driven()
    frame = sent(it.open({OWN: head("o", 0), USER: head("u", 4)}, resumed=False))[0]
    assert frame == {
        "type": "connected",
        "session": "s",
        "resumed": False,
        "subject": "u",
        "heartbeat_s": 20.0,
        "max_message_bytes": 262_144,
        "expires_at": 5_000_000,
        "streams": {OWN: {"epoch": "o", "seq": 0, "recovered": True}, USER: {"epoch": "u", "seq": 4, "recovered": True}},
    }


def test_a_new_session_is_stored_with_where_it_begins_and_its_streams_are_watched() -> None:
    it = Driven()
    effects = it.open({USER: head("u", 4)}, known={USER: "u:3"}, resumed=False, watch=False)
    assert watches(effects) == [OWN, USER]
    assert {key: it.stored[key] for key in (f"c:{OWN}", f"c:{USER}")} == {f"c:{OWN}": "o:0", f"c:{USER}": "u:3"}
    assert reads(it.feed(m.Watched(USER))) == [(USER, 3)]


def test_nothing_is_read_before_announcements_are_certain_to_arrive() -> None:
    it = Driven()
    effects = it.open({USER: head("u", 4)}, watch=False)
    assert reads(effects) == []
    assert reads(it.feed(m.Watched(USER))) == [(USER, 0)]


def test_cursors_of_a_session_that_is_unknown_count_for_nothing() -> None:
    it = Driven()
    it.open({USER: head("u", 4)}, given={USER: "u:4"}, resumed=False)
    assert it.session.follows[USER].sent == 0


def test_frames_before_connect_are_answered_with_not_connected() -> None:
    it = Driven()
    [error] = it.receive({"type": "subscribe", "id": "1", "stream": ROOM})
    assert (error["code"], error["id"], error["temporary"]) == ("not_connected", "1", False)


def test_a_second_connect_is_an_error_and_the_connection_stays() -> None:
    it = Driven()
    it.open()
    assert it.receive({"type": "connect"})[0]["code"] == "invalid_frame"
    assert it.receive({"type": "ping"}) == [{"type": "pong"}]


@pytest.mark.parametrize("cursor", ["", "5", "e:-1", "e:x", ":3", "e:99999999999999999999"])
def test_a_connect_with_a_bad_cursor_names_it_and_may_be_sent_again(cursor: str) -> None:
    it = Driven()
    [error] = it.receive({"type": "connect", "cursors": {ROOM: cursor}})
    assert error["details"][0]["loc"] == ["cursors", ROOM]
    assert isinstance(it.feed(m.Received({"type": "connect"}))[0], m.Open)


def test_what_comes_in_one_array_with_connect_follows_it() -> None:
    it = Driven()
    effects = it.feed(m.Received([{"type": "connect"}, {"type": "ping"}, {"type": "subscribe", "id": "1", "stream": ROOM}]))
    assert [type(one) for one in effects] == [m.Open]
    heads = {OWN: head("o", 0), USER: head("u", 0)}
    effects = it.feed(m.Opened(StoredSession("s", 1, False), Claims("u", "-", frozenset(), 1), 60, {}, heads, frozenset()))
    assert [one["type"] for one in sent(effects)] == ["connected", "pong"]
    assert [type(one) for one in runs(effects)] == [Subscribe]


def test_batch_is_what_the_client_asked_for() -> None:
    it = Driven()
    it.receive({"type": "connect", "batch": True})
    assert it.session.batch


# resuming


def test_replay_begins_after_the_clients_cursor() -> None:
    it = Driven()
    it.open({USER: head("u", 9)}, known={USER: "u:3"}, given={USER: "u:7"})
    read = it.read(USER)
    assert read.after <= 7
    assert seqs(it.page(USER, head("u", 9), entries(USER, read.after + 1, 9))) == [8, 9]


def test_replay_begins_after_the_acknowledged_cursor_where_the_client_gives_none() -> None:
    it = Driven()
    it.open({USER: head("u", 9), ROOM: head("r", 5)}, known={USER: "u:3", ROOM: "r:5"}, given={ROOM: "r:5"})
    assert it.read(USER).after == 3
    assert seqs(it.page(USER, head("u", 9), entries(USER, 4, 9))) == [4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("cursor", ["r:0", "0"])
def test_a_cursor_of_zero_replays_from_the_start(cursor: str) -> None:
    it = Driven()
    it.open({ROOM: head("r", 2)}, known={ROOM: "r:2"}, given={ROOM: cursor})
    assert it.read(ROOM).after == 0
    assert seqs(it.page(ROOM, head("r", 2), entries(ROOM, 1, 2))) == [1, 2]


def test_replay_is_paged_and_live_events_join_without_a_hole_or_a_repeat() -> None:
    it = Driven()
    it.open({ROOM: head("r", 5)}, known={ROOM: "r:0"})
    first = it.page(ROOM, head("r", 5), entries(ROOM, 1, 3))
    assert (seqs(first), reads(first)) == ([1, 2, 3], [(ROOM, 3)])
    assert seqs(it.news(ROOM, "r", entries(ROOM, 6, 7))) == []  # a read is under way: it only says how far to go
    second = it.page(ROOM, head("r", 5), entries(ROOM, 4, 5))
    assert (seqs(second), reads(second)) == ([4, 5], [(ROOM, 5)])
    assert seqs(it.page(ROOM, head("r", 7), entries(ROOM, 6, 7))) == [6, 7]
    assert seqs(it.news(ROOM, "r", entries(ROOM, 7, 8))) == [8]


def test_a_trimmed_beginning_is_a_gap_with_its_exact_range_and_recovered_false() -> None:
    it = Driven()
    frames = sent(it.open({ROOM: head("r", 9, first=6)}, known={ROOM: "r:2"}, watch=False))
    assert frames[0]["streams"][ROOM] == {"epoch": "r", "seq": 9, "recovered": False}
    assert frames[1:] == [{"type": "gap", "stream": ROOM, "epoch": "r", "reason": "trimmed", "from": 3, "to": 5}]
    assert reads(it.feed(m.Watched(ROOM)))[0] == (ROOM, 5)


def test_a_log_that_vanished_under_its_meta_is_a_gap_that_says_expired() -> None:
    it = Driven()
    frames = sent(it.open({ROOM: head("r", 9, first=10, kept=1)}, known={ROOM: "r:2"}))
    assert frames[1] == {"type": "gap", "stream": ROOM, "epoch": "r", "reason": "expired", "from": 3, "to": 9}


@pytest.mark.parametrize(
    ("cursor", "at"),
    [
        ("old:3", head("new", 9, first=4)),  # another log
        ("r:12", head("r", 9, first=4)),  # above the top in the current epoch
        ("r:8", head("r2", 9, first=4, past="r:7")),  # what Redis lost before it went on
    ],
)
def test_a_cursor_of_what_redis_lost_is_answered_with_epoch_changed_and_the_first_event_kept(cursor: str, at: Head) -> None:
    it = Driven()
    frames = sent(it.open({ROOM: at}, known={ROOM: cursor}))
    assert frames[0]["streams"][ROOM]["recovered"] is False
    assert frames[1] == {"type": "gap", "stream": ROOM, "epoch": at.epoch, "reason": "epoch_changed"}
    assert it.read(ROOM).after == 3
    # The frame may never arrive: what was stored stands until something is acknowledged under the new epoch.
    assert it.stored[f"c:{ROOM}"] == (f"{at.epoch}:3" if cursor.startswith(at.epoch + ":") else cursor)
    it.page(ROOM, at, entries(ROOM, 4, 9))
    it.ack(room_a=5)
    assert it.stored[f"c:{ROOM}"] == f"{at.epoch}:5"


def test_a_cursor_of_an_older_epoch_that_lost_nothing_goes_on() -> None:
    it = Driven()
    frames = sent(it.open({ROOM: head("r2", 9, past="r:7 q:5")}, known={ROOM: "r:7"}))
    assert len(frames) == 1
    assert frames[0]["streams"][ROOM] == {"epoch": "r2", "seq": 9, "recovered": True}
    assert it.read(ROOM).after == 7
    assert it.stored[f"c:{ROOM}"] == "r2:7"


def test_a_resumed_job_whose_end_the_client_has_is_looked_back_at_and_followed_no_more() -> None:
    it = Driven()
    it.open({JOB: head("j", 4)}, known={JOB: f"j:4 {OWN} 1", OWN: "o:0"}, watch=False)
    assert reads(it.feed(m.Watched(JOB))) == [(JOB, 3)]
    effects = it.page(JOB, head("j", 4), [ended(4)])
    assert seqs(effects) == []
    assert m.Unwatch(JOB) in effects
    assert JOB not in it.session.follows
    assert it.stored[f"c:{JOB}"] == ""
    assert it.stored[f"d:{JOB}"] == f"{OWN} 1"


def test_a_resumed_job_that_has_not_ended_goes_on_without_a_repeat() -> None:
    it = Driven()
    it.open({JOB: head("j", 5)}, known={JOB: f"j:4 {OWN} 1"}, watch=False)
    it.feed(m.Watched(JOB))
    assert seqs(it.page(JOB, head("j", 5), entries(JOB, 4, 5))) == [5]
    assert it.session.follows[JOB].final is None


def test_a_job_that_redis_has_forgotten_is_forgotten_and_its_gap_said() -> None:
    it = Driven()
    frames = sent(it.open({JOB: head("new", 0)}, known={JOB: "j:4"}, missing=[JOB]))
    assert frames[1]["reason"] == "epoch_changed"
    assert JOB not in it.session.follows
    assert it.stored[f"c:{JOB}"] == ""


def test_a_job_whose_follow_was_never_stored_is_found_again_in_what_the_client_has_already() -> None:
    it = Driven()
    it.open({OWN: head("o", 3)}, known={OWN: "o:1"}, given={OWN: "o:3", JOB: "j:2"}, watch=False)
    assert reads(it.feed(m.Watched(OWN))) == [(OWN, 1)]
    effects = it.page(OWN, head("o", 3), [created(OWN, 2), entry(OWN, 3)])
    assert seqs(effects) == []
    assert watches(effects) == [JOB]
    it.watch(effects)
    effects = it.page(JOB, head("j", 4), entries(JOB, 2, 4))
    assert sent(effects) == [{"type": "subscribed", "stream": JOB, "epoch": "j", "seq": 4, "recovered": True}]
    assert seqs(effects) == [3, 4]
    assert it.stored[f"c:{OWN}"] == "o:3"


def test_what_is_acknowledged_while_the_log_is_looked_at_counts_only_afterwards() -> None:
    it = Driven()
    it.open({OWN: head("o", 3)}, known={OWN: "o:1"}, given={OWN: "o:3"}, watch=False)
    it.feed(m.Watched(OWN))
    it.ack(session_s=3)
    assert it.stored[f"c:{OWN}"] == "o:1"  # a process that dies now must find the job again
    it.page(OWN, head("o", 3), [created(OWN, 2), entry(OWN, 3)])
    assert it.stored[f"c:{OWN}"] == "o:3"
    assert JOB in it.session.follows


def test_a_wrong_cursor_of_a_job_that_is_found_again_begins_the_job_where_its_log_does() -> None:
    it = Driven()
    it.open({OWN: head("o", 1)}, given={OWN: "o:0", JOB: "lost:5"})
    it.page(OWN, head("o", 1), [created(OWN, 1)])
    it.watch(it.effects[-3:])
    effects = it.page(JOB, head("j", 7), entries(JOB, 6, 7))
    assert [one["type"] for one in sent(effects)] == ["subscribed", "gap"]
    assert sent(effects)[1] == {"type": "gap", "stream": JOB, "epoch": "j", "reason": "epoch_changed"}
    assert reads(effects) == [(JOB, 0)]
    assert seqs(it.page(JOB, head("j", 7), entries(JOB, 1, 7))) == [1, 2, 3, 4, 5, 6, 7]


# acknowledgements


def test_an_acknowledgement_is_stored_by_seq_or_by_cursor() -> None:
    it = in_room(5)
    it.news(ROOM, "r", entries(ROOM, 6, 8))
    assert it.ack(room_a=6) == []
    assert it.stored[f"c:{ROOM}"] == "r:6"
    assert it.ack(room_a="r:8") == []
    assert it.stored[f"c:{ROOM}"] == "r:8"


def test_an_acknowledgement_never_goes_back() -> None:
    it = in_room(5)
    it.ack(room_a=4)
    assert it.acked(ROOM) == 5
    it.ack(room_a="r:0")
    assert it.stored[f"c:{ROOM}"] == "r:5"


def test_an_acknowledgement_above_the_top_is_an_error() -> None:
    it = in_room(5)
    [error] = it.ack(room_a=6)
    assert (error["code"], error["details"][0]["loc"]) == ("invalid_frame", ["cursors", ROOM])
    assert "id" not in error


def test_an_acknowledgement_above_the_top_spoils_no_other_one() -> None:
    it = in_room(0)
    it.news(ROOM, "r", entries(ROOM, 1, 3))
    [error] = it.ack(session_s=9, room_a=2, user_u=9)
    assert [one["loc"] for one in error["details"]] == [["cursors", OWN], ["cursors", USER]]
    assert it.stored[f"c:{ROOM}"] == "r:2"
    assert (it.acked(OWN), it.acked(USER)) == (0, 0)


def test_an_acknowledgement_above_what_was_sent_is_ignored() -> None:
    it = in_room(5)
    it.room = 0
    it.news(ROOM, "r", entries(ROOM, 6, 8))
    assert it.ack(room_a=7) == []
    assert it.acked(ROOM) == 5


def test_acknowledgements_of_another_epoch_and_of_streams_that_are_not_followed_are_ignored() -> None:
    it = in_room(5)
    assert it.ack(room_a="other:99", room_b=99, job_x="j:1") == []
    assert it.acked(ROOM) == 5


def test_an_acknowledgement_of_a_job_that_was_not_read_yet_is_ignored() -> None:
    it = Driven()
    it.open()
    it.news(OWN, "o", [created(OWN, 1)])
    assert it.ack(job_j=7, session_s=1) == []
    assert it.stored[f"c:{OWN}"] == "o:1"


@pytest.mark.parametrize("cursors", [{"room:a": -1}, {"nonsense": 1}, {"room:a": "nonsense"}, {"room:a": True}, {"room:a": 1.5}])
def test_a_bad_acknowledgement_is_an_error_and_stores_nothing(cursors: dict[str, Any]) -> None:
    it = in_room(0)
    it.news(ROOM, "r", entries(ROOM, 1, 3))
    [error] = it.receive({"type": "ack", "cursors": {"room:a": 2} | cursors})
    assert error["code"] == "invalid_frame"
    assert it.acked(ROOM) == 0


def test_an_acknowledgement_of_the_users_stream_tells_how_far_any_device_has_been() -> None:
    it = Driven()
    it.open()
    it.news(USER, "u", entries(USER, 1, 3))
    it.ack(user_u=2, session_s=0)
    assert it.furthest == "u:2"


# jobs


def test_a_job_is_followed_from_its_announcement() -> None:
    it = Driven()
    it.open()
    effects = it.news(OWN, "o", [created(OWN, 1)])
    assert seqs(effects) == [1]
    assert watches(effects) == [JOB]
    assert it.stored[f"c:{JOB}"] == f"0 {OWN} 1"
    assert sent(effects) == []
    assert reads(it.feed(m.Watched(JOB))) == [(JOB, 0)]
    effects = it.page(JOB, head("j", 2), entries(JOB, 1, 2))
    assert sent(effects) == [{"type": "subscribed", "stream": JOB, "epoch": "j", "seq": 2, "recovered": True}]
    assert seqs(effects) == [1, 2]
    assert it.stored[f"c:{JOB}"] == f"j:0 {OWN} 1"


def test_a_job_that_is_heard_from_its_first_event_on_is_not_read() -> None:
    it = Driven()
    it.open()
    it.news(OWN, "o", [created(OWN, 1)])
    effects = it.news(JOB, "j", [entry(JOB, 1, "job.queued", job="echo")])
    assert sent(effects) == [{"type": "subscribed", "stream": JOB, "epoch": "j", "seq": 1, "recovered": True}]
    assert seqs(effects) == [1]
    assert it.stored[f"c:{JOB}"] == f"j:0 {OWN} 1"
    assert it.feed(m.Watched(JOB)) == []
    effects = it.news(JOB, "j", [ended(2)])
    assert seqs(effects) == [2]
    assert JOB not in dict(reads(it.effects))
    it.ack(job_j=2)
    assert JOB not in it.session.follows


@pytest.mark.parametrize("why", ["a later event", "an announcement without events", "no room", "a given cursor", "a read under way"])
def test_otherwise_it_is_read(why: str) -> None:
    it = Driven()
    given = {JOB: "j:1"} if why == "a given cursor" else {}
    it.open(given=given)
    effects = it.news(OWN, "o", [created(OWN, 1)])
    if why == "a read under way":
        assert reads(it.feed(m.Watched(JOB))) == [(JOB, 0)]
    it.room = 0 if why == "no room" else PLENTY
    first = 2 if why == "a later event" else 1
    live = Live("j", first, first, None if why == "an announcement without events" else [entry(JOB, first)])
    effects = it.feed(m.News(JOB, live))
    assert (seqs(effects), sent(effects)) == ([], [])
    it.room = PLENTY
    it.feed(m.Watched(JOB))
    assert JOB in dict(reads(it.effects))


@pytest.mark.parametrize("stream", [USER, ROOM])
def test_a_job_that_is_sent_to_the_user_or_to_a_joined_room_is_followed(stream: str) -> None:
    it = in_room(0)
    epoch = it.session.follows[stream].epoch
    assert watches(it.news(stream, epoch, [created(stream, 1)])) == [JOB]


def test_a_submitted_job_is_followed_at_once_and_its_announcement_adds_only_where_it_was() -> None:
    it = Driven()
    it.open()
    effects = it.feed(m.Answered("1", {"job_id": "j"}, JOB))
    assert sent(effects) == [{"type": "reply", "id": "1", "data": {"job_id": "j"}}]
    assert watches(effects) == [JOB]
    effects = it.news(OWN, "o", [created(OWN, 1)])
    assert watches(effects) == []
    assert it.stored[f"c:{JOB}"] == f"0 {OWN} 1"


def test_a_job_that_began_before_what_is_kept_begins_with_its_gap() -> None:
    it = Driven()
    it.open()
    it.watch(it.news(OWN, "o", [created(OWN, 1)]))
    effects = it.page(JOB, head("j", 9, first=8), entries(JOB, 8, 9))
    assert sent(effects) == [
        {"type": "subscribed", "stream": JOB, "epoch": "j", "seq": 9, "recovered": False},
        {"type": "gap", "stream": JOB, "epoch": "j", "reason": "trimmed", "from": 1, "to": 7},
    ]
    assert seqs(effects) == [8, 9]


BEGUN_ANEW = [("subscribed", None, False), ("gap", "epoch_changed", None)]


def outline(effects: Iterable[m.Effect]) -> list[tuple[Any, Any, Any]]:
    return [(one["type"], one.get("reason"), one.get("recovered")) for one in sent(effects)]


def test_a_job_that_ended_for_the_client_and_that_redis_was_set_back_to_the_middle_of_begins_anew() -> None:
    """Its client names no cursor of what has ended, and holds more than it is stored to have acknowledged."""
    it = Driven()
    frames = sent(
        it.open({JOB: head("k2", 4, past="k1:3"), OWN: head("o", 1)}, known={JOB: f"k1:2 {OWN} 1", OWN: "o:1"}, given={OWN: "o:1"})
    )
    assert frames[0]["streams"][JOB] == {"epoch": "k2", "seq": 4, "recovered": False}
    assert frames[1] == {"type": "gap", "stream": JOB, "epoch": "k2", "reason": "epoch_changed"}
    assert it.read(JOB).after == 0


def test_a_client_that_names_no_cursor_at_all_has_what_it_acknowledged() -> None:
    it = Driven()
    frames = sent(it.open({JOB: head("k2", 4, past="k1:3"), OWN: head("o", 1)}, known={JOB: f"k1:2 {OWN} 1", OWN: "o:1"}))
    assert frames[0]["streams"][JOB]["recovered"] is True
    assert len(frames) == 1


def test_a_job_whose_announcement_the_client_has_begins_anew_where_redis_lost_some_of_it() -> None:
    """Redis has lost that the session followed it, or was done with it."""
    it = Driven()
    it.open({OWN: head("o", 1)}, known={OWN: "o:0"}, given={OWN: "o:1"}, watch=False)
    it.feed(m.Watched(OWN))
    it.watch(it.page(OWN, head("o", 1), [created(OWN, 1)]))
    effects = it.page(JOB, head("k2", 2, past="k1:1"), [entry(JOB, 1), ended(2)])
    assert (outline(effects), seqs(effects)) == (BEGUN_ANEW, [1, 2])


def test_so_does_one_that_is_announced_by_a_stream_that_begins_anew_itself() -> None:
    it = Driven()
    it.open({OWN: head("o2", 2, past="o:1")}, known={OWN: "o:0"}, given={OWN: "o:2"}, watch=False)
    it.feed(m.Watched(OWN))
    it.watch(it.page(OWN, head("o2", 2, past="o:1"), [created(OWN, 1), entry(OWN, 2)]))
    effects = it.page(JOB, head("k2", 2, past="k1:1"), [entry(JOB, 1), ended(2)])
    assert (outline(effects), seqs(effects)) == (BEGUN_ANEW, [1, 2])


def test_such_a_job_is_read_though_it_is_heard_from_its_first_event_on() -> None:
    it = Driven()
    it.open({OWN: head("o", 1)}, known={OWN: "o:0"}, given={OWN: "o:1"}, watch=False)
    it.feed(m.Watched(OWN))
    it.page(OWN, head("o", 1), [created(OWN, 1)])
    assert it.news(JOB, "k2", [entry(JOB, 1)]) == []
    it.feed(m.Watched(JOB))
    assert (JOB, 0) in reads(it.effects)


def test_a_job_that_redis_lost_before_anything_of_it_was_read_is_said_to_be_lost() -> None:
    it = Driven()
    it.open()
    it.watch(it.feed(m.Answered("1", {"job_id": "j"}, JOB)))
    effects = it.page(JOB, head("k2", 0), [])
    assert (outline(effects), seqs(effects)) == (BEGUN_ANEW, [])


@pytest.mark.parametrize("known", ["0", "k1:0", "k1:4"])
def test_so_is_one_that_is_gone_when_the_session_resumes(known: str) -> None:
    it = Driven()
    effects = it.open({JOB: head("k2", 0)}, known={JOB: f"{known} {OWN} 1"}, missing=[JOB])
    frames = sent(effects)
    assert frames[0]["streams"][JOB] == {"epoch": "k2", "seq": 0, "recovered": False}
    assert frames[1] == {"type": "gap", "stream": JOB, "epoch": "k2", "reason": "epoch_changed"}
    assert JOB not in it.session.follows


def test_a_job_that_the_client_hears_of_for_the_first_time_begins_without_a_gap_whatever_redis_went_through() -> None:
    it = Driven()
    it.open(given={OWN: "o:0"})
    it.watch(it.news(OWN, "o", [created(OWN, 1)]))
    effects = it.page(JOB, head("k2", 2, past="k1:1"), [entry(JOB, 1), ended(2)])
    assert (outline(effects), seqs(effects)) == ([("subscribed", None, True)], [1, 2])


def test_a_job_is_watched_no_more_after_its_end_and_followed_until_that_is_acknowledged() -> None:
    it = with_job(2)
    effects = it.news(JOB, "j", [entry(JOB, 3), ended(4)])
    assert (seqs(effects), m.Unwatch(JOB) in effects) == ([3, 4], True)
    it.ack(job_j=3)
    assert it.stored[f"c:{JOB}"] == f"j:3 {OWN} 1"
    it.ack(job_j=4)
    assert it.stored[f"c:{JOB}"] == ""
    assert JOB not in it.session.follows


def test_a_job_that_is_done_with_is_remembered_until_its_announcement_is_acknowledged() -> None:
    it = with_job(2)
    it.news(JOB, "j", [ended(3)])
    it.ack(job_j=3)
    assert it.stored[f"d:{JOB}"] == f"{OWN} 1"
    it.ack(session_s=1)
    assert it.stored[f"d:{JOB}"] == ""


def test_nothing_is_remembered_of_a_job_whose_announcement_was_acknowledged_first() -> None:
    it = with_job(2)
    it.ack(session_s=1)
    it.news(JOB, "j", [ended(3)])
    it.ack(job_j=3)
    assert f"d:{JOB}" not in it.stored


def test_a_late_announcement_in_a_second_stream_does_not_bring_back_a_job_whose_end_was_acknowledged() -> None:
    """Redis was lost between the two: the janitor makes up for the second one when the job is over."""
    it = in_room(0)
    it.watch(it.feed(s.Answered("1", {"job_id": "j"}, JOB)))
    it.news(OWN, "o", [created(OWN, 1)])
    it.page(JOB, head("j", 2), [entry(JOB, 1), ended(2)])
    it.receive({"type": "ack", "cursors": {OWN: 1, JOB: 2}})
    assert it.stored.get(f"d:{JOB}", "") == ""
    effects = it.news(ROOM, it.session.follows[ROOM].epoch, [created(ROOM, 1)])
    assert (seqs(effects), watches(effects)) == ([1], [])
    assert it.stored[f"d:{JOB}"] == f"{ROOM} 1"
    it.receive({"type": "ack", "cursors": {ROOM: 1}})
    assert it.stored[f"d:{JOB}"] == ""
    assert watches(it.feed(s.Answered("1", {"job_id": "j"}, JOB))) == []


@pytest.mark.parametrize("order", [(JOB, OWN), (OWN, JOB)])
def test_both_in_one_acknowledgement_leave_nothing_behind(order: tuple[str, str]) -> None:
    it = with_job(2)
    it.news(JOB, "j", [ended(3)])
    seq = {JOB: 3, OWN: 1}
    it.receive({"type": "ack", "cursors": {name: seq[name] for name in order}})
    assert it.stored.get(f"d:{JOB}", "") == ""
    assert it.stored[f"c:{JOB}"] == ""


def test_a_job_that_is_done_with_is_not_followed_again_because_its_announcement_is_replayed() -> None:
    it = Driven()
    it.open({OWN: head("o", 2)}, known={OWN: "o:0"}, done={JOB: (OWN, 1)})
    effects = it.page(OWN, head("o", 2), [created(OWN, 1), created(OWN, 2, "k")])
    assert seqs(effects) == [1, 2]
    assert watches(effects) == ["job:k"]
    it.ack(session_s=2)
    assert it.stored[f"d:{JOB}"] == ""


def test_a_job_that_is_done_with_does_not_come_back_when_an_older_cursor_is_given() -> None:
    it = Driven()
    it.open({OWN: head("o", 2)}, known={OWN: "o:2"}, given={OWN: "o:0"})
    effects = it.page(OWN, head("o", 2), [created(OWN, 1), entry(OWN, 2)])
    assert seqs(effects) == [1, 2]
    assert watches(effects) == []


def submitted(job: str = JOB) -> Driven:
    """A client that has submitted a job, and has the reply but not the `job.created`."""
    it = Driven()
    it.open()
    it.watch(it.feed(m.Answered("1", {}, job)))
    return it


def test_a_job_that_ended_before_its_announcement_came_is_not_followed_because_of_it() -> None:
    it = submitted()
    it.page(JOB, head("j", 2), [entry(JOB, 1), ended(2)])
    it.ack(job_j=2)
    assert it.stored[f"d:{JOB}"] == f"{OWN} 0"
    assert watches(it.news(OWN, "o", [created(OWN, 1)])) == []
    assert it.stored[f"d:{JOB}"] == f"{OWN} 1"
    it.ack(session_s=1)
    assert it.stored[f"d:{JOB}"] == ""


def test_nor_is_it_after_a_resume() -> None:
    it = Driven()
    it.open({OWN: head("o", 2)}, known={OWN: "o:1"}, done={JOB: (OWN, 0)})
    it.ack(session_s=1)
    assert it.session.stored()[f"d:{JOB}"] == f"{OWN} 0"
    assert watches(it.page(OWN, head("o", 2), [created(OWN, 2)])) == []


def test_nor_because_another_stream_announces_it_first() -> None:
    it = submitted()
    it.page(JOB, head("j", 1), [ended(1)])
    it.ack(job_j=1)
    assert watches(it.news(USER, "u", [created(USER, 1)])) == []
    it.ack(user_u=1)
    assert watches(it.news(OWN, "o", [created(OWN, 1)])) == []


def test_a_job_that_the_client_has_left_is_not_followed_because_it_is_announced_again() -> None:
    it = with_job(2)
    left = it.session.leaving(JOB)
    effects = it.feed(m.Unsubscribed("1", JOB))
    assert m.Store(left) in effects
    assert left == {f"c:{JOB}": "", f"d:{JOB}": f"{OWN} 1"}
    again = Driven()
    again.open({OWN: head("o", 1)}, known={OWN: "o:0"}, done={JOB: (OWN, 1)})
    assert watches(again.page(OWN, head("o", 1), [created(OWN, 1)])) == []


def test_a_job_that_the_client_has_left_before_its_announcement_came_is_not_followed_because_of_it() -> None:
    it = submitted()
    it.feed(m.Unsubscribed("1", JOB))
    assert watches(it.news(OWN, "o", [created(OWN, 1)])) == []


def test_of_jobs_that_are_never_announced_only_so_many_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s, "MAX_UNANNOUNCED", 2)
    it = Driven()
    it.open()
    for job in ("job:a", "job:b", "job:c"):
        subscribed(it, job, None, head("j", 2))
        it.feed(m.Unsubscribed("1", job))
    assert [it.stored[f"d:job:{one}"] for one in "abc"] == ["", f"{OWN} 0", f"{OWN} 0"]
    assert it.session.stored().keys() & {"d:job:a", "d:job:b", "d:job:c"} == {"d:job:b", "d:job:c"}


def test_a_finished_job_that_was_replayed_whole_is_watched_no_more() -> None:
    it = Driven()
    it.open()
    it.watch(it.news(OWN, "o", [created(OWN, 1)]))
    effects = it.page(JOB, head("j", 2), [entry(JOB, 1), ended(2)])
    assert seqs(effects) == [1, 2]
    assert m.Unwatch(JOB) in effects
    it.ack(job_j=2)
    assert JOB not in it.session.follows


# subscribe, unsubscribe


def subscribed(it: Driven, stream: str, cursor: str | None, at: Head) -> list[m.Effect]:
    frame: dict[str, Any] = {"type": "subscribe", "id": "1", "stream": stream} | ({"cursor": cursor} if cursor is not None else {})
    [command] = runs(it.feed(m.Received(frame)))
    assert isinstance(command, Subscribe)
    return it.feed(m.Subscribed("1", stream, parse_cursor(cursor) if cursor is not None else None, at))


def test_subscribe_without_a_cursor_begins_now() -> None:
    it = Driven()
    it.open()
    effects = subscribed(it, ROOM, None, head("r", 5))
    assert sent(effects) == [{"type": "subscribed", "id": "1", "stream": ROOM, "epoch": "r", "seq": 5, "recovered": True}]
    assert watches(effects) == [ROOM]
    assert it.stored[f"c:{ROOM}"] == "r:5"
    assert reads(it.feed(m.Watched(ROOM))) == [(ROOM, 5)]
    assert seqs(it.page(ROOM, head("r", 6), entries(ROOM, 6, 6))) == [6]


@pytest.mark.parametrize(("cursor", "after"), [("0", 0), ("r:0", 0), ("r:3", 3)])
def test_subscribe_with_a_cursor_replays_after_it(cursor: str, after: int) -> None:
    it = Driven()
    it.open()
    effects = subscribed(it, ROOM, cursor, head("r", 5))
    assert sent(effects)[0]["recovered"] is True
    assert reads(it.feed(m.Watched(ROOM))) == [(ROOM, after)]


def test_subscribe_with_a_cursor_whose_events_are_gone_is_followed_by_the_gap() -> None:
    it = Driven()
    it.open()
    frames = sent(subscribed(it, ROOM, "r:1", head("r", 9, first=5)))
    assert [one.get("recovered", one["type"]) for one in frames] == [False, "gap"]
    assert (frames[1]["reason"], frames[1]["from"], frames[1]["to"]) == ("trimmed", 2, 4)


def test_subscribe_with_a_cursor_of_another_log_is_answered_with_epoch_changed() -> None:
    it = Driven()
    it.open()
    frames = sent(subscribed(it, ROOM, "other:7", head("r", 9)))
    assert frames[1] == {"type": "gap", "stream": ROOM, "epoch": "r", "reason": "epoch_changed"}
    assert reads(it.feed(m.Watched(ROOM))) == [(ROOM, 0)]


def test_subscribe_to_a_stream_that_is_followed_without_a_cursor_changes_nothing() -> None:
    it = in_room(5)
    before = len(it.effects)
    effects = subscribed(it, ROOM, None, head("r", 6))
    assert [one["type"] for one in sent(effects)] == ["subscribed"]
    it.watch(it.effects[before:])
    assert it.session.follows[ROOM].sent == 5


def test_subscribe_to_a_stream_that_is_followed_with_an_older_cursor_replays_after_it() -> None:
    it = in_room(5)
    effects = subscribed(it, ROOM, "r:2", head("r", 5))
    assert reads(effects) == [(ROOM, 2)]
    assert seqs(it.page(ROOM, head("r", 5), entries(ROOM, 3, 5))) == [3, 4, 5]
    assert seqs(it.news(ROOM, "r", entries(ROOM, 6, 6))) == [6]


def test_the_answer_to_a_read_that_was_asked_before_is_not_looked_at() -> None:
    it = in_room(5)
    it.check(ROOM, head("r", 7))
    old = it.read(ROOM)
    effects = subscribed(it, ROOM, "r:2", head("r", 7))
    assert reads(effects) == [(ROOM, 2)]
    assert it.feed(m.PageRead(ROOM, old.ticket, Page(head("r", 7), entries(ROOM, 6, 7)))) == []
    assert seqs(it.page(ROOM, head("r", 7), entries(ROOM, 3, 7))) == [3, 4, 5, 6, 7]


def test_the_answer_to_a_read_from_before_a_stream_was_left_is_no_answer_after_it_was_joined_again() -> None:
    """Reads were numbered per stream: the page of events 6 and 7 was taken for one after 0, and 1 to 5 for deleted."""
    it = in_room(5)
    it.check(ROOM, head("r", 7))
    old = it.read(ROOM)
    it.feed(m.Unsubscribed("2", ROOM))
    subscribed(it, ROOM, "0", head("r", 7))
    assert reads(it.feed(m.Watched(ROOM))) == [(ROOM, 0)]
    assert it.feed(m.PageRead(ROOM, old.ticket, Page(head("r", 7), entries(ROOM, 6, 7)))) == []
    effects = it.page(ROOM, head("r", 7), entries(ROOM, 1, 7))
    assert (sent(effects), seqs(effects)) == ([], [1, 2, 3, 4, 5, 6, 7])


def test_subscribe_to_a_finished_job_with_the_cursor_of_its_end_does_not_follow_it_for_ever() -> None:
    it = Driven()
    it.open()
    subscribed(it, JOB, "j:3", head("j", 3))
    assert reads(it.feed(m.Watched(JOB))) == [(JOB, 2)]
    it.page(JOB, head("j", 3), [ended(3)])
    assert JOB not in it.session.follows
    assert it.stored[f"c:{JOB}"] == ""


def test_unsubscribe_forgets_the_stream() -> None:
    it = in_room(5)
    effects = it.feed(m.Unsubscribed("2", ROOM))
    assert sent(effects) == [{"type": "reply", "id": "2", "data": {}}]
    assert m.Unwatch(ROOM) in effects
    assert it.stored[f"c:{ROOM}"] == ""
    assert it.news(ROOM, "r", entries(ROOM, 6, 6)) == []


def test_unsubscribe_from_what_is_not_followed_is_answered_all_the_same() -> None:
    it = Driven()
    it.open()
    assert it.feed(m.Unsubscribed("2", ROOM)) == [m.Send({"type": "reply", "id": "2", "data": {}})]


def test_a_session_follows_so_many_streams_at_most() -> None:
    it = Driven()
    it.open({f"room:{number}": head("r", 0) for number in range(s.MAX_FOLLOWED)}, watch=False)
    [error] = sent(subscribed(it, ROOM, None, head("r", 5)))
    assert (error["code"], error["id"]) == ("rate_limited", "1")
    assert ROOM not in it.session.follows


def test_a_job_that_is_one_stream_too_many_is_named_to_the_client_who_may_subscribe_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s, "MAX_FOLLOWED", 3)
    it = in_room(0)
    effects = it.news(OWN, "o", [created(OWN, 1)])
    [error] = sent(effects)
    assert (error["type"], error["code"], error["details"]) == ("error", "rate_limited", {"stream": JOB})
    assert "id" not in error
    assert watches(effects) == []
    it.feed(m.Unsubscribed("1", ROOM))
    assert watches(subscribed(it, JOB, "0", head("j", 2))) == [JOB]


# events


def test_an_event_that_is_the_next_one_is_forwarded_as_it_is() -> None:
    it = in_room(5)
    raws = entries(ROOM, 6, 7)
    assert it.news(ROOM, "r", raws) == [m.Forward(raws, False)]


def test_an_announcement_that_overlaps_repeats_nothing() -> None:
    it = in_room(5)
    assert seqs(it.news(ROOM, "r", entries(ROOM, 4, 7))) == [6, 7]
    assert it.news(ROOM, "r", entries(ROOM, 6, 7)) == []


def test_a_hole_is_filled_from_the_log() -> None:
    it = in_room(5)
    effects = it.news(ROOM, "r", entries(ROOM, 8, 8))
    assert (seqs(effects), reads(effects)) == ([], [(ROOM, 5)])
    assert seqs(it.page(ROOM, head("r", 8), entries(ROOM, 6, 8))) == [6, 7, 8]


def bare(top: int, epoch: str = "r") -> m.News:
    """An announcement that was too large to carry its events."""
    return m.News(ROOM, Live(epoch, top - 1, top, None))


def test_an_announcement_that_carries_no_events_is_read() -> None:
    it = in_room(5)
    assert reads(it.feed(m.News(ROOM, Live("r", 6, 6, None)))) == [(ROOM, 5)]


def test_a_lost_last_event_is_found_by_the_check() -> None:
    it = in_room(5)
    assert it.check(ROOM, head("r", 5)) == []
    assert reads(it.check(ROOM, head("r", 6))) == [(ROOM, 5)]


def test_an_announcement_is_read_as_far_as_it_goes() -> None:
    it = in_room(5)
    assert reads(it.feed(bare(9))) == [(ROOM, 5)]
    effects = it.page(ROOM, head("r", 9), entries(ROOM, 6, 8))
    assert (seqs(effects), reads(effects)) == ([6, 7, 8], [(ROOM, 8)])


def test_news_of_streams_that_are_not_followed_are_nothing() -> None:
    it = Driven()
    it.open()
    assert it.news(ROOM, "r", entries(ROOM, 1, 1)) == []
    assert it.feed(bare(3)) == []
    assert it.check(ROOM, head("r", 3)) == []
    assert it.feed(m.Watched(ROOM)) == []


def test_reads_end_when_redis_lost_what_it_had_announced() -> None:
    """The announced top stayed the goal, and the log was read for it as fast as it answered."""
    it = in_room(5)
    assert reads(it.feed(bare(9))) == [(ROOM, 5)]
    assert it.page(ROOM, head("r", 5), []) == []


def test_a_top_of_another_epoch_is_no_goal() -> None:
    it = in_room(5)
    assert reads(it.feed(bare(99, "lost"))) == [(ROOM, 5)]
    assert it.page(ROOM, head("r", 5), []) == []


def test_what_is_announced_while_a_page_is_read_is_read_next() -> None:
    it = in_room(5)
    it.check(ROOM, head("r", 6))
    it.news(ROOM, "r", entries(ROOM, 7, 7))
    effects = it.page(ROOM, head("r", 6), entries(ROOM, 6, 6))
    assert (seqs(effects), reads(effects)) == ([6], [(ROOM, 6)])


def test_at_most_so_many_reads_are_under_way_and_every_stream_has_its_turn() -> None:
    it = Driven()
    rooms = [f"room:{number}" for number in range(5)]
    it.open({name: head("r", 1) for name in rooms}, known=dict.fromkeys(rooms, "r:0"), watch=False)
    asked = [one for name in rooms for one in reads(it.feed(m.Watched(name)))]
    assert asked == [(name, 0) for name in rooms[: s.MAX_READS]]
    for name in rooms:
        it.page(name, head("r", 1), entries(name, 1, 1))
    assert seqs(it.effects) == [1] * 5
    assert len(reads(it.effects)) == 5


# the log is not what it was


def test_an_epoch_that_moved_without_loss_is_said_and_goes_on() -> None:
    it = in_room(5)
    it.ack(room_a=5)
    effects = it.news(ROOM, "r2", entries(ROOM, 6, 6))
    assert (seqs(effects), reads(effects)) == ([], [(ROOM, 5)])
    effects = it.page(ROOM, head("r2", 6, past="r:5"), entries(ROOM, 6, 6))
    assert sent(effects) == [{"type": "subscribed", "stream": ROOM, "epoch": "r2", "seq": 6, "recovered": True}]
    assert seqs(effects) == [6]
    assert it.stored[f"c:{ROOM}"] == "r2:5"
    assert it.ack(room_a="r2:6") == []
    assert it.acked(ROOM) == 6


def test_an_epoch_that_lost_events_begins_again_with_the_first_event_kept() -> None:
    """The page was one after the old position: the log's beginning was taken for deleted and said to be a gap."""
    it = in_room(5)
    it.check(ROOM, head("new", 4, first=2))
    effects = it.page(ROOM, head("new", 4, first=2), [])
    assert sent(effects) == [
        {"type": "subscribed", "stream": ROOM, "epoch": "new", "seq": 4, "recovered": False},
        {"type": "gap", "stream": ROOM, "epoch": "new", "reason": "epoch_changed"},
    ]
    assert (seqs(effects), reads(effects)) == ([], [(ROOM, 1)])
    assert it.stored[f"c:{ROOM}"] == "r:5"
    assert seqs(it.page(ROOM, head("new", 4, first=2), entries(ROOM, 2, 4))) == [2, 3, 4]
    it.ack(room_a=2)
    assert it.stored[f"c:{ROOM}"] == "new:2"


def test_a_log_that_lost_its_newest_events_says_so_before_anything_is_appended() -> None:
    it = in_room(5)
    it.check(ROOM, head("r", 3))
    effects = it.page(ROOM, head("r", 3), [])
    assert sent(effects) == [{"type": "gap", "stream": ROOM, "epoch": "r", "reason": "epoch_changed"}]
    assert reads(effects) == [(ROOM, 0)]
    assert seqs(it.page(ROOM, head("r", 3), entries(ROOM, 1, 3))) == [1, 2, 3]
    assert it.stored[f"c:{ROOM}"] == "r:0"


def test_a_log_that_vanished_goes_on_in_a_new_epoch() -> None:
    it = in_room(5)
    assert reads(it.check(ROOM, NOTHING)) == [(ROOM, 5)]
    effects = it.page(ROOM, head("new", 0), [])
    assert [one["type"] for one in sent(effects)] == ["subscribed", "gap"]
    assert reads(effects) == [(ROOM, 0)]
    assert reads(it.page(ROOM, head("new", 0), [])) == []
    assert seqs(it.news(ROOM, "new", entries(ROOM, 1, 1))) == [1]


def test_a_late_announcement_of_the_old_epoch_forwards_nothing() -> None:
    it = in_room(5)
    it.check(ROOM, head("new", 0))
    it.page(ROOM, head("new", 0), [])
    it.page(ROOM, head("new", 0), [])
    effects = it.news(ROOM, "r", entries(ROOM, 1, 6))
    assert (seqs(effects), reads(effects)) == ([], [(ROOM, 0)])
    assert it.page(ROOM, head("new", 0), []) == []


def test_trimming_that_overtakes_a_slow_client_is_a_gap_with_its_range() -> None:
    it = in_room(5)
    it.check(ROOM, head("r", 20, first=12))
    effects = it.page(ROOM, head("r", 20, first=12), entries(ROOM, 12, 20))
    assert sent(effects) == [{"type": "gap", "stream": ROOM, "epoch": "r", "reason": "trimmed", "from": 6, "to": 11}]
    assert seqs(effects) == list(range(12, 21))


def test_what_is_announced_while_a_trimmed_log_is_read_is_read_as_well() -> None:
    """Nobody would announce it again: the reader would stand still there, and no check of the tops would find anything."""
    it = in_room(5)
    it.check(ROOM, head("r", 20, first=12))
    assert sent(it.news(ROOM, "r", entries(ROOM, 21, 25))) == []
    effects = it.page(ROOM, head("r", 20, first=12), entries(ROOM, 12, 20))
    assert seqs(effects) == list(range(12, 21))
    assert reads(effects) == [(ROOM, 20)]


def test_a_log_that_is_gone_while_its_meta_stays_is_a_gap_to_the_top() -> None:
    it = in_room(5)
    it.check(ROOM, head("r", 9, first=10, kept=1))
    effects = it.page(ROOM, head("r", 9, first=10, kept=1), [])
    assert sent(effects) == [{"type": "gap", "stream": ROOM, "epoch": "r", "reason": "expired", "from": 6, "to": 9}]
    assert reads(effects) == []
    assert seqs(it.news(ROOM, "r", entries(ROOM, 10, 10))) == [10]


def test_entries_deleted_in_the_middle_are_a_gap_and_are_never_asked_for_again() -> None:
    it = in_room(0)
    it.check(ROOM, head("r", 7))
    effects = it.page(ROOM, head("r", 7), [*entries(ROOM, 1, 2), *entries(ROOM, 5, 5), *entries(ROOM, 7, 7)])
    done = [one.frame if isinstance(one, m.Send) else seqs([one]) for one in effects]
    assert done == [
        [1, 2],
        {"type": "gap", "stream": ROOM, "epoch": "r", "reason": "expired", "from": 3, "to": 4},
        [5],
        {"type": "gap", "stream": ROOM, "epoch": "r", "reason": "expired", "from": 6, "to": 6},
        [7],
    ]


def test_entries_deleted_at_the_end_are_a_gap_and_are_never_asked_for_again() -> None:
    it = in_room(0)
    it.check(ROOM, head("r", 7))
    effects = it.page(ROOM, head("r", 7), entries(ROOM, 1, 5))
    assert reads(effects) == [(ROOM, 5)]
    effects = it.page(ROOM, head("r", 7), [])
    assert sent(effects) == [{"type": "gap", "stream": ROOM, "epoch": "r", "reason": "expired", "from": 6, "to": 7}]
    assert reads(effects) == []


# room


def test_while_there_is_no_room_nothing_is_forwarded_and_the_log_is_read_later() -> None:
    it = in_room(5)
    it.room = 0
    assert it.news(ROOM, "r", entries(ROOM, 6, 6)) == []
    assert it.news(ROOM, "r", entries(ROOM, 7, 7)) == []
    assert not it.session.starved or it.room <= 0
    it.room = PLENTY
    assert reads(it.feed(m.Drained())) == [(ROOM, 5)]
    assert seqs(it.page(ROOM, head("r", 7), entries(ROOM, 6, 7))) == [6, 7]
    assert seqs(it.news(ROOM, "r", entries(ROOM, 8, 8))) == [8]


def test_a_read_is_not_asked_for_when_what_was_just_forwarded_fills_the_outbox() -> None:
    it = in_room(0)
    it.check(ROOM, head("r", 9))
    it.room = 10
    effects = it.page(ROOM, head("r", 9), entries(ROOM, 1, 3))
    assert (seqs(effects), reads(effects)) == ([1, 2, 3], [])
    assert it.session.starved
    it.room = PLENTY
    assert reads(it.feed(m.Drained())) == [(ROOM, 3)]
    assert not it.session.starved


def test_the_session_holds_no_event_however_far_behind_the_client_is() -> None:
    it = in_room(0)
    it.room = 0
    for seq in range(1, 1000):
        it.news(ROOM, "r", entries(ROOM, seq, seq))
    follow = it.session.follows[ROOM]
    assert (follow.sent, follow.top) == (0, 999)
    assert not [name for name in s.Session.__slots__ if isinstance(getattr(it.session, name), bytes)]


# malformed


def test_errors_carry_the_commands_id_and_the_connection_stays() -> None:
    it = Driven()
    it.open()
    assert it.receive({"type": "subscribe", "id": "7"})[0]["id"] == "7"
    assert it.receive({"type": "nonsense", "id": "8"})[0]["code"] == "unknown_type"
    assert it.receive({"type": "ask", "id": "9", "data": {"question": 5}})[0]["code"] == "invalid_input"
    assert it.receive(5)[0]["code"] == "invalid_frame"
    assert it.receive({"type": "ping"}) == [{"type": "pong"}]


def test_twenty_malformed_frames_in_a_row_close_with_4502() -> None:
    it = Driven()
    it.open()
    for _ in range(s.MAX_MALFORMED - 1):
        assert closes(it.feed(m.Malformed(Refused("invalid_json", "not JSON")))) == []
    effects = it.feed(m.Received({"type": "nonsense"}))
    assert (sent(effects)[0]["code"], closes(effects)) == ("unknown_type", [4502])
    assert it.feed(m.Received({"type": "ping"})) == []


def test_a_good_frame_begins_the_count_anew() -> None:
    it = Driven()
    it.open()
    for _ in range(3 * s.MAX_MALFORMED):
        assert closes(it.feed(m.Received({"type": "nonsense"}))) == []
        it.receive({"type": "pong"})


def test_an_array_is_its_frames_in_order_and_one_bad_one_spoils_only_itself() -> None:
    it = Driven()
    it.open()
    submit = {"type": "job.submit", "id": "1", "job": "echo"}
    effects = it.feed(m.Received([{"type": "ping"}, {"type": "nonsense"}, submit, {"type": "ask", "data": {}}]))
    assert [one["type"] for one in sent(effects)] == ["pong", "error"]
    assert [type(one) for one in runs(effects)] == [Submit, Handled]
    assert it.receive([], {"type": "ping"})[0]["code"] == "invalid_frame"
    assert it.feed(m.Received([])) == []


def test_an_array_that_ends_the_connection_is_handled_no_further() -> None:
    it = Driven()
    it.open()
    effects = it.feed(m.Received([{"type": "nonsense"}] * 30 + [{"type": "ping"}]))
    assert len(sent(effects)) == s.MAX_MALFORMED
    assert closes(effects) == [4502]


# time


def test_a_client_that_never_connects_is_closed_with_4506() -> None:
    it = Driven()
    assert it.session.next_tick() == 10
    assert it.tick(9.9) == []
    assert closes(it.tick(10)) == [4506]


def test_frames_that_are_not_connect_do_not_put_that_off() -> None:
    it = Driven()
    it.now = 9
    it.receive({"type": "ping"})
    assert closes(it.tick(10)) == [4506]


def test_a_silent_client_is_pinged_and_closed_with_4001_after_two_heartbeats() -> None:
    it = Driven()
    it.open()
    assert it.session.next_tick() == 20
    assert sent(it.tick(20)) == [{"type": "ping"}]
    assert closes(it.tick(39.9)) == []
    assert closes(it.tick(40)) == [4001]


def test_any_frame_is_a_sign_of_life() -> None:
    it = Driven()
    it.open()
    for at in (20, 40, 60):
        assert sent(it.tick(at)) == [{"type": "ping"}]
        it.receive({"type": "pong"})
    it.now = 99
    it.feed(m.Malformed(Refused("invalid_json", "not JSON")))
    assert closes(it.tick(100)) == []


def test_a_ping_carries_the_tops_that_moved_since_the_last_one() -> None:
    it = in_room(5)
    it.news(ROOM, "r", entries(ROOM, 6, 8))
    assert sent(it.tick(20)) == [{"type": "ping", "positions": {ROOM: 8}}]
    it.receive({"type": "pong"})
    assert sent(it.tick(40)) == [{"type": "ping"}]


def test_positions_go_on_after_the_log_began_anew() -> None:
    it = in_room(5)
    it.check(ROOM, head("new", 0))
    it.page(ROOM, head("new", 0), [])
    it.page(ROOM, head("new", 0), [])
    it.news(ROOM, "new", entries(ROOM, 1, 2))
    assert sent(it.tick(20)) == [{"type": "ping", "positions": {ROOM: 2}}]


def test_a_tokens_end_is_told_a_minute_before_and_cut_with_some_leeway() -> None:
    it = Driven(config=s.Config(heartbeat_s=10_000))
    it.open(expires_in_s=100)
    assert it.session.next_tick() == 100 - s.EXPIRING_S
    assert sent(it.tick(40)) == [{"type": "token_expiring", "expires_in_s": 60}]
    assert sent(it.tick(99)) == []
    effects = it.tick(100 + LEEWAY_S)
    assert sent(effects)[0]["code"] == "token_expired"
    assert closes(effects) == [4004]


def test_a_short_token_is_told_at_once() -> None:
    it = Driven()
    it.open(expires_in_s=5)
    assert sent(it.tick(0)) == [{"type": "token_expiring", "expires_in_s": 5}]


def test_a_refreshed_token_puts_its_end_off() -> None:
    it = Driven(config=s.Config(heartbeat_s=10_000))
    it.open(expires_in_s=100)
    it.tick(40)
    claims = Claims("u", "-", frozenset({"jobs:read"}), 5200.5)
    assert sent(it.feed(m.Refreshed("1", claims, 200))) == [{"type": "reply", "id": "1", "data": {"expires_at": 5_200_500}}]
    assert it.session.claims == claims
    assert closes(it.tick(115)) == []
    assert sent(it.tick(180)) == [{"type": "token_expiring", "expires_in_s": 60}]
    assert closes(it.tick(250)) == [4004]


# the end


def test_draining_tells_the_client_when_to_come_back_and_closes_with_4000() -> None:
    it = Driven()
    it.open()
    it.now = 1
    effects = it.feed(m.Draining(1500, 3.0))
    assert sent(effects) == [{"type": "reconnect", "delay_ms": 1500, "reason": "deploy"}]
    assert it.feed(m.Draining(1500, 3.0)) == []
    assert it.receive({"type": "ping"}) == [{"type": "pong"}]
    assert it.session.next_tick() == 4
    assert closes(it.tick(4)) == [4000]


def test_draining_closes_a_client_that_is_not_connected_with_1012() -> None:
    it = Driven()
    assert closes(it.feed(m.Draining(0, 3.0))) == [1012]


def test_a_newer_connection_closes_this_one_with_4003() -> None:
    it = Driven()
    it.open()
    assert it.feed(m.TakenOver(7)) == []
    assert closes(it.feed(m.TakenOver(8))) == [4003]
    assert it.news(OWN, "o", entries(OWN, 1, 1)) == []


def test_answers_and_errors_of_commands_carry_their_id() -> None:
    it = Driven()
    it.open()
    assert sent(it.feed(m.Answered("1", {"seq": 5}))) == [{"type": "reply", "id": "1", "data": {"seq": 5}}]
    assert it.feed(m.Answered(None, None)) == []
    [error] = sent(it.feed(m.Failed("2", Refused("queue_full", "full", retry_after_ms=1000))))
    assert error == {"type": "error", "id": "2", "code": "queue_full", "message": "full", "temporary": True, "retry_after_ms": 1000}


def test_start_is_the_cursor_of_everything() -> None:
    assert parse_cursor("0") == START
    assert Cursor("e", 0) != START
