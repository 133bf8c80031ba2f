"""The pictures of bench/RESULTS.md. Needs matplotlib, which is in the extra `bench`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from bench.goals import Verdict
from bench.growth import Curve


def draw(folder: Path, judged: Sequence[Verdict], curves: Mapping[str, Curve]) -> None:
    """goals.png, and one picture of each curve."""
    folder.mkdir(exist_ok=True)
    _goals(folder / "goals.png", [one for one in judged if one.measured])
    for name, curve in curves.items():
        if not curve.error:
            _curve(folder / f"{name}.png", curve)


def _goals(path: Path, judged: Sequence[Verdict]) -> None:
    """How many times better than its goal each figure is; left of the line it is not met."""
    if not judged:
        return
    shares = [one.measured / one.goal.limit if one.goal.at_least else one.goal.limit / one.measured for one in judged if one.measured]
    figure = Figure(figsize=(9, 0.34 * len(judged) + 1), layout="tight")
    axes = figure.subplots()
    axes.barh([one.goal.text for one in judged], shares, color=["tab:green" if one.met else "tab:red" for one in judged])
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.invert_yaxis()
    axes.set_xlabel("times as good as the goal")
    figure.savefig(path, dpi=110)


def _curve(path: Path, curve: Curve) -> None:
    figure = Figure(figsize=(5, 3.2), layout="tight")
    axes = figure.subplots()
    for x, values in zip(curve.xs, curve.points, strict=True):
        axes.plot([x] * len(values), values, "o", color="tab:blue", alpha=0.5)
    slope, start = curve.line
    axes.plot(curve.xs, [start + slope * x for x in curve.xs], "-", color="tab:orange", label=f"{start:,.3g} + {slope:.3g} x")
    axes.set_title(curve.title, fontsize=9)
    axes.set_xlabel(curve.x_name)
    axes.set_ylabel(curve.y_name)
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)
