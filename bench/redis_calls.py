"""What a call to Redis costs a process: through the library's pool, and through our pipeline.

    .venv/bin/python -m bench.redis_calls [--rounds 5] [--json]

Two rows a client, interleaved in one run against one private Redis: one call at a time with pauses of 5 to 30 ms, as an
idle process has them, and 50 callers at once, each awaiting its call. A call is an EVALSHA of a script that returns its
argument of 200 bytes. The library's row is a pool of 20 with hiredis, as redis-py makes it.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import redis.asyncio as aioredis
import uvloop

from rt.localredis import PrivateRedis
from rt.redis import Store

_SCRIPT = "return ARGV[1]"
_CALLERS = 50
_LOADED_S = 1.0
_COLD = 60

Call = Callable[..., Awaitable[Any]]


async def cold(call: Call, sha: str) -> float:
    """Median milliseconds of a call that nothing came before."""
    took = []
    for _ in range(_COLD):
        await asyncio.sleep(random.uniform(0.005, 0.03))
        began = time.perf_counter()
        await call("EVALSHA", sha, 0, b"x" * 200)
        took.append((time.perf_counter() - began) * 1000)
    return statistics.median(took)


async def loaded(call: Call, sha: str) -> float:
    """Calls per second of all callers."""
    end, count = time.perf_counter() + _LOADED_S, 0

    async def caller() -> None:
        nonlocal count
        while time.perf_counter() < end:
            await call("EVALSHA", sha, 0, b"x" * 200)
            count += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(_CALLERS):
            group.create_task(caller())
    return count / _LOADED_S


async def measure(url: str, rounds: int) -> dict[str, dict[str, list[float]]]:
    store = Store(url)
    library: Any = aioredis.Redis(connection_pool=aioredis.BlockingConnectionPool.from_url(url, max_connections=20))
    clients: dict[str, Call] = {"redis-py's pool": library.execute_command, "our pipeline": store.call}
    sha = (await store.call("SCRIPT", "LOAD", _SCRIPT)).decode()
    out: dict[str, dict[str, list[float]]] = {name: {"cold ms": [], "loaded calls/s": []} for name in clients}
    for _ in range(rounds):
        for name, call in clients.items():
            out[name]["cold ms"].append(await cold(call, sha))
            out[name]["loaded calls/s"].append(await loaded(call, sha))
    await library.aclose()
    await store.close()
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="the values of all rounds instead of the table")
    args = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        PrivateRedis(Path(folder), aof=False) as server,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        rows = runner.run(measure(server.url, args.rounds))
    if args.json:
        print(json.dumps(rows))
        return
    machine = f"{os.cpu_count()} cores, {platform.system()} {platform.release()}, Python {platform.python_version()}"
    print(f"{machine}; median [min-max] of {args.rounds}")
    for name, values in rows.items():
        cells = (f"{what} {statistics.median(one):,.2f} [{min(one):,.2f}-{max(one):,.2f}]" for what, one in values.items())
        print(f"  {name:<16} {'   '.join(cells)}")


if __name__ == "__main__":
    main()
