"""How long from "enqueue" to the first line of the job, on an idle worker.

    .venv/bin/python -m bench.enqueue_to_start [--samples 100] [--json]

Three rows, interleaved in one run against one private Redis: our client and a plain arq client with our worker, and a
plain arq client with arq's own worker at its defaults. Each worker is a process of its own. Samples are 10 to 150 ms
apart, at random, so that they do not fall into step with a poll. Clock: the machine's, the same for all processes.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop
from arq.connections import ArqRedis

from bench.jobs_app import app
from rt.jobs.queue import JobQueue, NewJob
from rt.localredis import PrivateRedis
from rt.redis import Store
from rt.settings import load_settings
from rt.streams.log import StreamLog


async def sample(redis: ArqRedis, enqueue: Callable[[str], Awaitable[object]], n: int) -> float:
    """Milliseconds from the call to the job's first line."""
    key = f"bench:{n}:{random.random()}"
    began = time.time_ns()
    await enqueue(key)
    _, stamp = await redis.blpop(key, 5)
    return (int(stamp) - began) / 1e6


def percentile(values: list[float], q: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(q * (len(ordered) - 1)))]


async def measure(url: str, samples: int) -> dict[str, list[float]]:
    settings = load_settings(REDIS_URL=url)
    store = Store(url)
    queue = JobQueue(store, StreamLog(store, settings), settings)
    arq = ArqRedis(store.pool)
    rows: dict[str, Callable[[str], Awaitable[object]]] = {
        "rt client, rt worker": lambda key: queue.accept(NewJob(app.jobs["stamped"], {"key": key}, "-", "bench")),
        "arq client, rt worker": lambda key: arq.enqueue_job("stamped", key),
        "arq client, arq worker": lambda key: arq.enqueue_job("arq_stamped", key, _queue_name="arq:bench"),
    }
    out: dict[str, list[float]] = {name: [] for name in rows}
    for n in range(samples + 5):
        for name, enqueue in rows.items():
            await asyncio.sleep(random.uniform(0.01, 0.15))
            took = await sample(arq, enqueue, n)
            if n >= 5:  # the first ones load code and scripts
                out[name].append(took)
        if sys.stderr.isatty():
            print(f"\r{n}/{samples + 5}", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print("\r", end="", file=sys.stderr)
    await store.close()
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    root = Path(__file__).parent.parent
    with tempfile.TemporaryDirectory() as folder, PrivateRedis(Path(folder), port=_free_port(), aof=False) as server:
        env = {**os.environ, "REDIS_URL": server.url, "PYTHONPATH": str(root)}
        host, _, port = server.url.removeprefix("redis://").partition("/")[0].partition(":")
        code = (
            "import arq.worker, bench.jobs_app as b; from arq.connections import RedisSettings; "
            f"arq.worker.run_worker(b.WorkerSettings, redis_settings=RedisSettings({host!r}, {port}))"
        )
        ours = subprocess.Popen([sys.executable, "-m", "rt.cli", "worker", "bench.jobs_app:app"], env=env, cwd=root, stdout=subprocess.PIPE)
        theirs = subprocess.Popen([sys.executable, "-c", code], env=env, cwd=root, stdout=subprocess.DEVNULL)
        try:
            assert ours.stdout is not None
            ours.stdout.readline()
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # as `rt web` does
                out = runner.run(measure(server.url, options.samples))
        finally:
            for one in (ours, theirs):
                one.terminate()
            for one in (ours, theirs):
                one.wait(20)
    rows = {
        name: {"p50_ms": round(percentile(v, 0.5), 2), "p99_ms": round(percentile(v, 0.99), 2), "min_ms": round(min(v), 2)}
        for name, v in out.items()
    }
    if options.json:
        print(json.dumps({"machine": _machine(), "samples": options.samples, "rows": rows}))
        return
    print(f"{_machine()}, {options.samples} samples a row, interleaved")
    for name, row in rows.items():
        print(f"  {name:24} p50 {row['p50_ms']:8.2f} ms   p99 {row['p99_ms']:8.2f} ms   min {row['min_ms']:6.2f} ms")
    print(f"  arq's worker waits {rows['arq client, arq worker']['p50_ms'] / rows['arq client, rt worker']['p50_ms']:.0f} times as long")


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _machine() -> str:
    return f"{os.cpu_count()} cores, {platform.system()} {platform.release()}, Python {platform.python_version()}"


if __name__ == "__main__":
    main()
