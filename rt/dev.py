"""`rt dev`: web, worker and a private Redis in one command, and the folder `.rt` in which they keep what they need.

Everything happens in one thread and one event loop. Children are in process groups of their own, so that Ctrl-C
reaches the supervisor alone and the order of ending is its own: web and worker first, Redis last. Linux ends the
children when the supervisor is killed.
"""

import asyncio
import contextlib
import errno
import fcntl
import os
import platform
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from rt import __version__
from rt.codec import DecodeError, from_json_bytes, to_json_bytes
from rt.errors import RtError
from rt.localredis import PrivateRedis, die_with_parent, find_server
from rt.settings import DAY_S, load_settings
from rt.tokens import DEFAULT_SCOPES, mint

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


# The folder .rt


@dataclass(frozen=True, slots=True)
class Running:
    """A `rt dev` that runs now."""

    pid: int
    url: str
    redis_url: str


@dataclass(frozen=True, slots=True)
class Home:
    """The folder `.rt`: the secret and the data that last, and where other commands find a `rt dev` that runs."""

    path: Path

    @classmethod
    def find(cls) -> "Home | None":
        """The nearest `.rt` of the working directory or one above it. One of another user's is not trusted."""
        here = Path.cwd()
        for folder in (here, *here.parents):
            path = folder / ".rt"
            if path.is_dir() and path.stat().st_uid == os.getuid():
                return cls(path)
        return None

    @classmethod
    def make(cls) -> "Home":
        """The working directory's own; made when it is missing, closed to other users and to git."""
        path = Path.cwd() / ".rt"
        path.mkdir(mode=0o700, exist_ok=True)
        path.chmod(0o700)
        (path / ".gitignore").write_text("*\n")
        return cls(path)

    def secret(self) -> str | None:
        """What signs tokens here; None when no `rt dev` has made it yet."""
        try:
            return (self.path / "secret").read_text().strip() or None
        except FileNotFoundError:
            return None

    def make_secret(self) -> str:
        """The secret, made the first time and kept, so that tokens and sessions outlive a restart. Only this user may read it."""
        return self.secret() or self._write("secret", secrets.token_hex(32))

    def running(self) -> Running | None:
        """The `rt dev` that runs in this folder and is ready, if any."""
        try:
            state = Running(**from_json_bytes((self.path / "dev.json").read_bytes()))
            os.kill(state.pid, 0)
        except (OSError, DecodeError, TypeError):
            return None  # none, or one that was killed and left its file
        return state

    @contextlib.contextmanager
    def announced(self, url: str, redis_url: str) -> Iterator[None]:
        """While it lasts, `running` of other processes finds this one."""
        state = Running(os.getpid(), url, redis_url)
        self._write("dev.json", to_json_bytes(state).decode())
        try:
            yield
        finally:
            (self.path / "dev.json").unlink(missing_ok=True)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Held while a `rt dev` runs here: two servers that append to one file would spoil it. Raises DevFailed."""
        with open(self.path / "lock", "a+") as file:
            try:
                # Unlike a file with a process id in it, this lock ends with its holder, however that ends.
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                state = self.running()
                where = f" at {state.url}" if state else ""
                raise DevFailed(
                    f"`rt dev` runs in this folder already (pid {file.read().strip() or 'unknown'}){where}; stop it first"
                ) from None
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield

    def _write(self, name: str, text: str) -> str:
        """Whole or not at all, and readable by this user alone."""
        handle, temporary = tempfile.mkstemp(dir=self.path)
        with open(handle, "w") as file:
            file.write(text)
        os.replace(temporary, self.path / name)
        return text


# The processes


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

    def __init__(self, name: str, command: Sequence[str], env: dict[str, str]) -> None:
        self.name = name
        self.ready = asyncio.Event()
        self.ended = asyncio.Event()
        self._command, self._env = command, env
        self._process: subprocess.Popen[bytes] | None = None
        self._output = -1
        self._rest = b""
        self._launches = 0

    def launch(self) -> None:
        self.ready.clear()
        self.ended.clear()
        self._launches += 1
        self._process = subprocess.Popen(  # noqa: S603
            self._command,
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            process_group=0,
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
        if self._launches > 1:
            say(f"{self.name} is ready again")

    def _close(self) -> None:
        if self._output >= 0 and self._process and self._process.stdout:
            asyncio.get_running_loop().remove_reader(self._output)
            self._process.stdout.close()
            self._output = -1


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


class Supervisor:
    """Keeps children running until a signal says stop, then ends them in order.

    `announce` is called once, when all are ready. SIGINT, SIGTERM and SIGHUP stop; a second one kills at once. They are
    ignored afterwards: it is for a process that does nothing else.
    """

    def __init__(self, programs: Sequence[Child], redis: Redis | None, announce: Callable[[], None]) -> None:
        self._programs = programs
        self._redis = redis
        self._announce = announce
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
        work, stop = asyncio.create_task(self._work()), asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
            work.cancel()
            stop.cancel()
            await asyncio.wait({work, stop})
        finally:
            await self._end(self._programs, STOP_S)
            await self._end([self._redis] if self._redis else [], STOP_REDIS_S)
            for number in numbers:
                signal.signal(number, signal.SIG_IGN)  # everything has ended
        if not work.cancelled() and (error := work.exception()):
            raise _first(error)

    def stop(self) -> None:
        """As a signal would: the first call stops, the second kills."""
        if self._stop.is_set():
            self._at_once.set()
        self._stop.set()

    def _look(self) -> None:
        # One SIGCHLD may stand for several ends.
        for child in (*self._programs, *([self._redis] if self._redis else [])):
            child.look()

    async def _work(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            if self._redis:
                self._redis.launch()
                await self._redis.wait_ready()
                tasks.create_task(self._keep(self._redis))
            for program in self._programs:
                program.launch()
                tasks.create_task(self._keep(program))
            for program in self._programs:
                await program.ready.wait()
            self._announce()

    async def _keep(self, child: Child) -> None:
        """Starts a child again whenever it ends; people do try `kill -9`. Raises DevFailed when that is of no use."""
        quick = 0
        while True:
            born = time.monotonic()
            await child.ended.wait()
            code = child.look() or 0
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            if code == BAD_ARGUMENTS:
                raise DevFailed(f"{child.name} {how}; its last lines say why", BAD_ARGUMENTS)
            quick = quick + 1 if time.monotonic() - born < QUICK_S else 1
            if quick == QUICK_DEATHS:
                raise DevFailed(f"{child.name} {how}, the {QUICK_DEATHS}th time within seconds of its start; its last lines say why")
            say(f"{child.name} {how}; starting it again")
            await asyncio.sleep(0.1 * 2**quick)
            child.launch()
            if isinstance(child, Redis):
                await child.wait_ready()

    async def _end(self, children: Sequence[Child], timeout_s: float) -> None:
        """SIGTERM, then SIGKILL when the time is over or a second signal comes; returns when they have ended."""
        living = [child for child in children if child.look() is None]
        for child in living:
            child.signal(signal.SIGTERM)
        ended = asyncio.gather(*(child.ended.wait() for child in living))
        at_once = asyncio.create_task(self._at_once.wait())
        either: set[asyncio.Future[Any]] = {ended, at_once}
        await asyncio.wait(either, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        at_once.cancel()
        for child in living:
            if child.look() is None:
                child.signal(signal.SIGKILL)
        await ended


def _first(error: BaseException) -> BaseException:
    """The reason inside of a TaskGroup's group."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


