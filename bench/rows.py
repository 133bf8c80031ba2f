"""What a row is: a few systems, measured in turn, and what each repeat gave."""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from rt.bench import percentile

FAULTS = ("lost", "repeated", "disordered")


@dataclass
class Sample:
    """One repeat of one system. `values` are its numbers, `lists` its single measurements, for percentiles over all repeats."""

    values: dict[str, float] = field(default_factory=dict)
    lists: dict[str, list[float]] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    error: str = ""

    @property
    def broken(self) -> str:
        """Why it is no number: an error, or events that were lost, repeated or out of order. Empty when it is one."""
        return self.error or ", ".join(f"{count:,} {name}" for name, count in self.faults.items() if count)


@dataclass(frozen=True)
class Metric:
    """A column: "first_ms.p50" is each repeat's value and then the median of them; "first_ms.p99" with `pooled` is over all repeats."""

    key: str
    title: str
    digits: int = 1
    pooled: bool = False


@dataclass(frozen=True)
class Row:
    """One command of the benchmark. `measure(name)` runs one repeat of one system; `needs(name)` is what must be installed."""

    name: str
    title: str
    systems: tuple[str, ...]
    metrics: tuple[Metric, ...]
    measure: Callable[[str], Sample]
    needs: Callable[[str], tuple[str, ...]]
    #: It takes minutes of waiting, and makes its repeats by itself, beside each other.
    slow: bool = False


@dataclass
class Result:
    """What a row gave. `skipped` has the reason of each system that was not measured."""

    row: str
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    at: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> "Result":
        samples = {name: [Sample(**one) for one in given] for name, given in raw["samples"].items()}
        return cls(raw["row"], samples, raw["skipped"], raw["machine"], raw["at"])

    def broken(self, system: str) -> str:
        """Why a system has no numbers in this row: one faulty repeat spoils them all."""
        return next((one.broken for one in self.samples.get(system, []) if one.broken), "")

    def values(self, system: str, metric: Metric) -> list[float]:
        """Each repeat's value, or the one value of all repeats together; empty where there is none."""
        samples = self.samples.get(system, [])
        name, _, rank = metric.key.rpartition(".")
        if not name:
            return [one.values[metric.key] for one in samples if metric.key in one.values]
        quantile = float(rank.removeprefix("p")) / 100
        lists = [one.lists[name] for one in samples if one.lists.get(name)]
        if metric.pooled:
            return [percentile([value for one in lists for value in one], quantile)] if lists else []
        return [percentile(one, quantile) for one in lists]

    def median(self, system: str, metric: Metric) -> float | None:
        """None where there is no number, or it is not to be trusted."""
        values = self.values(system, metric)
        return statistics.median(values) if values and not self.broken(system) else None


def run_row(
    row: Row,
    systems: Iterable[str],
    repeats: int,
    *,
    missing: Callable[[tuple[str, ...]], str | None],
    progress: Callable[[str], None],
    machine: Mapping[str, Any],
) -> Result:
    """Measures systems in turn, A B A B …; one that is not installed is skipped by name, one that fails is a failed sample."""
    result = Result(row.name, machine=dict(machine), at=time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()))
    for name in systems:
        reason = missing(row.needs(name))
        if reason:
            result.skipped[name] = reason
            progress(f"{row.name}: {name} is skipped: {reason}")
        else:
            result.samples[name] = []
    for repeat in range(1 if row.slow else repeats):
        for name, samples in result.samples.items():
            began = time.monotonic()
            try:
                sample = row.measure(name)
            except Exception as error:  # a system that does not work is a result, too
                sample = Sample(error=f"{type(error).__name__}: {error}"[-500:])
            samples.append(sample)
            found = [(one, result.values(name, one)) for one in row.metrics]
            shown = "  ".join(f"{one.title} {values[-1]:,.{one.digits}f}" for one, values in found if values)
            took_s = time.monotonic() - began
            progress(f"{row.name} {repeat + 1}/{repeats} {name}: {sample.broken or shown} ({took_s:.0f} s)")
    return result
