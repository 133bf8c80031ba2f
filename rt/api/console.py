"""The console over HTTP: what Redis has, and what each process says of itself, for whoever has the scope `admin`.

What is durable (jobs, queue, leases, letters, sessions, streams) is read from Redis; what lives in processes
(connections, mailboxes, runs, counters) is asked of them at that moment (`rt.inspect`). Everything is bounded, is the
caller's own tenant's, and holds no token. Cancelling and dead letters have calls of their own (`/v1/jobs`,
`/v1/dead-letters`); running a job again is here.
"""

import asyncio
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Response
from pydantic import BaseModel, Field

from rt import keys
from rt.api.auth import Caller
from rt.api.insight import ORDERS
from rt.api.jobs import AcceptedJob, Status, accepted_job
from rt.api.problems import responses
from rt.api.request import IdempotencyKey, JobId, NamedStream, Parts, answer, key_records
from rt.api.services import Services
from rt.codec import to_json_bytes
from rt.errors import Refused
from rt.events import seq_of
from rt.inspect import Answers
from rt.jobs.payload import BadPayload
from rt.jobs.queue import JobRecord
from rt.streams.sessions import is_session_id, stored_cursors, stored_session
from rt.streams.timeline import excerpt, timeline
from rt.tokens import Claims

#: Of a stream at least so many of the newest events are shown beside the first page, twice as many at most. Where they begin moves
#: in steps of as many, so that a person who reads what a job says is not shown other lines each second.
_NEWEST = 100
_NEWEST_BYTES = 256 * 1024
#: Sessions whose stored cursors are looked up for one stream.
_READERS = 100

router = APIRouter(tags=["console"])


async def _admin(who: Caller) -> Claims:
    who.need("admin")
    return who


Admin = Annotated[Claims, Depends(_admin)]
_PROBLEMS = (401, 403, 422, 503)


class Asked(BaseModel):
    """`asked`: processes that heard the question; `answered`: those whose answers are in here. Fewer: one hangs, or has just died."""

    asked: int
    answered: int


class Excerpt(BaseModel):
    """`text` is the beginning of `bytes` bytes, 2 KiB at most."""

    bytes: int
    text: str


class Process(BaseModel):
    """What a process says of itself; `told` has its version, times, memory, limits and metrics (`numbers`)."""

    process: str
    kind: Literal["web", "worker"]
    after_ms: float = Field(description="How long its answer took.")
    told: dict[str, Any]


class Counts(BaseModel):
    """`waiting` jobs are `due` or `deferred`; `lapsed` are leases that nobody has renewed. `jobs` and `dead_letters` are the tenant's."""

    queue: str
    waiting: int
    due: int
    deferred: int
    running: int
    lapsed: int
    oldest_s: float = Field(description="How long the first job that is due has been.")
    limit: int
    jobs: int
    dead_letters: int


class Overview(Asked):
    mode: Literal["read", "full"]
    at_ms: int = Field(description="Redis's time, Unix ms.")
    counts: Counts
    processes: list[Process]


class ConnectionItem(BaseModel):
    process: str
    connection: str
    subject: str
    session: str
    generation: int
    client: str = Field(description="What the client calls itself.")
    age_s: float
    silent_s: float = Field(description="Since its last frame.")
    mailbox: int = Field(description="Messages that wait for its actor.")
    outbox_bytes: int
    outbox_frames: int
    follows: int
    closing: bool


class Connections(Asked):
    """`items` are the first of `total`, of all processes together."""

    total: int
    mailbox: int
    outbox_bytes: int
    items: list[ConnectionItem]


class SessionItem(BaseModel):
    session: str
    subject: str
    process: str
    connection: str
    age_s: float
    follows: int
    generation: int
    stored: bool = Field(description="Whether Redis has it.")
    expires_s: int | None


class Sessions(Asked):
    """Sessions that are connected, the oldest connection first. One that is not is found by its id.

    One that is being taken over is there twice, under two generations.
    """

    total: int
    items: list[SessionItem]


