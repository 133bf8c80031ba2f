"""The OpenAPI document, the page that shows it, and the JavaScript client."""

from typing import Any

from fastapi import APIRouter, FastAPI, Response
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from rt import __version__
from rt.api.jobs import NewJob
from rt.api.pages import serve
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

    serve(router, "/docs", "docs.html")
    serve(router, "/docs/docs.css", "docs.css")
    serve(router, "/docs/docs.js", "docs.js")
    serve(router, "/docs/icon.svg", "pages/icon.svg")
    for path, name in CLIENT.items():
        serve(router, path, name, _ANYBODY)
    return router
