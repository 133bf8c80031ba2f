"""Alive, ready, metrics: for platforms and monitors. None of them asks for a token.

`/metrics` holds counts and times and no names but those of jobs, routes and frame types; who minds that keeps the path
from the outside at the proxy.
"""

import asyncio
import time
from typing import Any

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel

from rt.api.request import Parts, answer
from rt.redis import Store
from rt.telemetry import REGISTRY

#: A dead Redis shows within the sum of both.
_FRESH_S = 1.0
_WRITE_S = 0.9

router = APIRouter(tags=["health"])


class Check(BaseModel):
    name: str
    ok: bool


class Ready(BaseModel):
    ready: bool
    checks: list[Check]


class RedisCheck:
    """Whether Redis takes writes: asked at most once a second, however many ask here."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._asked_at = float("-inf")
        self._ok = False
        self._asking = asyncio.Lock()

    async def ok(self) -> bool:
        async with self._asking:
            now = time.monotonic()
            if now >= self._asked_at + _FRESH_S:
                self._ok = await self._store.takes_writes(_WRITE_S)
                self._asked_at = now
            return self._ok


@router.get("/livez")
async def alive() -> dict[str, bool]:
    """The process turns. Touches nothing else: a Redis that is away is no reason to restart this."""
    return {"alive": True}


@router.get("/readyz", response_model=Ready, responses={503: {"description": "Not ready.", "model": Ready}})
async def ready(request: Request, parts: Parts) -> Response:
    """Whether this process should get requests: Redis takes writes, and this is not about to end."""
    redis: RedisCheck = request.app.state.redis_check
    checks = [{"name": "redis", "ok": await redis.ok()}, {"name": "not draining", "ok": not parts.draining.is_set()}]
    good = all(one["ok"] for one in checks)
    return answer({"ready": good, "checks": checks}, 200 if good else 503)


_TEXT: dict[int | str, dict[str, Any]] = {
    200: {"description": "Prometheus text.", "content": {"text/plain": {"schema": {"type": "string"}}}}
}


@router.get("/metrics", response_class=Response, responses=_TEXT)
async def metrics() -> Response:
    """The process's counters."""
    return Response(generate_latest(REGISTRY), media_type=CONTENT_TYPE_LATEST)
