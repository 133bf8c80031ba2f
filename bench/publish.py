"""Publishes numbered messages to sessions whose clients are away, as any backend of ours would.

On stdin: {"rooms": [session, …], "n": count}.
"""

import asyncio
import sys
import time

from bench.marks import run
from rt import events
from rt.codec import from_json_bytes
from rt.keys import DEFAULT_TENANT, parse_stream, session_stream
from rt.redis import Store
from rt.settings import load_settings
from rt.streams.log import StreamLog


async def main() -> None:
    asked = from_json_bytes(sys.stdin.buffer.read())
    settings = load_settings()
    store = Store.of(settings)
    streams = StreamLog(store, settings)

    async def fill(name: str) -> None:
        for i in range(asked["n"]):
            event = events.encode("message", name, {"from": "bench", "data": {"job": "gap", "i": i}}, int(time.time() * 1000))
            await streams.publish(DEFAULT_TENANT, parse_stream(name), event)

    async with asyncio.TaskGroup() as group:
        for session in asked["rooms"]:
            group.create_task(fill(session_stream(session)))
    await store.close()


if __name__ == "__main__":
    run(main())
