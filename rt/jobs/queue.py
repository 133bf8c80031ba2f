"""The job queue: accept, look, cancel, announce. Everything but running.

Jobs are written as arq 0.28 writes them, so that arq's clients and ours share one queue; what arq does not know (owner,
attempt, fence, result, where the job is announced) stands in the meta of the job's stream.
"""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from arq.constants import job_key_prefix, result_key_prefix

from rt import events, keys
from rt.codec import from_json_bytes
from rt.cursor import new_epoch
from rt.errors import Refused
from rt.jobs.job import TERMINAL_STATUSES, JobDef
from rt.jobs.payload import BadPayload, decode_job, encode_job, lua_results
from rt.redis import Store, load_script
from rt.settings import Settings
from rt.streams.log import NOBODY, RECORD_TTL_S, Authorship, StreamLog, check_verdict
from rt.telemetry import metrics

T = TypeVar("T")

ACCEPT = load_script("streams/stream", "jobs/job", "jobs/accept")
CANCEL = load_script("streams/stream", "jobs/job", "jobs/cancel")
LOOK = load_script("streams/stream", "jobs/job", "jobs/look")

#: arq's own lifetime of a payload; the janitor keeps those of unfinished jobs from expiring.
PAYLOAD_TTL_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job to accept. `input` is validated already. `reports` are the streams in which it is announced."""

    job: JobDef
    input: dict[str, Any]
    tenant: str
    owner: str
    reports: tuple[str, ...] = ()
    request_id: str = ""
    by: Authorship = NOBODY
    delay_s: float = 0.0
    timeout_s: float | None = None
    #: The job whose dead letter is run again: accepted once for each letter.
    retry_of: str = ""


@dataclass(frozen=True, slots=True)
class Accepted:
    job_id: str
    duplicate: bool

    @property
    def stream(self) -> str:
        return keys.job_stream(self.job_id)


@dataclass(frozen=True, slots=True)
class JobRecord:
    """What is known of a job. Times are Unix ms, 0 where it has not happened."""

    id: str
    job: str
    status: str
    attempt: int
    owner: str
    session: str
    reports: tuple[str, ...]
    created_ms: int
    started_ms: int = 0
    finished_ms: int = 0
    result: Any = None
    error: Any = None
    usage: Any = None
    request_id: str = ""
    timeout_ms: int = 0

    def public(self) -> dict[str, Any]:
        """The answer of `GET /v1/jobs/{id}`."""
        out: dict[str, Any] = {
            "job_id": self.id,
            "job": self.job,
            "status": self.status,
            "attempt": self.attempt,
            "created_at": rfc3339(self.created_ms),
        }
        if self.started_ms:
            out["started_at"] = rfc3339(self.started_ms)
        if self.finished_ms:
            out["finished_at"] = rfc3339(self.finished_ms)
        if self.status == "completed":
            out["result"] = self.result
        if self.error is not None:
            out["error"] = self.error
        if self.usage is not None:
            out["usage"] = self.usage
        return out


def rfc3339(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class JobQueue:
    """All calls raise `Unavailable` when Redis does not answer; `accept` may then be repeated with the same records."""

    def __init__(self, store: Store, streams: StreamLog, settings: Settings) -> None:
        self._store = store
        self._streams = streams
        self._settings = settings
        self.name = settings.queue
        self._ends = (*streams.keep("job:-"), settings.keep_result_s * 1000, *lua_results(), *letter_bounds(settings))

    def ends(self) -> list[Any]:
        """What `job.lua` needs to end a job by itself."""
        return [new_epoch(), *self._ends]

    async def accept(self, new: NewJob, *, hash: str = "-", records: Iterable[str] = (), job_id: str | None = None) -> Accepted:
        """Queues a job with its `job.queued` and `job.created`, once for each of `records`; from its return it reaches a terminal event.

        Raises Refused: "queue_full" with a delay, "conflict" when a record was made by another request, "not_found" when the
        letter that it runs again is gone, TakenOver.
        """
        id = job_id or new_job_id()
        stream = keys.job_stream(id)
        now = int(time.time() * 1000)
        timeout_s = new.timeout_s or new.job.timeout_s or self._settings.job_timeout_s
        meta = keys.meta(new.tenant, stream)
        payload = encode_job(new.tenant, new.job.name, new.input, now)
        if len(payload) > events.MAX_EVENT_BYTES:
            raise Refused("too_large", f"the input is {len(payload)} bytes; at most {events.MAX_EVENT_BYTES} are taken")
        told = {"job_id": id, "job": new.job.name} | ({"request_id": new.request_id} if new.request_id else {})
        reply = await self._store.run(
            ACCEPT,
            [
                keys.log(new.tenant, stream),
                meta,
                keys.cursors(new.tenant, new.by.session) if new.by.session else meta,
                self.name,
                job_key_prefix + id,
                keys.jobs(new.tenant),
                keys.jobs_of(new.tenant, new.owner),
                keys.letter(new.tenant, new.retry_of) if new.retry_of else meta,
                *(part for name in new.reports for part in (keys.log(new.tenant, name), keys.meta(new.tenant, name))),
                *records,
            ],
            [
                new_epoch(),
                id,
                payload,
                events.encode("job.queued", stream, {"job": new.job.name}, now),
                *self._streams.keep("job:-"),
                hash,
                RECORD_TTL_S,
                new.by.generation,
                self._settings.queue_limit,
                int(new.delay_s * 1000),
                PAYLOAD_TTL_MS,
                self._settings.queue_wait_s * 1000,
                new.tenant,
                " ".join(new.reports),
                len(new.reports),
                *(part for name in new.reports for part in (events.encode("job.created", name, told, now), *self._streams.keep(name))),
                *("job", new.job.name, "owner", new.owner, "session", new.by.session, "request_id", new.request_id),
                *("max", new.job.max_attempts, "timeout_ms", int(timeout_s * 1000)),
                *(("retry_of", new.retry_of) if new.retry_of else ()),
            ],
        )
        if reply[0] == b"full":
            raise Refused("queue_full", f"{int(reply[1])} jobs are waiting; try again later", retry_after_ms=1000)
        if reply[0] == b"gone":
            raise Refused("not_found", "there is no such dead letter")
        if check_verdict(reply[0]) == "ok":
            metrics.jobs_accepted.labels(new.job.name).inc()
        found, _, duplicate = reply[1].decode().partition(" ")
        return Accepted(found, duplicate == "1")

    async def get(self, tenant: str, job_id: str) -> JobRecord | None:
        """A job's record, or None. A plain arq client's job is known from its payload until a worker has it."""
        return (await self.look(tenant, job_id))[0]

    async def look(self, tenant: str, job_id: str) -> tuple[JobRecord | None, dict[str, bytes]]:
        """As `get`, with everything that stands in the job's meta."""
        unclaimed, *known = await self._store.run(LOOK, [keys.meta(tenant, keys.job_stream(job_id)), self.name], [job_id, tenant])
        if not unclaimed:
            fields = hash_fields(known)
            return (_record(job_id, fields), fields) if "status" in fields else (None, {})
        try:
            read = decode_job(unclaimed)
        except BadPayload:
            return JobRecord(job_id, "<unreadable>", "queued", 0, "", "", (), 0), {}
        return JobRecord(job_id, read.function, "queued", 0, "", "", (), read.enqueued_ms), {}

    async def list(
        self,
        tenant: str,
        owner: str | None,
        *,
        status: str | None = None,
        job: str | None = None,
        limit: int = 50,
        after: str | None = None,
    ) -> tuple[list[JobRecord], str | None]:
        """Jobs, newest first, of one owner (None: of all), and the cursor of the next page or None.

        `after` is such a cursor: raises Refused("invalid_frame") for anything else. At most 2,000 jobs are looked at.
        """

        async def wanted(id: str) -> JobRecord | None:
            record = await self.get(tenant, id)
            fits = record and (status is None or record.status == status) and (job is None or record.job == job)
            return record if fits else None

        return await newest(self._store, keys.jobs(tenant) if owner is None else keys.jobs_of(tenant, owner), wanted, limit, after)

    async def cancel(self, tenant: str, job_id: str, by: str) -> tuple[str, str]:
        """`(status before, status now)`: a waiting job is cancelled at once, a running one within its next write or renewal.

        Raises Refused("not_found"), or "conflict" when the job completed or failed.
        """
        meta = keys.meta(tenant, keys.job_stream(job_id))
        reply = await self._store.run(CANCEL, [meta, self.name], [job_id, tenant, by, *self.ends()])
        if reply[0] is None:
            raise Refused("not_found", "there is no such job")
        before, now = reply[0].decode(), reply[1].decode()
        if before in TERMINAL_STATUSES and before != "cancelled":
            raise Refused("conflict", f"the job has {before} already", facts={"job_id": job_id, "status": before})
        return before, now

    async def payload(self, job_id: str) -> bytes | None:
        """What an unfinished job was given, as it stands in the queue; None once it has ended."""
        found: bytes | None = await self._store.call("GET", job_key_prefix + job_id)
        return found

    async def arq_result(self, job_id: str) -> bytes | None:
        """What is kept for arq's clients of a job that has ended, for `keep_result_s`."""
        found: bytes | None = await self._store.call("GET", result_key_prefix + job_id)
        return found

    async def depth(self) -> dict[str, int]:
        """Jobs that wait (deferred ones too) and jobs that run."""
        queued = int(await self._store.call("ZCARD", self.name))
        running = int(await self._store.call("ZCARD", keys.leases(self.name)))
        return {"waiting": queued - running, "running": running}


