"""Breaks everything at random under load, and judges what the clients were given. `scripts/chaos` runs it.

    scripts/chaos --minutes 10 --seed 1

Two web processes, two workers and a Redis with an append-only file run as real processes; clients talk in rooms and
submit jobs whose words are known. One fault after the other is drawn (one in five times two at once); the next one
waits until everybody whom the last one met is served again. At the end every client's journal is held against the log.
Exits with 1 when anything was lost, repeated, disordered, ended other than once, or otherwise not as promised.
"""

import argparse
import asyncio
import contextlib
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from redis.asyncio import Redis
from rich.console import Console
from rich.live import Live

from tests.chaos.archive import Archive
from tests.chaos.clock import Clock
from tests.chaos.faults import FAULTS, SETTINGS, Fault, Ground, Wait
from tests.chaos.load import Crowd
from tests.chaos.proxy import Proxy
from tests.chaos.report import Draw, Report, command_line, now
from tests.chaos.stack import Stack

#: Whoever is not served this long after a fault is stalled: that is no recovery any more.
STALLED_S = 45.0
#: How long everything may take to end when nothing is drawn any more.
ENDING_S = 90.0
_TWO_AT_ONCE = 0.2
#: Tokens are checked by the wall clock, which jumps by an hour.
TOKEN_S = 24 * 3600
#: What all processes said, for whoever looks for a cause.
OUTPUT = "output.txt"


@dataclass(frozen=True, slots=True)
class Plan:
    minutes: float
    seed: int
    clients: int
    faults: tuple[str, ...]
    #: It ends after so many draws, if it has not by then.
    most: int | None = None
    webs: int = 2
    workers: int = 2


def draws(plan: Plan) -> Iterator[tuple[list[Fault], random.Random, float]]:
    """What is drawn, with the chance for its details, and the pause before the next: without end, the same for the same seed.

    Every fault comes once before any comes again.
    """
    draw = random.Random(plan.seed)
    bag: list[str] = []
    number = 0
    while True:
        if not bag:
            bag = list(plan.faults)
            draw.shuffle(bag)
        chosen = [FAULTS[bag.pop()]]
        # Two of one place would mostly be one: a killed worker that is frozen as well.
        others = [name for name in bag if FAULTS[name].place != chosen[0].place]
        if draw.random() < _TWO_AT_ONCE and others:
            chosen.append(FAULTS[draw.choice(others)])
            bag.remove(chosen[1].name)
        number += 1
        yield chosen, random.Random(f"{plan.seed} {number}"), draw.uniform(0.3, 1.5)


