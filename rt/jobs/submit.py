"""Submitting a job on somebody's behalf: checked, and accepted once. The one way in for WebSocket, HTTP and handlers."""

from typing import Any

from rt import keys
from rt.app import App
from rt.errors import Refused
from rt.jobs.access import Access
from rt.jobs.job import JobDef
from rt.jobs.queue import Accepted, JobQueue, NewJob, new_job_id
from rt.keys import parse_stream
from rt.streams.commands import request_hash, until_not_busy
from rt.streams.log import Authorship
from rt.tokens import Claims

#: A month: a queue is no calendar.
MAX_DELAY_S = 30 * 86_400
MAX_TIMEOUT_S = 86_400


def submit_hash(job: str, input: Any, stream: str | None, delay_s: float, timeout_s: float | None) -> str:
    """What makes two submissions the same, over HTTP and WebSocket alike."""
    return request_hash(["job", job, input, stream, delay_s, timeout_s])


def named_job(app: App, name: str) -> JobDef:
    """The definition of a job that a client asks for. Raises Refused("unknown_job")."""
    job = app.jobs.get(name)
    if job is None:
        raise Refused("unknown_job", f"no job is named {name[:64]!r}", details=[{"loc": ["job"], "msg": "unknown"}])
    return job


async def submit(
    queue: JobQueue,
    access: Access,
    who: Claims,
    by: Authorship,
    job: JobDef,
    input: dict[str, Any],
    *,
    stream: str | None,
    delay_s: float,
    timeout_s: float | None,
    records: list[str],
    job_id: str = "",
) -> Accepted:
    """Checks and accepts a job, which is announced in the submitting session's stream, and in `stream`. Raises Refused.

    `job_id` is of `new_job_id`; by default one is made.
    """
    if not 0 <= delay_s <= MAX_DELAY_S or not (timeout_s is None or 0 < timeout_s <= MAX_TIMEOUT_S):
        raise Refused("invalid_frame", "delay_s or timeout_s is out of range")
    checked = job.check(input)
    reports = [keys.session_stream(by.session)] if by.session else []
    if stream is not None:
        target = parse_stream(stream, "options.stream" if by.session else "stream")
        await access.report_to(who, target)
        if str(target) not in reports:
            reports.append(str(target))
    new = NewJob(
        job=job,
        input=checked.model_dump(mode="json"),
        tenant=who.tenant,
        owner=who.subject,
        reports=tuple(reports),
        request_id=request_id(records),
        by=by,
        delay_s=delay_s,
        timeout_s=timeout_s,
    )
    hash = submit_hash(job.name, input, stream, delay_s, timeout_s) if records else "-"
    job_id = job_id or new_job_id()
    accepted: Accepted = await until_not_busy(lambda: queue.accept(new, hash=hash, records=records, job_id=job_id))
    return accepted


def request_id(records: list[str]) -> str:
    """The client's own command id, for `job.created`; "" for a job that no command submitted."""
    for record in records:
        _, found, rest = record.partition(":idem:c:")
        if found:
            return rest.partition(":")[2].partition("/")[0]
    return ""