def new_job_id() -> str:
    return secrets.token_hex(12)


def letter_bounds(settings: Settings) -> tuple[int, int, int]:
    """What bounds dead letters, as `job.lua` takes it: age in s, letters of a tenant, bytes of a payload."""
    return settings.dead_letter_age_s, settings.dead_letter_length, events.MAX_EVENT_BYTES


async def newest(
    store: Store, index: str, load: Callable[[str], Awaitable[T | None]], limit: int, after: str | None
) -> tuple[list[T], str | None]:
    """A page of what stands in a sorted set by time, newest first, and the cursor of the next page or None.

    `load` makes an item of a member, or None to leave it out; at most 2,000 members are looked at. Raises
    Refused("invalid_frame") when `after` is no such cursor.
    """
    below, skip = _list_cursor(after)
    found: list[T] = []
    looked = 0
    while looked < 2000:
        # Without a filter the first page is all that is looked at.
        count = 100 if looked else min(limit, 100)
        page = await store.call("ZRANGE", index, below, "-inf", "BYSCORE", "REV", "LIMIT", skip, count, "WITHSCORES")
        if not page:
            return found, None
        # An id of a plain arq client that is no text cannot be named: nothing is found under what it decodes to.
        ids, scores = [one.decode(errors="replace") for one in page[::2]], [int(float(one)) for one in page[1::2]]
        for item, score in zip(await asyncio.gather(*map(load, ids)), scores, strict=True):
            looked += 1
            # The cursor is a time and how many of that very millisecond were seen: ids need no order.
            skip = skip + 1 if str(score) == below else 1
            below = str(score)
            if item is not None:
                found.append(item)
                if len(found) == limit:
                    return found, f"{below}.{skip}"
    return found, f"{below}.{skip}"


