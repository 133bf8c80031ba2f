"""Web, worker and Redis as children: started, brought back when they die, replaced when the code is another, ended in order.

Children are started from one thread, because Linux ends them with it. They are in process groups of their own, so that
Ctrl-C reaches the supervisor alone.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rt.errors import RtError
from rt.localredis import PrivateRedis, die_with_parent
from rt.sources import Sources

#: How long web and worker have to drain and hand back; `drain_s` is 20 at most, so they end by themselves.
STOP_S = 25.0
#: Redis writes its file down and ends; it has nobody left to serve.
STOP_REDIS_S = 10.0
#: A child that lives shorter than this has died quickly; after so many quick deaths in a row it is given up.
QUICK_S = 5.0
QUICK_DEATHS = 5
#: A line without an end is passed on in pieces of this size.
_LINE_BYTES = 64 * 1024

#: What a child answers when its settings or arguments are wrong: starting it again would change nothing.
BAD_ARGUMENTS = 2


class DevFailed(RtError):
    """`rt dev` cannot start or go on; the text says why and what to do. `exit_code` is the command's."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Child(Protocol):
    """A process that can be started again and again. `ready` and `ended` are cleared by `launch`."""

    name: str
    ready: asyncio.Event
    ended: asyncio.Event

    def launch(self) -> None: ...
    def look(self) -> int | None:
        """Sets `ended` when the process has ended; its exit code then."""

    def signal(self, number: int) -> None:
        """Harmless when it does not run."""


