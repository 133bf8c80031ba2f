"""The pure session against a small model of a server, both driven by chance.

Whatever is cut, slow, parked or lost on the way, the application sees every event once and in order, and every command takes
effect once.
"""

import json
import random
from collections import deque
from typing import Any

import pytest

from rt.client import messages as m
from rt.client.backoff import Backoff
from rt.client.events import Gap
from rt.client.session import Config, Session
from rt.cursor import Cursor

OWN, USER, ROOMS = "session:s1", "user:ann", ("room:a", "room:b")


class Server:
    """What the protocol page says, for one session: streams, cursors, what is followed, and commands that take effect once."""

    def __init__(self, draw: random.Random) -> None:
        self.draw = draw
        self.logs: dict[str, list[dict[str, Any]]] = {name: [] for name in (OWN, USER, *ROOMS)}
        self.epochs = dict.fromkeys(self.logs, "e0")
        self.follows: dict[str, int] = {OWN: 0, USER: 0}
        self.answers: dict[str, dict[str, Any]] = {}
        self.published: list[Any] = []
        self.jobs = 0
        # of the connection
        self.sent: dict[str, int] = {}
        self.down: deque[list[dict[str, Any]]] = deque()

    def cut(self) -> None:
        self.sent.clear()
        self.down.clear()

    def append(self, stream: str, type: str, data: Any) -> None:
        event = {"type": type, "stream": stream, "seq": len(self.logs[stream]) + 1, "ts": 1, "data": data}
        self.logs[stream].append(event | ({"final": True} if type == "job.completed" else {}))

    def new_epoch(self, stream: str) -> None:
        """Redis came back, and had lost nothing of this."""
        self.epochs[stream] = f"e{int(self.epochs[stream][1:]) + 1}"
        if stream in self.sent:
            self.send(
                {"type": "subscribed", "stream": stream, "epoch": self.epochs[stream], "seq": len(self.logs[stream]), "recovered": True}
            )

    def send(self, *frames: dict[str, Any]) -> None:
        self.down.append(list(frames))

    def forward(self) -> None:
        """Some of what is not sent yet, of some stream."""
        behind = [name for name, seq in self.sent.items() if seq < len(self.logs[name])]
        if not behind:
            return
        name = self.draw.choice(behind)
        start = self.sent[name]
        events = self.logs[name][start : start + self.draw.randint(1, 8)]
        self.sent[name] += len(events)
        self.send(*events)
        for event in events:
            if event["type"] == "job.created":
                self.follow(f"job:{event['data']['job_id']}")

    def follow(self, stream: str) -> None:
        if stream not in self.follows and not any(one.get("done") == stream for one in self.answers.values()):
            self.follows[stream] = self.sent[stream] = 0
            self.send(
                {"type": "subscribed", "stream": stream, "epoch": self.epochs[stream], "seq": len(self.logs[stream]), "recovered": True}
            )

    def take(self, frame: dict[str, Any]) -> None:
        if "id" in frame and frame["type"] in ("publish", "job.submit"):
            if frame["id"] not in self.answers:
                self.answers[frame["id"]] = self.command(frame)
            self.send({"type": "reply", "id": frame["id"], "data": self.answers[frame["id"]]})
            return
        match frame["type"]:
            case "connect":
                for name in self.follows:
                    given = frame.get("cursors", {}).get(name)
                    self.sent[name] = int(given.split(":")[1]) if given else self.follows[name]
                    assert self.sent[name] <= len(self.logs[name])
                    self.acknowledge(name, self.sent[name])
                streams = {name: {"epoch": self.epochs[name], "seq": len(self.logs[name]), "recovered": True} for name in self.sent}
                first = {"type": "connected", "session": "s1", "resumed": "session" in frame, "subject": "ann"}
                self.down.append([first | {"heartbeat_s": 1e9, "max_message_bytes": 9999, "streams": streams}])
            case "ack":
                for name, cursor in frame["cursors"].items():
                    epoch, seq = cursor.split(":")
                    # Above what this connection was sent it is ignored.
                    if name in self.sent and epoch == self.epochs[name] and int(seq) <= self.sent[name]:
                        self.acknowledge(name, int(seq))
            case "subscribe":
                name, cursor = frame["stream"], frame.get("cursor")
                top = len(self.logs[name])
                start = top if cursor is None else int(cursor.rpartition(":")[2])
                self.follows[name] = self.sent[name] = start
                self.send(
                    {"type": "subscribed", "id": frame["id"], "stream": name, "epoch": self.epochs[name], "seq": top, "recovered": True}
                )
            case "unsubscribe":
                self.follows.pop(frame["stream"], None)
                self.sent.pop(frame["stream"], None)
                self.answers[f"left {frame['stream']}"] = {"done": frame["stream"]}
                self.send({"type": "reply", "id": frame["id"], "data": {}})

    def acknowledge(self, name: str, seq: int) -> None:
        self.follows[name] = max(self.follows[name], seq)

    def command(self, frame: dict[str, Any]) -> dict[str, Any]:
        if frame["type"] == "publish":
            self.published.append(frame["data"])
            self.append(frame["stream"], "message", frame["data"])
            return {"stream": frame["stream"], "seq": len(self.logs[frame["stream"]])}
        self.jobs += 1
        stream = f"job:{self.jobs}"
        self.logs[stream], self.epochs[stream] = [], "e0"
        self.append(OWN, "job.created", {"job_id": str(self.jobs), "job": "echo", "request_id": frame["id"]})
        return {"job_id": str(self.jobs), "stream": stream, "duplicate": False}


