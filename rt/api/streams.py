"""Streams over HTTP: publish, follow by Server-Sent Events, read pages of history."""

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from rt import keys
from rt.actors.publish import publish_hash, published_event
from rt.api.auth import Caller
from rt.api.problems import responses
from rt.api.request import IdempotencyKey, JobId, NamedStream, Parts, answer, body, key_records, takes
from rt.api.services import Services
from rt.api.sse import EventStream, told
from rt.codec import join_json, to_json_bytes
from rt.cursor import START, Cursor, parse_cursor
from rt.errors import Refused
from rt.streams.commands import until_not_busy
from rt.streams.log import Published
from rt.streams.replay import Gap
from rt.tokens import Claims

#: Bytes of a page of history; one larger event still comes, alone.
_PAGE_BYTES = 1024 * 1024

_SSE: dict[str, Any] = {
    "description": (
        "Server-Sent Events: `id: <epoch>:<seq>`, `event: <type>`, `data: <the event>`. `event: gap` says what is lost. "
        "A comment comes after 15 s of silence. An interrupted response is resumed with its last id."
    ),
    "content": {"text/event-stream": {"schema": {"type": "string"}}},
}

_PAGE = {"application/json": {"schema": {"$ref": "#/components/schemas/EventPage"}}}
_SSE_OR_PAGE = _SSE | {"content": _SSE["content"] | _PAGE}

router = APIRouter(tags=["streams"])

LastEventId = Annotated[
    str | None, Header(alias="Last-Event-ID", max_length=64, description="Resumes after this event; wins over `cursor`.")
]
From = Annotated[str | None, Query(max_length=64, description='As `Last-Event-ID`; `"0"` is the start.')]


class NewEvent(BaseModel):
    """An event to append. `type` is `message`, or one that the application has registered."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: str = Field("message", min_length=1, max_length=64)
    data: Any


class PublishedEvent(BaseModel):
    stream: str
    seq: int
    epoch: str


class StreamGap(BaseModel):
    """Events that cannot be had any more: `from` to `to`, or an unknown number where the epoch has changed."""

    type: str
    stream: str
    epoch: str
    reason: str
    from_: int | None = Field(None, alias="from")
    to: int | None = None


class EventPage(BaseModel):
    """`next` is the cursor of the next page, null at the top; `top` is the newest seq."""

    items: list[dict[str, Any]]
    next: str | None
    epoch: str
    top: int
    gap: StreamGap | None = None


class Present(BaseModel):
    """A subject that is there, and with how many sessions: browser tabs, devices."""

    subject: str
    sessions: int


class PresencePage(BaseModel):
    items: list[Present]
    next: str | None


@router.get("/v1/jobs/{id}/events", tags=["jobs"], response_class=Response, responses=responses(401, 403, 404, 422, 503, ok=_SSE))
async def job_events(who: Caller, parts: Parts, id: JobId, cursor: From = None, last_event_id: LastEventId = None) -> Response:
    """A job's events from its first on, or after a cursor; ends after the terminal one."""
    return await _follow_job(who, parts, id, _cursor(last_event_id, cursor))


@router.get("/v1/streams/{stream}/events", response_class=Response, responses=responses(401, 403, 404, 422, 503, ok=_SSE_OR_PAGE))
async def stream_events(
    request: Request,
    who: Caller,
    parts: Parts,
    stream: NamedStream,
    cursor: From = None,
    last_event_id: LastEventId = None,
    after: Annotated[str, Query(max_length=64, description="Of a page: a seq or a cursor, behind which it begins.")] = "0",
    limit: Annotated[int, Query(ge=1, le=1000, description="Of a page: the most events in it.")] = 100,
) -> Response:
    """A stream's events from now on, or after a cursor (a job's: from its first on). With `Accept: application/json` a page of history."""
    if _prefers_json(request.headers.get("accept", "")):
        await parts.access.read_stream(who, stream)
        return await _page(who, parts, str(stream), after, limit)
    if stream.kind == "job":
        return await _follow_job(who, parts, stream.subject, _cursor(last_event_id, cursor))
    await parts.access.read_stream(who, stream)
    return EventStream(parts, who, str(stream), _cursor(last_event_id, cursor))


