"""Both sides of every queue: a job marks its first line in the file $BENCH_MARKS, and a driver prints when it enqueued what.

Nothing of ours is imported: the peers' environments have uvloop alone.
"""

import asyncio
import functools
import os
import random
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import uvloop


@functools.cache
def _file() -> int:
    return os.open(os.environ["BENCH_MARKS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def mark(id: str) -> None:
    """The first line of a job."""
    os.write(_file(), b"%s %d\n" % (id.encode(), time.time_ns()))


async def drive(enqueue: Callable[[str, str], Awaitable[object]]) -> None:
    """`enqueue(name, id)`, as the command line says: `samples N` one by one, `fill N`, `hold N`."""
    what, count = sys.argv[1], int(sys.argv[2])
    if what == "samples":
        for k in range(-5, count):  # the first ones load code and scripts
            began = time.time_ns()
            await enqueue("noop", f"s{k}")
            print(f"s{k} {began}", flush=True)
            await asyncio.sleep(random.uniform(0.05, 0.15))
        return
    gate = asyncio.Semaphore(20)

    async def one(name: str, id: str) -> None:
        async with gate:
            await enqueue(name, id)

    await asyncio.gather(*(one("noop" if what == "fill" else "hold", f"{what[0]}{k}") for k in range(count)))


def run(main: Coroutine[Any, Any, None]) -> None:
    """Every driver's loop is the same."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)
