"""The load: clients that talk in rooms, submit jobs, come back whenever they are cut off, and keep a ledger of all they get.

A `Peer` is a client with its session; a `Tab` is one connection after another of it, until a second tab takes over.
"""

import asyncio
import contextlib
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from rt import keys
from tests.chaos.client import ACKNOWLEDGING, CONTROL, Client
from tests.chaos.judge import Kind, Ledger, Record, Violation, judge, judge_effects, judge_job
from tests.chaos.speeches import speech

#: A connection that could not be opened in this time is tried elsewhere.
OPEN_S = 4.0
#: What nobody waits longer for: an answer, the end of a job.
PATIENCE_S = 90.0
#: Clients in one room.
ROOM_OF = 20


@dataclass(slots=True)
class Accepted:
    """A job that was promised: its reply was seen. `submitter` follows it, and everybody in `room`."""

    stream: str
    job_id: str
    submitter: "Peer"
    text: str | None
    room: str | None
    ends: set[str] = field(default_factory=lambda: {"job.completed"})
    judged: bool = False


class Tab(Client):
    """One connection of a peer's session at a time, and what came over it."""

    batch = True
    ack_every_s = 1.0
    journals: dict[str, Ledger]  # type: ignore[assignment]

    def __init__(self, peer: "Peer", url: str) -> None:
        super().__init__(url, peer.token)
        self.peer = peer
        self.headers = {"X-Peer": str(peer.number)}
        self.control = deque(maxlen=32)  # type: ignore[assignment]
        # Commands and news are the peer's, whichever tab they come by.
        self._unanswered = peer.unanswered
        self._news = peer.news
        self.heard = time.monotonic()
        #: Cleared: nothing is read from the socket.
        self.reads = asyncio.Event()
        self.reads.set()

    def journal(self, stream: str) -> Ledger:
        ledger = self.journals.get(stream)
        if ledger is None:
            ledger = self.journals[stream] = Ledger(stream)
        return ledger

    @property
    def back_in_s(self) -> float:
        """How long to wait before coming back: what the server asked for, or a little chance."""
        asked = next((one["delay_ms"] / 1000 for one in self.control if one["type"] == "reconnect"), None)
        return asked if asked is not None else random.uniform(0, 0.2)

    async def open(self, limit_s: float = OPEN_S) -> dict[str, Any]:
        self.control.clear()
        self.heard = time.monotonic()
        return await super().open(limit_s)

    def read_on(self) -> None:
        self.heard = time.monotonic()
        self.reads.set()

    def abort(self) -> None:
        """A pulled cable."""
        if self._ws is not None:
            self._ws.transport.abort()

    def twin(self, url: str) -> "Tab":
        """A second tab of the session, which has what this one has.

        This one acknowledges nothing more: what comes to it from now on the other one has not got, and a job whose end
        was acknowledged is not replayed.
        """
        for task in self._tasks:
            if task.get_name() == ACKNOWLEDGING:
                task.cancel()
        other = Tab(self.peer, url)
        other.session = self.session
        other.journals = {stream: ledger.copy() for stream, ledger in self.journals.items()}
        return other

    async def _frame(self, frame: dict[str, Any]) -> None:
        if not self.reads.is_set():
            await self.reads.wait()
        self.heard = time.monotonic()
        if frame["type"] in CONTROL:
            await super()._frame(frame)
        elif self.journal(frame["stream"]).take(frame):
            peer = self.peer
            peer.crowd.delivered += 1
            peer.newest_ms = max(peer.newest_ms, frame["ts"])
            if frame["type"] == "job.created":
                peer.announced.add(keys.job_stream(frame["data"]["job_id"]))