@router.get("/v1/streams/{stream}/presence", response_model=PresencePage, responses=responses(401, 403, 422, 503))
async def presence(
    who: Caller,
    parts: Parts,
    stream: NamedStream,
    limit: Annotated[int, Query(ge=1, le=1000)] = 1000,
    cursor: Annotated[str | None, Query(max_length=128, description="The `next` of the page before.")] = None,
) -> Response:
    """Who is in a room: who follows it by `subscribe` and has a connection now. In order of their subjects."""
    if stream.kind != "room":
        raise Refused.field("invalid_frame", "stream", "only a room: has somebody in it")
    await parts.access.read_stream(who, stream)
    there = [one for one in (await parts.presence.list(who.tenant, str(stream))).items() if cursor is None or one[0] > cursor]
    items = [{"subject": subject, "sessions": sessions} for subject, sessions in there[:limit]]
    return answer({"items": items, "next": there[limit - 1][0] if len(there) > limit else None})


@router.post(
    "/v1/streams/{stream}/events",
    status_code=201,
    response_model=PublishedEvent,
    responses=responses(
        *(400, 401, 403, 409, 413, 422, 503),
        ok={"description": "The same key and body again: the same event.", "model": PublishedEvent},
    ),
    openapi_extra=takes(NewEvent),
)
async def publish_event(
    who: Caller, parts: Parts, stream: NamedStream, new: Annotated[NewEvent, body(NewEvent)], idempotency_key: IdempotencyKey = None
) -> Response:
    """Appends an event to a `session:`, `user:` or `room:` stream."""
    await parts.access.publish(who, stream)
    event = published_event(parts.app, who, stream, new.type, new.data, loc="type")
    hash = publish_hash(str(stream), new.type, new.data)
    records = key_records(who, idempotency_key)
    done: Published = await until_not_busy(lambda: parts.streams.publish(who.tenant, stream, event, hash=hash, records=records))
    return answer({"stream": str(stream), "seq": done.seq, "epoch": done.epoch}, 200 if done.duplicate else 201)


async def _follow_job(who: Claims, parts: Services, id: str, cursor: Cursor | None) -> Response:
    record = await parts.access.read_job(who, id)
    return EventStream(parts, who, keys.job_stream(id), START if cursor is None else cursor, record)


async def _page(who: Claims, parts: Services, stream: str, after: str, limit: int) -> Response:
    # A bare seq is of whichever epoch counts now.
    bare = after.isascii() and after.isdecimal() and len(after) < 16
    given = None if bare else parse_cursor(after, "after")
    seq = int(after) if given is None else given.seq
    items: list[bytes] = []
    gap: dict[str, Any] | None = None
    for _ in range(2):  # a gap that leads back takes another look
        page = await parts.streams.read_open(who.tenant, stream, seq, count=limit, max_bytes=_PAGE_BYTES)
        at = Cursor(page.head.epoch, seq)
        for position, one in told(given or at, page):
            if not isinstance(one, Gap):
                items.append(one)
            elif items or gap:
                break  # the next page begins with it
            else:
                gap = one.frame(stream, position.epoch)
            at = position
        if items or at.seq >= page.head.top:
            break
        given, seq = at, at.seq
    rest = to_json_bytes(
        {"next": str(at) if at.seq < page.head.top else None, "epoch": page.head.epoch, "top": page.head.top}
        | ({"gap": gap} if gap else {})
    )
    return Response(b'{"items":' + join_json(items) + b"," + rest[1:], media_type="application/json")


def _cursor(last_event_id: str | None, cursor: str | None) -> Cursor | None:
    """The header wins: a browser sends it when it comes back to an address whose cursor is older."""
    if last_event_id:
        return parse_cursor(last_event_id, "Last-Event-ID")
    return None if cursor is None else parse_cursor(cursor)


def _prefers_json(accept: str) -> bool:
    """Whether JSON is named, and before Server-Sent Events; what takes anything gets the latter."""
    wanted = {"application/json": 0.0, "text/event-stream": 0.0}
    for one in accept.lower().split(","):
        media, *parameters = (part.strip() for part in one.split(";"))
        if media in wanted:
            quality = next((part[2:] for part in parameters if part.startswith("q=")), "1")
            try:
                wanted[media] = float(quality)
            except ValueError:
                wanted[media] = 0.0
    return wanted["application/json"] > wanted["text/event-stream"]