# The command


def run(app: str, host: str, port: int, serve_here: Callable[[dict[str, str]], int]) -> int:
    """Runs everything until a signal; the command's exit code.

    `serve_here` serves web and worker in this process with the environment that it is given: the way on a machine
    with no Redis at all. Raises BadSettings, DevFailed and RedisFailed before anything is left running.
    """
    settings = load_settings(host=host, port=port)
    home = Home.make()
    with home.lock():
        port = _free_port(host, port)
        url = f"http://{_shown_host(host)}:{port}"
        secret = settings.secret.get_secret_value() if settings.secret else home.make_secret()
        server = None if settings.redis_url else find_server()
        private = PrivateRedis(home.path, server=server) if server else None
        redis_url = settings.redis_url or (private.url if private else "memory://")
        env = _environment(redis_url, secret, host, port)
        banner = _banner(app, url, private, redis_url, secret)
        with contextlib.closing(private) if private else contextlib.nullcontext():
            if redis_url.startswith("memory://"):
                say(banner)
                with home.announced(url, redis_url):
                    return serve_here(env)
            return asyncio.run(_supervise(app, env, private, home, url, banner))


async def _supervise(app: str, env: dict[str, str], private: PrivateRedis | None, home: Home, url: str, banner: str) -> int:
    with contextlib.ExitStack() as while_ready:

        def announce() -> None:
            while_ready.enter_context(home.announced(url, env["REDIS_URL"]))
            say(f"{banner}\nready {url}")

        # -P: a file redis.py in the user's folder is not to stand in for the library.
        programs = [Program(name, [sys.executable, "-P", "-m", "rt.cli", name, app], env) for name in ("web", "worker")]
        await Supervisor(programs, Redis(private) if private else None, announce).run()
    return 0


