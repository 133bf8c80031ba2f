"""What handlers are given of a request: the process's parts, the names in its path, its body, its idempotency key."""

from typing import Annotated, Any, TypeVar
from urllib.parse import unquote

from fastapi import Depends, Header, Path, Request, Response
from pydantic import BaseModel

from rt import keys
from rt.actors.frames import Key, check
from rt.api.services import Services
from rt.codec import DecodeError, TooDeep, from_json_bytes, to_json_bytes
from rt.errors import Refused
from rt.keys import Stream, parse_stream
from rt.tokens import Claims

M = TypeVar("M", bound=BaseModel)


async def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


#: The process's parts.
Parts = Annotated[Services, Depends(_services)]


# Paths are routed as they were sent (`rt.api.app`), so that an id may hold any character, a slash too.


async def _job_id(id: Annotated[str, Path(description="A job's id; percent-encoded where it has other characters.")]) -> str:
    return unquote(id)


async def _stream(
    stream: Annotated[str, Path(description="A stream's name: `session:<id>`, `user:<subject>`, `room:<name>` or `job:<id>`.")],
) -> Stream:
    name = unquote(stream)
    kind, _, id = name.partition(":")
    # Subjects and job ids stand escaped in names. A name that was put into the URL as it is has lost these escapes to the
    # URL's own decoding: here they are put back.
    if kind in ("user", "job") and "%" in stream and "%" not in name:
        name = f"{kind}:{keys.escape(id)}"
    return parse_stream(name)


async def _subject(
    subject: Annotated[str, Path(description="A token's `sub`; percent-encoded where it has other characters.")],
) -> str:
    return unquote(subject)


JobId = Annotated[str, Depends(_job_id)]
Subject = Annotated[str, Depends(_subject)]
NamedStream = Annotated[Stream, Depends(_stream)]

#: The header `Idempotency-Key`: the same key makes the same call take effect once in 24 h.
IdempotencyKey = Annotated[
    Key | None, Header(alias="Idempotency-Key", description="1 to 255 visible ASCII characters; kept per subject for 24 h.")
]


def key_records(who: Claims, key: str | None) -> list[str]:
    """Where it is kept that a call with this key took effect; none without a key."""
    return [] if key is None else [keys.idempotency(who.tenant, who.subject, key)]


def body(model: type[M]) -> Any:
    """A dependency: the request's JSON, checked against `model`.

    Raises Refused: "invalid_json" for what is no JSON, "invalid_frame" that names the field for what is not the model.
    The content type is not looked at: nothing but JSON is taken.
    """

    async def read(request: Request) -> M:
        return checked(model, await request.body())

    return Depends(read)


def checked(model: type[M], raw: bytes) -> M:
    """A body, as `body` gives it. Raises Refused."""
    try:
        value = from_json_bytes(raw)
    except TooDeep as error:
        raise Refused("invalid_frame", str(error)) from None
    except DecodeError as error:
        raise Refused("invalid_json", str(error)) from None
    found: M = check(model, value)
    return found


def takes(model: type[BaseModel]) -> dict[str, Any]:
    """What OpenAPI says of a call whose body is `body(model)`."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def answer(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON answer."""
    return Response(to_json_bytes(value), status, headers, "application/json")
