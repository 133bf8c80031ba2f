"""taskiq on Redis Streams: `taskiq worker bench.peers.queues.taskiq_app:broker` is the worker, this module the driver."""

import asyncio
import os
from typing import Any

from taskiq import TaskiqEvents, TaskiqState
from taskiq_redis import RedisStreamBroker

from bench.marks import drive, mark, run

broker = RedisStreamBroker(os.environ["REDIS_URL"])


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def ready(state: TaskiqState) -> None:
    print("ready", flush=True)


@broker.task(task_name="noop")
async def noop(id: str) -> None:
    mark(id)


@broker.task(task_name="hold")
async def hold(id: str) -> None:
    mark(id)
    await asyncio.sleep(600)


async def main() -> None:
    tasks: dict[str, Any] = {"noop": noop, "hold": hold}
    await broker.startup()
    await drive(lambda name, id: tasks[name].kiq(id))
    await broker.shutdown()


if __name__ == "__main__":
    run(main())
