"""The goals: ratios to what our system replaces, measured in one interleaved run, and a few plain figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.rows import Metric, Result


@dataclass(frozen=True)
class Goal:
    """`ours` in a row, against `peer` there (or in `peer_row`), or a plain figure where `peer` is None."""

    text: str
    row: str
    metric: Metric
    limit: float
    peer: str | None = None
    at_least: bool = False
    ours: str = "rt"
    peer_row: str | None = None


@dataclass(frozen=True)
class Verdict:
    """`measured` is the ratio, or the plain figure; None with a `reason` where there is none."""

    goal: Goal
    measured: float | None
    reason: str = ""

    @property
    def met(self) -> bool:
        if self.measured is None:
            return False
        return self.measured >= self.goal.limit if self.goal.at_least else self.measured <= self.goal.limit


def judge(goal: Goal, results: Mapping[str, Result]) -> Verdict:
    """Ours over the peer's. A row that lost, repeated or disordered anything is no number."""
    ours, reason = _figure(results, goal.row, goal.ours, goal.metric)
    if ours is None or goal.peer is None:
        return Verdict(goal, ours, reason)
    theirs, reason = _figure(results, goal.peer_row or goal.row, goal.peer, goal.metric)
    return Verdict(goal, ours / theirs if theirs else None, reason)


def _figure(results: Mapping[str, Result], row: str, system: str, metric: Metric) -> tuple[float | None, str]:
    result = results.get(row)
    if result is None:
        return None, f"{row} was not run"
    if system in result.skipped:
        return None, f"{system} is not installed"
    broken = result.broken(system)
    if broken:
        return None, f"{system} FAILED: {broken}"
    value = result.median(system, metric)
    return value, "" if value is not None else f"{system} was not measured"


def verdicts(results: Mapping[str, Result], goals: Sequence[Goal]) -> list[Verdict]:
    return [judge(one, results) for one in goals]


_FIRST, _LAST = Metric("first_ms.p50", "first token"), Metric("last_ms.p50", "last of 100")
_EVENTS, _CPU = Metric("events_s", "events/s"), Metric("cpu_10k_s", "CPU s per 10,000")
_AGE = Metric("age_ms.p99", "event age p99", pooled=True)
_START, _START99 = Metric("start_ms.p50", "p50"), Metric("start_ms.p99", "p99", pooled=True)
_ALL = Metric("all_ms", "until all have all")
GOALS = (
    Goal("first token, idle, of Socket.IO + BullMQ", "tokens", _FIRST, 0.6, "sio"),
    Goal("first token, idle, of the tutorial without any durability", "tokens", _FIRST, 1.0, "tutorial"),
    Goal("last of 100 tokens, idle, of Socket.IO + BullMQ", "tokens", _LAST, 0.35, "sio"),
    Goal("events/s, 50 clients, saturated, of Socket.IO + BullMQ", "saturated", _EVENTS, 3.0, "sio", at_least=True),
    Goal("the same, of the Node floor", "saturated", _EVENTS, 1.6, "floor", at_least=True),
    Goal("CPU per event, saturated, of Socket.IO + BullMQ", "saturated", _CPU, 0.35, "sio"),
    Goal("paced, 10,000 events/s asked for: events/s", "paced", _EVENTS, 9900, at_least=True),
    Goal("paced: CPU per event, of Socket.IO + BullMQ", "paced", _CPU, 0.5, "sio"),
    Goal("paced: event age p99, of Socket.IO + BullMQ", "paced", _AGE, 0.5, "sio"),
    Goal("enqueue to first line p50, our client, of BullMQ", "start", _START, 0.6, "bullmq"),
    Goal("enqueue to first line p50, plain arq client, of BullMQ", "start", _START, 0.6, "bullmq", ours="rt-arq-client"),
    Goal("enqueue to first line p50, our client, ms", "start", _START, 1.0),
    Goal("enqueue to first line p50, plain arq client, ms", "start", _START, 1.0, ours="rt-arq-client"),
    Goal("enqueue to first line p99, our client, ms", "start", _START99, 4.0),
    Goal("enqueue to first line p99, plain arq client, ms", "start", _START99, 4.0, ours="rt-arq-client"),
    Goal("no-op jobs/s, of arq with a 5 ms poll", "noop", Metric("jobs_s", "jobs/s"), 4.0, "arq-5ms", at_least=True),
    Goal("no-op jobs/s, of BullMQ (stretch)", "noop", Metric("jobs_s", "jobs/s"), 1.0, "bullmq", at_least=True),
    Goal("RSS of an idle connection, of FastAPI's WebSocket class", "idle", Metric("kib", "KiB"), 1.0, "fastapi"),
    Goal("room of 5,000: one publish to the last member, of Socket.IO", "room", Metric("all_ms.p50", "ms"), 1.2, "sio"),
    Goal("resume of 500 x 100 events, of Socket.IO in memory", "resume", _ALL, 0.25, "sio-memory"),
    Goal("the same after kill -9, of Socket.IO in memory that lives", "resume-killed", _ALL, 0.25, "sio-memory", peer_row="resume"),
    Goal("POST of a job per second, of bare FastAPI + arq", "post", Metric("posts_s", "requests/s"), 1.5, "fastapi-arq", at_least=True),
    Goal("a killed worker's job starts elsewhere, of BullMQ", "killed", Metric("restart_s.p50", "s"), 0.2, "bullmq"),
)
