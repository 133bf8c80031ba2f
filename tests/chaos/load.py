"""The load: clients that talk in rooms, submit jobs, come back whenever they are cut off, and keep a ledger of all they get.

A `Peer` is a client with its session; a `Tab` is one connection after another of it, until a second tab takes over. Some
peers follow their jobs a second time, over SSE.
"""

import asyncio
import contextlib
import random
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx2
from redis.asyncio import Redis
from redis.exceptions import RedisError
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from rt import keys
from tests.chaos.archive import Archive
from tests.chaos.client import ACKNOWLEDGING, CONTROL, Client
from tests.chaos.judge import Kind, Ledger, Record, Violation, judge, judge_effects, judge_job, parse
from tests.chaos.listener import Listener
from tests.chaos.speeches import speech

#: A connection that could not be opened in this time is tried elsewhere.
OPEN_S = 4.0
#: What nobody waits longer for: an answer, the end of a job.
PATIENCE_S = 90.0
#: Clients in one room.
ROOM_OF = 20
#: One client in so many tells long stories: text alone, and more events than the log of a job keeps.
TELLER_OF = 50
#: Redis may write down a second late what it has answered, and two when its disk is slow.
WRITTEN_S = 10.0
#: A job that was judged this long ago is let go: Redis is never set back so far.
FORGET_S = 15.0
#: So long after a loss a client may find that a job is followed no more.
LOST_S = 60.0
HOUR_MS = 3_600_000


@dataclass(slots=True)
class Accepted:
    """A job that was promised: its reply was seen. `submitter` follows it, and everybody in `room`."""

    stream: str
    job_id: str
    #: The command's id.
    request: str
    submitter: "Peer"
    text: str | None
    room: str | None
    ends: set[str] = field(default_factory=lambda: {"job.completed"})
    #: The second device of the submitter.
    listener: Listener | None = None
    #: When (monotonic), and the type of its end.
    judged_at: float | None = None
    end: str = ""


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
            if frame["type"] == "subscribed" and frame.get("id"):
                self.journal(frame["stream"]).again()
            await super()._frame(frame)
        elif self.journal(frame["stream"]).take(frame):
            peer = self.peer
            peer.crowd.delivered += 1
            peer.newest_ms = max(peer.newest_ms, peer.crowd.written_ms(frame))
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
        #: When the newest event that came was written (Unix ms).
        self.newest_ms = 0.0
        #: Cleared: it stays away.
        self.home = asyncio.Event()
        self.home.set()
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
    def tells(self) -> bool:
        return self.number % TELLER_OF == 3

    @property
    def listens(self) -> bool:
        return self.number % 2 == 1

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
        await self.home.wait()
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
            self._follow_again(hello)

    def _follow_again(self, hello: dict[str, Any]) -> None:
        """Redis may have lost that the session follows a job, or never heard of it, and the announcement as well: `connected` says
        what is followed."""
        if time.monotonic() - self.crowd.lost_at > LOST_S:
            return
        jobs = self.announced | {stream for stream in self.tab.journals if stream.startswith("job:")}
        for stream in sorted(jobs - hello["streams"].keys()):
            if not (ledger := self.tab.journal(stream)).over:
                self.crowd.spawn(self._subscribe_again(ledger))

    async def _subscribe_again(self, ledger: Ledger) -> None:
        answer = await self.command("subscribe", stream=ledger.stream, cursor=ledger.cursor if ledger.epoch else "0")
        ledger.forgotten = answer["type"] == "error" and answer["code"] == "not_found"
        self.news.set()

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
            self._follow_again(new.connected)
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
        accepted = Accepted(data["stream"], data["job_id"], id, self, text, self.room if aloud else None)
        return self.crowd.accepted.setdefault(accepted.stream, accepted)

    async def finished(self, job: Accepted) -> None:
        """Returns when it was given the job's end; or Redis has lost the job, and it was told."""
        await self.until(
            lambda: (ledger := self.tab.journal(job.stream)).over or ((ledger.renewed or ledger.forgotten) and self.crowd.is_lost(job))
        )

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
            await self._follow(
                await self.submit(name, speech(seed, total), aloud=aloud, seed=seed, count=total, burst=burst, pause_ms=pause_ms)
            )

    async def tell(self) -> None:
        """One long story after the other."""
        count = 0
        while not self.crowd.ending:
            count += 1
            seed, total = f"{self.number}-story{count}", self.draw.randrange(400, 900)
            await self._follow(await self.submit("tells", speech(seed, total), seed=seed, count=total, burst=3, pause_ms=40))

    async def _follow(self, job: Accepted | None) -> None:
        if job is None:
            return
        if self.listens:
            job.listener = Listener(self, job.stream, job.job_id)
            self.crowd.spawn(job.listener.run())
        await self.finished(job)


