"""HTTP submissions a second, on one web process and 32 connections that stay open."""

from bench.main_job import faults, needs
from bench.rows import Metric, Row, Sample
from bench.stage import BenchFailed, Stage
from bench.systems import SYSTEMS, start


def posts(name: str) -> Sample:
    """No worker runs: what was accepted must be in the queue at the end, once."""
    system = SYSTEMS[name]
    with Stage() as stage:
        running = start(stage, system, worker=False)
        got = stage.client("post", system.adapter, {}, watch=running.pids)
        queued = int(stage.redis.zcard("arq:queue"))
    if not got["requests"]:
        raise BenchFailed(f"{name} accepted nothing")
    found = faults(got)
    found["lost"] += max(0, got["accepted"] - queued)
    found["repeated"] += max(0, queued - got["accepted"])
    values = {
        "posts_s": got["requests"] / got["s"],
        "web_us": got["cpu_s"]["web"] / got["requests"] * 1e6,
        "redis_us": got["cpu_s"]["redis"] / got["requests"] * 1e6,
        "client_busy": got["client_busy"],
    }
    return Sample(values, {"took_ms": got["took_ms"]}, found)


ROWS = (
    Row(
        "post",
        "POST of a job, one web process",
        ("rt", "fastapi-arq"),
        (
            Metric("posts_s", "requests/s", 0),
            Metric("took_ms.p50", "p50 ms", 1),
            Metric("web_us", "web µs"),
            Metric("redis_us", "Redis µs"),
            Metric("client_busy", "client's core", 2),
        ),
        posts,
        needs,
    ),
)
