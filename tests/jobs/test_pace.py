"""How long words gather: by how many jobs speak, and by nothing else."""

import random

import pytest

from rt.jobs.pace import APPENDS_S, GATHER_S, MOST_S, Pace


def spoken(pace: Pace, jobs: int, every_s: float, *, begin_s: float = 5.0, for_s: float = 3.0) -> tuple[float, float]:
    """Jobs that each say a word so often, written as an outlet does. Appends a second at the end, and how long the last ones gathered."""
    steps: list[float] = []
    next_at = {job: begin_s + random.Random(job).uniform(0, every_s) for job in range(jobs)}
    while True:
        job = min(next_at, key=next_at.__getitem__)
        now = next_at[job]
        if now > begin_s + for_s:
            return len([one for one in steps if one > now - 1]), pace.gather_s
        pace.step(now)
        steps.append(now)
        next_at[job] = now + max(every_s, pace.gather_s)


@pytest.mark.parametrize(("jobs", "every_s"), [(1, 0.001), (79, 0.001), (79, 0.02), (300, 0.1)])
def test_few_jobs_gather_no_longer_than_a_person_would_see(jobs: int, every_s: float) -> None:
    assert spoken(Pace(), jobs, every_s)[1] == pytest.approx(GATHER_S, rel=0.15)


@pytest.mark.parametrize("jobs", [160, 200, 320])
def test_many_make_as_many_appends_as_a_worker_may(jobs: int) -> None:
    appends, gather_s = spoken(Pace(), jobs, 0.001)
    assert gather_s == pytest.approx(jobs / APPENDS_S, rel=0.15)
    assert appends == pytest.approx(APPENDS_S, rel=0.15)


def test_nobody_waits_longer_than_the_most() -> None:
    assert spoken(Pace(), 900, 0.001)[1] == MOST_S


def test_once_they_are_silent_the_next_one_gathers_briefly() -> None:
    pace = Pace()
    spoken(pace, 320, 0.001)
    pace.step(60.0)
    assert pace.gather_s == GATHER_S