class Peer:
    """One client and what it does. `run` lives until cancelled."""

    def __init__(self, crowd: "Crowd", number: int, room: str) -> None:
        self.crowd, self.number, self.room = crowd, number, room
        self.draw = random.Random(f"{crowd.seed} {number}")
        self.token = crowd.token(f"peer{number}")
        self.news = asyncio.Event()
        self.unanswered: dict[str, Any] = {}
        self.web = number % len(crowd.doors)
        self.tab = Tab(self, "")
        #: Held while a connection is opened, by the peer itself or by a second tab.
        self.opening = asyncio.Lock()
        #: The newest time that an event was given as its own (Unix ms).
        self.newest_ms = 0
        self.reopened = 0
        #: Jobs whose `job.created` came.
        self.announced: set[str] = set()
        self.gone = False

    def door(self) -> str:
        """Where to connect next: one web process after the other; every fifth peer goes through a proxy."""
        self.web = (self.web + 1) % len(self.crowd.doors)
        direct, proxied = self.crowd.doors[self.web]
        return f"ws://127.0.0.1:{proxied if self.proxied else direct}/v1/ws"

    @property
    def proxied(self) -> bool:
        return self.number % 5 == 0

    @property
    def connected(self) -> bool:
        return bool(self.tab.connected) and self.tab.close_code is None

    async def until(self, condition: Callable[[], Any], limit_s: float = PATIENCE_S) -> Any:
        async with asyncio.timeout(limit_s):
            while not (value := condition()):
                self.news.clear()
                await self.news.wait()
            return value

    # coming back

    async def start(self) -> None:
        await self._reopen()
        answer = await self.command("subscribe", stream=self.room, cursor="0")
        assert answer["type"] == "subscribed", answer

    async def keep(self) -> None:
        """Comes back whenever its connection ended, or has been silent for two heartbeats."""
        while True:
            tab = self.tab
            if tab.close_code is None and not self._silent(tab):
                with contextlib.suppress(TimeoutError):
                    await self.until(lambda tab=tab: tab is not self.tab or tab.close_code is not None, 0.5)  # type: ignore[misc]
                continue
            if tab is not self.tab:
                continue
            code = tab.close_code
            if code is not None and code >= 4500:
                self.crowd.broken("other", f"peer {self.number}", f"closed with {code}")
            await asyncio.sleep(tab.back_in_s)
            await self._reopen()

    def _silent(self, tab: Tab) -> bool:
        return bool(tab.connected) and tab.reads.is_set() and time.monotonic() - tab.heard > 2 * tab.connected["heartbeat_s"]

    async def _reopen(self) -> None:
        async with self.opening:
            tab = self.tab
            if tab.connected and tab.close_code is None and not self._silent(tab):
                return
            known = tab.session
            while True:
                await tab._drop()
                tab.url = self.door()
                try:
                    hello = await tab.open()
                    break
                except (OSError, TimeoutError, ConnectionClosed, InvalidHandshake, EOFError):
                    if tab.close_code is not None and tab.close_code >= 4500:
                        self.crowd.broken("other", f"peer {self.number}", f"refused with {tab.close_code}")
                    await asyncio.sleep(random.uniform(0.05, 0.3))
            self.reopened += 1
            if known and not hello["resumed"]:
                self.crowd.broken("lost", f"peer {self.number}", "its session is unknown")

    async def take_over(self) -> Tab:
        """Opens a second tab and goes on with it; returns the first one."""
        async with self.opening:
            old = self.tab
            while True:
                new = old.twin(self.door())
                try:
                    await new.open()
                    break
                except (OSError, TimeoutError, ConnectionClosed, InvalidHandshake, EOFError):
                    await new._drop()
                    await asyncio.sleep(0.1)
            self.tab = new
            self.crowd.retired.append(old)
            self.news.set()
            for frame, _ in list(self.unanswered.values()):  # also what was asked by the first tab a moment ago
                await new.send(frame)
            return old

    # what it does

    async def command(self, type: str, id: str | None = None, **fields: Any) -> dict[str, Any]:
        """The answer that stands: a temporary error is asked again, with the same id. Raises TimeoutError."""
        id = id or f"{self.number}.{self.draw.randbytes(8).hex()}"
        async with asyncio.timeout(PATIENCE_S):
            while True:
                answer = await self.tab.ask(type, PATIENCE_S, id=id, **fields)
                if not answer.get("temporary"):
                    return answer
                await asyncio.sleep(answer.get("retry_after_ms", 200) / 1000)

    async def publish(self, payload: str, id: str | None = None) -> dict[str, Any]:
        sent = self.crowd.published.setdefault(self.room, {})
        sent.setdefault(payload, None)
        answer = await self.command("publish", id, stream=self.room, data={"p": payload})
        if answer["type"] == "reply":
            sent[payload] = answer["data"]["seq"]
        else:
            self.crowd.broken("other", self.room, f"a publish was refused: {answer['code']} {answer['message']}")
        return answer

    async def submit(self, job: str, text: str | None, *, aloud: bool = False, id: str | None = None, **input: Any) -> Accepted | None:
        """Submits a job; `aloud`: for everybody in the room."""
        id = id or f"{self.number}.{self.draw.randbytes(8).hex()}"
        self.crowd.submitted.setdefault(self, {}).setdefault(id, None)
        more = {"options": {"stream": self.room}} if aloud else {}
        answer = await self.command("job.submit", id, job=job, input=input, **more)
        if answer["type"] != "reply":
            self.crowd.broken("other", f"peer {self.number}", f"a submit was refused: {answer['code']} {answer['message']}")
            return None
        self.crowd.submitted[self][id] = 0
        data = answer["data"]
        accepted = Accepted(data["stream"], data["job_id"], self, text, self.room if aloud else None)
        return self.crowd.accepted.setdefault(accepted.stream, accepted)

    async def finished(self, job: Accepted) -> None:
        await self.until(lambda: self.tab.journal(job.stream).final)

    async def talk(self, every_s: float) -> None:
        count = 0
        await asyncio.sleep(self.draw.uniform(0, every_s))
        while not self.crowd.ending:
            count += 1
            await self.publish(f"{self.number}.{count}")
            await asyncio.sleep(self.draw.uniform(0.5, 1.5) * every_s)

    async def work(self, *, aloud: bool, words_per_s: float) -> None:
        """One job after the other."""
        count = 0
        while not self.crowd.ending:
            count += 1
            seed = f"{self.number}-{count}"
            pause_ms = self.draw.choice([60, 100, 200])
            burst = max(1, round(words_per_s * pause_ms / 1000))
            total = int(words_per_s * self.draw.uniform(2, 8))
            name = self.draw.choice(["goes_on", "goes_on", "begins_again", "from_checkpoint"])
            job = await self.submit(name, speech(seed, total), aloud=aloud, seed=seed, count=total, burst=burst, pause_ms=pause_ms)
            if job:
                await self.finished(job)


