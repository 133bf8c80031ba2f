"""`rt doctor`: looks at settings, Redis and workers, and says for each what is wrong and what to do. It changes nothing."""

import asyncio
import os
import platform
import statistics
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal

from rt import keys
from rt.dev import Home, without_password
from rt.errors import Unavailable
from rt.redis import ReplyError, Store
from rt.settings import BadSettings, Settings, load_settings, sources

Status = Literal["ok", "warn", "fail", "skip"]

_PACKAGES = ("rt-engine", "arq", "redis", "fastapi", "uvicorn", "websockets", "pydantic")
#: The oldest servers with every command and flag that the scripts use.
_OLDEST = {"redis": (7, 0), "valkey": (7, 2)}
_PINGS = 9
#: Above it a job's every token waits noticeably: each append is one round trip.
_SLOW_MS = 20


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. `todo` says what to do about a warning or a failure."""

    name: str
    status: Status
    detail: str
    todo: str = ""


def diagnose(home: Home | None) -> list[Check]:
    """Every check but the one that needs a web process. Never raises for what it finds; takes a few seconds at most."""
    checks = [_versions()]
    try:
        settings = load_settings()
    except BadSettings as error:
        return [*checks, Check("settings", "fail", str(error), "correct the variables that are named")]
    running = home.running() if home else None
    checks.append(_settings(settings, has_home=bool(home and home.secret())))
    url = settings.redis_url or (running.redis_url if running else "")
    return [*checks, *asyncio.run(_redis(url))]


def _versions() -> Check:
    known = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    return Check("versions", "ok", f"Python {platform.python_version()} on {sys.platform}; {known}")


def _settings(settings: Settings, *, has_home: bool) -> Check:
    told = []
    for name, source in sources().items():
        if source != "default":
            value = getattr(settings, name)  # a SecretStr shows asterisks
            told.append(f"{source}={without_password(value) if name == 'redis_url' else value}")
    detail = ", ".join(told) or "all at their defaults"
    if settings.allowed_origins.strip() == "*":
        return Check("settings", "warn", detail, "RT_ALLOWED_ORIGINS=* lets any web page open WebSockets: name your own origins")
    if settings.secret is None and not has_home:
        return Check("settings", "warn", detail, "RT_SECRET is not set: `rt web` needs it, 32 bytes or more (`rt dev` makes one)")
    if "WEB_CONCURRENCY" in os.environ:
        return Check("settings", "warn", detail, "WEB_CONCURRENCY is ignored: one `rt web` is one process; start more of them")
    return Check("settings", "ok", detail)


async def _redis(url: str) -> list[Check]:
    if not url:
        return [Check("redis", "fail", "REDIS_URL is not set and no `rt dev` runs here", "set REDIS_URL, or start `rt dev`")]
    if url.startswith("memory://"):
        return [Check("redis", "skip", "in memory of another process: nobody else can look at it, and nothing is kept")]
    try:
        store = Store(url)
    except ValueError as error:
        return [Check("redis", "fail", f"REDIS_URL cannot be read: {error}", "write redis://, rediss:// or unix://")]
    checks: list[Check] = []
    try:
        # One after the other: what was learnt stands when Redis goes away in between.
        for look in (_reach, _kind, _cluster, _eviction, _persistence, _notifications, _workers):
            checks.append(await look(store))
    except Unavailable as error:
        why = f"{type(error.__cause__).__name__}: {error.__cause__}" if error.__cause__ else str(error)
        checks.append(
            Check("redis", "fail", f"{without_password(url)} cannot be reached: {why}", "is the address right, and is the server up?")
        )
    finally:
        await store.close()
    return checks


async def _ask(store: Store, *command: str) -> Any:
    """The answer; None when the server does not know the command or does not allow it. Raises Unavailable."""
    try:
        return await store.call(*command)
    except ReplyError:
        return None


async def _info(store: Store, section: str) -> dict[str, str]:
    try:
        return await store.info(section)
    except ReplyError:
        return {}


async def _reach(store: Store) -> Check:
    took = []
    await store.call("PING")  # the first one pays for the connection
    for _ in range(_PINGS):
        began = time.perf_counter()
        await store.call("PING")
        took.append((time.perf_counter() - began) * 1000)
    median = statistics.median(took)
    detail = f"{without_password(store.url)} answers in {median:.1f} ms"
    if median > _SLOW_MS:
        return Check("redis", "warn", detail, "every append waits for it: put Redis and the workers into one region")
    return Check("redis", "ok", detail)


async def _kind(store: Store) -> Check:
    info = await _info(store, "server")
    kind = "valkey" if info.get("valkey_version") else "redis"
    text = info.get("valkey_version") or info.get("redis_version") or ""
    if not text:
        return Check("version", "warn", "unknown: INFO is not allowed", "make sure that it is Redis 7.0 or Valkey 7.2, or newer")
    numbers = tuple(int(one) for one in text.split(".")[:2] if one.isdecimal())
    if numbers < _OLDEST[kind]:
        return Check("version", "fail", f"{kind} {text}", "Redis 7.0 or Valkey 7.2, or newer, is needed")
    return Check("version", "ok", f"{kind} {text}")


async def _cluster(store: Store) -> Check:
    try:
        await store.refuse_cluster()
    except BadSettings as error:
        return Check("cluster", "fail", str(error), "use a single primary")
    return Check("cluster", "ok", "a single primary")


async def _eviction(store: Store) -> Check:
    memory = await _info(store, "memory")
    policy, limit = memory.get("maxmemory_policy"), int(memory.get("maxmemory", 0))
    if policy is None:
        return Check("eviction", "warn", "unknown: INFO is not allowed", "make sure that maxmemory-policy is noeviction")
    if policy == "noeviction":
        return Check("eviction", "ok", "noeviction")
    todo = "set maxmemory-policy to noeviction: a full Redis is to refuse, not to forget"
    if limit:
        return Check("eviction", "fail", f"{policy} above {limit} bytes: accepted jobs and events would vanish", todo)
    return Check("eviction", "warn", f"{policy}, which would count once maxmemory is set", todo)


async def _persistence(store: Store) -> Check:
    info = await _info(store, "persistence")
    if "aof_enabled" not in info:
        return Check("persistence", "warn", "unknown: INFO is not allowed", "make sure that it keeps an append-only file")
    if info["aof_enabled"] == "1":
        return Check("persistence", "ok", "append-only file: at most the last second is lost")
    return Check("persistence", "warn", "no append-only file: a crash of Redis loses what was accepted", "set appendonly yes")


async def _notifications(store: Store) -> Check:
    told = await _ask(store, "CONFIG", "GET", "notify-keyspace-events")
    flags = told[1].decode() if told else None
    todo = "set notify-keyspace-events to Kz, or else RT_POLL_S=0.05 for the workers"
    if flags is None:
        return Check("notifications", "warn", "unknown: CONFIG is not allowed, so jobs of plain arq clients may wait for RT_POLL_S", todo)
    if "K" in flags and ("z" in flags or "A" in flags):
        return Check("notifications", "ok", f"on ({flags})")
    # Setting what is set already changes nothing, and tells whether a worker may set it.
    if await _ask(store, "CONFIG", "SET", "notify-keyspace-events", flags) is None:
        return Check("notifications", "warn", "off, and CONFIG SET is not allowed: jobs of plain arq clients wait for RT_POLL_S", todo)
    return Check("notifications", "ok", "off; a worker turns them on when it starts")


async def _workers(store: Store) -> Check:
    seen = await _ask(store, "ZRANGE", keys.WORKERS, "0", "-1") or []
    names = [one.decode(errors="replace") for one in seen]
    # The list remembers who was there; the heartbeat's key expires with its worker.
    alive = [name for name in names if await _ask(store, "EXISTS", keys.worker(name))]
    if not alive:
        return Check("workers", "warn", "none is alive: jobs wait", "start `rt worker` with the same REDIS_URL")
    return Check("workers", "ok", f"{len(alive)} alive: {', '.join(alive[:5])}{' …' if len(alive) > 5 else ''}")
