"""What is done to a running system. Each fault is one function: it breaks something, mends it, and says whom it met.

`since` says from when recovery counts: the fault's beginning, or its end for what nobody can be served through.
"""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Literal

from redis.asyncio import Redis
from redis.exceptions import RedisError

from rt import keys
from tests.chaos.listener import Listener
from tests.chaos.load import HOUR_MS, PATIENCE_S, Accepted, Crowd, Peer, Tab
from tests.chaos.proxy import HALF_OPEN, Link, Proxy
from tests.chaos.speeches import speech, word
from tests.chaos.stack import Process, Stack

#: As the stack of a run is set up; short, so that ten minutes hold many faults.
LEASE_S, STALL_LIMIT_S, HEARTBEAT_S, DRAIN_S, SEND_TIMEOUT_S = 2.0, 2.0, 3.0, 2.0, 5.0
SETTINGS = {
    "RT_LEASE_S": f"{LEASE_S:g}",
    "RT_STALL_LIMIT_S": f"{STALL_LIMIT_S:g}",
    "RT_HEARTBEAT_S": f"{HEARTBEAT_S:g}",
    "RT_DRAIN_S": f"{DRAIN_S:g}",
    "RT_SEND_TIMEOUT_S": f"{SEND_TIMEOUT_S:g}",
    "RT_LOG_LEVEL": "warning",
    "RT_PRESENCE_EVENTS": "100",
    # Of jobs only the long stories are trimmed; whatever else is missing was lost, or taken by a fault's hand.
    "RT_ROOM_LENGTH": "10000000",
    "RT_JOB_LENGTH": "500",
    "RT_SESSION_LENGTH": "10000000",
}

#: Resolves when one of those that a fault met is served again: since when it was not, and when it was (monotonic).
Wait = Awaitable[tuple[float, float]]
Place = Literal["client", "web", "worker", "host", "redis"]


@dataclass(slots=True)
class Ground:
    """Everything that can be broken. `network` is between our processes and Redis, `doors` between some clients and each web process."""

    stack: Stack
    crowd: Crowd
    network: Proxy
    doors: list[Proxy]
    redis: "Redis[bytes]"
    #: What the processes said that are no more.
    output: list[str] = field(default_factory=list)

    def some(self, draw: Random, share: float, among: list[Peer] | None = None) -> list[Peer]:
        peers = [one for one in (self.crowd.peers if among is None else among) if one.connected]
        return draw.sample(peers, min(len(peers), max(1, round(len(peers) * share))))

    def of_web(self, web: int) -> list[Peer]:
        return [one for one in self.crowd.peers if one.connected and one.web == web]

    def of_worker(self, process: Process) -> list[Accepted]:
        """The jobs that a worker runs, as far as their submitters were told."""
        name = process.wait_ready().split()[2].rstrip(":")
        return [one for one in self.crowd.running if one.submitter.tab.journal(one.stream).worker == name]

    async def restart_web(self, web: int) -> None:
        old, port = self.stack.webs[web], self.stack.ports[web]
        old.end()
        self.output += old.lines
        self.stack.webs[web] = Process("web", self.stack.app, env=self.stack.env | {"PORT": str(port)}, clock=old.clock)
        await _ready(self.stack.webs[web])

    async def restart_worker(self, worker: int) -> None:
        old = self.stack.workers[worker]
        old.end()
        self.output += old.lines
        self.stack.workers[worker] = Process("worker", self.stack.app, env=self.stack.env, clock=old.clock)
        await _ready(self.stack.workers[worker])

    async def redis_back(self) -> None:
        await self.crowd.archive.restart()
        self.stack.redis.launch()
        while not await asyncio.to_thread(self.stack.redis.answers):
            await asyncio.sleep(0.02)

    async def exited(self, process: Process, what: str) -> None:
        """Waits until a process that was told to end did so, and holds its exit code against it."""
        began = time.monotonic()
        while process.popen.poll() is None and time.monotonic() - began < 25:
            await asyncio.sleep(0.02)
        if process.popen.poll() != 0:
            self.crowd.broken("other", what, f"exit code {process.popen.poll()} {time.monotonic() - began:.1f} s after SIGTERM")


async def _ready(process: Process) -> None:
    while not process.lines and process.popen.poll() is None:
        await asyncio.sleep(0.02)
    await asyncio.to_thread(process.wait_ready, 60)


