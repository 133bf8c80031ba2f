"""SAQ: `saq bench.peers.queues.saq_app.settings` is the worker, `python -m bench.peers.queues.saq_app samples N` the driver."""

import asyncio
import os
from typing import Any

from saq import Queue

from bench.marks import drive, mark, run

queue = Queue.from_url(os.environ["REDIS_URL"])


async def noop(ctx: dict[str, Any], *, id: str) -> None:
    mark(id)


async def hold(ctx: dict[str, Any], *, id: str) -> None:
    mark(id)
    await asyncio.sleep(600)


async def ready(ctx: dict[str, Any]) -> None:
    print("ready", flush=True)


settings = {
    "queue": queue,
    "functions": [noop, hold],
    "startup": ready,
    **({"concurrency": int(os.environ["MAX_JOBS"])} if "MAX_JOBS" in os.environ else {}),
}


async def main() -> None:
    await queue.connect()
    await drive(lambda name, id: queue.enqueue(name, id=id))
    await queue.disconnect()


if __name__ == "__main__":
    run(main())