class Crowd:
    """All peers, what was promised to them, and the judgement of it.

    `doors` are the ports of each web process: its own, and a proxy's. `broken` may be told of anything at any time.
    """

    def __init__(
        self, doors: list[tuple[int, int]], redis: "Redis[bytes]", token: Callable[[str], str], *, seed: int, clients: int
    ) -> None:
        self.doors, self.redis, self.token, self.seed = doors, redis, token, seed
        self.violations: list[Violation] = []
        self.accepted: dict[str, Accepted] = {}
        self.published: dict[str, dict[str, int | None]] = {}
        #: By peer, the ids of its submits: 0 when answered.
        self.submitted: dict[Peer, dict[str, int | None]] = {}
        self.retired: list[Tab] = []
        self.delivered = 0
        self.ended: dict[str, int] = {}
        self.ending = False
        rooms = -(-clients // ROOM_OF)
        self.peers = [Peer(self, number, f"room:{number % rooms}") for number in range(clients)]
        self.rooms = {room: [one for one in self.peers if one.room == room] for room in sorted({one.room for one in self.peers})}
        self._tasks: list[asyncio.Task[None]] = []

    def broken(self, kind: Kind, where: str, what: str) -> None:
        self.violations.append(Violation(kind, where, what, int(time.time() * 1000)))

    @property
    def running(self) -> list[Accepted]:
        return [one for one in self.accepted.values() if not one.judged and not one.submitter.tab.journal(one.stream).final]

    async def start(self) -> None:
        """Connects everybody, a few at a time, and begins."""
        gate = asyncio.Semaphore(10)

        async def begin(peer: Peer) -> None:
            async with gate:
                await peer.start()

        await asyncio.gather(*map(begin, self.peers))
        for peer in self.peers:
            self._task(peer.keep())
            self._task(peer.talk(every_s=4.0))
            if peer is self.rooms[peer.room][0]:
                self._task(peer.work(aloud=True, words_per_s=10))
            elif peer.number % 5 == 1:
                self._task(peer.work(aloud=False, words_per_s=40))
        self._task(self._judge_the_ended())

    async def end(self, limit_s: float) -> None:
        """Lets everything end, and waits until everybody has everything; then judges what has not been judged yet."""
        self.ending = True
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self.stop)
            loop = asyncio.get_running_loop()
            end = loop.time() + limit_s
            while unsettled := await self._unsettled():
                if loop.time() > end:
                    self.broken("other", "end", f"after {limit_s:g} s: {unsettled}")
                    break
                await asyncio.sleep(0.2)
            await self._judge_all()

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        await asyncio.gather(*(tab.close() for tab in [*self.retired, *(one.tab for one in self.peers)]))

    def _task(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.append(task)
        task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            # Nobody was answered, or no job ended, for as long as anybody can wait; or the load itself is wrong.
            self.broken("other", "load", f"{task.get_coro().__qualname__}: {error!r}")  # type: ignore[union-attr]

    # judging

    async def record(self, stream: str) -> Record:
        name = keys.log(keys.DEFAULT_TENANT, stream)
        events: list[bytes] = []
        after = b"-"
        while page := await self.redis.xrange(name, after, "+", count=2000):
            events += [fields[b"e"] for _, fields in page]
            after = b"(" + page[-1][0]
        return Record.parse(stream, events, await self.redis.hgetall(keys.meta(keys.DEFAULT_TENANT, stream)))

    def followers(self, job: Accepted) -> list[Peer]:
        return [job.submitter, *(one for one in self.rooms.get(job.room or "", ()) if one is not job.submitter)]

    async def _judge_the_ended(self) -> None:
        """Jobs that ended for everybody are judged while the others go on, and what was kept of them is let go."""
        while True:
            await asyncio.sleep(1)
            for job in list(self.accepted.values()):
                if not job.judged and all((found := one.tab.journals.get(job.stream)) and found.final for one in self.followers(job)):
                    with contextlib.suppress(RedisError, OSError):
                        await self._judge_job(job)
                        await asyncio.sleep(0)

    async def _judge_job(self, job: Accepted) -> None:
        # These, also when a second tab takes over while the log is read: that one's is judged at the end.
        ledgers = [(peer, peer.tab.journal(job.stream)) for peer in self.followers(job)]
        record = await self.record(job.stream)
        found = judge_job(record, job.text, job.ends)
        for peer, ledger in ledgers:
            found += _at(peer, judge(ledger, record, complete=True))
            ledger.violations, ledger.told = [], []
            ledger.seal()
        found += self._judge_retired(record)
        self.violations += found
        job.judged = True
        end = record.events[-1]["type"] if record.events else "unknown"
        self.ended[end] = self.ended.get(end, 0) + 1

    def _judge_retired(self, record: Record) -> list[Violation]:
        found = []
        for tab in self.retired:
            if ledger := tab.journals.get(record.stream):
                found += _at(tab.peer, judge(ledger, record, complete=False))
                del tab.journals[record.stream]
        return found

    async def _unsettled(self) -> str:
        """Who is not connected, what has not ended or was not answered, or who has not got what its streams have; "" at last."""
        if self.running:
            return f"{len(self.running)} jobs run, as {self.running[0].stream}"
        for one in self.peers:
            if one.unanswered or not one.connected:
                return f"peer {one.number}: connected {one.connected}, unanswered {list(one.unanswered.values())[:1]}"
        followed = sorted({stream for one in self.peers for stream in one.tab.journals})
        async with self.redis.pipeline(transaction=False) as pipe:
            for stream in followed:
                pipe.hget(keys.meta(keys.DEFAULT_TENANT, stream), "seq")
            tops = {stream: int(top or 0) for stream, top in zip(followed, await pipe.execute(), strict=True)}
        for one in self.peers:
            if missing := one.announced - one.tab.journals.keys():
                return f"peer {one.number} never saw anything of {missing}"
            for name, ledger in one.tab.journals.items():
                if max(ledger.seq, 0) < tops[name]:  # -1: a new session's user stream begins where nobody tells
                    return f"peer {one.number} has {name} up to {ledger.seq}, its top is {tops[name]}, told {ledger.told}"
        return ""

    async def _judge_all(self) -> None:
        for job in [one for one in self.accepted.values() if not one.judged]:
            await self._judge_job(job)
        for room, peers in self.rooms.items():
            record = await self.record(room)
            self.violations += record.violations()
            self.violations += judge_effects(record, _payload, self.published.get(room, {}))
            for peer in peers:
                self.violations += _at(peer, judge(peer.tab.journal(room), record, complete=True))
            self.violations += self._judge_retired(record)
        for peer in self.peers:
            record = await self.record(keys.session_stream(str(peer.tab.session)))
            self.violations += record.violations()
            self.violations += judge_effects(record, _request, self.submitted.get(peer, {}))
            self.violations += _at(peer, judge(peer.tab.journal(record.stream), record, complete=True))
            self.violations += self._judge_retired(record)
            for stream, ledger in peer.tab.journals.items():
                if stream.startswith("job:") and not ledger.sealed:
                    # One that was submitted, and whose reply never came, was not promised; but what came must be true.
                    self.violations += _at(peer, judge(ledger, await self.record(stream), complete=stream in self.accepted))
                elif ledger.sealed and (ledger.violations or ledger.told):
                    self.violations += _at(peer, judge(ledger, await self.record(stream), complete=False))


def _at(peer: Peer, found: list[Violation]) -> list[Violation]:
    return [one._replace(where=f"{one.where} of peer {peer.number}") for one in found]


def _payload(event: dict[str, Any]) -> str | None:
    """What a published message says of itself."""
    return event["data"]["data"]["p"] if event["type"] == "message" else None


def _request(event: dict[str, Any]) -> str | None:
    """The command that submitted the job which is announced."""
    return event["data"].get("request_id")
