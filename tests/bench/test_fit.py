"""What a cost should look like as something grows."""

import pytest

from bench.fit import keeps, line, power
from bench.growth import Curve, Growth, run_growth


def test_a_line_goes_through_its_points() -> None:
    assert line([1, 2, 3], [12, 14, 16]) == pytest.approx((2, 10))


@pytest.mark.parametrize(
    ("shape", "ys", "kept"),
    [
        ("flat", [10, 11, 12], True),
        ("flat", [10, 14, 11], False),
        ("flat", [10, 5, 2], True),
        ("falling", [10, 11, 9], True),
        ("falling", [10, 5, 10], False),
        ("linear", [6, 15, 105], True),
        ("linear", [6, 105, 10_005], False),
    ],
)
def test_shapes(shape: str, ys: list[float], kept: bool) -> None:
    assert keeps(shape, [1, 10, 100], ys) is kept  # type: ignore[arg-type]


def test_a_square_has_the_power_two() -> None:
    assert power([1, 10, 100], [1, 100, 10_000]) == pytest.approx(2)


def growth(measure: object) -> Growth:
    return Growth("g", "A cost", "things", "ms", (1, 10), "flat", measure)  # type: ignore[arg-type]


def test_sizes_are_measured_in_turn() -> None:
    order: list[int] = []
    curve = run_growth(growth(lambda x: order.append(x) or 5.0), 2, lambda text: None)
    assert order == [1, 10, 1, 10]
    assert (curve.medians, curve.met) == ([5, 5], True)


def test_a_cost_that_cannot_be_measured_is_not_met() -> None:
    def fails(x: int) -> float:
        raise OSError("no such thing")

    curve = run_growth(growth(fails), 2, lambda text: None)
    assert not curve.met
    assert "no such thing" in curve.fitted
    assert Curve(**curve.to_json()) == curve
