"""Jobs over HTTP: submit, look, list, cancel."""

import re
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import State
from starlette.types import Receive, Scope, Send

from rt.actors.frames import Options
from rt.api.auth import Authenticator, Caller
from rt.api.problems import problem, responses
from rt.api.request import IdempotencyKey, JobId, Parts, answer, body, checked, key_records, takes
from rt.api.services import Services
from rt.errors import Refused
from rt.jobs.queue import Accepted
from rt.jobs.submit import named_job, submit
from rt.streams.log import NOBODY
from rt.tokens import Claims

Status = Literal["queued", "running", "retrying", "completed", "failed", "cancelled"]

router = APIRouter(tags=["jobs"])


class NewJob(BaseModel):
    """A job to run. `stream` names who is told of it; it may stand in `options` as well."""

    model_config = ConfigDict(extra="forbid", strict=True)

    job: str = Field(min_length=1, max_length=200, description="The name under which the job is registered.")
    input: dict[str, Any] = Field(default_factory=dict, description="What the job's function takes.")
    stream: str | None = Field(None, description="`session:…`, `user:…` or `room:…`.")
    options: Options = Field(default_factory=Options)


class AcceptedJob(BaseModel):
    job_id: str
    status: Status
    stream: str = Field(description="The job's own stream.")
    events_url: str


class Job(BaseModel):
    """Times are RFC 3339, UTC. `attempt` is 0 before the first start."""

    job_id: str
    job: str
    status: Status
    attempt: int
    created_at: str
    started_at: str | None = None
    finished_at: str | None = None
    result: Any = None
    error: dict[str, Any] | None = None
    usage: dict[str, Any] | None = None


class JobPage(BaseModel):
    items: list[Job]
    next: str | None


class JobStatus(BaseModel):
    job_id: str
    status: Status


@router.post(
    "/v1/jobs",
    status_code=202,
    response_model=AcceptedJob,
    responses=responses(
        *(400, 401, 403, 404, 409, 413, 422, 503),
        ok={"description": "The same key and body again: the same job.", "model": AcceptedJob},
    ),
    openapi_extra=takes(NewJob),
)
async def submit_job(who: Caller, parts: Parts, new: Annotated[NewJob, body(NewJob)], idempotency_key: IdempotencyKey = None) -> Response:
    """Accepts a job: from the 202 on it ends in exactly one of completed, failed and cancelled."""
    return await _accepted(parts, who, new, idempotency_key)


class Submissions:
    """`submit_job`, for calls whose headers say nothing unusual. Bare ASGI.

    What FastAPI does around a call costs it twice as much as the acceptance: it is measured by `bench post`.
    """

    def __init__(self, state: State) -> None:
        self._state = state

    @staticmethod
    def takes(scope: Scope) -> bool:
        """Whether it is such a call: then it is marked as one. Every other one, right or wrong, is FastAPI's."""
        if scope["method"] != "POST" or scope["raw_path"] != b"/v1/jobs" or (usual := _usual(scope)) is None:
            return False
        scope[_USUAL] = usual
        return True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["route"] = _SUBMIT
        token, key = scope[_USUAL]
        services: Services = self._state.services
        authenticator: Authenticator = self._state.authenticator
        try:
            who = await authenticator.token(token)
            new = checked(NewJob, await Request(scope, receive).body())
            response = await _accepted(services, who, new, key)
        except Refused as error:
            response = problem(error)
        await response(scope, receive, send)


#: As HTTPBearer reads it, and as `IdempotencyKey` is to be.
_BEARER = re.compile(rb"(?i:bearer) ([!-~]+)")
_KEY = re.compile(rb"[!-~]{1,255}")
#: Where in a scope stands what its headers say.
_USUAL = "rt.usual"


def _usual(scope: Scope) -> tuple[str, str | None] | None:
    """The token, and the idempotency key if there is one; None when either is not as it should be."""
    token = key = None
    for name, value in scope["headers"]:
        if name == b"authorization":
            if token is not None or not (token := _BEARER.fullmatch(value)):
                return None
        elif name == b"idempotency-key" and (key is not None or not (key := _KEY.fullmatch(value))):
            return None
    return (token[1].decode(), key and key[0].decode()) if token else None


async def _accepted(parts: Services, who: Claims, new: NewJob, idempotency_key: str | None) -> Response:
    who.need("jobs:write")
    stream = _one_of("stream", new.stream, new.options.stream)
    key = _one_of("idempotency_key", idempotency_key, new.options.idempotency_key)
    job = named_job(parts.app, new.job)
    accepted = await submit(
        parts.queue,
        parts.access,
        who,
        NOBODY,
        job,
        new.input,
        stream=stream,
        delay_s=new.options.delay_s,
        timeout_s=new.options.timeout_s,
        records=key_records(who, key),
    )
    status = "queued"
    if accepted.duplicate:
        record = await parts.queue.get(who.tenant, accepted.job_id)
        if record is None:
            raise Refused("not_found", "the job that this key has made is forgotten; submit it with another key")
        status = record.status
    return accepted_job(accepted, status)


_SUBMIT = next(one for one in router.routes if getattr(one, "name", "") == "submit_job")


@router.get("/v1/jobs", response_model=JobPage, responses=responses(401, 403, 422, 503))
async def list_jobs(
    who: Caller,
    parts: Parts,
    status: Annotated[Status | None, Query()] = None,
    job: Annotated[str | None, Query(max_length=200, description="The name of a job function.")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 50,
    cursor: Annotated[str | None, Query(max_length=64, description="The `next` of the page before.")] = None,
) -> Response:
    """One's own jobs, newest first; with the scope `admin` everybody's. A page may be short and still have a `next`."""
    who.need("jobs:read")
    owner = None if who.has("admin") else who.subject
    found, after = await parts.queue.list(who.tenant, owner, status=status, job=job, limit=limit, after=cursor)
    return answer({"items": [one.public() for one in found], "next": after})


@router.get("/v1/jobs/{id}", response_model=Job, responses=responses(401, 403, 404, 422, 503))
async def get_job(who: Caller, parts: Parts, id: JobId) -> Response:
    """What is known of a job."""
    return answer((await parts.access.read_job(who, id)).public())


@router.post(
    "/v1/jobs/{id}/cancel",
    status_code=202,
    response_model=JobStatus,
    responses=responses(401, 403, 404, 409, 422, 503, ok={"description": "It is cancelled already.", "model": JobStatus}),
)
async def cancel_job(who: Caller, parts: Parts, id: JobId) -> Response:
    """Cancels a job: a waiting one at once, a running one with its next write. 409 with its status where it has ended otherwise."""
    await parts.access.control_job(who, id)
    before, now = await parts.queue.cancel(who.tenant, id, who.subject)
    return answer({"job_id": id, "status": now}, 200 if before == "cancelled" else 202)


def accepted_job(accepted: Accepted, status: str) -> Response:
    """202, or 200 where the same call had made the job before."""
    url = f"/v1/jobs/{quote(accepted.job_id, safe='')}"
    told = {"job_id": accepted.job_id, "status": status, "stream": accepted.stream, "events_url": f"{url}/events"}
    return answer(told, 200 if accepted.duplicate else 202, {"Location": url})


def _one_of(name: str, first: str | None, second: str | None) -> str | None:
    """A value that may be given in two places."""
    if first is not None and second is not None and first != second:
        raise Refused.field("invalid_frame", f"options.{name}", "it is given in two places, and they differ")
    return second if first is None else first
