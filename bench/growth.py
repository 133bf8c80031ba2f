"""How costs grow: each of ours against what might make it grow, measured at a few sizes in turn."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from bench import connections, fit, main_job, queues
from bench.rows import Sample
from bench.stage import BenchFailed, Command, Stage, python
from bench.systems import SYSTEMS, start
from rt.bench import percentile

_RT = SYSTEMS["rt"]
_REST_S = 10.0
_PACED = {"gap": 20, "ramp": 2000, "warm": 2500}


@dataclass(frozen=True)
class Growth:
    """`measure(x)` runs one repeat and returns y."""

    name: str
    title: str
    x_name: str
    y_name: str
    xs: tuple[int, ...]
    shape: fit.Shape
    measure: Callable[[int], float]


@dataclass
class Curve:
    """What was measured: `points[i]` has the repeats at `xs[i]`."""

    name: str
    title: str
    x_name: str
    y_name: str
    shape: fit.Shape
    xs: list[int] = field(default_factory=list)
    points: list[list[float]] = field(default_factory=list)
    error: str = ""

    @property
    def medians(self) -> list[float]:
        return [statistics.median(one) for one in self.points]

    @property
    def line(self) -> fit.Line:
        return fit.line(self.xs, self.medians)

    @property
    def fitted(self) -> str:
        return self.error or f"{self.line.start:,.3g} + {self.line.slope:.3g} {self.y_name} for each of {self.x_name}"

    @property
    def change(self) -> str:
        if self.error:
            return "–"
        first, last = self.medians[0], self.medians[-1]
        return f"{first:,.3g} at {self.xs[0]:,}, {last:,.3g} at {self.xs[-1]:,} (x {last / first:,.2f})"

    @property
    def met(self) -> bool:
        return not self.error and fit.keeps(self.shape, self.xs, self.medians)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def run_growth(growth: Growth, repeats: int, progress: Callable[[str], None]) -> Curve:
    """Sizes in turn, then the next repeat."""
    curve = Curve(growth.name, growth.title, growth.x_name, growth.y_name, growth.shape, list(growth.xs), [[] for _ in growth.xs])
    for repeat in range(repeats):
        for x, values in zip(curve.xs, curve.points, strict=True):
            began = time.monotonic()
            try:
                values.append(growth.measure(x))
            except Exception as error:  # one that cannot be measured does not end the others
                curve.error = f"{type(error).__name__}: {error}"[-300:]
                progress(f"{growth.name} at {x:,}: {curve.error}")
                return curve
            progress(f"{growth.name} {repeat + 1}/{repeats} at {x:,}: {values[-1]:,.4g} {growth.y_name} ({time.monotonic() - began:.0f} s)")
    return curve


def whole(sample: Sample) -> Sample:
    """Raises BenchFailed for a measurement that lost, repeated or disordered anything."""
    if sample.broken:
        raise BenchFailed(sample.broken)
    return sample


def _first_token(idle: int) -> float:
    return percentile(whole(main_job.tokens("rt", samples=30, idle=idle)).lists["first_ms"], 0.5)


def _redis_per_event(what: str, **load: int) -> float:
    with Stage() as stage:
        start(stage, _RT)
        counted: list[Mapping[str, int]] = []
        # The load client says when: what connecting cost is not an event's.
        got = stage.client("load", _RT.adapter, {"ms": 3000, **load}, moment=lambda: counted.append(stage.redis.info()))
    whole(Sample(faults=main_job.faults(got)))
    names = ("total_commands_processed",) if what == "commands" else ("total_net_input_bytes", "total_net_output_bytes")
    return float(sum(counted[1][name] - counted[0][name] for name in names) / got["events"])


def _resume(*, events: int = 100, history: int = 0, others: int = 0, clients: int = 50) -> float:
    return whole(connections.resume("rt", clients=clients, events=events, history=history, others=others)).values["all_ms"]


def _claim(busy: int) -> float:
    return percentile(whole(queues.to_start("rt", samples=30, busy=busy)).lists["start_ms"], 0.5)


def _web_mib(mode: str, **options: int) -> float:
    gained, got = connections.weigh("rt", mode, options)
    whole(Sample(faults=main_job.faults(got)))
    return gained / 2**20


def _append_us(length: int) -> float:
    with Stage() as stage:
        stage.env["RT_ROOM_LENGTH"] = "1000000"
        printed = stage.run(Command([*python("-m", "bench.appends").argv, str(length)]))
    return float(printed)


def _sessions(count: int, what: str) -> float:
    """MiB of Redis for sessions at rest, or the commands a second that Redis gets meanwhile."""
    with Stage() as stage:
        start(stage, _RT, worker=False)
        before = stage.redis.info("memory")["used_memory"]
        stage.client("visit", _RT.adapter, {"clients": count})
        time.sleep(1)
        if what == "memory":
            return float(stage.redis.info("memory")["used_memory"] - before) / 2**20
        commands = stage.redis.info("stats")["total_commands_processed"]
        time.sleep(_REST_S)
        return float(stage.redis.info("stats")["total_commands_processed"] - commands) / _REST_S


GROWTHS = (
    Growth("first-token-idle", "First token against idle connections", "idle connections", "ms", (10, 1000, 5000), "flat", _first_token),
    Growth(
        "commands-load",
        "Redis commands per event against load, an event every 20 ms per client",
        "busy clients",
        "commands",
        (5, 25, 100, 200),
        "falling",
        lambda x: _redis_per_event("commands", clients=x, **_PACED),
    ),
    Growth(
        "bytes-load",
        "Redis bytes per event against load, an event every 20 ms per client",
        "busy clients",
        "bytes",
        (5, 25, 100, 200),
        "falling",
        lambda x: _redis_per_event("bytes", clients=x, **_PACED),
    ),
    Growth(
        "commands-connections",
        "Redis commands per event against idle connections",
        "idle connections",
        "commands",
        (10, 1000, 5000),
        "flat",
        lambda x: _redis_per_event("commands", clients=20, idle=x),
    ),
    Growth(
        "bytes-connections",
        "Redis bytes per event against idle connections",
        "idle connections",
        "bytes",
        (10, 1000, 5000),
        "flat",
        lambda x: _redis_per_event("bytes", clients=20, idle=x),
    ),
    Growth(
        "resume-missed",
        "Resume of 50 clients against missed events",
        "missed events each",
        "ms",
        (10, 100, 1000, 3000),
        "linear",
        lambda x: _resume(events=x),
    ),
    Growth(
        "resume-history",
        "Resume of 10 clients, 100 missed events, against what they had before",
        "events before",
        "ms",
        (100, 1000, 10_000),
        "flat",
        lambda x: _resume(history=x, clients=10),
    ),
    Growth(
        "resume-others",
        "Resume of 50 clients, 100 missed events, against others' traffic",
        "events of others meanwhile",
        "ms",
        (100, 10_000, 100_000),
        "flat",
        lambda x: _resume(others=x),
    ),
    Growth("claim-busy", "Enqueue to first line against jobs that run", "busy jobs", "ms", (1, 1000, 5000), "flat", _claim),
    Growth(
        "memory-connections",
        "Memory of the web process against connections",
        "connections",
        "MiB",
        (1000, 2500, 5000),
        "linear",
        lambda x: _web_mib("idle", clients=x),
    ),
    Growth(
        "memory-streams",
        "Memory of the web process against followed streams (10 connections)",
        "streams each",
        "MiB",
        (100, 300, 900),
        "linear",
        lambda x: _web_mib("follow", clients=10, streams=x),
    ),
    Growth(
        "append-length",
        "Redis time of one append against the stream's length",
        "events in the stream",
        "µs",
        (100, 10_000, 200_000),
        "flat",
        _append_us,
    ),
    Growth(
        "sessions-memory",
        "Redis memory of sessions at rest",
        "sessions",
        "MiB",
        (2000, 5000, 20_000),
        "linear",
        lambda x: _sessions(x, "memory"),
    ),
    Growth(
        "sessions-commands",
        "Redis commands a second while sessions are at rest",
        "sessions",
        "commands/s",
        (2000, 5000, 20_000),
        "flat",
        lambda x: _sessions(x, "commands"),
    ),
)