class Program:
    """One of our own commands: its lines are passed on with its name before them, but for its ready line."""

    def __init__(self, name: str, command: Sequence[str], env: dict[str, str], pass_fds: Sequence[int] = ()) -> None:
        self.name = name
        self.ready = asyncio.Event()
        self.ended = asyncio.Event()
        #: It is ready, or it has ended before it was.
        self.settled = asyncio.Event()
        self._command, self._env, self._pass_fds = command, env, pass_fds
        self._process: subprocess.Popen[bytes] | None = None
        self._output = -1
        self._rest = b""
        self._launches = 0

    def launch(self) -> None:
        for event in (self.ready, self.ended, self.settled):
            event.clear()
        self._launches += 1
        self._process = subprocess.Popen(  # noqa: S603
            self._command,
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            process_group=0,
            pass_fds=self._pass_fds,
            preexec_fn=die_with_parent(),
        )
        assert self._process.stdout is not None
        self._output = self._process.stdout.fileno()
        os.set_blocking(self._output, False)
        asyncio.get_running_loop().add_reader(self._output, self._read)

    def look(self) -> int | None:
        code = self._process.poll() if self._process else 0
        if code is not None and not self.ended.is_set():
            # What it wrote last is read now: its pipe may stay open for as long as a process that it started lives.
            while self._read():
                pass
            self._close()
            self.ended.set()
            self.settled.set()
        return code

    def signal(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def _read(self) -> bool:
        """Passes on the lines that have come; False when there is nothing more for now."""
        if self._output < 0:
            return False
        try:
            chunk = os.read(self._output, _LINE_BYTES)
        except BlockingIOError:
            return False
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if self._rest and (not chunk or len(self._rest) >= _LINE_BYTES):
            lines.append(self._rest)
            self._rest = b""
        for line in lines:
            self._line(line.decode(errors="replace").rstrip("\r"))
        if not chunk:
            self._close()
        return bool(chunk)

    def _line(self, line: str) -> None:
        if not line.startswith("ready "):
            say(f"{_dim(f'{self.name:6} │')} {line}")
            return
        self.ready.set()
        self.settled.set()
        if self._launches > 1:
            say(f"{self.name} is ready again")

    def _close(self) -> None:
        if self._output >= 0 and self._process and self._process.stdout:
            asyncio.get_running_loop().remove_reader(self._output)
            self._process.stdout.close()
            self._output = -1


class Check(Program):
    """A program whose lines are kept, for who wants to know why it failed."""

    def __init__(self, command: Sequence[str], env: dict[str, str]) -> None:
        super().__init__("check", command, env)
        self.lines: list[str] = []

    def _line(self, line: str) -> None:
        self.lines.append(line)


class Redis:
    """The private server as a child; `rt.localredis` knows how it is run."""

    name = "redis"

    def __init__(self, server: PrivateRedis) -> None:
        self.ready = asyncio.Event()
        self.ended = asyncio.Event()
        self._server = server

    def launch(self) -> None:
        self.ready.clear()
        self.ended.clear()
        self._server.launch()

    async def wait_ready(self) -> None:
        """Raises RedisFailed when it ends before it answers. It answers once it has read its file, which may be long."""
        while not self._server.answers():
            await asyncio.sleep(0.01)
        self.ready.set()

    def look(self) -> int | None:
        code = self._server.poll()
        if code is not None:
            self.ended.set()
        return code

    def signal(self, number: int) -> None:
        if self._server.poll() is None:
            os.kill(self._server.pid, number)


@dataclass(frozen=True, slots=True)
class Reload:
    """What a supervisor needs to take up new code: where it is seen, and a program that fails, and says why, where it is broken."""

    sources: Sources
    check: Callable[[], Check]


class Supervisor:
    """Keeps children running until a signal says stop, then ends them in order.

    `programs` makes those of one generation, unstarted. `announce` is called once, when all are ready. SIGINT, SIGTERM and
    SIGHUP stop; a second one kills at once; SIGUSR1 kills the worker, so that one may see what that costs. All are ignored
    afterwards: it is for a process that does nothing else.
    """

    def __init__(
        self,
        programs: Callable[[], Sequence[Program]],
        redis: Redis | None,
        announce: Callable[[], None],
        reload: Reload | None = None,
    ) -> None:
        self._make = programs
        self._redis = redis
        self._announce = announce
        self._reload = reload
        #: Those that serve; and all that were started and have not ended for good.
        self._programs: Sequence[Program] = []
        self._started: list[Program] = []
        self._keeping: list[asyncio.Task[None]] = []
        self._shot: Program | None = None
        self._announced = False
        self._stop = asyncio.Event()
        self._at_once = asyncio.Event()

    async def run(self) -> None:
        """Returns after a signal, when everything has ended. Raises DevFailed, or RedisFailed, after the same."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGCHLD, self._look)

        # Not the loop's own handlers: they end with the loop, and who presses Ctrl-C many times would end what is left of us.
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as it is under nohup
            numbers.append(signal.SIGHUP)
        for number in numbers:
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(self.stop))
        signal.signal(signal.SIGUSR1, lambda *_: loop.call_soon_threadsafe(self.shoot))
        work, stop = asyncio.create_task(self._work()), asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
            work.cancel()
            stop.cancel()
            await asyncio.wait({work, stop})
        finally:
            await self._end(self._started, STOP_S)
            await self._end([self._redis] if self._redis else [], STOP_REDIS_S)
            for number in (*numbers, signal.SIGUSR1):
                signal.signal(number, signal.SIG_IGN)  # everything has ended
        if not work.cancelled() and (error := work.exception()):
            raise _first(error)

    def stop(self) -> None:
        """As a signal would: the first call stops, the second kills."""
        if self._stop.is_set():
            self._at_once.set()
        self._stop.set()

    def shoot(self) -> None:
        """As SIGUSR1 would: kills the worker, as a machine that fails would, and starts another at once."""
        worker = next((one for one in self._programs if one.name == "worker" and one.look() is None), None)
        if worker is None:
            say("no worker runs now (SIGUSR1)")
            return
        say("worker killed (SIGUSR1), starting another")
        self._shot = worker
        worker.signal(signal.SIGKILL)

    def _look(self) -> None:
        # One SIGCHLD may stand for several ends.
        for program in self._started:
            program.look()
        if self._redis:
            self._redis.look()

    def _start(self, program: Program) -> None:
        self._started.append(program)
        program.launch()

    async def _work(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            if self._redis:
                self._redis.launch()
                await self._redis.wait_ready()
                tasks.create_task(self._keep(self._redis))
            fresh = self._make()
            for program in fresh:
                self._start(program)
            self._serve_with(fresh, tasks)
            for program in fresh:
                await program.ready.wait()
            self._announce()
            self._announced = True
            if self._reload:
                await self._take_up(self._reload, tasks)

    def _serve_with(self, programs: Sequence[Program], tasks: asyncio.TaskGroup) -> None:
        """From now on these are the ones that are kept running."""
        for keeping in self._keeping:
            keeping.cancel()
        self._programs = programs
        self._keeping = [tasks.create_task(self._keep(one)) for one in programs]

    async def _keep(self, child: Child) -> None:
        """Starts a child again whenever it ends; people do try `kill -9`. Raises DevFailed when that is of no use.

        Where code is reloaded, it may be of use once something else is saved: then it returns.
        """
        quick = 0
        while True:
            born = time.monotonic()
            await child.ended.wait()
            if child is self._shot:
                self._shot = None
                child.launch()
                continue
            code = child.look() or 0
            how = _end_of(code)
            quick = quick + 1 if time.monotonic() - born < QUICK_S else 1
            hopeless = None
            if code == BAD_ARGUMENTS:
                hopeless = DevFailed(f"{child.name} {how}; its last lines say why", BAD_ARGUMENTS)
            elif quick == QUICK_DEATHS:
                times = f"the {QUICK_DEATHS}th time within seconds of its start"
                hopeless = DevFailed(f"{child.name} {how}, {times}; its last lines say why")
            if hopeless is None:
                say(f"{child.name} {how}; starting it again")
            elif self._reload and self._announced and child is not self._redis:
                say(f"{hopeless}. It is started again when a file is saved")
                return
            else:
                raise hopeless
            await asyncio.sleep(0.1 * 2**quick)
            child.launch()
            if isinstance(child, Redis):
                await child.wait_ready()

    async def _take_up(self, reload: Reload, tasks: asyncio.TaskGroup) -> None:
        """Replaces what serves whenever something is saved; a save in the midst of that begins it anew."""
        replacing: asyncio.Task[None] | None = None
        files: list[str] = []
        while True:
            changed = await reload.sources.wait_change()
            if replacing is not None and not replacing.done():
                replacing.cancel()
                await asyncio.wait({replacing})
                changed = sorted({*files, *changed})
            files = changed
            replacing = tasks.create_task(self._replace(files, reload, tasks))

    async def _replace(self, files: Sequence[str], reload: Reload, tasks: asyncio.TaskGroup) -> None:
        """Starts the new code beside the old, which is ended once the new is ready. New code that does not start changes nothing."""
        began = time.monotonic()
        what = f"{files[0]} and {len(files) - 1} more" if len(files) > 1 else files[0]
        fresh: list[Program] = []
        try:
            problem = await self._check(reload.check())
            if not problem:
                fresh = list(self._make())
                for program in fresh:
                    self._start(program)
                for program in fresh:
                    await program.settled.wait()
                problem = next((f"{one.name} {_end_of(one.look() or 0)}" for one in fresh if one.ended.is_set()), "")
            if problem:
                await self._end(fresh, STOP_S)
                whole = all(one.look() is None for one in self._programs)
                say(f"{what}: {problem}; still {'running the code from before' if whole else 'waiting for code that starts'}")
            else:
                tasks.create_task(self._retire(self._programs, f"reloaded {what}", began))
                self._serve_with(fresh, tasks)
                fresh = []
        finally:
            await self._end(fresh, STOP_S)

    async def _check(self, check: Check) -> str:
        """What is wrong with the new code, in a line; the lines before it are said here. Empty: nothing is."""
        try:
            self._start(check)
            await check.ended.wait()
        finally:
            await self._end([check], 0)
        *lines, reason = check.lines or [f"importing it {_end_of(check.look() or 0)}"]
        if not check.look():
            return ""
        for line in lines:
            say(line)
        return reason.removeprefix("error: ")

    async def _retire(self, programs: Sequence[Program], what: str, began: float) -> None:
        await self._end(programs, STOP_S)
        say(f"{what} in {time.monotonic() - began:.1f} s")

    async def _end(self, children: Sequence[Child], timeout_s: float) -> None:
        """SIGTERM, then SIGKILL when the time is over or a second signal comes; returns when they have ended."""
        living = [child for child in children if child.look() is None]
        for child in living:
            child.signal(signal.SIGTERM)
        ended = asyncio.gather(*(child.ended.wait() for child in living))
        at_once = asyncio.create_task(self._at_once.wait())
        either: set[asyncio.Future[Any]] = {ended, at_once}
        try:
            await asyncio.wait(either, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            for child in living:
                if child.look() is None:
                    child.signal(signal.SIGKILL)
            await ended
        finally:
            ended.cancel()
            at_once.cancel()
        self._started = [one for one in self._started if one not in children]


def _end_of(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _first(error: BaseException) -> BaseException:
    """The reason inside of a TaskGroup's group."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def say(text: str) -> None:
    """Prints it; when nobody reads any more (`rt dev | head`), stops as SIGTERM would."""
    try:
        print(text, flush=True)  # noqa: T201
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        signal.raise_signal(signal.SIGTERM)


def _dim(text: str) -> str:
    return f"\x1b[2m{text}\x1b[0m" if sys.stdout.isatty() and "NO_COLOR" not in os.environ else text