class Followed(BaseModel):
    """`cursor` is stored; `top`, `sent` and `acked` are of the connection, where there is one."""

    stream: str
    cursor: str | None = None
    by: str | None = Field(None, description="The stream and seq of the `job.created` that announced it.")
    top: int | None = None
    sent: int | None = None
    acked: int | None = None


class SessionDetail(Asked):
    session: str
    owner: str | None
    generation: int | None
    expires_s: int | None
    follows: int
    streams: list[Followed] = Field(description="The first 200.")
    done: list[str] = Field(description="Streams of jobs that it is done with.")
    connection: ConnectionItem | None


class DueJob(BaseModel):
    job_id: str
    job: str | None = Field(description="null: a plain arq client's, which no worker has read yet.")
    due_at: str
    waits_s: float | None = None


class LeasedJob(BaseModel):
    job_id: str
    job: str | None
    ends_in_s: float = Field(description="Below 0: lapsed, and about to begin elsewhere.")


class Queue(Counts):
    next: list[DueJob] = Field(description="Of the first 50 that are due.")
    later: list[DueJob] = Field(description="Of the first 50 that are put off.")
    leases: list[LeasedJob] = Field(description="Of the 50 that end first.")


class Run(BaseModel):
    process: str = Field(description="The worker.")
    job_id: str
    job: str
    attempt: int
    ran_s: float
    deadline_ms: int
    stopping: str | None = Field(description="Why it is being stopped.")
    lease_s: float | None = None


class WorkerItem(BaseModel):
    """`live`: it answered. `silent`: it said so within 15 s but does not answer: it was killed, or hangs. `gone`: neither."""

    worker: str
    state: Literal["live", "silent", "gone"]
    seen_s: float | None = Field(description="Since its last heartbeat.")
    after_ms: float | None = None
    version: str | None = None
    uptime_s: float | None = None
    running: int = 0
    max_jobs: int | None = None
    draining: bool = False
    ready: bool = True
    stuck: int = Field(0, description="Functions that heeded no cancel.")
    completed: int = 0
    failed: int = 0
    retried: int = 0
    jobs: list[str] = []
    cpu_s: float | None = None
    memory_bytes: int | None = None
    runs: list[Run] = Field([], description="The tenant's, the first 200.")


class Workers(Asked):
    items: list[WorkerItem]


class ConsoleJob(BaseModel):
    job_id: str
    job: str
    status: Status
    attempt: int
    owner: str | None
    session: str | None
    created_at: str
    started_at: str | None = None
    finished_at: str | None = None
    error: dict[str, Any] | None = None


class ConsoleJobs(BaseModel):
    items: list[ConsoleJob]
    next: str | None


class Line(BaseModel):
    """An event, or deltas and progress in a row: then `to` and `to_ts` are of the last one, `data` is what the deltas say together."""

    seq: int
    type: str
    ts: int
    attempt: int | None = None
    to: int | None = None
    to_ts: int | None = None
    data: Excerpt
    progress: Excerpt | None = Field(None, description="The last progress beside the deltas.")


class Reader(BaseModel):
    """Who follows a stream now, and how far it is: `sent` by the server, `acked` by the client."""

    process: str
    by: Literal["websocket", "sse"]
    subject: str
    session: str | None = None
    connection: str | None = None
    sent: int
    acked: int | None = None


class StoredCursor(BaseModel):
    """How far a session has acknowledged a stream, as it is stored.

    `cursor` is null where it does not follow it: it has not heard of it yet, or has acknowledged a job's end, or left it (then `done`
    as long as the job's `job.created` is not acknowledged as well).
    """

    session: str
    owner: str
    cursor: str | None
    done: bool


class StreamDetail(Asked):
    """`lines` are the first page after `after` and, where that was not asked for, the newest; a jump in `seq` is what is left out."""

    stream: str
    epoch: str | None
    top: int
    first: int
    lines: list[Line]
    readers: list[Reader]
    cursors: list[StoredCursor]


class JobError(BaseModel):
    attempt: int
    at: str
    code: str | None
    message: str | None
    temporary: bool | None


