"""arq is pinned, and private names of its Worker are overridden: each is still there, and is what it was."""

import inspect
from importlib.metadata import version

import arq.worker
import pytest
from arq.worker import Worker as ArqWorker

from rt.app import App
from rt.jobs.worker import Worker
from rt.redis import Store
from rt.settings import Settings

#: Every name of arq's Worker that ours replaces, with the parameters that it has in 0.28.0.
OVERRIDDEN = {
    "main": ["self"],
    "run_job": ["self", "job_id", "score"],
    "close": ["self"],
    "heart_beat": ["self"],
    "_poll_iteration": ["self"],
}

#: What arq's `__init__` takes of what ours gives it.
GIVEN = {"functions", "queue_name", "redis_pool", "burst", "handle_signals", "max_jobs", "log_results"}

#: What arq's `__init__` sets and ours uses.
USED = {"queue_name", "max_jobs", "burst", "allow_pick_jobs", "tasks", "jobs_complete", "jobs_failed", "jobs_retried", "loop"}


def test_arq_is_the_version_that_was_read() -> None:
    assert version("arq") == "0.28.0"


def test_what_is_overridden_is_what_is_listed_here() -> None:
    # `__init__` is compared below; what else ours has, arq's does not know.
    overridden = {name for name in vars(Worker) if hasattr(ArqWorker, name) and not name.startswith("__")}
    assert overridden == OVERRIDDEN.keys()


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_an_overridden_name_has_its_signature(name: str) -> None:
    theirs, ours = getattr(ArqWorker, name), getattr(Worker, name)
    assert list(inspect.signature(theirs).parameters) == OVERRIDDEN[name]
    assert list(inspect.signature(ours).parameters) == OVERRIDDEN[name]
    assert inspect.iscoroutinefunction(theirs)
    assert inspect.iscoroutinefunction(ours)


def test_arq_s_worker_takes_what_ours_gives_it() -> None:
    assert set(inspect.signature(ArqWorker.__init__).parameters) >= GIVEN


async def test_arq_s_worker_has_what_ours_uses(store: Store, settings: Settings) -> None:
    worker = Worker(App(), settings, store)
    plain = ArqWorker([arq.worker.func(worker.main, name="x")], redis_pool=worker.pool, handle_signals=False)
    for name in USED:
        assert hasattr(plain, name), name
        assert hasattr(worker, name), name
    assert (worker.allow_pick_jobs, worker.tasks, worker.jobs_complete) == (True, {}, 0)


async def test_names_that_ours_adds_collide_with_none_of_arq_s(store: Store, settings: Settings) -> None:
    plain = ArqWorker([arq.worker.func(store.call, name="x")], redis_pool=Worker(App(), settings, store).pool, handle_signals=False)
    ours = vars(Worker(App(), settings, store)).keys() - vars(plain).keys()
    assert {"app", "settings", "store", "streams", "queue", "leases", "runs"} <= ours
    assert not ours & set(dir(ArqWorker))
    added = {name for name in vars(Worker) if not name.startswith("__")} - OVERRIDDEN.keys()
    assert not added & set(vars(plain))


async def test_a_worker_takes_no_signals_and_closes_nobody_s_connections(store: Store, settings: Settings) -> None:
    worker = Worker(App(), settings, store)
    assert worker._handle_signals is False
    await worker.close()
    assert await store.takes_writes()
