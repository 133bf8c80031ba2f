"""What is served as files of rt/api/static, as they are: pages for people, and the modules that they load.

No CDN, no build step, no inline script or style. A page loads from its own server and calls it, and nobody else; where the
browser knows Trusted Types, text cannot become markup in it.
"""

import gzip
import hashlib
import mimetypes
from collections.abc import Mapping
from importlib.resources import files

from fastapi import APIRouter, Request, Response

from rt import __version__
from rt.api.request import answer
from rt.settings import Settings

#: Pages for people: each is a setting of this name, `/<name>`, and the folder that holds `index.html` and what it loads.
PAGES = ("demo", "console")

_CSP = "; ".join(
    ["default-src 'none'", *(f"{one}-src 'self'" for one in ("script", "style", "connect", "img"))]
    + [f"{one} 'none'" for one in ("base-uri", "form-action", "frame-ancestors")]
    + ["require-trusted-types-for 'script'"]
)


def serve(router: APIRouter, path: str, name: str, headers: Mapping[str, str] = {}) -> None:
    """Serves the file `name` of rt/api/static at `path`: with an ETag, and packed for whoever takes that."""
    content = files("rt.api").joinpath("static", *name.split("/")).read_bytes()
    packed = gzip.compress(content, mtime=0)
    # Weak: it stands for the packed bytes as well.
    etag = f'W/"{hashlib.sha256(content).hexdigest()[:16]}"'
    said = {"Content-Security-Policy": _CSP, "Cache-Control": "no-cache", "ETag": etag, "Vary": "Accept-Encoding"} | dict(headers)
    media_type = mimetypes.guess_type(name)[0]

    @router.get(path, name=name)
    async def file(request: Request) -> Response:
        if etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=said)
        if "gzip" in request.headers.get("accept-encoding", ""):
            return Response(packed, headers=said | {"Content-Encoding": "gzip"}, media_type=media_type)
        return Response(content, headers=said, media_type=media_type)


def serve_folder(router: APIRouter, name: str) -> None:
    """Serves static/<name>: its `index.html` at `/<name>`, every other file at `/<name>/<file>`."""
    for one in sorted(files("rt.api").joinpath("static", name).iterdir(), key=lambda one: one.name):
        serve(router, f"/{name}" if one.name == "index.html" else f"/{name}/{one.name}", f"{name}/{one.name}")


def pages(settings: Settings) -> APIRouter:
    """The pages that are on, under `rt dev` all of them, elsewhere those whose setting says so; and `/pages/`, which they share."""
    router = APIRouter(include_in_schema=False)
    # `rt dev` turns the console on by its setting, so that it can be off there too.
    shown = {"demo": settings.dev or settings.demo, "console": settings.console != "off"}
    on = [name for name in PAGES if shown[name]]
    for name in on:
        serve_folder(router, name)
    if on:
        serve_folder(router, "pages")

        @router.get("/pages/server.json")
        async def server() -> Response:
            """What a page has to know of the server before anybody has signed in."""
            return answer({"version": __version__, "dev": settings.dev, "pages": on})

    return router