def hash_fields(reply: list[bytes]) -> dict[str, bytes]:
    return {reply[i].decode(): reply[i + 1] for i in range(0, len(reply), 2)}


def _record(job_id: str, fields: dict[str, bytes]) -> JobRecord:
    def text(name: str) -> str:
        return fields.get(name, b"").decode()

    def number(name: str) -> int:
        return int(float(fields.get(name) or 0))

    def value(name: str) -> Any:
        return from_json_bytes(fields[name]) if fields.get(name) else None

    status: str = text("status")
    return JobRecord(
        id=job_id,
        job=text("job"),
        status=status,
        attempt=number("attempt"),
        owner=text("owner"),
        session=text("session"),
        reports=tuple(text("reports").split()),
        created_ms=number("created"),
        started_ms=number("started"),
        finished_ms=number("finished"),
        result=value("result"),
        error=value("error"),
        usage=value("usage"),
        request_id=text("request_id"),
        timeout_ms=number("timeout_ms"),
    )


def _list_cursor(after: str | None) -> tuple[str, int]:
    if after is None:
        return "+inf", 0
    below, dot, skip = after.partition(".")
    if not dot or not below.isascii() or not below.isdecimal() or not skip.isascii() or not skip.isdecimal() or len(after) > 32:
        raise Refused.field("invalid_frame", "cursor", "not a cursor of this list")
    return below, int(skip)
