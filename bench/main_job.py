"""The main job's rows: a message in, the queue, a worker, 100 events out, in order."""

from typing import Any

from bench.rows import FAULTS, Metric, Row, Sample
from bench.stage import Stage
from bench.systems import SYSTEMS, start


def needs(name: str) -> tuple[str, ...]:
    return SYSTEMS[name].needs


def tokens(name: str, *, samples: int = 40, idle: int = 0) -> Sample:
    """One job at a time on one connection; `idle` others are connected and say nothing."""
    system = SYSTEMS[name]
    with Stage() as stage:
        start(stage, system)
        got = stage.client("tokens", system.adapter, {"samples": samples, "idle": idle})
    return Sample(lists={key: got[key] for key in ("first_ms", "last_ms")}, faults=faults(got))


def saturated(name: str) -> Sample:
    """50 clients, each with one job in flight, for 4 s."""
    return load(name, clients=50, ms=4000)


def paced(name: str) -> Sample:
    """200 clients, each with one job in flight that streams an event every 20 ms: 10,000 a second are asked for."""
    return load(name, clients=200, gap=20, ramp=2000, warm=3000, ms=5000)


def load(name: str, **options: float) -> Sample:
    system = SYSTEMS[name]
    with Stage() as stage:
        running = start(stage, system)
        got = stage.client("load", system.adapter, options, watch=running.pids)
    events = max(1, got["events"])
    values = {
        "events_s": got["events"] / got["s"],
        "cpu_10k_s": sum(got["cpu_s"].values()) / events * 1e4,
        "client_busy": got["client_busy"],
        **{f"{role}_us": spent / events * 1e6 for role, spent in got["cpu_s"].items()},
    }
    return Sample(values, {key: got[key] for key in ("first_ms", "age_ms")}, faults(got))


def faults(got: dict[str, Any]) -> dict[str, int]:
    return {name: got[name] for name in FAULTS}


_CPU = (
    Metric("cpu_10k_s", "CPU s per 10,000", 3),
    Metric("web_us", "web µs/event"),
    Metric("worker_us", "worker µs/event"),
    Metric("redis_us", "Redis µs/event"),
    Metric("client_busy", "client's core", 2),
)
ROWS = (
    Row(
        "tokens",
        "One job of 100 events on an idle system",
        ("rt", "sio", "floor", "tutorial"),
        (
            Metric("first_ms.p50", "first token p50 ms", 2),
            Metric("first_ms.p99", "p99", 1, pooled=True),
            Metric("last_ms.p50", "last of 100 p50 ms", 2),
            Metric("last_ms.p99", "p99", 1, pooled=True),
        ),
        tokens,
        needs,
    ),
    Row(
        "saturated",
        "50 clients, each with one job of 100 events in flight",
        ("rt", "rt-data", "sio", "floor"),
        (Metric("events_s", "events/s", 0), *_CPU, Metric("first_ms.p50", "first token p50 ms", 0)),
        saturated,
        needs,
    ),
    Row(
        "paced",
        "200 clients, an event every 20 ms each (10,000 events a second are asked for)",
        ("rt", "sio", "floor"),
        (
            Metric("events_s", "events/s", 0),
            Metric("age_ms.p50", "event age p50 ms", 2),
            Metric("age_ms.p99", "p99", 1, pooled=True),
            *_CPU,
        ),
        paced,
        needs,
    ),
)
