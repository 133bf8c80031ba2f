"""Dead letters over HTTP: failed jobs are looked at, run again, deleted."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field

from rt.api.auth import Caller
from rt.api.jobs import AcceptedJob, accepted_job
from rt.api.problems import responses
from rt.api.request import JobId, Parts, answer

router = APIRouter(tags=["dead letters"])


class JobError(BaseModel):
    code: str
    message: str
    temporary: bool


class AttemptError(JobError):
    """`attempt` is 0 where none had begun."""

    attempt: int
    at: str


class DeadLetter(BaseModel):
    """A job that failed. Times are RFC 3339, UTC; `error` is what ended it, `attempts` how often it was started."""

    job_id: str
    job: str
    error: JobError
    attempts: int
    owner: str | None = Field(None, description="Who submitted it; absent for a plain arq client's.")
    created_at: str
    started_at: str | None = None
    failed_at: str
    retry_of: str | None = Field(None, description="The job whose letter was run again as this one.")
    retried_as: str | None = Field(None, description="The job as which this letter was run again.")


class WholeLetter(DeadLetter):
    input: dict[str, Any] | None = Field(description="What the job was given; null where it could not be kept or read.")
    input_lost: str | None = Field(None, description="Why `input` is null.")
    errors: list[AttemptError] = Field(
        description="One for each attempt that failed or lost its worker, and last what ended the job; the newest 20, oldest first."
    )
    reports: list[str] = Field(description="The streams in which the job was announced.")
    request_id: str | None = Field(None, description="The id of the command that submitted it.")
    timeout_s: float | None = None
    max_attempts: int | None = None


class LetterPage(BaseModel):
    items: list[DeadLetter]
    next: str | None


@router.get("/v1/dead-letters", response_model=LetterPage, responses=responses(401, 403, 422, 503))
async def list_dead_letters(
    who: Caller,
    parts: Parts,
    job: Annotated[str | None, Query(max_length=200, description="The name of a job function.")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 50,
    cursor: Annotated[str | None, Query(max_length=64, description="The `next` of the page before.")] = None,
) -> Response:
    """One's own failed jobs, newest first; with the scope `admin` everybody's. A page may be short and still have a `next`."""
    who.need("jobs:read")
    owner = None if who.has("admin") else who.subject
    found, after = await parts.letters.list(who.tenant, owner, job=job, limit=limit, after=cursor)
    return answer({"items": [one.public() for one in found], "next": after})


@router.get("/v1/dead-letters/{id}", response_model=WholeLetter, responses=responses(401, 403, 404, 422, 503))
async def get_dead_letter(who: Caller, parts: Parts, id: JobId) -> Response:
    """A failed job with its input and its errors: its submitter's and an admin's alone."""
    who.need("jobs:read")
    letter = parts.access.letter(who, await parts.letters.get(who.tenant, id))
    return answer(letter.detail((parts.app.jobs | parts.system_jobs).get(letter.job)))


@router.post(
    "/v1/dead-letters/{id}/retry",
    status_code=202,
    response_model=AcceptedJob,
    responses=responses(
        *(401, 403, 404, 409, 413, 422, 503), ok={"description": "It was run again already: the same job.", "model": AcceptedJob}
    ),
)
async def retry_dead_letter(who: Caller, parts: Parts, id: JobId) -> Response:
    """Runs a failed job again as another job with the same input, owner, reports and timeout; once, however often it is called.

    409 with `retried_as` where that job failed as well: its own letter is what one runs again.
    """
    who.need("jobs:write")
    letter = parts.access.letter(who, await parts.letters.get(who.tenant, id))
    if letter.job in parts.system_jobs:
        who.need("notifications:send")
    return accepted_job(*await parts.letters.retry(who.tenant, letter, parts.app.jobs | parts.system_jobs))


@router.delete("/v1/dead-letters/{id}", status_code=204, responses=responses(401, 403, 404, 422, 503))
async def delete_dead_letter(who: Caller, parts: Parts, id: JobId) -> Response:
    """Forgets a failed job's input and errors. The job itself is still known, as failed, for as long as any."""
    who.need("jobs:write")
    parts.access.letter(who, await parts.letters.get(who.tenant, id))
    await parts.letters.delete(who.tenant, id)
    return Response(status_code=204)
