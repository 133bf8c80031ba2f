"""The queues' rows: enqueue to a job's first line, no-op jobs a second, and how long a killed worker's job waits."""

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

from bench.house import PEERS, QUEUES
from bench.rows import Metric, Row, Sample
from bench.stage import BenchFailed, Command, Stage, python

_FILL = 5000
_WAIT_S = 60.0
_RESTART_S = 120.0


@dataclass(frozen=True)
class Queue:
    """A client and a worker. `concurrency` names the worker's setting of how many jobs it runs at a time."""

    driver: Command
    worker: Command
    needs: tuple[str, ...] = ()
    concurrency: str = "MAX_JOBS"
    #: Verifies a fill: prints how many jobs have their whole life in their stream.
    check: bool = False
    env: Mapping[str, str] = field(default_factory=dict)


_ARQ = "bench.peers.queues.arq_app"
_OURS = python("-m", "rt.cli", "worker", "bench.jobs_app:app")
_ROOM = {"RT_QUEUE_LIMIT": "1000000"}
QUEUE_SYSTEMS = {
    "rt": Queue(python("-m", "bench.enqueue", **_ROOM), _OURS, concurrency="RT_MAX_JOBS", check=True),
    "rt-arq-client": Queue(python("-m", _ARQ), _OURS, concurrency="RT_MAX_JOBS"),
    "arq": Queue(python("-m", _ARQ), python("-m", _ARQ, "worker")),
    "arq-5ms": Queue(python("-m", _ARQ), python("-m", _ARQ, "worker", ARQ_POLL_S="0.005")),
    "bullmq": Queue(
        Command(["node", str(PEERS / "queues" / "bullmq_app.js")]),
        Command(["node", str(PEERS / "queues" / "bullmq_worker.js")]),
        ("npm:bullmq",),
    ),
    "saq": Queue(
        Command([str(QUEUES / "python"), "-m", "bench.peers.queues.saq_app"]),
        Command([str(QUEUES / "saq"), "bench.peers.queues.saq_app.settings", "--quiet"]),
        ("queues",),
    ),
    "taskiq": Queue(
        Command([str(QUEUES / "python"), "-m", "bench.peers.queues.taskiq_app"]),
        Command([str(QUEUES / "taskiq"), "worker", "bench.peers.queues.taskiq_app:broker", "--workers", "1", "--max-async-tasks", "50"]),
        ("queues",),
    ),
}


def needs(name: str) -> tuple[str, ...]:
    return QUEUE_SYSTEMS[name].needs


def to_start(name: str, *, samples: int = 40, busy: int = 0) -> Sample:
    """Milliseconds from the call that enqueues to the job's first line, 50 to 150 ms apart, on a worker that runs `busy` other jobs."""
    queue = QUEUE_SYSTEMS[name]
    with Stage() as stage:
        stage.start(f"{name}.worker", queue.worker, {queue.concurrency: str(busy + 100)} if busy else {})
        if busy:
            drive(stage, queue, "hold", busy)
            wait_for(lambda: len(marks(stage)) == busy, f"{name} did not start {busy} jobs")
        sent = times(drive(stage, queue, "samples", samples))
        wait_for(lambda: len(marks(stage)) >= len(sent) + busy, f"{name} did not run all jobs")
        started = marks(stage)
    began = {id: took for id, took in sent.items() if "-" not in id}
    first = {id: [at for mark, at in started if mark == id] for id in began}
    return Sample(
        lists={"start_ms": [(ats[0] - began[id]) / 1e6 for id, ats in first.items() if ats]},
        faults={"lost": sum(not ats for ats in first.values()), "repeated": sum(len(ats) > 1 for ats in first.values())},
    )


def rate(name: str) -> Sample:
    """Jobs a second, from the first line of the first of 5,000 queued jobs to the first line of the last; 50 at a time."""
    queue = QUEUE_SYSTEMS[name]
    with Stage() as stage:
        drive(stage, queue, "fill", _FILL)
        stage.start(f"{name}.worker", queue.worker, {queue.concurrency: "50"})
        wait_for(lambda: len(marks(stage)) >= _FILL, f"{name} did not run {_FILL} jobs")
        if queue.check:
            wait_for(lambda: int(drive(stage, queue, "check", _FILL)) == _FILL, f"{name}: not every stream has its job's whole life, once")
        started = marks(stage)
    ats = sorted(at for _, at in started)
    ids = {id for id, _ in started}
    return Sample(
        {"jobs_s": (len(ats) - 1) / ((ats[-1] - ats[0]) / 1e9)},
        faults={"lost": _FILL - len(ids), "repeated": len(started) - len(ids)},
    )


def restart(name: str, *, times: int = 5) -> Sample:
    """Seconds from a worker's kill -9 to the first line of its job on another one; all at once, for it is nothing but waiting."""
    queue = QUEUE_SYSTEMS[name]
    with ExitStack() as stack:
        stages = [stack.enter_context(Stage()) for _ in range(times)]
        first = [stage.start(f"{name}.{k}.first", queue.worker) for k, stage in enumerate(stages)]
        for stage in stages:
            drive(stage, queue, "hold", 1)
        wait_for(lambda: all(len(marks(stage)) == 1 for stage in stages), f"{name} did not start every job")
        for k, stage in enumerate(stages):
            stage.start(f"{name}.{k}.second", queue.worker)
        time.sleep(3)  # the second ones wait as idle workers do
        killed = []
        for worker in first:
            killed.append(time.time_ns())
            worker.kill()
        again = f"{name} did not start every job again within {_RESTART_S:g} s"
        wait_for(lambda: all(len(marks(stage)) == 2 for stage in stages), again, within_s=_RESTART_S)
        return Sample(lists={"restart_s": [(marks(stage)[1][1] - at) / 1e9 for stage, at in zip(stages, killed, strict=True)]})


def drive(stage: Stage, queue: Queue, what: str, count: int) -> str:
    return stage.run(Command([*queue.driver.argv, what, str(count)], queue.driver.env))


def times(printed: str) -> dict[str, int]:
    """Lines of "id nanoseconds"."""
    return {id: int(at) for id, at in (line.split() for line in printed.splitlines())}


def marks(stage: Stage) -> list[tuple[str, int]]:
    """(id, nanoseconds) of every first line so far."""
    if not stage.marks.exists():
        return []
    whole = stage.marks.read_text().rpartition("\n")[0]
    return [(id, int(at)) for id, at in (line.split() for line in whole.splitlines())]


def wait_for(condition: Callable[[], bool], failure: str, *, within_s: float = _WAIT_S) -> None:
    until = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > until:
            raise BenchFailed(failure)
        time.sleep(0.05)


ROWS = (
    Row(
        "start",
        "Enqueue to the job's first line, idle worker",
        ("rt", "rt-arq-client", "bullmq", "taskiq", "saq", "arq"),
        (Metric("start_ms.p50", "p50 ms", 2), Metric("start_ms.p99", "p99 ms", 2, pooled=True)),
        to_start,
        needs,
    ),
    Row(
        "noop",
        "No-op jobs a second, one worker, 5,000 queued",
        ("rt", "arq-5ms", "arq", "bullmq", "taskiq", "saq"),
        (Metric("jobs_s", "jobs/s", 0),),
        rate,
        needs,
    ),
    Row(
        "killed",
        "A worker is killed with -9; its job starts elsewhere",
        ("rt", "bullmq"),
        (Metric("restart_s.p50", "median s"), Metric("restart_s.p100", "longest s")),
        restart,
        needs,
        slow=True,
    ),
)
