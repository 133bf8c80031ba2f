"""The ratio table: ours over the peer's, met or not, and no number where one of the two is not to be trusted."""

import pytest

from bench.__main__ import ROWS
from bench.goals import GOALS, Goal, judge
from bench.report import goals_table
from bench.rows import Metric, Result, Sample

MS = Metric("ms", "ms")


def result(**systems: list[float]) -> dict[str, Result]:
    return {"row": Result("row", {name: [Sample({"ms": value}) for value in values] for name, values in systems.items()})}


@pytest.mark.parametrize(
    ("ours", "at_least", "limit", "met"),
    [(5, False, 0.5, True), (6, False, 0.5, False), (30, True, 3.0, True), (29, True, 3.0, False)],
)
def test_a_goal_is_a_ratio_of_medians(ours: float, at_least: bool, limit: float, met: bool) -> None:
    verdict = judge(Goal("", "row", MS, limit, "peer", at_least), result(rt=[ours, 1000, 0], peer=[10, 0, 99]))
    assert verdict.measured == ours / 10
    assert verdict.met is met


def test_a_goal_without_a_peer_is_a_plain_figure() -> None:
    verdict = judge(Goal("", "row", MS, 4), result(rt=[3, 5, 4]))
    assert (verdict.measured, verdict.met) == (4, True)


def test_a_goal_may_look_at_a_peer_in_another_row() -> None:
    results = result(rt=[2]) | {"other": Result("other", {"peer": [Sample({"ms": 8})]})}
    assert judge(Goal("", "row", MS, 0.25, "peer", peer_row="other"), results).measured == 0.25


def test_a_faulty_row_is_no_number_and_no_goal_met() -> None:
    results = result(rt=[1], peer=[10])
    results["row"].samples["rt"].append(Sample({"ms": 1}, faults={"repeated": 3}))
    verdict = judge(Goal("fast", "row", MS, 0.5, "peer"), results)
    assert (verdict.measured, verdict.met) == (None, False)
    assert "rt FAILED: 3 repeated" in goals_table([verdict])


def test_a_peer_that_is_not_there_is_said() -> None:
    results = result(rt=[1])
    results["row"].skipped["peer"] = "no npm"
    assert judge(Goal("", "row", MS, 0.5, "peer"), results).reason == "peer is not installed"
    assert judge(Goal("", "nothing", MS, 0.5, "peer"), results).reason == "nothing was not run"


@pytest.mark.parametrize("goal", GOALS, ids=lambda goal: goal.text)
def test_every_goal_names_a_row_with_its_systems_and_its_metric(goal: Goal) -> None:
    row = ROWS[goal.row]
    assert goal.ours in row.systems
    assert goal.peer is None or goal.peer in ROWS[goal.peer_row or goal.row].systems
    shown = {one.key.rpartition(".")[0] or one.key for one in row.metrics}
    assert (goal.metric.key.rpartition(".")[0] or goal.metric.key) in shown
