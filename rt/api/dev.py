"""What only a server under `rt dev` does: a token for whoever opens a page on this machine, and a worker to kill.

These calls need no token, so they are for the person at this machine alone: the caller's address is this machine's, no
proxy says that it came from elsewhere, the server is called by an address or `localhost` (a name of somebody else's may be
made to lead here), and a browser sends them from the server's own pages only. Who makes this machine's port reachable by
a tunnel that says nothing of itself gives all of this away: `rt dev` is for one's own machine.
"""

import ipaddress
import os
import signal
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from rt.api.request import Parts, answer, body
from rt.errors import Refused
from rt.tokens import DEFAULT_SCOPES, mint

#: What proxies and tunnels add.
FORWARDED = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "cf-connecting-ip")
#: A page asks again before it ends.
TOKEN_TTL_S = 3600


async def _at_this_machine(request: Request) -> None:
    """Raises Refused("forbidden")."""
    host = request.headers.get("host", "")
    if request.client is None or not _is_loopback(request.client.host):
        raise Refused("forbidden", "this is for the machine on which `rt dev` runs")
    if any(name in request.headers for name in FORWARDED):
        raise Refused("forbidden", "this is for the machine on which `rt dev` runs, and came by way of a proxy")
    if not _is_ours(host):
        raise Refused("forbidden", "call this server by its address or as localhost")
    if request.headers.get("origin") != f"http://{host}":
        raise Refused("forbidden", "this is for the server's own pages")
    # A form of another site's cannot send this type, and a script of another site's is not given leave to.
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise Refused("forbidden", "send JSON, as application/json")


def _is_ours(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or bool(ipaddress.ip_address(name))
    except ValueError:
        return False


def _is_loopback(address: str) -> bool:
    try:
        one = ipaddress.ip_address(address)
    except ValueError:
        return False
    return (getattr(one, "ipv4_mapped", None) or one).is_loopback


router = APIRouter(prefix="/dev", include_in_schema=False, dependencies=[Depends(_at_this_machine)])


class Wanted(BaseModel):
    """Who a page wants to be, and what it wants to do."""

    model_config = ConfigDict(extra="forbid", strict=True)

    subject: str
    scopes: list[str] = Field(default_factory=lambda: list(DEFAULT_SCOPES))


@router.post("/token")
async def token(parts: Parts, wanted: Annotated[Wanted, body(Wanted)]) -> Response:
    """A token for any subject and scopes."""
    secret = parts.settings.secret
    assert secret is not None
    try:
        minted = mint(secret.get_secret_value(), wanted.subject, wanted.scopes, TOKEN_TTL_S)
    except ValueError as error:
        raise Refused("invalid_frame", str(error)) from None
    return answer({"token": minted, "expires_in_s": TOKEN_TTL_S})


@router.post("/kill-worker")
async def kill_worker(parts: Parts) -> Response:
    """Has the supervisor kill the worker as `kill -9` would; it starts another one."""
    if parts.settings.redis_url.startswith("memory://"):
        raise Refused("conflict", "web and worker are one process here, as there is no Redis")
    os.kill(os.getppid(), signal.SIGUSR1)
    return answer({"killed": True}, 202)
