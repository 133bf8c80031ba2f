"""The worker: arq's `Worker`, woken instead of polling, with short renewed leases and fenced ends.

arq 0.28 polls every half second, leases a job for its longest timeout, lets a stale run overwrite a newer one's
result, and dies with Redis. This subclass keeps arq's keys and its clients, and replaces how jobs are found, held and
ended. Every name it overrides is pinned by `tests/jobs/test_worker_contract.py`.
"""

import asyncio
import contextlib
import gc
import inspect
import os
import secrets
import socket
import sys
import time
from typing import Any

from arq.connections import ArqRedis
from arq.worker import Worker as ArqWorker
from arq.worker import func

from rt import __version__, keys
from rt.app import App
from rt.codec import to_json_bytes
from rt.errors import Unavailable
from rt.inspect import Inspector
from rt.jobs.ends import writer_of_ends
from rt.jobs.insight import worker_looks
from rt.jobs.janitor import SWEEP, Janitor
from rt.jobs.job import Cancelled, Completed, Failed, HandedBack, Lost, Retrying
from rt.jobs.leases import Lease, Leases
from rt.jobs.models import close_model, load_model
from rt.jobs.queue import JobQueue
from rt.jobs.runner import STOP_GRACE_S, Claim, Run, Runner
from rt.redis import Listener, ReplyError, Store, load_script
from rt.settings import Settings
from rt.signals import heard
from rt.streams.log import StreamLog
from rt.streams.writer import Writer
from rt.telemetry import get_logger, metrics

CLAIM = load_script("streams/stream", "jobs/job", "jobs/claim")

log = get_logger("rt.worker")

HEARTBEAT_S = 5.0
#: The safety poll where Redis refuses keyspace notifications: plain arq clients' jobs then wait this long at most.
BLIND_POLL_S = 0.05
#: Jobs of one claim. Redis is held while it claims them.
CLAIM_JOBS = 100
#: Under load, calls that append begin this far apart, which delays a word by half of it: 200 streams of a word every 20 ms leave 40 in
#: a call. Measured, a batch alone in its call costs Redis 112 µs of CPU and its worker 131 µs, one of 40 costs 26 µs and 13 µs.
PATIENCE_S = 0.004
#: How long Redis may take to hear of the runs that are handed back at the end, and then of the worker itself.
_LAST_WORDS_S = 5.0
_GOODBYE_S = 1.0


