"""Input to a running job over HTTP."""

from typing import Annotated, Any

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict

from rt.api.auth import Caller
from rt.api.problems import responses
from rt.api.request import IdempotencyKey, JobId, Parts, answer, body, key_records, takes

router = APIRouter(tags=["jobs"])


class NewInput(BaseModel):
    """What a job is sent; `final`: nothing follows."""

    model_config = ConfigDict(extra="forbid", strict=True)

    data: Any
    final: bool = False


class TakenInput(BaseModel):
    """`seq` counts the inputs of the job from 1 on."""

    job_id: str
    seq: int


@router.post(
    "/v1/jobs/{id}/input",
    status_code=202,
    response_model=TakenInput,
    responses=responses(400, 401, 403, 404, 409, 413, 422, 503),
    openapi_extra=takes(NewInput),
)
async def send_input(
    who: Caller, parts: Parts, id: JobId, new: Annotated[NewInput, body(NewInput)], idempotency_key: IdempotencyKey = None
) -> Response:
    """Sends a job something while it waits or runs. 409 with its status where it has ended, or where its last input was sent."""
    await parts.access.control_job(who, id)
    records = key_records(who, idempotency_key)
    seq = await parts.inbox.send(who.tenant, id, new.data, final=new.final, records=records)
    return answer({"job_id": id, "seq": seq}, 202)
