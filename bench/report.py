"""bench/RESULTS.md: the goals with what was measured, then every row with medians and spread, then the growth of costs."""

import statistics
from collections.abc import Mapping, Sequence

from bench.goals import GOALS, Verdict, verdicts
from bench.growth import GROWTHS, Curve
from bench.rows import Metric, Result, Row

_HEAD = """# Measured

Written by `bench/all`; each row is a command of its own: `.venv/bin/python -m bench --help`. The systems of a row are measured in turn
(A B A B …) in one run; cells are the median [least-greatest] of the repeats, a p99 is over all repeats. Absolute figures differ from
machine to machine and hour to hour: compare within a row. Every event is counted: a system that lost, repeated or disordered one has no
number.
"""


def write(rows: Mapping[str, Row], results: Mapping[str, Result], curves: Mapping[str, Curve]) -> str:
    """The whole page. What was not run is left out, and said."""
    machines = [one.machine for one in results.values() if one.machine]
    parts = [_HEAD]
    if machines:
        parts.append("\n".join(f"- {name}: {value}" for name, value in machines[-1].items() if value) + "\n")
    parts.append("## Goals\n\n" + goals_table(verdicts(results, GOALS)) + "\n\n![The goals](plots/goals.png)\n")
    for name, row in rows.items():
        if name in results:
            result = results[name]
            parts.append(f"## {row.title}\n\n`python -m bench {name}`, {_repeats(row, result)}, {result.at}\n\n{row_table(row, result)}\n")
    grown = [one for one in GROWTHS if one.name in curves]
    if grown:
        parts.append("## Growth of costs\n\n" + growth_table([curves[one.name] for one in grown]) + "\n")
        parts += [f"![{one.title}](plots/{one.name}.png)\n" for one in grown]
    return "\n".join(parts)


def goals_table(judged: Sequence[Verdict]) -> str:
    lines = ["| | goal | measured | |", "|---|---|---|---|"]
    for one in judged:
        sign = "≥" if one.goal.at_least else "≤"
        measured = f"{one.measured:,.2f}" if one.measured is not None else one.reason
        word = "met" if one.met else "**not met**" if one.measured is not None else "–"
        lines.append(f"| {one.goal.text} | {sign} {one.goal.limit:,g} | {measured} | {word} |")
    return "\n".join(lines)


def row_table(row: Row, result: Result) -> str:
    lines = ["| | " + " | ".join(one.title for one in row.metrics) + " |", "|---" * (len(row.metrics) + 1) + "|"]
    for name in [*result.samples, *result.skipped]:
        broken = f"**FAILED**: {result.broken(name)}" if result.broken(name) else ""
        reason = f"skipped: {result.skipped[name]}" if name in result.skipped else broken
        cells = [reason, *[""] * (len(row.metrics) - 1)] if reason else [cell(result, name, one) for one in row.metrics]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cell(result: Result, system: str, metric: Metric) -> str:
    """The median [least-greatest]; one figure alone where there is only one."""
    values = result.values(system, metric)
    if not values:
        return "–"
    shown = [f"{value:,.{metric.digits}f}" for value in (statistics.median(values), min(values), max(values))]
    return shown[0] if len(values) == 1 else f"{shown[0]} [{shown[1]}-{shown[2]}]"


def growth_table(curves: Sequence[Curve]) -> str:
    lines = ["| | fitted | from first to last | should be | |", "|---|---|---|---|---|"]
    for one in curves:
        lines.append(f"| {one.title} | {one.fitted} | {one.change} | {one.shape} | {'met' if one.met else '**not met**'} |")
    return "\n".join(lines)


def _repeats(row: Row, result: Result) -> str:
    count = max((len(samples) for samples in result.samples.values()), default=0)
    return "five at a time" if row.slow else f"{count} repeats"
