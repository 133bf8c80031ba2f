"""What one append costs Redis at a stream's length: prints microseconds of its own time. `python -m bench.appends LENGTH`."""

import asyncio
import sys
import time

from bench.marks import run
from rt import events
from rt.keys import DEFAULT_TENANT, parse_stream
from rt.redis import Store
from rt.settings import load_settings
from rt.streams.log import StreamLog

_MEASURED = 5000
_AT_ONCE = 50


async def main() -> None:
    settings = load_settings()
    store = Store.of(settings)
    streams = StreamLog(store, settings)
    room = parse_stream("room:long")

    async def fill(count: int) -> None:
        async def some() -> None:
            for _ in range(count // _AT_ONCE):
                event = events.encode("message", str(room), {"from": "bench", "data": "word"}, int(time.time() * 1000))
                await streams.publish(DEFAULT_TENANT, room, event)

        async with asyncio.TaskGroup() as group:
            for _ in range(_AT_ONCE):
                group.create_task(some())

    await fill(int(sys.argv[1]))
    await store.call("CONFIG", "RESETSTAT")
    await fill(_MEASURED)
    stats = (await store.call("INFO", "commandstats")).decode()
    spent = next(line for line in stats.splitlines() if line.startswith("cmdstat_evalsha:"))
    print(dict(pair.split("=") for pair in spent.partition(":")[2].split(","))["usec_per_call"])
    await store.close()


if __name__ == "__main__":
    run(main())