def fresh(peers: list[Peer]) -> list[Wait]:
    """Each peer is given an event that was written after now."""
    since, began = time.time() * 1000, time.monotonic()

    async def one(peer: Peer) -> tuple[float, float]:
        await peer.until(lambda: peer.newest_ms > since)
        return began, time.monotonic()

    return [asyncio.ensure_future(one(peer)) for peer in peers]


def fresh_listeners(listeners: list[Listener]) -> list[Wait]:
    """Each listener is given an event that was written after now, or has come to the end."""
    since, began = time.time() * 1000, time.monotonic()

    async def one(listener: Listener) -> tuple[float, float]:
        await listener.until(lambda: listener.newest_ms > since or listener.over, PATIENCE_S)
        return began, time.monotonic()

    return [asyncio.ensure_future(one(listener)) for listener in listeners]


def moved(jobs: list[Accepted]) -> list[Wait]:
    """Each job's submitter is told of another attempt, or of the end."""
    began = time.monotonic()

    async def one(job: Accepted, attempt: int) -> tuple[float, float]:
        peer = job.submitter
        await peer.until(lambda: (at := peer.tab.journal(job.stream)).attempt > attempt or at.over)
        return began, time.monotonic()

    return [asyncio.ensure_future(one(job, job.submitter.tab.journal(job.stream).attempt)) for job in jobs]


Act = Callable[[Ground, Random], Awaitable[list[Wait]]]


@dataclass(frozen=True, slots=True)
class Fault:
    name: str
    place: Place
    since: Literal["start", "end"]
    about: str
    act: Act


FAULTS: dict[str, Fault] = {}


def fault(name: str, place: Place, since: Literal["start", "end"] = "start") -> Callable[[Act], Act]:
    """Registers a fault; its docstring tells it."""

    def register(act: Act) -> Act:
        FAULTS[name] = Fault(name, place, since, (act.__doc__ or "").strip(), act)
        return act

    return register


# clients


@fault("client-cut", "client")
async def _cut(ground: Ground, draw: Random) -> list[Wait]:
    """connections of up to half of the clients end without a close"""
    met = ground.some(draw, draw.uniform(0.05, 0.5))
    waits = fresh(met)
    for peer in met:
        peer.tab.abort()
    return waits


@fault("client-half-open", "client")
async def _half_open(ground: Ground, draw: Random) -> list[Wait]:
    """packets of some clients vanish both ways, and nobody is told; both sides have only heartbeats to notice it by"""
    met = ground.some(draw, 0.5, [one for one in ground.crowd.peers if one.proxied])
    words = [f"X-Peer: {one.number}\r\n".encode() for one in met]

    def theirs(link: Link) -> bool:
        return any(word in link.opening for word in words)

    for door in ground.doors:
        door.set(HALF_OPEN, which=theirs)
    return fresh(met)


@fault("client-slow", "client", "end")
async def _slow(ground: Ground, draw: Random) -> list[Wait]:
    """clients stop reading while some MB are due to each of them, for longer than the write deadline or shorter, and read on"""
    met = ground.some(draw, 0.02)

    async def stop(peer: Peer, seed: str) -> Tab:
        # No more events than the log of a job keeps.
        if job := await peer.submit("flood", speech(seed, 550), seed=seed, count=550, bytes=9_000):
            await peer.until(lambda: peer.tab.journal(job.stream).seq > 5)
        peer.tab.reads.clear()
        return peer.tab

    tabs = await asyncio.gather(*(stop(peer, f"flood{peer.number}-{draw.randrange(10**9)}") for peer in met))
    await asyncio.sleep(draw.choice([2.0, SEND_TIMEOUT_S + 2]))
    for tab in tabs:
        tab.read_on()
    return fresh(met)


@fault("client-two-tabs", "client")
async def _two_tabs(ground: Ground, draw: Random) -> list[Wait]:
    """second connections of sessions take over while the first ones live; those are closed with 4003"""
    met = ground.some(draw, 0.1)

    async def served(peer: Peer, began: float) -> tuple[float, float]:
        return began, (await fresh([peer])[0])[1]

    async def take_over(peer: Peer) -> None:
        began = time.monotonic()
        old = await peer.take_over()
        waits.append(asyncio.ensure_future(served(peer, began)))
        with suppress(TimeoutError):
            await peer.until(lambda: old.close_code is not None, 10)
        if old.close_code is None:
            ground.crowd.broken("other", f"peer {peer.number}", "an overtaken connection was left open")
        await old._drop()

    waits: list[Wait] = []
    await asyncio.gather(*map(take_over, met))
    return waits


