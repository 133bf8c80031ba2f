"""Notifications over HTTP: to one user, to everybody; what somebody does not want, and what was read."""

from typing import Annotated, Any

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from rt import keys
from rt.api.auth import Caller
from rt.api.jobs import AcceptedJob, accepted_job
from rt.api.problems import responses
from rt.api.request import IdempotencyKey, Parts, Subject, answer, body, key_records, takes
from rt.cursor import parse_cursor
from rt.errors import Refused
from rt.events import Level
from rt.jobs.broadcast import BROADCAST
from rt.jobs.queue import NewJob, new_job_id
from rt.keys import parse_stream
from rt.streams.commands import request_hash, until_not_busy
from rt.streams.notifications import Notification, Notified
from rt.tokens import Claims

router = APIRouter(tags=["notifications"])

#: Subjects that one broadcast leaves out at most.
MAX_EXCLUDED = 1000


class Content(BaseModel):
    """What a notification says. `metadata` is the application's own."""

    model_config = ConfigDict(extra="forbid", strict=True)

    title: str = Field(min_length=1, max_length=200)
    message: str = Field("", max_length=10_000)
    level: Level = "info"
    metadata: dict[str, Any] = Field(default_factory=dict)

    def notification(self) -> Notification:
        return Notification(self.title, self.message, self.level, self.metadata)


class NewNotification(Content):
    """A notification for one user."""

    user: str = Field(min_length=1, max_length=128, description="The `sub` of the user's tokens.")


class NewBroadcast(Content):
    """A notification for everybody who was seen within the retention of `user:` streams."""

    exclude: list[str] = Field(default_factory=list, max_length=MAX_EXCLUDED, description="Subjects that do not get it.")


class SentNotification(BaseModel):
    """`muted`: nothing was written, the user does not want this level; otherwise where the notification stands."""

    stream: str
    muted: bool
    seq: int | None = None
    epoch: str | None = None


class Preferences(BaseModel):
    """The levels of notifications that a user does not want."""

    model_config = ConfigDict(extra="forbid", strict=True)

    muted_levels: list[Level] = Field(max_length=16)


class UnreadNotifications(BaseModel):
    """`unread` counts the notifications that are not marked as read and that the stream still has; `read` is the mark."""

    unread: int
    read: str


class Mark(BaseModel):
    """Everything up to `cursor` was read."""

    model_config = ConfigDict(extra="forbid", strict=True)

    cursor: str = Field(max_length=64, description="`<epoch>:<seq>` of an event of the `user:` stream.")


@router.post(
    "/v1/notifications",
    status_code=201,
    response_model=SentNotification,
    responses=responses(
        *(400, 401, 403, 409, 413, 422, 503),
        ok={"description": "The level is muted, or the same key and body again.", "model": SentNotification},
    ),
    openapi_extra=takes(NewNotification),
)
async def notify(
    who: Caller, parts: Parts, new: Annotated[NewNotification, body(NewNotification)], idempotency_key: IdempotencyKey = None
) -> Response:
    """Notifies one user, on all devices and also while nobody is there. Needs the scope `notifications:send`."""
    who.need("notifications:send")
    stream = str(parse_stream(keys.user_stream(new.user), "user"))
    records = key_records(who, idempotency_key)
    hash = request_hash(["notify", new.model_dump()])
    done: Notified = await until_not_busy(
        lambda: parts.notifications.send(who.tenant, new.user, new.notification(), hash=hash, records=records)
    )
    told = {"stream": stream, "muted": done.muted} | ({} if done.muted else {"seq": done.seq, "epoch": done.epoch})
    return answer(told, 200 if done.muted or done.duplicate else 201)


@router.post(
    "/v1/notifications/broadcast",
    status_code=202,
    response_model=AcceptedJob,
    responses=responses(
        *(400, 401, 403, 409, 413, 422, 503),
        ok={"description": "The same key and body again: the same job.", "model": AcceptedJob},
    ),
    openapi_extra=takes(NewBroadcast),
)
async def broadcast(
    who: Caller, parts: Parts, new: Annotated[NewBroadcast, body(NewBroadcast)], idempotency_key: IdempotencyKey = None
) -> Response:
    """Notifies everybody, by a job that goes on where it stopped and repeats nobody. Needs the scope `notifications:send`."""
    who.need("notifications:send")
    new.notification().encode(keys.user_stream("x" * keys.MAX_ID_CHARS))  # too large is said now
    job_id = new_job_id()
    job = NewJob(
        job=parts.system_jobs[BROADCAST],
        input={"id": job_id, **new.model_dump()},
        tenant=who.tenant,
        owner=who.subject,
    )
    records = key_records(who, idempotency_key)
    hash = request_hash(["broadcast", new.model_dump()])
    accepted = await until_not_busy(lambda: parts.queue.accept(job, hash=hash, records=records, job_id=job_id))
    record = await parts.queue.get(who.tenant, accepted.job_id) if accepted.duplicate else None
    return accepted_job(accepted, record.status if record else "queued")


@router.get("/v1/users/{subject}/preferences", response_model=Preferences, responses=responses(401, 403, 422, 503))
async def get_preferences(who: Caller, parts: Parts, subject: Subject) -> Response:
    """What a user does not want to be notified of: one's own, or anybody's with the scope `admin`."""
    _own(who, subject)
    return answer({"muted_levels": await parts.notifications.muted(who.tenant, subject)})


@router.put(
    "/v1/users/{subject}/preferences",
    response_model=Preferences,
    responses=responses(400, 401, 403, 413, 422, 503),
    openapi_extra=takes(Preferences),
)
async def put_preferences(who: Caller, parts: Parts, subject: Subject, new: Annotated[Preferences, body(Preferences)]) -> Response:
    """Sets the levels that a user does not want from now on. What was sent stays."""
    _own(who, subject)
    levels = list(dict.fromkeys(new.muted_levels))
    await parts.notifications.mute(who.tenant, subject, levels)
    return answer({"muted_levels": levels})


@router.get("/v1/users/{subject}/unread", response_model=UnreadNotifications, responses=responses(401, 403, 422, 503))
async def get_unread(who: Caller, parts: Parts, subject: Subject) -> Response:
    """How many notifications are not read. Acknowledging an event over a WebSocket does not change it."""
    _own(who, subject)
    found = await parts.notifications.unread(who.tenant, subject)
    return answer({"unread": found.unread, "read": str(found.read)})


@router.post(
    "/v1/users/{subject}/read",
    response_model=UnreadNotifications,
    responses=responses(400, 401, 403, 409, 413, 422, 503),
    openapi_extra=takes(Mark),
)
async def mark_read(who: Caller, parts: Parts, subject: Subject, mark: Annotated[Mark, body(Mark)]) -> Response:
    """Marks what came up to a cursor as read, on all devices. The mark never goes back: an older cursor changes nothing."""
    _own(who, subject)
    found = await parts.notifications.mark_read(who.tenant, subject, parse_cursor(mark.cursor))
    return answer({"unread": found.unread, "read": str(found.read)})


def _own(who: Claims, subject: str) -> None:
    """Raises Refused("forbidden"), or "invalid_frame" for what is no subject."""
    who.need("streams:read")
    parse_stream(keys.user_stream(subject), "subject")
    if who.subject != subject and not who.has("admin"):
        raise Refused("forbidden", "this is another user's")