def _environment(redis_url: str, secret: str, host: str, port: int) -> dict[str, str]:
    """What web and worker are started with: the caller's environment, with one value for each thing that was decided here."""
    env = {name: value for name, value in os.environ.items() if name not in ("RT_REDIS_URL", "REDIS_TLS_URL", "RT_PORT")}
    if sys.stderr.isatty():
        # Their output goes through a pipe, at whose end somebody reads.
        env.setdefault("RT_LOG", "console")
    ours = {"REDIS_URL": redis_url, "RT_SECRET": secret, "RT_HOST": host, "PORT": str(port), "RT_DEV": "1", "PYTHONUNBUFFERED": "1"}
    return env | ours


def _free_port(host: str, port: int) -> int:
    """The port, after a look whether it can be listened on; 0 finds a free one. Raises DevFailed."""
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
            return int(listener.getsockname()[1])
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise DevFailed(f"port {port} is taken; name another one: rt dev --port {port + 1}, or --port 0 for any free one") from None
        raise DevFailed(f"cannot listen on {host}, port {port}: {error.strerror}") from None


def _shown_host(host: str) -> str:
    """Where a browser on this machine finds it: 0.0.0.0 is every interface and no address to go to."""
    one = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"[{one}]" if ":" in one else one


def _banner(app: str, url: str, private: PrivateRedis | None, redis_url: str, secret: str) -> str:
    rt = _command()
    if private:
        redis = f"{private.server.kind} {private.server.version}, private, keeps its data in .rt/redis (your own: REDIS_URL=redis://…)"
    elif redis_url.startswith("memory://"):
        redis = "IN MEMORY: NOTHING IS KEPT when this ends, and one process does all (install valkey or redis, or set REDIS_URL)"
    else:
        redis = f"{without_password(redis_url)} (whether it keeps its data: {rt} doctor)"
    body = """'{"job": "sentiment", "input": {"text": "I love this day"}}'"""
    return "\n".join(
        [
            f"rt {__version__} · dev · Python {platform.python_version()}",
            f"  Redis   {redis}",
            f"  API     {url}/docs",
            f"  Worker  one process, serving {app}",
            f"  Token   {mint(secret, 'dev', DEFAULT_SCOPES, DAY_S)}  (subject dev, for a day)",
            "Try",
            f'  {rt} job submit echo text="hello there"',
            f'  {rt} job submit generate prompt="Once upon a time"',
            f'  curl {url}/v1/jobs -H "Authorization: Bearer $({rt} token --sub me)" -H "Content-Type: application/json" -d {body}',
        ]
    )


def _command() -> str:
    """How this `rt` is called from here: by its name where PATH finds it, else by its path."""
    ours = Path(sys.executable).with_name("rt")
    found = shutil.which("rt")
    if found and Path(found) == ours:
        return "rt"
    return str(ours.relative_to(Path.cwd()) if ours.is_relative_to(Path.cwd()) else ours)


def without_password(url: str) -> str:
    """A Redis URL that can be shown: without user, password and query. What is no URL is not shown at all."""
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    # An @ further behind: what stands before it is of a password with a / ? or # that was not escaped.
    shown = parts.scheme and "@" not in parts.path + parts.query + parts.fragment
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}" if shown else "(not a URL)"


def say(text: str) -> None:
    """Prints it; when nobody reads any more (`rt dev | head`), stops as SIGTERM would."""
    try:
        print(text, flush=True)  # noqa: T201
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        signal.raise_signal(signal.SIGTERM)


def _dim(text: str) -> str:
    return f"\x1b[2m{text}\x1b[0m" if sys.stdout.isatty() and "NO_COLOR" not in os.environ else text