class Crowd:
    """All peers, what was promised to them, and the judgement of it.

    `doors` are the ports of each web process: its own, and a proxy's. `broken` may be told of anything at any time.
    """

    def __init__(
        self,
        doors: list[tuple[int, int]],
        redis: "Redis[bytes]",
        archive: Archive,
        token: Callable[[str], str],
        *,
        seed: int,
        clients: int,
    ) -> None:
        self.doors, self.redis, self.archive, self.token, self.seed = doors, redis, archive, token, seed
        self.http = httpx2.AsyncClient(limits=httpx2.Limits(max_connections=None), trust_env=False)
        self.violations: list[Violation] = []
        self.accepted: dict[str, Accepted] = {}
        self.published: dict[str, dict[str, int | None]] = {}
        #: By peer, the ids of its submits: 0 when answered.
        self.submitted: dict[Peer, dict[str, int | None]] = {}
        self.retired: list[Tab] = []
        self.delivered = 0
        self.ending = False
        #: How often Redis was set back.
        self.set_backs = 0
        #: When (monotonic) something was lost, by that or by hand.
        self.lost_at = -LOST_S
        rooms = -(-clients // ROOM_OF)
        self.peers = [Peer(self, number, f"room:{number % rooms}") for number in range(clients)]
        self.rooms = {room: [one for one in self.peers if one.room == room] for room in sorted({one.room for one in self.peers})}
        self._tasks: set[asyncio.Task[None]] = set()

    def broken(self, kind: Kind, where: str, what: str) -> None:
        self.violations.append(Violation(kind, where, what, int(time.time() * 1000)))

    @staticmethod
    def written_ms(event: dict[str, Any]) -> float:
        """When an event was written, by our clock. Its own time is its writer's, which may be whole hours off."""
        ts: int = event["ts"]
        return ts - HOUR_MS * round((ts - time.time() * 1000) / HOUR_MS)

    @property
    def running(self) -> list[Accepted]:
        return [
            one
            for one in self.accepted.values()
            if one.judged_at is None and not one.submitter.tab.journal(one.stream).over and not self.is_lost(one)
        ]

    @property
    def listeners(self) -> list[Listener]:
        """Those that listen now."""
        found = [one.listener for one in self.accepted.values() if one.judged_at is None and one.listener is not None]
        return [one for one in found if one.listening]

    @property
    def ended(self) -> Counter[str]:
        return Counter(one.end for one in self.accepted.values() if one.judged_at is not None)

    def is_lost(self, job: Accepted) -> bool:
        """Whether Redis was set back to before the job was accepted."""
        return self.archive.history(job.stream).is_lost

    def set_back(self) -> None:
        """Redis has lost something: jobs that ended may run again, and are judged again."""
        self.set_backs += 1
        self.lost_at = time.monotonic()
        for job in self.accepted.values():
            if job.judged_at is not None and self.archive.history(job.stream).lost:
                job.judged_at = None

    async def start(self) -> None:
        """Connects everybody, a few at a time, and begins."""
        gate = asyncio.Semaphore(10)

        async def begin(peer: Peer) -> None:
            async with gate:
                await peer.start()

        self.spawn(self.archive.follow())
        await asyncio.gather(*map(begin, self.peers))
        for peer in self.peers:
            self.spawn(peer.keep())
            self.spawn(peer.talk(every_s=4.0))
            if peer is self.rooms[peer.room][0]:
                self.spawn(peer.work(aloud=True, words_per_s=10))
            elif peer.number % 5 == 1:
                self.spawn(peer.work(aloud=False, words_per_s=40))
            if peer.tells:
                self.spawn(peer.tell())
        self.spawn(self._judge_the_ended())

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
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(tab.close() for tab in [*self.retired, *(one.tab for one in self.peers)]))
        await self.http.aclose()

    def spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # Nobody was answered, or no job ended, for as long as anybody can wait; or the load itself is wrong.
            self.broken("other", "load", f"{task.get_coro().__qualname__}: {error!r}")  # type: ignore[union-attr]

    # judging

    async def record(self, stream: str) -> Record:
        """What is known of a stream now, and that Redis has of it what it should. Raises RedisError and OSError."""
        history = self.archive.history(stream)
        log, meta = keys.log(keys.DEFAULT_TENANT, stream), keys.meta(keys.DEFAULT_TENANT, stream)
        end = time.monotonic() + WRITTEN_S
        while True:
            async with self.redis.pipeline(transaction=True) as pipe:
                known, length = await pipe.hgetall(meta).xlen(log).execute()
            top, kept = int(known.get(b"seq", 0)), len(history.events) - history.first + 1
            if top == len(history.events) and length == kept:
                break
            if time.monotonic() > end:
                self.broken(
                    "lost", stream, f"{kept} events of {len(history.events)} were not trimmed; the log has {length}, its top is {top}"
                )
                break
            await self.archive.wait(lambda top=top: len(history.events) >= top, 0.5)  # type: ignore[misc]
        return Record(history, parse(known))

    def followers(self, job: Accepted) -> list[Peer]:
        """The submitter and everybody in the room, but for whom the announcement was lost: they were told of that gap."""
        room = [one for one in self.rooms.get(job.room or "", ()) if one is not job.submitter]
        return [job.submitter, *(one for one in room if job.stream in one.announced or not one.tab.journal(one.room).told)]

    def _is_over(self, job: Accepted) -> bool:
        """Whether it has ended, and everybody who follows it has its end."""
        history = self.archive.history(job.stream)

        def has(ledger: Ledger | None) -> object:
            return ledger and (ledger.final or (ledger.over and ledger.seq >= len(history.events)))

        return (
            history.ended
            and all(has(one.tab.journals.get(job.stream)) for one in self.followers(job))
            and (job.listener is None or job.listener.over)
        )

    async def _judge_the_ended(self) -> None:
        """Jobs that ended for everybody are judged while the others go on, and what was kept of them is let go."""
        while True:
            await asyncio.sleep(1)
            for job in list(self.accepted.values()):
                if job.judged_at is None and self._is_over(job):
                    with contextlib.suppress(RedisError, OSError):
                        await self._judge_job(job)
                        await asyncio.sleep(0)
            for job in self.accepted.values():
                old = job.judged_at is not None and time.monotonic() - job.judged_at > FORGET_S
                if old and not self.archive.is_forgotten(job.stream) and self._is_sealed(job.stream):
                    self.archive.forget(job.stream)

    def _is_sealed(self, stream: str) -> bool:
        return all((ledger := one.tab.journals.get(stream)) is None or ledger.sealed for one in self.peers)

    async def _judge_job(self, job: Accepted) -> None:
        # These, also when a second tab takes over while the log is read: that one's is judged at the end.
        ledgers = [(peer, peer.tab.journal(job.stream)) for peer in self.followers(job)]
        record = await self.record(job.stream)
        found = judge_job(record, job.text, job.ends)
        for peer, ledger in ledgers:
            found += _at(peer, judge(ledger, record, complete=True))
            ledger.violations, ledger.told = [], []
            ledger.seal()
        if listener := job.listener:
            found += _at(listener.peer, judge(listener.ledger, record, complete=True), "the listener")
            if listener.unknown and not record.history.is_lost:
                self.broken("lost", job.stream, "a listener was told that there is no such job")
            job.listener = None
        found += self._judge_retired(record)
        self.violations += found
        job.judged_at = time.monotonic()
        job.end = record.events[-1]["type"] if record.events else "unknown"

    def _judge_retired(self, record: Record) -> list[Violation]:
        found = []
        for tab in self.retired:
            if ledger := tab.journals.get(record.stream):
                found += _at(tab.peer, judge(ledger, record, complete=False))
                del tab.journals[record.stream]
        return found

    async def _unsettled(self) -> str:
        """Who is not connected, what has not ended or was not answered, or who has not got what its streams have; "" at last."""
        for job in self.accepted.values():
            if job.judged_at is None and not self.is_lost(job) and not self._is_over(job):
                return f"{job.stream} of {job.submitter.number} has ended {self.archive.history(job.stream).ended}, not for everybody"
        for one in self.peers:
            if one.unanswered or not one.connected:
                return f"peer {one.number}: connected {one.connected}, unanswered {list(one.unanswered.values())[:1]}"
        followed = sorted({stream for one in self.peers for stream in one.tab.journals})
        async with self.redis.pipeline(transaction=False) as pipe:
            for stream in followed:
                pipe.hget(keys.meta(keys.DEFAULT_TENANT, stream), "seq")
            tops = {stream: int(top or 0) for stream, top in zip(followed, await pipe.execute(), strict=True)}
        for one in self.peers:
            if missing := {stream for stream in one.announced - one.tab.journals.keys() if not self.archive.history(stream).is_lost}:
                return f"peer {one.number} never saw anything of {missing}"
            for name, ledger in one.tab.journals.items():
                # -1: a new session's user stream begins where nobody tells. A job that has ended is not followed any more.
                if max(ledger.seq, 0) < tops[name] and not ledger.final:
                    return f"peer {one.number} has {name} up to {ledger.seq}, its top is {tops[name]}, told {ledger.told}"
        return ""

    async def _judge_all(self) -> None:
        for job in [one for one in self.accepted.values() if one.judged_at is None]:
            await self._judge_job(job)
            if self.is_lost(job):
                await self._judge_lost(job)
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
            self.violations += judge_effects(record, _request, self._stood(peer))
            self.violations += _at(peer, judge(peer.tab.journal(record.stream), record, complete=True))
            self.violations += self._judge_retired(record)
            for stream, ledger in peer.tab.journals.items():
                if not stream.startswith("job:"):
                    continue
                if self.archive.is_forgotten(stream):
                    self.violations += _at(peer, ledger.violations)
                elif not ledger.sealed:
                    # One that was submitted, and whose reply never came, was not promised; but what came must be true.
                    self.violations += _at(peer, judge(ledger, await self.record(stream), complete=stream in self.accepted))
                elif ledger.told:
                    self.violations += _at(peer, judge(ledger, await self.record(stream), complete=False))
                else:
                    self.violations += _at(peer, ledger.violations)
        self.violations += [Violation("terminals", "log", fault, int(time.time() * 1000)) for fault in self.archive.faults]

    async def _judge_lost(self, job: Accepted) -> None:
        """Redis has lost the whole job: that is what its submitter is answered."""
        job.end = "not_found"
        url = f"http://127.0.0.1:{self.doors[0][0]}/v1/jobs/{job.job_id}"
        answer = await self.http.get(url, headers={"Authorization": f"Bearer {job.submitter.token}"}, timeout=PATIENCE_S)
        if (answer.status_code, answer.json().get("code")) != (404, "not_found"):
            self.broken("other", job.stream, f"Redis lost it, and its submitter is answered {answer.status_code}")

    def _stood(self, peer: Peer) -> dict[str, int | None]:
        """The submits of a peer, but for those whose job Redis has lost."""
        lost = {one.request for one in self.accepted.values() if one.submitter is peer and self.is_lost(one)}
        return {id: seq for id, seq in self.submitted.get(peer, {}).items() if id not in lost}


def _at(peer: Peer, found: list[Violation], who: str = "") -> list[Violation]:
    return [one._replace(where=f"{one.where} of {who + ' of ' if who else ''}peer {peer.number}") for one in found]


def _payload(event: dict[str, Any]) -> str | None:
    """What a published message says of itself."""
    return event["data"]["data"]["p"] if event["type"] == "message" else None


def _request(event: dict[str, Any]) -> str | None:
    """The command that submitted the job which is announced."""
    return event["data"].get("request_id")
