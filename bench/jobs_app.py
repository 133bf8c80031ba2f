"""Jobs for the benchmarks: each stamps its first line, in Redis, under the time that its caller gave."""

import os
import time

from arq.connections import RedisSettings

from rt import App, JobContext
from rt.redis import Store

app = App()
_store: list[Store] = []


async def stamp(key: str) -> None:
    now = time.time_ns()
    if not _store:
        _store.append(Store(os.environ["REDIS_URL"]))
    await _store[0].call("RPUSH", key, now)


@app.job
async def stamped(job: JobContext, key: str) -> None:
    await stamp(key)


async def arq_stamped(ctx: dict, key: str) -> None:  # type: ignore[type-arg]
    await stamp(key)


class WorkerSettings:
    """For `arq bench.jobs_app.WorkerSettings`: arq's own worker at its defaults, on a queue of its own."""

    functions = [arq_stamped]  # noqa: RUF012
    queue_name = "arq:bench"
    redis_settings = RedisSettings()