class World:
    """A session, its server and its application; `now` is theirs alone."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.server = Server(self.draw)
        config = Config(max_waiting=self.draw.choice([2, 5, 50]), ack_every_s=1)
        self.session = Session(config, m.Saved(), token="t", renewable=False, prefix="c", backoff=Backoff(1, 5, self.draw.uniform))
        self.now = 0.0
        self.up: deque[dict[str, Any]] = deque()
        self.given: dict[str, deque[Any]] = {}
        self.seen: dict[str, list[int]] = {}
        self.answered: dict[str, Any] = {}
        self.asked: list[str] = []
        self.tell(m.Start())

    def tell(self, message: m.Message) -> None:
        for action in self.session.handle(message, self.now):
            match action:
                case m.Send(text):
                    self.up.append(json.loads(text))
                case m.Dial():
                    self.tell(m.Opened())
                case m.Deliver(stream, item):
                    assert not isinstance(item, Gap)
                    self.given.setdefault(stream, deque()).append(item)
                    assert len(self.given[stream]) <= self.session.config.max_waiting
                case m.Answered(id, data):
                    assert id not in self.answered
                    self.answered[id] = data
                case m.Hangup():
                    self.up.clear()
                    self.server.cut()
                case m.Failed() | m.Broken():
                    raise AssertionError(action)

    def step(self) -> None:
        server, draw = self.server, self.draw
        match draw.choices(
            ["forward", "down", "up", "process", "produce", "cut", "tick", "publish", "submit", "epoch"], [9, 12, 9, 12, 6, 1, 4, 2, 1, 0.3]
        )[0]:
            case "forward":
                server.forward()
            case "down" if server.down:
                frames = server.down.popleft()
                self.tell(m.Received(frames, len(frames) * 10))
            case "up" if self.up:
                server.take(self.up.popleft())
            case "process":
                self.process(draw.choice([*self.given, None]) if self.given else None)
            case "produce":
                self.produce()
            case "cut" if self.session.state in ("open", "connecting"):
                self.cut()
            case "tick":
                self.tick()
            case "publish":
                self.ask({"type": "publish", "stream": draw.choice(ROOMS), "data": len(self.asked), "event": "message"})
            case "submit" if server.jobs < 6:
                self.ask({"type": "job.submit", "job": "echo", "input": {}}, reads=True)
            case "epoch":
                server.new_epoch(draw.choice(list(server.logs)))

    def produce(self) -> None:
        name = self.draw.choice([one for one in self.server.logs if one != OWN])
        log = self.server.logs[name]
        if not (log and log[-1].get("final")):
            final = name.startswith("job:") and self.draw.random() < 0.1
            self.server.append(name, "job.completed" if final else "message", None)

    def process(self, stream: str | None) -> None:
        if stream is not None and self.given[stream]:
            self.seen.setdefault(stream, []).append(self.given[stream].popleft().seq)
            self.tell(m.Processed(stream))

    def ask(self, frame: dict[str, Any], reads: bool = False) -> None:
        id = self.session.new_id()
        self.asked.append(id)
        self.tell(m.Command(id, frame, reads=reads))

    def cut(self) -> None:
        self.up.clear()
        self.server.cut()
        self.tell(m.Dropped(1006))

    def tick(self) -> None:
        at = self.session.next_tick()
        if at < 1e6:
            self.now = max(self.now, at)
            self.tell(m.Tick())

    def settle(self) -> None:
        """Everything comes to rest."""
        for _ in range(20_000):
            before = (len(self.server.down), len(self.up), sum(map(len, self.given.values())), dict(self.server.sent), self.session.state)
            self.server.forward()
            if self.server.down:
                self.tell(m.Received(self.server.down.popleft(), 10))
            if self.up:
                self.server.take(self.up.popleft())
            for stream in list(self.given):
                self.process(stream)
            if not self.server.down and not self.up:
                self.tick()
            after = (len(self.server.down), len(self.up), sum(map(len, self.given.values())), dict(self.server.sent), self.session.state)
            if before == after and not any(before[:3]) and self.session.state == "open":
                return
        raise AssertionError("it does not come to rest")


def test_a_good_connection_makes_the_next_wait_a_first_one_again_and_a_troubled_server_does_not() -> None:
    bounds: list[float] = []
    backoff = Backoff(1, 64, lambda low, high: bounds.append(high) or high)  # type: ignore[func-returns-value]
    session = Session(Config(), m.Saved(), token="t", renewable=False, prefix="c", backoff=backoff)
    connected = {"type": "connected", "session": "s1", "resumed": False, "subject": "ann", "heartbeat_s": 20, "max_message_bytes": 99}
    session.handle(m.Start(), 0)
    for _ in range(3):
        session.handle(m.NotOpened("nobody"), 0)
        session.handle(m.Reconnect(), 0)
    for code, stood_s in ((1006, 0), (4006, 1), (4002, 1), (4006, 11)):
        session.handle(m.Opened(), 0)
        session.handle(m.Received([connected | {"streams": {}}], 1), 100)
        session.handle(m.Dropped(code), 100 + stood_s)
        session.handle(m.Reconnect(), 100)
    assert bounds == [1, 2, 4, 1, 2, 4, 1]


@pytest.mark.parametrize("seeds", [range(start, start + 50) for start in range(0, 200, 50)], ids=str)
def test_every_event_once_and_in_order_and_every_command_once(seeds: range) -> None:
    for seed in seeds:
        world = World(seed)
        for stream in ROOMS:
            world.tell(m.Attach(stream, Cursor("", 0)))
        late = world.draw.randrange(400)
        for number in range(400):
            if number == late:
                world.tell(m.Attach(USER, Cursor("", 0)))
            world.step()
        world.settle()
        server = world.server
        for stream, log in server.logs.items():
            if stream != OWN:
                assert world.seen.get(stream, []) == list(range(1, len(log) + 1)), f"seed {seed}, {stream}"
        assert sorted(server.published) == sorted(set(server.published)), f"seed {seed}"
        assert list(world.answered) != [] or not world.asked
        assert set(world.answered) == set(world.asked), f"seed {seed}"
        # At rest the server knows of everything, and nothing is kept of what is over.
        for stream, follow in world.session.streams.items():
            assert not follow.left, f"seed {seed}, {stream}"
            assert follow.acked == follow.done or not (follow.done and follow.done.epoch), f"seed {seed}, {stream}"
            assert not follow.missing or not follow.reader, f"seed {seed}, {stream}"
            if follow.followed and follow.done and follow.done.epoch == server.epochs[stream]:
                assert server.follows[stream] == follow.done.seq, f"seed {seed}, {stream}"
