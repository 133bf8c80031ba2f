"""What a run found: for a machine, as the fault matrix of the documents, and as the table that is seen meanwhile."""

import json
import os
import platform
import shlex
import statistics
from collections import Counter
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.table import Table

from tests.chaos.judge import KINDS, Violation

BEGIN, END = "<!-- chaos: begin (written by scripts/chaos) -->", "<!-- chaos: end -->"
#: Of violations beyond this many only the counts are written.
_MOST = 500
_HOUR_S = 3600


@dataclass(slots=True)
class Row:
    """One fault's line. `recovery_s` has a number for each client, or job, that a draw met."""

    fault: str
    since: str = "start"
    drawn: int = 0
    broken: Counter[str] = field(default_factory=Counter)
    recovery_s: list[float] = field(default_factory=list)

    def cells(self) -> list[str]:
        times = [f"{statistics.median(self.recovery_s):.2f}", f"{max(self.recovery_s):.2f}"] if self.recovery_s else ["–", "–"]
        return [self.fault, str(self.drawn), *(str(self.broken[kind]) for kind in KINDS), *times, self.since]


HEADS = ["fault", "drawn", "lost", "repeated", "disordered", "terminals wrong", "other", "recovery p50 (s)", "max (s)", "since its"]


@dataclass(slots=True)
class Draw:
    """What was drawn: one fault, or two at once. Times are seconds since the run began."""

    faults: list[str]
    began_s: float
    ended_s: float = 0.0
    met: int = 0
    slowest_s: float | None = None


@dataclass(slots=True)
class Report:
    seed: int
    clients: int
    command: str
    began_at: datetime
    rows: dict[str, Row] = field(default_factory=dict)
    draws: list[Draw] = field(default_factory=list)
    totals: dict[str, Any] = field(default_factory=dict)
    violations: list[Violation] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)
    redis: str = ""
    interrupted: bool = False

    @property
    def clean(self) -> bool:
        return not self.violations

    def blame(self, violations: list[Violation]) -> None:
        """Counts each at the fault that was drawn last before the event that it is about."""
        self.violations += violations
        for one in violations:
            at_s = one.at_ms / 1000 - self.began_at.timestamp()
            # The time of an event is its writer's, whose clock may have been an hour off.
            at_s -= _HOUR_S * round((at_s - self.totals.get("seconds", 0) / 2) / _HOUR_S)
            draws = [draw for draw in self.draws if draw.began_s <= at_s]
            self.rows.setdefault(name := _row_of(draws[-1]) if draws else "none yet", Row(name)).broken[one.kind] += one.count

    def row(self, draw: Draw, since: str) -> Row:
        name = _row_of(draw)
        return self.rows.setdefault(name, Row(name, since))

    def all(self) -> Row:
        """The last line: everything together, without times."""
        return Row("all", "–", sum(one.drawn for one in self.rows.values()), sum((one.broken for one in self.rows.values()), Counter()))

    def table(self, title: str) -> Table:
        table = Table(title=title, title_justify="left")
        for number, head in enumerate(HEADS):
            table.add_column(head, justify="left" if number == 0 else "right")
        for row in sorted(self.rows.values(), key=lambda one: one.fault):
            table.add_row(*row.cells(), style="bold red" if row.broken else "")
        table.add_section()
        table.add_row(*self.all().cells(), style="bold")
        return table

    def machine(self) -> str:
        return f"{os.cpu_count()} CPUs, {platform.system()} {platform.machine()}, Python {platform.python_version()}, {self.redis}"

    def markdown(self) -> str:
        """The section for the documents, between its two marks."""
        totals = self.totals
        lines = [
            BEGIN,
            f"`{self.command}` on {self.began_at:%Y-%m-%d}, {self.machine()}: {totals['seconds'] / 60:.1f} minutes, "
            f"{totals['delivered']:,} events delivered to {self.clients} clients, {totals['jobs']:,} jobs accepted and ended, "
            f"{totals['published']:,} messages published, {totals['reconnects']:,} reconnects, {totals['draws']} draws, seed {self.seed}"
            + (", interrupted" if self.interrupted else "")
            + ".",
            "",
            "| " + " | ".join(HEADS) + " |",
            "|---|" + "---:|" * (len(HEADS) - 1),
        ]
        lines += ["| " + " | ".join(row.cells()) + " |" for row in sorted(self.rows.values(), key=lambda one: one.fault)]
        lines += ["| " + " | ".join(self.all().cells()) + " |", END]
        return "\n".join(lines) + "\n"

    def as_json(self) -> str:
        rows = {
            one.fault: {
                "drawn": one.drawn,
                **{kind: one.broken[kind] for kind in KINDS},
                "recovery_since": one.since,
                "recovery_p50_s": round(statistics.median(one.recovery_s), 3) if one.recovery_s else None,
                "recovery_max_s": round(max(one.recovery_s), 3) if one.recovery_s else None,
                "recoveries": len(one.recovery_s),
            }
            for one in self.rows.values()
        }
        whole = {
            "clean": self.clean,
            "interrupted": self.interrupted,
            "command": self.command,
            "seed": self.seed,
            "clients": self.clients,
            "began_at": self.began_at.isoformat(),
            "machine": self.machine(),
            "settings": self.settings,
            "totals": self.totals,
            "faults": rows,
            "draws": [asdict(one) for one in self.draws],
            "violations": [one._asdict() for one in self.violations[:_MOST]],
        }
        return json.dumps(whole, indent=1, ensure_ascii=False)

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "report.json").write_text(self.as_json())
        (folder / "matrix.md").write_text(self.markdown())

    def write_into(self, document: Path) -> None:
        """Puts the section in the place of the last one. Raises ValueError when the document has no place for it."""
        text = document.read_text()
        before, begin, rest = text.partition(BEGIN)
        _, end, after = rest.partition(END + "\n")
        if not begin or not end:
            raise ValueError(f"{document} has no lines {BEGIN} and {END}")
        document.write_text(before + self.markdown() + after)


def _row_of(draw: Draw) -> str:
    return draw.faults[0] if len(draw.faults) == 1 else "two at once"


def command_line(arguments: list[str]) -> str:
    return shlex.join(["scripts/chaos", *arguments])


def now() -> datetime:
    return datetime.now(UTC)
