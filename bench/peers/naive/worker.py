"""The tutorials' worker: listens to a channel, publishes to another."""

import asyncio
import json
import os
import time
from typing import Any

import redis.asyncio as redis
import uvloop


async def run(store: Any, job: dict[str, Any]) -> None:
    gap_s = (job.get("gap") or 0) / 1000
    began = time.perf_counter()
    for i in range(job["n"]):
        await asyncio.sleep(gap_s and max(0, began + i * gap_s - time.perf_counter()))
        event = {"t": "token", "session": job["session"], "job": job["id"], "i": i, "d": f"word-{i}"}
        await store.publish("events", json.dumps(event | ({"ts": time.time() * 1000} if gap_s else {})))


async def main() -> None:
    store = redis.from_url(os.environ["REDIS_URL"])
    subscription = store.pubsub()
    await subscription.subscribe("jobs")
    print("ready", flush=True)
    async with asyncio.TaskGroup() as group:
        async for message in subscription.listen():
            if message["type"] == "message":
                group.create_task(run(store, json.loads(message["data"])))


uvloop.run(main())