@fault("job-cancelled", "client")
async def _cancelled(ground: Ground, draw: Random) -> list[Wait]:
    """running jobs are cancelled by their clients; recovery is until the terminal event"""
    running = ground.crowd.running
    met = draw.sample(running, min(len(running), 5))

    async def cancel(job: Accepted) -> tuple[float, float]:
        began = time.monotonic()
        job.ends.add("job.cancelled")
        answer = await job.submitter.command("job.cancel", job_id=job.job_id)
        if answer["type"] == "error" and answer["code"] != "conflict":
            ground.crowd.broken("other", job.stream, f"a cancel was refused: {answer['code']}")
        await job.submitter.finished(job)
        return began, time.monotonic()

    return [asyncio.ensure_future(cancel(job)) for job in met]


@fault("command-repeated", "client")
async def _repeated(ground: Ground, draw: Random) -> list[Wait]:
    """publishes and submits are sent twice, cut off, and sent again; recovery is until the answer, which must stay the same"""
    met = ground.some(draw, 0.1)

    async def repeat(peer: Peer, nonce: str) -> tuple[float, float]:
        began = time.monotonic()
        if draw.random() < 0.5:

            async def ask() -> object:
                return (await peer.publish(f"twice {nonce}", f"twice {nonce}")).get("data", {}).get("seq")
        else:

            async def ask() -> object:
                size = {"seed": nonce, "count": 20, "burst": 5, "pause_ms": 50}
                job = await peer.submit("goes_on", speech(nonce, 20), id=f"twice {nonce}", **size)
                return job.job_id if job else None

        before = ground.crowd.set_backs
        first = asyncio.ensure_future(ask())
        await asyncio.sleep(0)
        for frame, _ in list(peer.unanswered.values()):
            await peer.tab.send([frame, frame])
        peer.tab.abort()
        was, answered = await first, time.monotonic()
        set_backs = ground.crowd.set_backs
        if (now := await ask()) != was and ground.crowd.set_backs == set_backs == before:
            ground.crowd.broken("repeated", f"peer {peer.number}", f"a repeated command was answered {now}, and {was} before")
        return began, answered

    return [asyncio.ensure_future(repeat(peer, f"{peer.number}-{draw.randrange(10**9)}")) for peer in met]


@fault("sse-cut", "client")
async def _sse_cut(ground: Ground, draw: Random) -> list[Wait]:
    """SSE connections, half of them or all, end without a word; each listener comes back with its last id"""
    listeners = ground.crowd.listeners
    met = draw.sample(listeners, round(len(listeners) * draw.choice([0.5, 1.0])))
    waits = fresh_listeners(met)
    for listener in met:
        listener.cut()
    return waits


