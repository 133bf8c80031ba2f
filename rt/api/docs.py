"""What is served as files: the OpenAPI document, the page that shows it, the JavaScript client. No CDN, no inline script."""

import gzip
import hashlib
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from rt import __version__
from rt.api.jobs import NewJob
from rt.api.problems import Problem
from rt.api.request import answer
from rt.api.streams import EventPage, NewEvent

_DESCRIPTION = (
    "Real-time AI over durable streams. Jobs are submitted here or over the WebSocket `/v1/ws`; what they write is read "
    "as Server-Sent Events, over the WebSocket, or as pages of history, and nothing is lost in between. "
    "Errors are problem documents with a `code`."
)
#: Schemas that the handlers' signatures do not show: bodies that our own codec reads, answers that are joined from stored bytes.
_SCHEMAS = (NewJob, NewEvent, EventPage, Problem)

#: The JavaScript client, where it is served. `rt.min.js` is made of `rt.js`, by `npm run build` in clients/js.
CLIENT = {"/rt.js": "rt.min.js", "/rt-sse.js": "rt-sse.js", "/rt-react.js": "rt-react.js"}
#: Pages of other origins may load it as a module.
_ANYBODY = {"Access-Control-Allow-Origin": "*", "Cross-Origin-Resource-Policy": "cross-origin"}

_CSP = "; ".join(
    ["default-src 'none'", *(f"{one} 'self'" for one in ("script-src", "style-src", "connect-src"))]
    + [f"{one} 'none'" for one in ("base-uri", "form-action", "frame-ancestors")]
)


def document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document; made once."""
    if app.openapi_schema is None:
        made = get_openapi(title="rt", version=__version__, description=_DESCRIPTION, routes=app.routes)
        _, extra = models_json_schema([(one, "validation") for one in _SCHEMAS], ref_template="#/components/schemas/{model}")
        made["components"]["schemas"] |= extra["$defs"]
        app.openapi_schema = made
    return app.openapi_schema


def docs(app: FastAPI) -> APIRouter:
    """`/openapi.json` of `app`, `/docs`, and the client's modules."""
    router = APIRouter(include_in_schema=False)

    @router.get("/openapi.json")
    async def openapi() -> Response:
        return answer(document(app))

    def serve(path: str, name: str, media_type: str, **more: str) -> None:
        content = (files("rt.api") / "static" / name).read_bytes()
        packed = gzip.compress(content, mtime=0)
        # Weak: it stands for the packed bytes as well.
        etag = f'W/"{hashlib.sha256(content).hexdigest()[:16]}"'
        headers = {"Content-Security-Policy": _CSP, "Cache-Control": "no-cache", "ETag": etag, "Vary": "Accept-Encoding"} | more

        @router.get(path, name=name)
        async def file(request: Request) -> Response:
            if etag in request.headers.get("if-none-match", ""):
                return Response(status_code=304, headers=headers)
            if "gzip" in request.headers.get("accept-encoding", ""):
                return Response(packed, headers=headers | {"Content-Encoding": "gzip"}, media_type=media_type)
            return Response(content, headers=headers, media_type=media_type)

    serve("/docs", "docs.html", "text/html")
    serve("/docs/docs.css", "docs.css", "text/css")
    serve("/docs/docs.js", "docs.js", "text/javascript")
    for path, name in CLIENT.items():
        serve(path, name, "text/javascript", **_ANYBODY)
    return router
