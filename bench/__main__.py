"""Measures this project and what it replaces, side by side on one machine.

    python -m bench tokens                    one row, all of its systems that are installed
    python -m bench paced --systems rt        ours alone
    python -m bench growth first-token-idle   how one of our costs grows
    python -m bench all                       everything, then bench/RESULTS.md and its plots
    python -m bench report                    the same page from the last results, measuring nothing

Peers are installed by bench/peers/setup; one that is not is skipped by name. Progress goes to stderr. Linux.
"""

import argparse
import json
import signal
import sys
import time
from collections.abc import Sequence

from bench import connections, main_job, posts, queues, report
from bench.goals import GOALS, verdicts
from bench.growth import GROWTHS, Curve, run_growth
from bench.house import BENCH, HOME, missing
from bench.machine import describe
from bench.rows import Result, Row, run_row
from bench.stage import raise_limits

ROWS: dict[str, Row] = {row.name: row for row in (*main_job.ROWS, *queues.ROWS, *connections.ROWS, *posts.ROWS)}
RESULTS = HOME / "results"


def main(argv: Sequence[str] | None = None) -> int:
    args = _parse(argv)
    raise_limits()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # whatever was started is ended on the way out
    try:
        return _run(args)
    except KeyboardInterrupt:
        _progress("stopped; what was measured to its end is kept")
        return 130


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    rows = "\n".join(f"  {name:<16} {row.title}: {', '.join(row.systems)}" for name, row in ROWS.items())
    grown = "\n".join(f"  {one.name:<21} {one.title}" for one in GROWTHS)
    parser.epilog = f"rows:\n{rows}\n\ngrowth:\n{grown}"
    parser.add_argument("what", nargs="+", metavar="WHAT", help="rows; or all, report; or growth and some of its names")
    parser.add_argument("--systems", metavar="A,B", help="only these systems of a row")
    parser.add_argument("--skip", metavar="A,B", default="", help="rows that `all` leaves out; `killed` waits for minutes")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="of each system, in turn (default 5)")
    parser.add_argument("--json", action="store_true", help="everything that was measured instead of tables")
    args = parser.parse_args(argv)
    args.skip = [one for one in args.skip.split(",") if one]
    known = {*(one.name for one in GROWTHS), "growth"} if args.what[0] == "growth" else {*ROWS, "all", "report"}
    wrong = [one for one in args.what if one not in known] + [one for one in args.skip if one not in ROWS]
    if wrong:
        parser.error(f"{', '.join(wrong)}: there is no such thing to measure; --help names them")
    if args.repeats < 1:
        parser.error("--repeats is at least 1")
    return args


def _run(args: argparse.Namespace) -> int:
    whole = args.what == ["all"]
    rows = [row for name, row in ROWS.items() if name in args.what or (whole and name not in args.skip)]
    every = whole or args.what == ["growth"]
    growths = [one for one in GROWTHS if every or (args.what[0] == "growth" and one.name in args.what)]
    out: list[object] = []
    for row in rows:
        result = _measure(row, args)
        _keep(row.name, result.to_json())
        out.append(result.to_json())
        if not args.json:
            print(f"{row.title}\n\n{report.row_table(row, result)}\n", flush=True)
    for growth in growths:
        curve = run_growth(growth, min(args.repeats, 3) if whole else args.repeats, _progress)
        _keep(f"growth-{growth.name}", curve.to_json())
        out.append(curve.to_json())
        if not args.json:
            print(report.growth_table([curve]) + "\n", flush=True)
    if args.json:
        print(json.dumps(out))
    if whole or "report" in args.what:
        _write_report()
    return 1 if any(_read(row.name).broken("rt") for row in rows) else 0


def _measure(row: Row, args: argparse.Namespace) -> Result:
    systems = [one for one in row.systems if not args.systems or one in args.systems.split(",")]
    return run_row(row, systems, args.repeats, missing=missing, progress=_progress, machine=describe())


def _keep(name: str, raw: dict[str, object]) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(raw))


def _read(name: str) -> Result:
    return Result.from_json(json.loads((RESULTS / f"{name}.json").read_text()))


def _write_report() -> None:
    results = {name: _read(name) for name in ROWS if (RESULTS / f"{name}.json").exists()}
    kept = {one.name: RESULTS / f"growth-{one.name}.json" for one in GROWTHS}
    curves = {name: Curve(**json.loads(path.read_text())) for name, path in kept.items() if path.exists()}
    (BENCH / "RESULTS.md").write_text(report.write(ROWS, results, curves))
    try:
        from bench import plots
    except ModuleNotFoundError as error:
        _progress(f"no plots: {error}; they need `pip install -e '.[bench]'`")
    else:
        plots.draw(BENCH / "plots", verdicts(results, GOALS), curves)
    _progress(f"written: {BENCH / 'RESULTS.md'}")


def _progress(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
