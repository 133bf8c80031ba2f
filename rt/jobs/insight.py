"""What a worker says of itself when it is asked (`rt.inspect`): how busy it is, and which runs it has."""

import time
from collections.abc import Iterable
from typing import Any, Protocol

from rt.app import App
from rt.inspect import Look, Question
from rt.jobs.runner import Run, Runner

#: Runs of one worker that are told of.
RUNS = 200


class Working(Protocol):
    """What is looked at of a worker."""

    app: App
    runner: Runner
    runs: dict[str, Run]
    max_jobs: int
    allow_pick_jobs: bool
    jobs_complete: int
    jobs_failed: int
    jobs_retried: int


def worker_looks(worker: Working) -> dict[str, Look]:
    """What a worker adds to the questions. Runs are told of to their own tenant's console only."""

    def process(question: Question) -> dict[str, Any]:
        return {
            "running": len(worker.runs),
            "max_jobs": worker.max_jobs,
            "ready": worker.runner.model is not None,
            "draining": not worker.allow_pick_jobs,
            "stuck": len(worker.runner.stuck) + len(worker.runner.threads.alive),
            "jobs": sorted(worker.app.jobs),
            "completed": worker.jobs_complete,
            "failed": worker.jobs_failed,
            "retried": worker.jobs_retried,
        }

    def runs(question: Question) -> dict[str, Any]:
        mine = [one for one in worker.runs.values() if one.claim.tenant == question.tenant]
        return {"total": len(mine), "items": _told(sorted(mine, key=lambda one: one.began)[:RUNS])}

    def stream(question: Question) -> dict[str, Any]:
        """Who writes a job's stream."""
        return {
            "items": _told(
                one for one in worker.runs.values() if (one.claim.stream, one.claim.tenant) == (question.args["stream"], question.tenant)
            )
        }

    return {"processes": process, "runs": runs, "stream": stream}


def _told(runs: Iterable[Run]) -> list[dict[str, Any]]:
    now = time.monotonic()
    return [
        {
            "job_id": one.claim.id,
            "job": one.claim.job,
            "attempt": one.claim.attempt,
            "ran_s": round(now - one.began, 1),
            "deadline_ms": one.claim.deadline,
            "stopping": type(one.stopped).__name__.lower() if one.stopped is not None else None,
        }
        for one in runs
    ]