class Run:
    """One run. `stop` ends it early; what it has is judged and reported all the same."""

    def __init__(self, plan: Plan, report: Report, console: Console) -> None:
        self.plan, self.report, self.console = plan, report, console
        self._stop = asyncio.Event()
        self._began = 0.0
        #: What is under way, in words.
        self.doing = "starting"
        self._crowd: Crowd | None = None

    def stop(self) -> None:
        self.report.interrupted = True
        self._stop.set()

    async def run(self, folder: Path) -> None:
        plan, report = self.plan, self.report
        with contextlib.ExitStack() as cleanup:
            stack = cleanup.enter_context(Stack(folder, "tests.chaos.speeches:app", **SETTINGS))
            report.redis = " ".join(stack.redis.server[1:])
            report.settings = SETTINGS
            stack.token_ttl_s = TOKEN_S
            redis_port = int(stack.redis.url.rsplit(":", 1)[1].partition("/")[0])
            network = cleanup.enter_context(Proxy(redis_port))
            stack.env["REDIS_URL"] = f"redis://127.0.0.1:{network.port}/0"
            await asyncio.to_thread(self._start, stack, folder)
            doors = [cleanup.enter_context(Proxy(port)) for port in stack.ports]
            redis: Redis[bytes] = Redis.from_url(stack.redis.url)
            crowd = Crowd(
                [(port, door.port) for port, door in zip(stack.ports, doors, strict=True)],
                redis,
                Archive(stack.redis.folder / "redis"),
                stack.token,
                seed=plan.seed,
                clients=plan.clients,
            )
            self._crowd = crowd
            ground = Ground(stack, crowd, network, doors, redis)
            self._began = time.monotonic()
            report.began_at = now()
            try:
                await crowd.start()
                await self._draw(ground)
                self.doing = "ending"
                await crowd.end(ENDING_S)
            finally:
                await crowd.stop()
                await redis.aclose()  # type: ignore[attr-defined]
                self._count(crowd)
                # A web or worker process that ended by itself was told to by nobody.
                for name, processes in {"web": stack.webs, "worker": stack.workers}.items():
                    for one in processes:
                        if one.popen.poll() is not None:
                            crowd.broken("other", name, f"ended by itself with {one.popen.poll()}: {one.lines[-3:]}")
                report.blame(crowd.violations)
                output = [*ground.output, *(line for one in (*stack.webs, *stack.workers) for line in one.lines)]
                report.totals["tracebacks"] = sum("Traceback (most recent" in line for line in output)
                (folder / OUTPUT).write_text("\n".join(output))

    def _start(self, stack: Stack, folder: Path) -> None:
        """All processes, each with a clock of its own."""
        for number in range(self.plan.webs):
            stack.web(clock=Clock(folder / f"clock-of-web-{number}"))
        for number in range(self.plan.workers):
            stack.worker(clock=Clock(folder / f"clock-of-worker-{number}"))
        stack.start(0, 0)

    async def _draw(self, ground: Ground) -> None:
        end = self._began + self.plan.minutes * 60
        for chosen, chance, pause_s in islice(draws(self.plan), self.plan.most):
            if await self._paused(pause_s) or time.monotonic() >= end:
                return
            draw = Draw([one.name for one in chosen], round(time.monotonic() - self._began, 3))
            self.report.draws.append(draw)
            self.doing = " and ".join(draw.faults)
            row = self.report.row(draw, chosen[0].since if len(chosen) == 1 else "each its own")
            row.drawn += 1
            for seconds in await asyncio.gather(*(self._strike(ground, one, chance) for one in chosen)):
                row.recovery_s += seconds
                draw.met += len(seconds)
                draw.slowest_s = max([*seconds, draw.slowest_s or 0.0]) if seconds else draw.slowest_s
            draw.ended_s = round(time.monotonic() - self._began, 3)

    async def _strike(self, ground: Ground, fault: Fault, chance: random.Random) -> list[float]:
        """Does it, and waits for everybody whom it met. Seconds to each recovery."""
        waits = await fault.act(ground, chance)
        ended = time.monotonic()
        return [seconds for one in await asyncio.gather(*(self._recovery(one, fault, ended) for one in waits)) for seconds in one]

    async def _recovery(self, wait: Wait, fault: Fault, ended: float) -> list[float]:
        try:
            async with asyncio.timeout(STALLED_S):
                began, served = await wait
        except TimeoutError:
            assert self._crowd is not None
            self._crowd.broken("other", fault.name, f"somebody was not served for {STALLED_S:g} s after it")
            return []
        return [max(0.0, served - (ended if fault.since == "end" else began))]

    async def _paused(self, seconds: float) -> bool:
        """Whether it was stopped meanwhile."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        return self._stop.is_set()

    def _count(self, crowd: Crowd) -> None:
        self.report.totals |= {
            "seconds": round(time.monotonic() - self._began, 1),
            "delivered": crowd.delivered,
            "jobs": len(crowd.accepted),
            "ends": crowd.ended,
            "published": sum(one is not None for sent in crowd.published.values() for one in sent.values()),
            "reconnects": sum(max(0, one.reopened - 1) for one in crowd.peers) + len(crowd.retired),
            "draws": len(self.report.draws),
        }

    def title(self) -> str:
        crowd = self._crowd
        if crowd is None:
            return "starting …"
        seconds = time.monotonic() - self._began
        found = len(crowd.violations)
        return (
            f"{seconds:4.0f} s · {self.doing} · {crowd.delivered:,} events delivered "
            f"({crowd.delivered / max(seconds, 1) * 60:,.0f} a minute) · "
            f"{sum(one.connected for one in crowd.peers)} of {len(crowd.peers)} clients connected · {len(crowd.accepted):,} jobs, "
            f"{len(crowd.running)} running · {found} broken promises so far"
        )


async def execute(plan: Plan, report: Report, console: Console, folder: Path) -> None:
    run = Run(plan, report, console)
    loop = asyncio.get_running_loop()

    def interrupt() -> None:
        loop.remove_signal_handler(signal.SIGINT)  # a second one waits for nothing
        run.stop()

    # A SIGTERM that ended this process at once would leave those that it started behind.
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt)
    watching = asyncio.create_task(_watch(run, report, console))
    try:
        await run.run(folder)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


async def _watch(run: Run, report: Report, console: Console) -> None:
    """The live table on a terminal; elsewhere a line for each draw."""
    said = ""
    while not console.is_terminal:
        if said != run.doing:
            said = run.doing
            console.print(run.title(), soft_wrap=True)
        await asyncio.sleep(0.1)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            live.update(report.table(run.title()), refresh=True)
            await asyncio.sleep(0.5)


def _arguments(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/chaos",
        description=__doc__,
        epilog="faults:\n" + "\n".join(f"  {one.name:<18} {one.about}" for one in FAULTS.values()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=10, metavar="N", help="how long faults are drawn (default: 10)")
    parser.add_argument("--draws", type=int, metavar="N", help="end after so many, if the time is not over before")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="the same seed draws the same faults (default: 1)")
    parser.add_argument("--clients", type=int, default=200, metavar="N", help="default: 200")
    parser.add_argument("--faults", default=",".join(FAULTS), metavar="a,b", help="only these (default: all)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where report.json, matrix.md and the processes' output are written")
    parser.add_argument("--into", type=Path, metavar="FILE", help="a document whose last matrix is replaced by this one")
    parser.add_argument("--json", action="store_true", help="print the report as JSON, and progress to standard error")
    given = parser.parse_args(words)
    unknown = sorted(set(given.faults.split(",")) - set(FAULTS))
    if unknown:
        parser.error(f"no such fault: {', '.join(unknown)}; there are {', '.join(FAULTS)}")
    if given.minutes <= 0 or given.clients < 1 or (given.draws is not None and given.draws < 1):
        parser.error("--minutes, --draws and --clients must be positive")
    return given


def main(words: list[str]) -> int:
    given = _arguments(words)
    console = Console(stderr=given.json, width=None if sys.stdout.isatty() else 160)
    # The proxies live on threads: what waits for the interpreter's lock there would look like a slow network.
    sys.setswitchinterval(0.0005)
    plan = Plan(given.minutes, given.seed, given.clients, tuple(given.faults.split(",")), given.draws)
    shown = [word for name in ("minutes", "seed", "clients") for word in (f"--{name}", f"{getattr(given, name):g}")]
    if given.draws is not None:
        shown += ["--draws", str(given.draws)]
    if set(plan.faults) != set(FAULTS):
        shown += ["--faults", given.faults]
    report = Report(plan.seed, plan.clients, command_line(shown), now())
    with tempfile.TemporaryDirectory(prefix="rt-chaos-") as folder:
        asyncio.run(execute(plan, report, console, Path(folder)))
        if given.out:
            report.write(given.out)
            shutil.copy(Path(folder, OUTPUT), given.out)
    if given.into:
        report.write_into(given.into)
    if given.json:
        sys.stdout.write(report.as_json() + "\n")
    else:
        console.print(report.table(f"seed {plan.seed}: {report.totals}"))
        for one in report.violations[:20]:
            console.print(f"{one.kind}: {one.where}: {one.what}", style="red", soft_wrap=True, markup=False)
    return 0 if report.clean else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