class JobDetail(ConsoleJob):
    tries: int = Field(description="Runs that count against `max_attempts`.")
    max_attempts: int | None
    timeout_s: float | None
    deadline_at: str | None
    reports: list[str]
    request_id: str | None
    retry_of: str | None
    cancelled_by: str | None
    checkpoint_bytes: int
    errors: list[JobError]
    usage: dict[str, Any] | None
    result: Excerpt | None
    place: int | None = Field(description="In the queue, the next one 1.")
    lease_s: float | None
    run: Run | None = Field(description="The run, as its worker tells it.")
    connection: ConnectionItem | None = Field(description="Of the session that submitted it.")
    stream: StreamDetail


class JobInput(BaseModel):
    """`place` is where it is kept; null, with the reason in `lost`, where it is not."""

    place: Literal["queue", "dead letter", "result"] | None
    lost: str | None
    input: Excerpt | None


@router.get("/v1/console/overview", response_model=Overview, responses=responses(*_PROBLEMS))
async def console_overview(who: Admin, parts: Parts) -> Response:
    """All processes with their metrics, and the queue in numbers."""
    found, counts, at_ms = await asyncio.gather(
        parts.inspector.ask("processes", who.tenant), parts.survey.counts(who.tenant), parts.store.now_ms()
    )
    processes = [{"process": one.process, "kind": one.kind, "after_ms": one.after_ms, "told": one.told} for one in found.all]
    return answer(_asked(found) | {"mode": parts.settings.console, "at_ms": at_ms, "counts": counts, "processes": processes})


Order = Literal["age", "silence", "mailbox", "outbox", "follows"]


