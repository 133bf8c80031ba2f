"""Errors of HTTP: problem documents (RFC 9457) that carry the protocol's own error words, and the limit of a body."""

from http import HTTPStatus
from math import ceil
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rt.codec import to_json_bytes
from rt.errors import Refused, Word
from rt.telemetry import get_logger

log = get_logger("rt.http")

MEDIA_TYPE = "application/problem+json"

_STATUS: dict[Word, int] = {
    "invalid_json": 400,
    "unauthorized": 401,
    "token_expired": 401,
    "forbidden": 403,
    "not_found": 404,
    "conflict": 409,
    "too_large": 413,
    "invalid_frame": 422,
    "invalid_input": 422,
    "unknown_type": 422,
    "unknown_job": 422,
    "not_connected": 422,
    "rate_limited": 429,
    "internal": 500,
    "queue_full": 503,
    "unavailable": 503,
}


class Detail(BaseModel):
    """One wrong field: where it is, and what would be right. The value is never quoted."""

    loc: list[str]
    msg: str


class Problem(BaseModel):
    """What every refused call is answered with. `code` is the protocol's error word; the same call may work later where `temporary`."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    code: str
    temporary: bool
    details: list[Detail] | None = None
    retry_after_ms: int | None = None


def problem(error: Refused, *, status: int | None = None, headers: dict[str, str] | None = None) -> Response:
    """The answer that says `error`. The error's facts become members of the document."""
    status = status or _STATUS[error.code]
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": error.message,
        "code": error.code,
        "temporary": error.temporary,
    }
    if error.details is not None:
        body["details"] = error.details
    if error.retry_after_ms is not None:
        body["retry_after_ms"] = error.retry_after_ms
    # `status` is the HTTP status by RFC 9457, 3.1.2; the status of a job has to stand beside it.
    body |= {"job_status" if name == "status" else name: value for name, value in error.facts.items()}
    headers = dict(headers or {})
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if status in (429, 503):
        headers["Retry-After"] = str(max(1, ceil((error.retry_after_ms or 1000) / 1000)))
    return Response(to_json_bytes(body), status, headers, MEDIA_TYPE)


def responses(*statuses: int, ok: dict[str, Any] | None = None) -> dict[int | str, dict[str, Any]]:
    """What OpenAPI says of the problems of a call, and of its 200 where that has to be described."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    said: dict[int | str, dict[str, Any]] = {200: ok} if ok else {}
    said.update({one: {"description": HTTPStatus(one).phrase, "content": content} for one in statuses})
    return said


def install(app: FastAPI) -> None:
    """Turns everything that a call may raise into a problem document."""
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _unrouted)


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return problem(error)


async def _invalid(_: Request, error: Exception) -> Response:
    """A parameter of the path, the query or a header. Bodies are checked by `rt.api.request`."""
    assert isinstance(error, RequestValidationError)
    details = [{"loc": [str(part) for part in one["loc"]], "msg": one["msg"]} for one in error.errors()]
    first = details[0]
    return problem(Refused("invalid_frame", f"{'.'.join(first['loc'])}: {first['msg']}", details=details))


async def _unrouted(_: Request, error: Exception) -> Response:
    """The router's own 404 and 405."""
    assert isinstance(error, HTTPException)
    return problem(
        Refused("not_found", "there is no such call; /docs lists them"), status=error.status_code, headers=dict(error.headers or {})
    )


class Unexpected:
    """Answers 500 for what no handler foresaw, and logs its type and place without its text."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def noting(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except ClientDisconnect:
            pass  # in the middle of its request's body: there is nobody to answer
        except Exception as error:
            log.error("a request failed", exc_info=error)
            if not started:
                await problem(Refused("internal", "something went wrong on the server"))(scope, receive, send)


class BodyLimit:
    """Refuses bodies above a number of bytes: at once where their length is announced, otherwise as soon as they reach it."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refused = Refused("too_large", f"a body has at most {self._limit} bytes")
        # More than one, or one that is no number, does not get past the server's parser.
        announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if int(announced) > self._limit:
            await problem(refused)(scope, receive, send)
            return
        taken = 0

        async def counting() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self._limit:
                raise refused
            return message

        await self._app(scope, counting, send)
