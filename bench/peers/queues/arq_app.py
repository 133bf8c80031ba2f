"""arq: its client (also with our worker) and its own worker.

python -m bench.peers.queues.arq_app worker | samples N | fill N | hold N

ARQ_POLL_S and MAX_JOBS change arq's defaults.
"""

import asyncio
import os
import sys
from typing import Any

from arq import create_pool
from arq.connections import RedisSettings
from arq.worker import run_worker

from bench.marks import drive, mark, run

REDIS = RedisSettings(port=int(os.environ["REDIS_PORT"]))


async def noop(ctx: dict[str, Any], id: str) -> None:
    mark(id)


async def hold(ctx: dict[str, Any], id: str) -> None:
    mark(id)
    await asyncio.sleep(600)


async def ready(ctx: dict[str, Any]) -> None:
    print("ready", flush=True)


class Settings:
    functions = (noop, hold)
    redis_settings = REDIS
    on_startup = ready
    poll_delay = float(os.environ.get("ARQ_POLL_S", "0.5"))
    max_jobs = int(os.environ.get("MAX_JOBS", "10"))


async def main() -> None:
    pool = await create_pool(REDIS)
    await drive(lambda name, id: pool.enqueue_job(name, id=id))
    await pool.aclose()


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        asyncio.set_event_loop(asyncio.new_event_loop())  # arq 0.28 asks for one that nobody has made
        run_worker(Settings)  # type: ignore[arg-type]
    else:
        run(main())