@fault("logs-trimmed", "client", "end")
async def _trimmed(ground: Ground, draw: Random) -> list[Wait]:
    """clients and listeners stay away until their job's log was trimmed behind them; rooms and other jobs are trimmed by hand meanwhile,
    again and again, under those who read them and those who come back to them"""
    archive, redis = ground.crowd.archive, ground.redis
    tellers = [one for one in ground.crowd.peers if one.tells]
    met = [*tellers, *ground.some(draw, 0.1, [one for one in ground.crowd.peers if not one.tells])]
    stories = [one for one in ground.crowd.running if one.submitter in tellers]
    listeners = [one for one in ground.crowd.listeners if one.peer in met]
    for peer in met:
        peer.home.clear()
        peer.tab.abort()
    for listener in listeners:
        listener.cut()

    def behind(job: Accepted) -> bool:
        return archive.history(job.stream).first > job.submitter.tab.journal(job.stream).seq + 1 or archive.history(job.stream).ended

    async def trim(stream: str, length: int) -> None:
        archive.history(stream).by_hand = True
        with suppress(RedisError, OSError):  # it may be killed at the same time, and have done it
            await redis.xtrim(keys.log(keys.DEFAULT_TENANT, stream), maxlen=length, approximate=False)
        ground.crowd.lost_at = time.monotonic()

    rooms = draw.sample(sorted(ground.crowd.rooms), round(len(ground.crowd.rooms) * 0.5 + 0.5))
    jobs = [one.stream for one in ground.crowd.running if one not in stories]
    chosen = [*rooms, *draw.sample(jobs, len(jobs) // 3)]
    until = time.monotonic() + 8
    while time.monotonic() < until and not all(map(behind, stories)):
        for stream in chosen:
            await trim(stream, draw.randrange(8))
        await asyncio.sleep(0.2)
    # Who comes back reads while it is trimmed on.
    for number, peer in enumerate(met):
        peer.home.set()
        await trim(chosen[number % len(chosen)], draw.randrange(3))
    return [*fresh(met), *fresh_listeners(listeners)]


# workers


@fault("worker-killed", "worker")
async def _worker_killed(ground: Ground, draw: Random) -> list[Wait]:
    """kill -9 of a worker; recovery is until its jobs' next attempt is seen"""
    worker = draw.randrange(len(ground.stack.workers))
    waits = moved(ground.of_worker(ground.stack.workers[worker]))
    ground.stack.workers[worker].kill()
    await asyncio.sleep(draw.uniform(0, 1))
    await ground.restart_worker(worker)
    return waits


@fault("worker-frozen", "worker")
async def _worker_frozen(ground: Ground, draw: Random) -> list[Wait]:
    """SIGSTOP of a worker for longer than its lease, then SIGCONT: what it still writes is refused"""
    process = draw.choice(ground.stack.workers)
    waits = moved(ground.of_worker(process))
    process.freeze()
    await asyncio.sleep(LEASE_S + draw.uniform(1, 4))
    process.thaw()
    return waits


@fault("worker-blocked", "worker")
async def _worker_blocked(ground: Ground, draw: Random) -> list[Wait]:
    """a job blocks its worker's event loop for longer than the stall limit and the lease; recovery is of all jobs there"""
    peer = draw.choice(ground.crowd.peers)
    seed, block_s = f"blocks-{draw.randrange(10**9)}", STALL_LIMIT_S + LEASE_S + draw.uniform(1, 4)
    job = await peer.submit("blocks", word(seed, 0), seed=seed, block_s=block_s)
    if job is None:
        return []
    await peer.until(lambda: peer.tab.journal(job.stream).worker or peer.tab.journal(job.stream).over)
    name = peer.tab.journal(job.stream).worker
    waits = moved([one for one in ground.crowd.running if one.submitter.tab.journal(one.stream).worker == name])
    await asyncio.sleep(block_s)
    return waits


@fault("worker-deployed", "worker")
async def _worker_deployed(ground: Ground, draw: Random) -> list[Wait]:
    """SIGTERM of a worker: its jobs end within the drain, or are handed back"""
    worker = draw.randrange(len(ground.stack.workers))
    process = ground.stack.workers[worker]
    waits = moved(ground.of_worker(process))
    process.popen.terminate()
    await ground.exited(process, "worker")
    await ground.restart_worker(worker)
    return waits


@fault("workers-lost", "worker", "end")
async def _workers_lost(ground: Ground, draw: Random) -> list[Wait]:
    """kill -9 of all workers; new ones after some seconds"""
    jobs = ground.crowd.running
    waits = moved(jobs)
    for process in ground.stack.workers:
        process.kill()
    await asyncio.sleep(draw.uniform(0.5, 4))
    await asyncio.gather(*map(ground.restart_worker, range(len(ground.stack.workers))))
    return waits


# web processes


@fault("web-killed", "web")
async def _web_killed(ground: Ground, draw: Random) -> list[Wait]:
    """kill -9 of a web process; its clients go on at another"""
    web = draw.randrange(len(ground.stack.webs))
    met = ground.of_web(web)
    ground.stack.webs[web].kill()
    waits = fresh(met)
    await asyncio.sleep(draw.uniform(0, 1))
    await ground.restart_web(web)
    return waits


@fault("web-drained", "web")
async def _web_drained(ground: Ground, draw: Random) -> list[Wait]:
    """a rolling restart: SIGTERM of each web process in turn, the next when it is back; recovery is from each connection's end"""
    waits: list[Wait] = []
    for web, process in enumerate(list(ground.stack.webs)):
        tabs = [(one, one.tab) for one in ground.of_web(web)]

        async def closed_and_back(peer: Peer, tab: object) -> tuple[float, float]:
            await peer.until(lambda: not peer.connected or peer.tab is not tab)
            return await fresh([peer])[0]

        waits += [asyncio.ensure_future(closed_and_back(peer, tab)) for peer, tab in tabs]
        process.popen.terminate()
        await ground.exited(process, "web")
        await ground.restart_web(web)
    return waits


@fault("web-frozen", "web")
async def _web_frozen(ground: Ground, draw: Random) -> list[Wait]:
    """SIGSTOP of a web process for longer than two heartbeats, then SIGCONT: its clients have left, and it finds out"""
    web = draw.randrange(len(ground.stack.webs))
    met = ground.of_web(web)
    ground.stack.webs[web].freeze()
    waits = fresh(met)
    await asyncio.sleep(2 * HEARTBEAT_S + draw.uniform(0.5, 3))
    ground.stack.webs[web].thaw()
    return waits


# hosts


@fault("clocks-jumped", "host")
async def _clocks(ground: Ground, draw: Random) -> list[Wait]:
    """the clocks of some web and worker processes jump by an hour, forward or back, and some seconds later to the right time"""
    clocks = [one.clock for one in (*ground.stack.webs, *ground.stack.workers) if one.clock is not None]
    met = draw.sample(clocks, draw.randint(1, len(clocks)))
    for clock in met:
        clock.set(draw.choice([-1, 1]) * HOUR_MS / 1000)
    waits = fresh(ground.crowd.peers)
    await asyncio.sleep(draw.uniform(2, 5))
    for clock in met:
        clock.set(0)
    return [*waits, *fresh(ground.crowd.peers)]


# Redis


@fault("redis-killed", "redis", "end")
async def _redis_killed(ground: Ground, draw: Random) -> list[Wait]:
    """kill -9 of Redis, which then reads its append-only file again"""
    ground.stack.redis.kill()
    await asyncio.sleep(draw.uniform(0, 3))
    await ground.redis_back()
    return fresh(ground.crowd.peers)


@fault("redis-frozen", "redis", "end")
async def _redis_frozen(ground: Ground, draw: Random) -> list[Wait]:
    """SIGSTOP of Redis, for shorter or longer than anybody waits for an answer, then SIGCONT"""
    pid = ground.stack.redis.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(draw.choice([draw.uniform(0.5, 2), draw.uniform(5.5, 8)]))
    finally:
        os.kill(pid, signal.SIGCONT)
    return fresh(ground.crowd.peers)


@fault("redis-unreachable", "redis", "end")
async def _redis_unreachable(ground: Ground, draw: Random) -> list[Wait]:
    """every connection to Redis is reset and none accepted, or all packets to and from it vanish; then it is there again"""
    if draw.random() < 0.5:
        ground.network.refuse()
        ground.network.cut()
    else:
        ground.network.set(HALF_OPEN)
    await asyncio.sleep(draw.uniform(1, 8))
    ground.network.set()
    ground.network.accept()
    return fresh(ground.crowd.peers)


@fault("redis-slow", "redis")
async def _redis_slow(ground: Ground, draw: Random) -> list[Wait]:
    """100 ms more on every answer of Redis, for some seconds; events go on meanwhile"""
    ground.network.set(down_ms=100)
    waits = fresh(ground.crowd.peers)
    await asyncio.sleep(draw.uniform(3, 6))
    ground.network.set()
    return waits


@fault("pubsub-killed", "redis")
async def _pubsub_killed(ground: Ground, draw: Random) -> list[Wait]:
    """CLIENT KILL TYPE pubsub: every announcement connection ends"""
    await ground.redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    return fresh(ground.crowd.peers)


@fault("scripts-flushed", "redis")
async def _scripts_flushed(ground: Ground, draw: Random) -> list[Wait]:
    """SCRIPT FLUSH: Redis knows none of the scripts any more"""
    await ground.redis.execute_command("SCRIPT", "FLUSH")
    return fresh(ground.crowd.peers)


@fault("redis-full", "redis", "end")
async def _full(ground: Ground, draw: Random) -> list[Wait]:
    """Redis has no memory left, evicts nothing, and so refuses every write; then it has some again"""
    await ground.redis.config_set("maxmemory", "1mb")
    try:
        await asyncio.sleep(draw.uniform(1, 6))
    finally:
        await ground.redis.config_set("maxmemory", 0)
    return fresh(ground.crowd.peers)


@fault("redis-set-back", "redis", "end")
async def _set_back(ground: Ground, draw: Random) -> list[Wait]:
    """kill -9 of Redis, and what it wrote down in its last second or two is lost; it comes back without, and streams go on under another
    epoch"""
    archive = ground.crowd.archive
    await archive.read()
    offset = archive.end
    await asyncio.sleep(draw.uniform(0.1, 2))
    ground.stack.redis.kill()
    await archive.set_back(offset)
    ground.crowd.set_back()
    await ground.redis_back()
    return fresh(ground.crowd.peers)
