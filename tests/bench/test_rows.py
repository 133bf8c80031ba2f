"""A row's systems are measured in turn, one that is missing is skipped by name, and one that lost anything has no number."""

from collections.abc import Callable

from bench.house import missing
from bench.report import row_table
from bench.rows import Metric, Result, Row, Sample, run_row
from rt.bench import percentile

SPEED = Metric("speed", "speed", 0)
LATE = Metric("took_ms.p50", "p50", 1)


def a_row(measure: Callable[[str], Sample], *systems: str) -> Row:
    return Row("row", "A row", systems, (SPEED, LATE), measure, lambda name: ("npm:no-such-package",) if name == "absent" else ())


def run(row: Row, repeats: int = 2) -> Result:
    return run_row(row, row.systems, repeats, missing=missing, progress=lambda text: None, machine={})


def test_systems_are_measured_in_turn() -> None:
    order = []

    def measure(name: str) -> Sample:
        order.append(name)
        return Sample({"speed": len(order)})

    result = run(a_row(measure, "a", "b"), repeats=3)
    assert order == ["a", "b", "a", "b", "a", "b"]
    assert result.values("a", SPEED) == [1, 3, 5]
    assert result.median("b", SPEED) == 4


def test_what_is_not_installed_is_skipped_by_name_and_the_others_are_measured() -> None:
    row = a_row(lambda name: Sample({"speed": 1}), "absent", "a")
    result = run(row)
    assert "no-such-package" in result.skipped["absent"] or "no node" in result.skipped["absent"]
    assert list(result.samples) == ["a"]
    assert "| absent | skipped: " in row_table(row, result)


def test_one_lost_event_in_one_repeat_spoils_the_number() -> None:
    counts = iter([0, 1, 0])
    row = a_row(lambda name: Sample({"speed": 9}, faults={"lost": next(counts), "repeated": 0}), "a")
    result = run(row, repeats=3)
    assert result.median("a", SPEED) is None
    assert result.broken("a") == "1 lost"
    assert "**FAILED**: 1 lost" in row_table(row, result)


def test_a_system_that_fails_is_a_failed_sample_and_ends_nothing() -> None:
    def measure(name: str) -> Sample:
        if name == "a":
            raise OSError("it did not start")
        return Sample({"speed": 7})

    result = run(a_row(measure, "a", "b"))
    assert "it did not start" in result.broken("a")
    assert result.median("b", SPEED) == 7


def test_a_p99_over_all_repeats_is_not_the_median_of_their_p99s() -> None:
    lists = iter([[1.0] * 99 + [50.0], [1.0] * 100, [1.0] * 100])
    result = run(a_row(lambda name: Sample(lists={"took_ms": next(lists)}), "a"), repeats=3)
    assert result.values("a", Metric("took_ms.p100", "", pooled=True)) == [50.0]
    assert result.values("a", Metric("took_ms.p100", "")) == [50.0, 1.0, 1.0]
    assert result.median("a", Metric("took_ms.p100", "")) == 1.0


def test_a_percentile_is_a_value_that_was_measured() -> None:
    assert percentile([3, 1, 2], 0.5) == 2
    assert percentile(list(range(1, 101)), 0.99) == 100
    assert percentile([5], 0.99) == 5


def test_a_result_comes_back_from_its_file() -> None:
    result = run(a_row(lambda name: Sample({"speed": 1}, {"took_ms": [1.5]}, {"lost": 2}), "a", "absent"))
    assert Result.from_json(result.to_json()) == result
