"""One attempt, from its claim to its outcome.

The function runs in a task of its own; whoever wants it stopped gives the reason first and cancels then, so that
"cancelled by its user", "timed out", "lease lost" and "this process ends" are never mixed up. Whatever happens, the
attempt ends in exactly one `Outcome`, and one `match` writes it down.
"""

import asyncio
import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from rt import events, keys
from rt.app import App
from rt.codec import from_json_bytes, to_json_bytes
from rt.cursor import new_epoch
from rt.errors import JobError, Refused
from rt.jobs.broadcast import system_jobs
from rt.jobs.context import JobContext
from rt.jobs.ends import End
from rt.jobs.inputs import Inputs
from rt.jobs.job import Cancelled, Completed, Failed, HandedBack, JobDef, Lost, Outcome, Past, Retrying, brief, outcome_of
from rt.jobs.models import LanguageModel
from rt.jobs.outlet import Outlet
from rt.jobs.pace import Pace
from rt.jobs.payload import BadPayload, Payload, decode_job, encode_result
from rt.jobs.threads import Threads
from rt.jobs.turns import Turns
from rt.redis import Store, insist, load_script
from rt.settings import Settings
from rt.streams.log import Appended, Batch, StreamLog
from rt.streams.notifications import Notifications
from rt.streams.writer import Writer
from rt.telemetry import get_logger, metrics

ADOPT = load_script("streams/stream", "jobs/adopt")

log = get_logger("rt.runner")

#: What a function may still do once it is cancelled. One that does not end by then keeps running, but not as this attempt.
STOP_GRACE_S = 3.0

_UNREADABLE = Payload("<unknown>", (), {}, 0, "pickle", False)


@dataclass(slots=True, eq=False)
class Claim:
    """What `claim.lua` says of a claimed job. Times are Redis's, in Unix ms."""

    id: str
    payload: bytes
    tenant: str
    fence: str
    attempt: int
    tries: int
    #: "" and 0 for a plain arq client's job that nobody has adopted yet.
    job: str
    created: int
    started: int
    deadline: int
    #: Why an attempt follows another one, and what that left.
    restart: str
    checkpoint: bytes | None
    checkpoint_seq: int
    claimed: int
    stream: str

    @classmethod
    def read(cls, row: list[Any], now: int) -> "Claim":
        """Raises UnicodeDecodeError for an id that is no text."""
        id, payload, tenant, fence, attempt, tries, job, created, started, deadline, restart, checkpoint, checkpoint_seq = row
        return cls(
            name := id.decode(),
            payload,
            tenant.decode(),
            fence.decode(),
            int(attempt),
            int(tries),
            job.decode() if job else "",
            int(created or 0),
            int(started),
            int(deadline),
            restart.decode() if restart else "",
            checkpoint,
            int(checkpoint_seq or 0),
            now,
            keys.job_stream(name),
        )


@dataclass(slots=True, eq=False)
class Run:
    """A running attempt as the worker sees it."""

    claim: Claim
    #: Called once, when the function has ended or is left behind: its slot is free, although its end is still to be written.
    on_end: Callable[[], None] = lambda: None
    stopped: Outcome | None = None
    task: asyncio.Task[Outcome] | None = None
    context: JobContext | None = None
    began: float = field(default_factory=time.monotonic)
    #: Done when the function has ended, or did not end in its grace.
    ended: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def stop(self, why: Outcome) -> None:
        """Cancels the function; the run's outcome will be `why`. The first reason counts."""
        if self.task is not None and self.task.done():
            return  # its outcome stands, and is being written down
        if self.stopped is None:
            self.stopped = why
        if self.context is not None:
            self.context.cancelled = True
        if self.task is not None:
            self.task.cancel()
            self.task.get_loop().call_later(STOP_GRACE_S, self.end)

    def end(self, _: object = None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)
            self.on_end()