class Worker(ArqWorker):
    """Runs an application's jobs. `main()` returns after `stop()`, or in `burst` when nothing is left to do.

    One instance per event loop; `store` is the caller's, and closed by the caller.
    """

    def __init__(self, app: App, settings: Settings, store: Store, *, burst: bool = False, name: str | None = None) -> None:
        self.app, self.settings, self.store = app, settings, store
        self.name = name or f"{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(3)}"
        self.streams = StreamLog(store, settings)
        self.queue = JobQueue(store, self.streams, settings)
        self.writer = Writer("append", self.streams.append, patience_s=PATIENCE_S)
        self.ends = writer_of_ends(store, self.streams, settings)
        self.runner = Runner(app, settings, store, self.streams, self.writer, self.ends, self.name)
        self.leases = Leases(
            store, settings.queue, lease_s=settings.lease_s, stall_limit_s=settings.stall_limit_s, on_verdict=self._on_verdict
        )
        self.runs: dict[str, Run] = {}
        #: Slots in use: runs whose function has not ended; and whether the last claim was for fewer jobs than it might have found.
        self._busy = 0
        self._short = False
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        self._stopped_at = 0.0
        self._next_due_s: float | None = None
        self._claimer, self._claim_number = secrets.token_hex(8), 1
        self._poll_s = settings.poll_s
        self.inspector = Inspector(store, "worker", worker_looks(self), self.name)
        super().__init__(
            [func(_never, name=name) for name in app.jobs] or [func(_never, name="-")],
            queue_name=settings.queue,
            redis_pool=ArqRedis(store.pool, default_queue_name=settings.queue),
            burst=burst,
            handle_signals=False,
            max_jobs=settings.max_jobs,
            log_results=False,
        )

    # life

    async def main(self) -> None:
        """Works until `stop()`. Survives the loss of Redis; raises what loading the application's models raises."""
        self.loop = asyncio.get_running_loop()
        async with contextlib.AsyncExitStack() as cleanup:
            cleanup.push_async_callback(close_model)
            await self._load()
            self.leases.start()
            cleanup.push_async_callback(asyncio.to_thread, self.leases.stop)
            async with asyncio.TaskGroup() as group:
                self._group = group
                chores = [
                    group.create_task(chore, name=f"worker {name}")
                    for name, chore in {
                        "writer": self.writer.run(),
                        "ends": self.ends.run(),
                        "ticks": self._tick(),
                        "wake-ups": self._listen(),
                        "heartbeat": self._heartbeat(),
                        "inspector": self.inspector.run(),
                        "janitor": Janitor(self.store, self.streams, self.queue, self.settings).run(),
                    }.items()
                ]
                try:
                    await self._claim_and_run()
                    await self._drain()
                finally:
                    for chore in chores:
                        chore.cancel()

    async def _load(self) -> None:
        model = load_model(self.settings)
        for hook in self.app.worker_start:
            if inspect.iscoroutinefunction(hook):
                await hook()
            else:
                await asyncio.to_thread(hook)
        await asyncio.to_thread(model.load)
        # Last: a model says that the worker is ready.
        self.runner.model = model

    def stop(self) -> None:
        """Claims nothing more, lets jobs end for `drain_s`, hands back the rest; a second call does not wait for them."""
        self.allow_pick_jobs = False
        if self._stopping.is_set():
            self._hurry.set()
        else:
            self._stopped_at = time.monotonic()
        self._stopping.set()
        self._wake.set()

    async def _claim_and_run(self) -> None:
        while not self._stopping.is_set():
            # In this order: what rings during the claim must not be lost.
            self._wake.clear()
            try:
                await self._poll_iteration()
            except Unavailable:
                metrics.redis_errors.labels("claim").inc()
                self._next_due_s = None
            if self.burst and not self.runs and not await self._store_has_work():
                return
            wait_s = self._poll_s if self._next_due_s is None else max(0.0, min(self._poll_s, self._next_due_s))
            timer = self.loop.call_later(wait_s, self._wake.set)
            await self._wake.wait()
            timer.cancel()

    async def _store_has_work(self) -> bool:
        return bool(await self.store.call("ZCARD", self.queue_name))

    async def _drain(self) -> None:
        if self.runs:
            # A claim that Redis did not answer has taken its part of the time.
            wait_s = max(0.0, self._stopped_at + self.settings.drain_s - time.monotonic())
            log.info("draining", jobs=len(self.runs), wait_s=round(wait_s, 1))
            hurry = asyncio.ensure_future(self._hurry.wait())
            done = asyncio.ensure_future(asyncio.wait(list(self.tasks.values())))
            await asyncio.wait({hurry, done}, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
            hurry.cancel()
            done.cancel()
            for run in self.runs.values():
                run.stop(HandedBack())
        stopped_at = self.loop.time()
        if self.tasks:
            _, late = await asyncio.wait(self.tasks.values(), timeout=_LAST_WORDS_S)
            for task in late:  # Redis does not answer: the leases lapse, and the jobs start elsewhere
                task.cancel()
            if late:
                await asyncio.wait(late)
        left_s = stopped_at + STOP_GRACE_S - self.loop.time()
        if self.runner.threads.alive and left_s > 0 and not self._hurry.is_set():
            # Their runs ended with the cancel; what they have still to put in order they may.
            await asyncio.wait(self.runner.threads.alive, timeout=left_s)
        with contextlib.suppress(Unavailable, TimeoutError):
            async with asyncio.timeout(_GOODBYE_S):
                await self.store.call("DEL", keys.worker(self.name))
                await self.store.call("ZREM", keys.WORKERS, self.name)

    # finding and running jobs

    async def _poll_iteration(self) -> None:
        """Claims jobs for all free slots in one round trip and starts them. Raises Unavailable."""
        free = self.max_jobs - self._busy
        if not self.allow_pick_jobs or free <= 0:
            self._next_due_s = None
            self._short = True
            return
        reply = await self.store.run(
            CLAIM,
            [self.queue_name, keys.claimer(self._claimer)],
            [
                want := min(free, CLAIM_JOBS),
                int(self.settings.lease_s * 1000),
                self._claimer,
                self._claim_number,
                int(self.settings.job_timeout_s * 1000),
                *self.queue.ends(),
            ],
        )
        self._claim_number += 1  # one whose answer is lost is asked again: it may have claimed
        now, due, claims = int(reply[0]), int(reply[1]), reply[2]
        self._next_due_s = (due - now) / 1000 if due else None
        for one in claims:
            try:
                claim = Claim.read(one, now)
            except UnicodeDecodeError:
                # Another client's: it cannot be named, and ends at its deadline.
                log.error("a job whose id is no text")
                continue
            self._start(claim)
        self._short = len(claims) >= want
        if want == CLAIM_JOBS and self._short:
            self._wake.set()

    def _start(self, claim: Claim) -> None:
        run = Run(claim, self._free)
        self._busy += 1
        if older := self.runs.get(claim.id):  # its lease lapsed while this process hung
            older.stop(Lost())
        self.runs[claim.id] = run
        self.leases.hold(Lease(claim.id, claim.tenant, claim.fence))
        metrics.jobs_running.set(len(self.runs))
        # An older attempt's own, which has still to hear that it is over, is waited for as well.
        self.tasks[f"{claim.id} {claim.fence}"] = self._group.create_task(self.run_job(claim.id, 0))

    def _free(self) -> None:
        self._busy -= 1
        if self._short or self.burst:
            self._wake.set()

    async def run_job(self, job_id: str, score: int) -> None:
        """Runs a claimed job to its outcome; replaces arq's, which would read, count and time it again."""
        run = self.runs[job_id]
        try:
            outcome = await self.runner.run(run)
            match outcome:
                case Completed():
                    self.jobs_complete += 1
                case Failed() | Cancelled():
                    self.jobs_failed += 1
                case Retrying() | HandedBack() | Lost():
                    self.jobs_retried += 1
            job = run.claim.job
            metrics.job_seconds.labels(job if job in self.app.jobs else "_other").observe(time.monotonic() - run.began)
            log.debug("run ended", job_id=job_id, attempt=run.claim.attempt, outcome=type(outcome).__name__)
        except Exception as error:
            # Nothing that one job does ends the worker: its lease lapses, and another attempt follows.
            log.error("run broke", job_id=job_id, exc_info=error)
        finally:
            run.end()
            # Unless a later attempt of the same job has begun here: the lease is then that one's.
            if self.runs.get(job_id) is run:
                self.leases.drop(job_id)
                del self.runs[job_id]
            del self.tasks[f"{job_id} {run.claim.fence}"]
            metrics.jobs_running.set(len(self.runs))
            if self.burst:
                self._wake.set()

    def _on_verdict(self, lease: Lease, verdict: str) -> None:
        """From the lease thread, or from the loop."""
        self.loop.call_soon_threadsafe(self._stop_run, lease, verdict)

    def _stop_run(self, lease: Lease, verdict: str) -> None:
        run = self.runs.get(lease.id)
        if run is None or run.claim.fence != lease.fence:
            return
        if verdict == "lost":
            log.warning("lease lost", job_id=lease.id, attempt=run.claim.attempt)
            self.leases.drop(lease.id)
            run.stop(Lost())
        else:
            run.stop(Cancelled(verdict.removeprefix("cancel ")))

    # being woken

    async def _listen(self) -> None:
        while True:
            try:
                blind = not await self._notifications()
                self._poll_s = min(BLIND_POLL_S, self.settings.poll_s) if blind else self.settings.poll_s
                async with self.store.listen() as listener:
                    await self._hear(listener)
            except Unavailable:
                metrics.redis_errors.labels("wake-ups").inc()
            except ValueError as error:
                log.warning("a wake-up that cannot be read", exc_info=error)
            await asyncio.sleep(0.5)

    async def _hear(self, listener: Listener) -> None:
        space = f"__keyspace@{self.store.db}__"
        bell, abort = keys.doorbell(self.queue_name), f"{space}:arq:abort"
        asked = self.inspector.channels
        await listener.subscribe(bell, f"{space}:{self.queue_name}", abort, *asked)
        while True:
            kind, channel, data = await listener.hear()
            if kind == "subscribe":
                self._wake.set()  # what came while nobody listened
            elif hear := asked.get(channel):
                hear(data)
            elif channel == bell and data.startswith(b"cancel "):
                await self._nudged([data[7:].decode()])
            elif channel == bell and data.startswith(b"input "):
                run = self.runs.get(data[6:].decode(errors="replace"))
                if run and run.context:
                    run.context.inputs.wake()
            elif channel == abort and data == b"zadd":
                await self._nudged(None)
                await self.store.run(SWEEP, [self.queue_name], [100, *self.queue.ends()])
                self._wake.set()
            elif channel == bell or data == b"zadd":  # not "zincr": claim.lua parks with it
                self._wake.set()

    async def _nudged(self, ids: list[str] | None) -> None:
        if ids is None or any(id in self.runs for id in ids):
            await self.leases.ask(ids)

    async def _notifications(self) -> bool:
        """Asks for keyspace notifications of sorted sets, on top of whatever is on; False where that is refused."""
        try:
            _, flags = await self.store.call("CONFIG", "GET", "notify-keyspace-events") or (b"", b"")
            known = flags.decode()
            if "K" in known and ("z" in known or "A" in known):
                return True
            await self.store.call("CONFIG", "SET", "notify-keyspace-events", f"{known}Kz")
        except ReplyError as error:
            log.info("no keyspace notifications; jobs of plain arq clients are found by polling", reason=str(error))
            return False
        return True

    # chores

    async def _tick(self) -> None:
        every_s = min(0.5, self.settings.stall_limit_s / 10)
        while True:
            self.leases.tick()
            before = self.loop.time()
            await asyncio.sleep(every_s)
            metrics.loop_lag.set(max(0.0, self.loop.time() - before - every_s))

    async def _heartbeat(self) -> None:
        while True:
            try:
                await self.heart_beat()
            except Unavailable:
                metrics.redis_errors.labels("heartbeat").inc()
            await asyncio.sleep(HEARTBEAT_S)

    async def heart_beat(self) -> None:
        """Says that this worker lives, what it can run and how much it does; replaces arq's one key per queue."""
        now = await self.store.now_ms()
        state = {
            "worker": self.name,
            "version": __version__,
            "queue": self.queue_name,
            "jobs": sorted(self.app.jobs),
            "running": len(self.runs),
            "max_jobs": self.max_jobs,
            "completed": self.jobs_complete,
            "failed": self.jobs_failed,
            "at": now,
        }
        await self.store.call("SET", keys.worker(self.name), to_json_bytes(state), "EX", int(HEARTBEAT_S * 3))
        await self.store.call("ZADD", keys.WORKERS, now, self.name)
        await self.store.call("ZREMRANGEBYSCORE", keys.WORKERS, "-inf", now - 3_600_000)

    def leave_behind(self, exit_code: int) -> None:
        """Ends the process here when jobs go on that heeded no cancel: the loop, or the interpreter, would wait for them.

        For its very end: everything of ours is written and closed.
        """
        if self.runner.stuck or self.runner.threads.alive:
            sys.stdout.flush()
            os._exit(exit_code)

    async def close(self) -> None:
        """Nothing: the store is its owner's to close, and `main()` leaves nothing open."""


async def _never(ctx: dict[Any, Any]) -> None:
    """Stands for a job in arq's registry, which must not be empty; jobs run through `run_job`."""


def serve_worker(app: App, settings: Settings) -> int:
    """Runs a worker until SIGTERM or SIGINT; returns the exit code.

    Prints a line that starts with `ready worker` once it claims jobs. Raises BadSettings.
    """
    with _runner() as runner:
        return runner.run(_serve(app, settings))


def _runner() -> asyncio.Runner:
    try:
        import uvloop
    except ImportError:
        return asyncio.Runner()
    return asyncio.Runner(loop_factory=uvloop.new_event_loop)


async def _serve(app: App, settings: Settings) -> int:
    store = Store.of(settings)
    try:
        with contextlib.suppress(Unavailable):
            await store.refuse_cluster()
        worker = Worker(app, settings, store)
        with heard(worker.stop, settings.drain_s):
            await run_until_stopped(worker)
    finally:
        await store.close()
    worker.leave_behind(0)
    return 0


async def run_until_stopped(worker: Worker) -> None:
    """Runs the worker and says when it is ready: its models are loaded, and Redis took a write."""

    async def ready() -> None:
        while worker.runner.model is None or not await worker.store.takes_writes():
            await asyncio.sleep(0.05)
        names = ", ".join(sorted(worker.app.jobs))
        # What was loaded stays: the collector need not look at it again, which takes 0.1 s each time and holds up every job.
        gc.collect()
        gc.freeze()
        print(f"ready worker {worker.name}: {names}", flush=True)  # noqa: T201 - the line that hosts wait for

    saying = asyncio.create_task(ready())
    try:
        await worker.main()
    finally:
        saying.cancel()
