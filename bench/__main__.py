"""The benchmark's command line: `python -m bench --help`."""

import argparse
import json
import sys
import time

from bench import main_job, posts, queues
from bench.house import HOME, missing
from bench.rows import Result, Row, run_row
from bench.stage import raise_limits

ROWS: dict[str, Row] = {row.name: row for row in (*main_job.ROWS, *queues.ROWS, *posts.ROWS)}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("row", nargs="+", choices=[*ROWS])
    parser.add_argument("--systems", help="comma-separated; default: all of the row")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    raise_limits()
    for name in args.row:
        row = ROWS[name]
        result = run_row(row, args.systems.split(",") if args.systems else row.systems, args.repeats, missing=missing, progress=progress, machine={})
        (HOME / "results").mkdir(exist_ok=True)
        (HOME / "results" / f"{name}.json").write_text(json.dumps(result.to_json()))
        print(table(row, result))
    return 0


def progress(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


def table(row: Row, result: Result) -> str:
    from statistics import median
    out = []
    for name in result.samples:
        cells = []
        for m in row.metrics:
            v = result.values(name, m)
            cells.append(f"{median(v):,.{m.digits}f} [{min(v):,.{m.digits}f}-{max(v):,.{m.digits}f}]" if v else "-")
        out.append(f"| {name} | " + " | ".join(cells) + f" | {result.broken(name)}")
    return f"| {row.name} | " + " | ".join(m.title for m in row.metrics) + "|\n" + "\n".join(out)


if __name__ == "__main__":
    sys.exit(main())
