"""A line through measured points, and what a cost should look like as something grows."""

import math
import statistics
from collections.abc import Sequence
from typing import Literal, NamedTuple

Shape = Literal["flat", "linear", "falling"]

#: "Flat" is within this much from the first point to the worst of the others.
FLAT = 0.20
#: "Linear" grows by at most this power: a cost that is paid once may hide in the first points, never in the last.
LINEAR = 1.15


class Line(NamedTuple):
    """y = `slope` * x + `start`, by least squares."""

    slope: float
    start: float


def line(xs: Sequence[float], ys: Sequence[float]) -> Line:
    """Raises StatisticsError for fewer than two different xs."""
    return Line(*statistics.linear_regression(xs, ys))


def keeps(shape: Shape, xs: Sequence[float], ys: Sequence[float]) -> bool:
    """Whether a cost, measured at growing xs, has the shape. A flat one may fall."""
    match shape:
        case "flat":
            return max(ys) <= ys[0] * (1 + FLAT)
        case "falling":
            return ys[-1] < ys[0]
        case "linear":
            return power(xs, ys) <= LINEAR


def power(xs: Sequence[float], ys: Sequence[float]) -> float:
    """The p of y ~ x^p between the last two points; xs and ys are positive."""
    return math.log(ys[-1] / ys[-2]) / math.log(xs[-1] / xs[-2])