class Runner:
    """Runs claims. `model` is set once it is loaded."""

    def __init__(
        self,
        app: App,
        settings: Settings,
        store: Store,
        streams: StreamLog,
        writer: Writer[Batch, Appended],
        ends: Writer[End, str],
        worker: str,
    ) -> None:
        self._settings, self._store, self._streams = settings, store, streams
        self._writer, self._ends = writer, ends
        self._worker = worker
        self._jobs = system_jobs(Notifications(store, streams, settings)) | app.jobs
        self.model: LanguageModel | None = None
        #: Functions that went on after their cancel and their grace; what they emit goes nowhere.
        self.stuck: set[asyncio.Task[Outcome]] = set()
        self.threads = Threads()
        self._turns, self._pace = Turns(), Pace()

    async def run(self, run: Run) -> Outcome:
        """Runs an attempt and settles it. Waits for Redis where it must; raises nothing but CancelledError."""
        claim = run.claim
        outlet = Outlet(
            claim.tenant, claim.stream, claim.fence, claim.attempt, self._writer, self._pace, lambda said: run.stop(_refused(said))
        )
        try:
            payload = decode_job(claim.payload)
        except BadPayload as error:
            run.end()
            return await self._settle(
                run, outlet, _UNREADABLE, Failed({"code": "invalid_input", "message": str(error), "temporary": False})
            )
        run.task = asyncio.create_task(self._attempt(run, outlet, payload), name=f"job {claim.id}")
        run.task.add_done_callback(run.end)
        if run.stopped is not None:
            run.stop(run.stopped)
        try:
            await run.ended
        except asyncio.CancelledError:
            # The worker itself is being torn down: the lease will lapse, and another attempt follows.
            run.task.cancel()
            await asyncio.wait({run.task}, timeout=STOP_GRACE_S)
            self._leave(run)
            raise
        self._leave(run)
        if run.stopped is not None:
            outcome = run.stopped
        elif run.task.cancelled():  # the function cancelled itself
            outcome = Failed({"code": "internal", "message": "the job cancelled itself", "temporary": False})
        else:
            outcome = run.task.result()
        return await self._settle(run, outlet, payload, outcome)

    def _leave(self, run: Run) -> None:
        """A function that swallows its cancels cannot be ended; it is left behind, so that its slot and the job are not."""
        task = run.task
        if task is None or task.done():
            return
        log.error("a job goes on after it was cancelled", job_id=run.claim.id, after_s=STOP_GRACE_S)
        self.stuck.add(task)
        task.add_done_callback(self.stuck.discard)
        task.add_done_callback(lambda one: one.cancelled() or one.exception())

    async def _attempt(self, run: Run, outlet: Outlet, payload: Payload) -> Outcome:
        """The function's own task: its outcome, unless somebody stopped it."""
        claim = run.claim
        job = self._jobs.get(payload.function)
        try:
            if not claim.job:
                await self._adopt(claim, payload, job)
            if len(claim.stream) > len("job:") + keys.MAX_ID_CHARS:  # a plain arq client's: nobody could name its stream
                message = f"the job's id is longer than {keys.MAX_ID_CHARS} characters once percent-encoded"
                return Failed({"code": "invalid_input", "message": message, "temporary": False})
            if job is None:
                return Failed({"code": "unknown_job", "message": f"no job named {payload.function!r} is registered", "temporary": False})
            try:
                input = job.check(job.named(payload.args, payload.kwargs))
            except Refused as error:
                return Failed({"code": "invalid_input", "message": error.message, "temporary": False})
            past = Past()
            if claim.attempt > 1:
                past, discard_after = await self._past(claim, job)
                outlet.add("job.restarted", {"reason": claim.restart or "lease_lost", "discard_after": discard_after}, flat=True)
            outlet.add("job.started", {"worker": self._worker}, flat=True)
            created = claim.created or payload.enqueued_ms
            metrics.queue_wait_seconds.labels(job.name).observe(max(0.0, (claim.claimed - created) / 1000))
            return await self._call(run, outlet, job, input.__dict__, past)
        except (Exception, SystemExit) as error:  # a library's sys.exit() would end the worker
            if job is None:
                raise
            if not isinstance(error, JobError):
                log.warning("job raised", job_id=claim.id, job=job.name, exc_info=error)
            return outcome_of(error, job, claim.tries)

    async def _call(self, run: Run, outlet: Outlet, job: JobDef, input: dict[str, Any], past: Past) -> Outcome:
        claim = run.claim
        loop = asyncio.get_running_loop()
        # The deadline is Redis's time; what is left of it is counted on this process's own clock from the claim on.
        left_s = (claim.deadline - claim.claimed) / 1000 - (time.monotonic() - run.began)
        deadline, idle_s = loop.time() + left_s, job.idle_timeout_s
        assert self.model is not None
        try:
            async with asyncio.timeout_at(deadline if idle_s is None else min(deadline, loop.time() + idle_s)) as limit:

                def touch(waiting: bool) -> None:
                    if idle_s is not None and not context.cancelled and not limit.expired():
                        limit.reschedule(deadline if waiting else min(deadline, loop.time() + idle_s))

                run.context = context = JobContext(
                    id=claim.id,
                    tenant=claim.tenant,
                    attempt=claim.attempt,
                    tries=claim.tries,
                    stream=claim.stream,
                    past=past,
                    outlet=outlet,
                    turns=self._turns,
                    inputs=Inputs(self._store, claim.tenant, claim.id, touch),
                    deadline=deadline,
                    touch=touch,
                    settings=self._settings,
                    model=self.model,
                    job=job.name,
                )
                if inspect.iscoroutinefunction(job.function):
                    value = await job.function(context, **input)
                else:
                    value = await self.threads.run(partial(job.function, context, **input), f"job {claim.id}")
        except TimeoutError:
            if not limit.expired():
                raise
            if idle_s is not None and (limit.when() or 0) < deadline:
                return Failed({"code": "idle_timeout", "message": f"silent for {idle_s:g} s", "temporary": False})
            return Failed({"code": "timeout", "message": f"not finished within {left_s:.1f} s", "temporary": False})
        finally:
            if run.context is not None:
                run.context.cancelled = True
        return Completed(value, run.context.usage or None)

    async def _adopt(self, claim: Claim, payload: Payload, job: JobDef | None) -> None:
        timeout_s = (job.timeout_s if job else None) or self._settings.job_timeout_s
        names = [keys.log(claim.tenant, claim.stream), keys.meta(claim.tenant, claim.stream), keys.jobs(claim.tenant)]
        queued = events.encode("job.queued", claim.stream, {"job": payload.function}, _now())
        args: list[Any] = [new_epoch(), claim.fence, claim.id, claim.tenant, self._settings.queue, int(timeout_s * 1000)]
        args += [queued, *self._streams.keep("job:-")]
        # Nobody's job: read with `admin`, and announced nowhere.
        known = {"job": payload.function, "created": payload.enqueued_ms, "max": job.max_attempts if job else 1, "owner": "", "reports": ""}
        args += [part for pair in known.items() for part in pair]
        deadline = await insist("adopt", self._store.run, ADOPT, names, args)
        if deadline:
            claim.deadline = int(deadline)

    async def _past(self, claim: Claim, job: JobDef) -> tuple[Past, int]:
        """What still stands of earlier attempts, and the seq after which everything of theirs is discarded."""
        standing: list[tuple[int, dict[str, Any]]] = []
        after, whole = 0, True
        while True:
            page = await insist("past", self._streams.read, claim.tenant, claim.stream, after)
            whole = whole and page.head.first <= after + 1
            for raw in page.events:
                event = from_json_bytes(raw)
                after = event["seq"]
                if event["type"] == "job.delta":
                    standing.append((after, event["data"]))
                elif event["type"] == "job.restarted":
                    standing = [one for one in standing if one[0] <= event["data"]["discard_after"]]
            if after >= page.head.top or not page.events:
                break
        saved = claim.checkpoint
        checkpoint = from_json_bytes(saved) if saved else None
        # Where the log does not go back to the beginning, what was streamed is not known: only a checkpoint helps.
        if whole and job.keep(everything := _as_past(checkpoint, standing)):
            return everything, standing[-1][0] if standing else 0
        if saved is None:
            return Past(), 0
        seq = claim.checkpoint_seq
        return _as_past(checkpoint, [one for one in standing if one[0] <= seq] if whole else []), seq

    async def _settle(self, run: Run, outlet: Outlet, payload: Payload, outcome: Outcome) -> Outcome:
        """Writes the outcome down; what stands is returned (a cancel may have come first, another attempt too)."""
        await outlet.wait_landed()
        claim = run.claim
        if outlet.refused is not None and not isinstance(outcome, Cancelled | Lost):
            outcome = _refused(outlet.refused)
        usage = run.context.usage if run.context else {}
        waiting = outlet.close()
        while not isinstance(outcome, Lost):
            kind, data, delay_ms, success, value = self._written(run, outcome, usage)
            batch = list(waiting) if kind != "cancelled" else []
            if data is not None:
                try:
                    event = events.encode(f"job.{kind}", claim.stream, data, _now(), attempt=claim.attempt)
                    if data.get("result") is not None or usage or "error" in data:
                        from_json_bytes(event)  # a result that nobody could read again is none
                except ValueError:
                    message = "the result has no JSON form, or is nested too deep"
                    outcome, usage = Failed({"code": "bad_result", "message": message, "temporary": False}), {}
                    continue
                if len(event) > events.MAX_EVENT_BYTES:
                    outcome, usage = Failed({"code": "too_large", "message": f"a result of {len(event)} bytes", "temporary": False}), {}
                    continue
                batch.append(event)
            arq_result = self._arq_result(claim, payload, success, value) if kind in ("completed", "failed", "cancelled") else b""
            parts = [data.get(name) if data else None for name in ("result", "error", "usage")]
            args = [
                *(claim.id, claim.tenant, claim.fence, kind, delay_ms),
                *(b"" if one is None and not (kind == "completed" and i == 0) else to_json_bytes(one) for i, one in enumerate(parts)),
                *(arq_result, to_json_bytes(brief(data["error"])) if data and "error" in data else b""),
                *(outlet.answered, len(batch), *batch),
            ]
            end = End(claim.tenant, claim.stream, args)
            self._ends.put(end)
            said, _, by = (await end.answer).partition(" ")
            if said == "cancelled":
                outcome = Cancelled(by)
                continue
            if said == "behind":
                outcome = HandedBack()
                continue
            if said == "fenced":
                outcome = Lost()
            break
        if isinstance(outcome, Lost):
            metrics.leases_lost.inc()
        metrics.jobs_finished.labels(payload.function if payload.function in self._jobs else "_other", type(outcome).__name__).inc()
        return outcome

    def _written(self, run: Run, outcome: Outcome, usage: dict[str, Any]) -> tuple[str, dict[str, Any] | None, int, bool, Any]:
        """How an outcome is written: kind, the event's data, delay, and arq's success and result."""
        spent = {"usage": usage} if usage else {}
        match outcome:
            case Completed(result):
                timings = {"run_ms": round((time.monotonic() - run.began) * 1000)}
                if run.claim.created:
                    timings["queued_ms"] = max(0, run.claim.started - run.claim.created)
                return "completed", {"result": result, **spent, "timings": timings}, 0, True, result
            case Failed(error, exception):
                return "failed", {"error": error, **spent}, 0, False, exception or RuntimeError(f"{error['code']}: {error['message']}")
            case Retrying(error, delay_s):
                return "retrying", {"delay_ms": int(delay_s * 1000), "error": error}, int(delay_s * 1000), False, None
            case Cancelled(by):
                return "cancelled", {"by": by, **spent}, 0, False, asyncio.CancelledError()
            case HandedBack() | Lost():
                return "handed_back", None, 0, False, None

    def _arq_result(self, claim: Claim, payload: Payload, success: bool, value: Any) -> bytes:
        if not self._settings.keep_result_s:
            return b""
        return encode_result(
            payload,
            job_id=claim.id,
            queue=self._settings.queue,
            tries=claim.tries,
            success=success,
            result=value,
            started_ms=claim.started,
            finished_ms=_now(),
        )


def _refused(said: Appended) -> Outcome:
    match said.verdict:
        case "cancelled":
            return Cancelled(said.by)
        case "behind":
            return HandedBack()
        case _:
            return Lost()


def _as_past(checkpoint: Any, standing: list[tuple[int, dict[str, Any]]]) -> Past:
    text = "".join(data["text"] for _, data in standing if "text" in data)
    return Past(checkpoint, text, tuple(data["data"] for _, data in standing if "data" in data))


def _now() -> int:
    return int(time.time() * 1000)