@router.get("/v1/console/connections", response_model=Connections, responses=responses(*_PROBLEMS))
async def console_connections(
    who: Admin,
    parts: Parts,
    sort: Annotated[Order, Query(description="What is largest comes first.")] = "age",
    subject: Annotated[str | None, Query(max_length=128)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 100,
) -> Response:
    """Open WebSockets of all processes."""
    found = await parts.inspector.ask("connections", who.tenant, sort=sort, subject=subject, limit=limit)
    items = sorted(found.items("web"), key=lambda one: one[_FIELD[sort]], reverse=True)[:limit]
    totals = {name: found.total(name) for name in ("total", "mailbox", "outbox_bytes")}
    return answer(_asked(found) | totals | {"items": items})


_FIELD = {"age": "age_s", "silence": "silent_s", "mailbox": "mailbox", "outbox": "outbox_bytes", "follows": "follows"}
assert _FIELD.keys() == ORDERS.keys()


@router.get("/v1/console/sessions", response_model=Sessions, responses=responses(*_PROBLEMS))
async def console_sessions(
    who: Admin,
    parts: Parts,
    subject: Annotated[str | None, Query(max_length=128)] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 50,
) -> Response:
    """Sessions that are connected, the oldest connection first."""
    found = await parts.inspector.ask("connections", who.tenant, sort="age", subject=subject, limit=limit)
    shown = sorted(found.items("web"), key=lambda one: one["age_s"], reverse=True)[:limit]
    ttls = await asyncio.gather(*(parts.store.call("TTL", keys.cursors(who.tenant, one["session"])) for one in shown))
    taken = ("session", "subject", "process", "connection", "age_s", "follows", "generation")
    items = [
        {name: one[name] for name in taken} | {"stored": ttl != -2, "expires_s": ttl if ttl >= 0 else None}
        for one, ttl in zip(shown, ttls, strict=True)
    ]
    return answer(_asked(found) | {"total": found.total("total"), "items": items})


@router.get("/v1/console/sessions/{id}", response_model=SessionDetail, responses=responses(*_PROBLEMS, 404))
async def console_session(who: Admin, parts: Parts, id: str) -> Response:
    """What is stored of a session, and its connection."""
    if not is_session_id(id):
        raise Refused("not_found", "there is no such session")
    found, stored = await asyncio.gather(
        parts.inspector.ask("session", who.tenant, session=id), stored_session(parts.store, who.tenant, id)
    )
    live = max(found.items("web"), key=lambda one: int(one["generation"]), default=None)
    if stored is None and live is None:
        raise Refused("not_found", "there is no such session")
    streams: dict[str, dict[str, Any]] = {one["stream"]: one for one in (stored["streams"] if stored else ())}
    for one in live.pop("streams") if live else ():
        streams[one["stream"]] = streams.get(one["stream"], {}) | one
    told = {
        "session": id,
        "owner": stored["owner"] if stored else None,
        "generation": stored["generation"] if stored else None,
        "expires_s": stored["expires_s"] if stored else None,
        "follows": len(streams),
        "streams": list(streams.values())[:200],
        "done": stored["done"][:200] if stored else [],
        "connection": live,
    }
    return answer(_asked(found) | told)


@router.get("/v1/console/queue", response_model=Queue, responses=responses(*_PROBLEMS))
async def console_queue(who: Admin, parts: Parts) -> Response:
    """What waits, what is put off, and what is leased."""
    return answer(await parts.survey.queue(who.tenant))


@router.get("/v1/console/workers", response_model=Workers, responses=responses(*_PROBLEMS))
async def console_workers(who: Admin, parts: Parts) -> Response:
    """Workers of the last hour, with what they run now."""
    found, runs, known = await asyncio.gather(
        parts.inspector.ask("processes", who.tenant), parts.inspector.ask("runs", who.tenant), parts.survey.workers()
    )
    now, leases = await parts.store.now_ms(), await parts.survey.lease_ends([one["job_id"] for one in runs.items("worker")])
    busy: dict[str, list[dict[str, Any]]] = {}
    for one in runs.items("worker"):
        ends = leases.get(one["job_id"])
        busy.setdefault(one["process"], []).append(one | {"lease_s": None if ends is None else (ends - now) / 1000})
    live = {one.process: one for one in found.all if one.kind == "worker"}
    seen = {one["worker"]: one for one in known}
    items = []
    for name in live | seen:
        heard, beat = live.get(name), seen.get(name)
        said = heard.told if heard else (beat and beat["said"]) or {}
        state = "live" if heard else "silent" if said else "gone"
        item = {"worker": name, "state": state, "seen_s": beat["seen_s"] if beat else None, "after_ms": heard.after_ms if heard else None}
        items.append(item | {field: said[field] for field in _OF_A_WORKER if field in said} | {"runs": busy.get(name, [])})
    return answer(_asked(found) | {"items": items})


_OF_A_WORKER = WorkerItem.model_fields.keys() - {"worker", "state", "seen_s", "after_ms", "runs"}


@router.get("/v1/console/jobs", response_model=ConsoleJobs, responses=responses(*_PROBLEMS))
async def console_jobs(
    who: Admin,
    parts: Parts,
    status: Annotated[Status | None, Query()] = None,
    job: Annotated[str | None, Query(max_length=200, description="The name of a job function.")] = None,
    owner: Annotated[str | None, Query(max_length=128, description="Who submitted it.")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 50,
    cursor: Annotated[str | None, Query(max_length=64, description="The `next` of the page before.")] = None,
) -> Response:
    """Jobs, newest first. A page may be short and still have a `next`."""
    found, after = await parts.queue.list(who.tenant, owner, status=status, job=job, limit=limit, after=cursor)
    shown = ("job_id", "job", "status", "attempt", "created_at", "started_at", "finished_at", "error")

    def item(one: JobRecord) -> dict[str, Any]:
        told = one.public()
        return {name: told[name] for name in shown if name in told} | {"owner": one.owner or None, "session": one.session or None}

    return answer({"items": [item(one) for one in found], "next": after})


@router.get("/v1/console/jobs/{id}", response_model=JobDetail, responses=responses(*_PROBLEMS, 404))
async def console_job(who: Admin, parts: Parts, id: JobId) -> Response:
    """A job from its submission to its readers: its record, errors, lease, run, events, and who has acknowledged them."""
    found = await parts.survey.job(who.tenant, id)
    if found is None:
        raise Refused("not_found", "there is no such job")
    record, told = found
    sessions = [record.session, *(name.removeprefix("session:") for name in record.reports if name.startswith("session:"))]
    (stream, runs), connection = await asyncio.gather(
        _stream(parts, who.tenant, keys.job_stream(id), None, [one for one in sessions if one]),
        _connection(parts, who.tenant, record.session),
    )
    run = max(runs, key=lambda one: int(one["attempt"]), default=None)
    return answer(told | {"run": run, "connection": connection, "stream": stream})


@router.get("/v1/console/jobs/{id}/input", response_model=JobInput, responses=responses(*_PROBLEMS, 404))
async def console_job_input(who: Admin, parts: Parts, id: JobId) -> Response:
    """What a job was given, as far as it is kept: its size and its beginning."""
    try:
        kept = await parts.reruns.input(who.tenant, await _record(parts, who, id))
    except BadPayload as error:
        return answer({"place": None, "lost": str(error), "input": None})
    return answer({"place": kept.place, "lost": None, "input": excerpt(to_json_bytes(kept.value))})


@router.post(
    "/v1/console/jobs/{id}/run-again",
    status_code=202,
    response_model=AcceptedJob,
    responses=responses(
        *(*_PROBLEMS, 404, 409, 413),
        ok={"description": "The same key again, or a letter that was run again: the same job.", "model": AcceptedJob},
    ),
)
async def console_run_again(who: Admin, parts: Parts, id: JobId, idempotency_key: IdempotencyKey = None) -> Response:
    """Submits a job that has ended once more, as another job with the same input, owner, reports and timeout.

    409 where it has not ended, or its input is not kept any more. A job that failed is run again once, as its dead letter says.
    """
    if parts.settings.console != "full":
        raise Refused("forbidden", "this console is read-only (RT_CONSOLE=full)")
    records = key_records(who, idempotency_key)
    return accepted_job(*await parts.reruns.run_again(who.tenant, await _record(parts, who, id), records))


@router.get("/v1/console/streams/{stream}", response_model=StreamDetail, responses=responses(*_PROBLEMS, 404))
async def console_stream(
    who: Admin,
    parts: Parts,
    stream: NamedStream,
    after: Annotated[int | None, Query(ge=0, le=2**53, description="A seq: the page behind it, without the newest.")] = None,
) -> Response:
    """A stream's events, and who follows it."""
    sessions = [stream.id] if stream.kind == "session" else []
    told, _ = await _stream(parts, who.tenant, str(stream), after, sessions)
    if told["epoch"] is None:
        raise Refused("not_found", "there is no such stream")
    return answer(told)


async def _record(parts: Services, who: Claims, id: str) -> JobRecord:
    record = await parts.queue.get(who.tenant, id)
    if record is None:
        raise Refused("not_found", "there is no such job")
    return record


async def _connection(parts: Services, tenant: str, session: str) -> dict[str, Any] | None:
    """The `ConnectionItem` of a session that is connected."""
    if not session:
        return None
    found = (await parts.inspector.ask("session", tenant, session=session)).items("web")
    for one in found:
        del one["streams"]
    return max(found, key=lambda one: int(one["generation"]), default=None)


async def _stream(
    parts: Services, tenant: str, stream: str, after: int | None, sessions: list[str]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A `StreamDetail`, and the runs that write it."""
    found, page = await asyncio.gather(parts.inspector.ask("stream", tenant, stream=stream), parts.streams.read(tenant, stream, after or 0))
    events = page.events
    if after is None and page.head.epoch:
        seen = seq_of(events[-1]) if events else 0
        if seen < page.head.top:
            begin = max(seen, (page.head.top // _NEWEST - 1) * _NEWEST)
            newest = await parts.streams.read(tenant, stream, begin, max_bytes=_NEWEST_BYTES)
            events = events + newest.events
    readers = found.items("web")
    known = dict.fromkeys([*sessions, *(one["session"] for one in readers if "session" in one)])
    told = {
        "stream": stream,
        "epoch": page.head.epoch or None,
        "top": page.head.top,
        "first": page.head.first,
        "lines": timeline(events),
        "readers": readers,
        "cursors": await stored_cursors(parts.store, tenant, list(known)[:_READERS], stream),
    }
    return _asked(found) | told, found.items("worker")


def _asked(found: Answers) -> dict[str, int]:
    return {"asked": found.asked, "answered": len(found.all)}
