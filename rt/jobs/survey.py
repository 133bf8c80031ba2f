"""The queue, its leases, its workers and one job, as Redis has them now: for a person who looks. Reads, and changes nothing.

Every look has a bound, whatever stands in the queue, and takes a round trip or three. What is one tenant's is shown to
that tenant alone; how many there are is not.
"""

import asyncio
from typing import Any

from rt import keys
from rt.codec import from_json_bytes
from rt.jobs.job import TERMINAL_STATUSES
from rt.jobs.queue import JobQueue, JobRecord, rfc3339
from rt.redis import Store
from rt.settings import Settings
from rt.streams.timeline import excerpt

#: Jobs of each kind that a look at the queue names.
NAMED = 50
#: Workers that were there within the last hour, the newest first.
WORKERS = 200


class Survey:
    """All calls raise Unavailable when Redis does not answer."""

    def __init__(self, store: Store, queue: JobQueue, settings: Settings) -> None:
        self._store, self._queue, self._settings = store, queue, settings

    async def counts(self, tenant: str) -> dict[str, Any]:
        """How many jobs wait, and how long the first of them has. Of the tenant alone: what is kept of jobs and letters."""
        call, name, leases = self._store.call, self._queue.name, keys.leases(self._queue.name)
        now = await self._store.now_ms()
        queued, running, due, lapsed, oldest, jobs, letters = await asyncio.gather(
            call("ZCARD", name),
            call("ZCARD", leases),
            call("ZCOUNT", name, "-inf", now),
            call("ZCOUNT", leases, "-inf", now),
            # Above 1: that is what arq's `Job.abort()` makes of a job's time.
            call("ZRANGE", name, "(1", now, "BYSCORE", "LIMIT", 0, 1, "WITHSCORES"),
            call("ZCARD", keys.jobs(tenant)),
            call("ZCARD", keys.letters(tenant)),
        )
        waiting = max(0, queued - running)
        return {
            "queue": name,
            "waiting": waiting,
            "due": min(due, waiting),
            "deferred": max(0, waiting - due),
            "running": running,
            "lapsed": lapsed,
            "oldest_s": round((now - float(oldest[1])) / 1000, 3) if oldest else 0.0,
            "limit": self._settings.queue_limit,
            "jobs": jobs,
            "dead_letters": letters,
        }

    async def queue(self, tenant: str) -> dict[str, Any]:
        """The counts, and the tenant's own among the first `NAMED` jobs that are due, that are put off, and that are leased."""
        call, name, leases = self._store.call, self._queue.name, keys.leases(self._queue.name)
        now = await self._store.now_ms()
        counts: dict[str, Any]
        counts, due, later, leased = await asyncio.gather(
            self.counts(tenant),
            call("ZRANGE", name, "-inf", now, "BYSCORE", "LIMIT", 0, NAMED, "WITHSCORES"),
            call("ZRANGE", name, f"({now}", "+inf", "BYSCORE", "LIMIT", 0, NAMED, "WITHSCORES"),
            call("ZRANGE", leases, 0, NAMED - 1, "WITHSCORES"),
        )
        # A job that runs is parked in the queue, a day ahead.
        parked = set((await self.lease_ends([id.decode(errors="replace") for id in later[::2]])).keys())
        named = await asyncio.gather(*(self._named(tenant, some) for some in (due, later, leased)))
        return counts | {
            "next": [one | {"due_at": rfc3339(at), "waits_s": max(0.0, (now - at) / 1000)} for one, at in named[0]],
            "later": [one | {"due_at": rfc3339(at)} for one, at in named[1] if one["job_id"] not in parked],
            "leases": [one | {"ends_in_s": (at - now) / 1000} for one, at in named[2]],
        }

    async def _named(self, tenant: str, some: list[bytes]) -> list[tuple[dict[str, Any], int]]:
        """`({job_id, job}, score)` of those that are the tenant's."""
        if not some:
            return []
        ids = [one.decode(errors="replace") for one in some[::2]]
        owners = await self._store.call("HMGET", keys.tenants(self._queue.name), *ids)
        mine = [
            (id, int(float(score)))
            for id, score, owner in zip(ids, some[1::2], owners, strict=True)
            if (owner.decode() if owner else keys.DEFAULT_TENANT) == tenant
        ]
        jobs = await asyncio.gather(*(self._store.call("HGET", keys.meta(tenant, keys.job_stream(id)), "job") for id, _ in mine))
        return [({"job_id": id, "job": job.decode() if job else None}, at) for (id, at), job in zip(mine, jobs, strict=True)]

    async def lease_ends(self, ids: list[str]) -> dict[str, float]:
        """When the leases of jobs end (Unix ms); a job without one is left out."""
        if not ids:
            return {}
        scores = await self._store.call("ZMSCORE", keys.leases(self._queue.name), *ids)
        return {id: float(score) for id, score in zip(ids, scores, strict=True) if score is not None}

    async def workers(self) -> list[dict[str, Any]]:
        """`{worker, seen_s, said}`: each that has said within the last hour that it lives; `said` is None once that is over."""
        now = await self._store.now_ms()
        found = await self._store.call("ZRANGE", keys.WORKERS, 0, WORKERS - 1, "REV", "WITHSCORES")
        names = [one.decode() for one in found[::2]]
        said = await self._store.call("MGET", *(keys.worker(name) for name in names)) if names else []
        return [
            {"worker": name, "seen_s": round((now - float(at)) / 1000, 1), "said": from_json_bytes(raw) if raw else None}
            for name, at, raw in zip(names, found[1::2], said, strict=True)
        ]

    async def job(self, tenant: str, job_id: str) -> tuple[JobRecord, dict[str, Any]] | None:
        """A job's record, and all that can be told of it; None when there is none."""
        record, fields = await self._queue.look(tenant, job_id)
        if record is None:
            return None

        def number(name: str) -> float | None:
            return float(fields[name]) if fields.get(name) else None

        told: dict[str, Any] = {
            "job_id": record.id,
            "job": record.job,
            "status": record.status,
            "attempt": record.attempt,
            "tries": int(number("tries") or 0),
            "owner": record.owner or None,
            "session": record.session or None,
            "reports": list(record.reports),
            "request_id": record.request_id or None,
            "retry_of": fields["retry_of"].decode() if "retry_of" in fields else None,
            "max_attempts": int(number("max") or 0) or None,
            "timeout_s": (number("timeout_ms") or 0) / 1000 or None,
            "created_at": rfc3339(record.created_ms),
            "started_at": rfc3339(record.started_ms) if record.started_ms else None,
            "finished_at": rfc3339(record.finished_ms) if record.finished_ms else None,
            "deadline_at": None,
            "cancelled_by": fields["cancel"].decode() if "cancel" in fields else None,
            "checkpoint_bytes": len(fields.get("checkpoint", b"")),
            "errors": [_error(line) for line in fields.get("errors", b"").split(b"\n") if line],
            "error": record.error,
            "usage": record.usage,
            "result": excerpt(fields["result"]) if fields.get("result") else None,
            "place": None,
            "lease_s": None,
        }
        if record.status not in TERMINAL_STATUSES:
            now = await self._store.now_ms()
            place, leased = await asyncio.gather(self._store.call("ZRANK", self._queue.name, job_id), self.lease_ends([job_id]))
            told["deadline_at"] = rfc3339(int(deadline)) if (deadline := number("deadline")) else None
            told["place"] = place + 1 if place is not None and not leased else None
            told["lease_s"] = (leased[job_id] - now) / 1000 if leased else None
        return record, told


def _error(line: bytes) -> dict[str, Any]:
    one = from_json_bytes(line)
    return {"attempt": one["attempt"], "at": rfc3339(one["at"]), **{name: one.get(name) for name in ("code", "message", "temporary")}}
