"""`rt dev`: web, worker and a private Redis in one command, and the folder `.rt` in which they keep what they need.

It holds the listening socket, and gives it to each web process: while one takes over from another, who connects waits and is
not refused.
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
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from rt import __version__
from rt.children import Check, DevFailed, Program, Redis, Reload, Supervisor, say
from rt.codec import DecodeError, from_json_bytes, to_json_bytes
from rt.localredis import PrivateRedis, find_server
from rt.settings import DAY_S, load_settings
from rt.sources import Sources
from rt.tokens import DEFAULT_SCOPES, mint

#: RT_DRAIN_S where nothing else is set: nobody waits for a deploy here, and what is interrupted goes on.
DRAIN_S = 0.5
#: Connections that wait for a web process; as many as uvicorn lets wait.
_BACKLOG = 2048

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


# The command


def run(app: str, host: str, port: int, *, reload: bool, serve_here: Callable[[dict[str, str]], int]) -> int:
    """Runs everything until a signal; the command's exit code.

    With `reload`, what is saved of the application's Python files is taken up. `serve_here` serves web and worker in this
    process, listening by itself, with the environment that it is given: the way on a machine with no Redis at all, where
    nothing is reloaded. Raises BadSettings, DevFailed and RedisFailed before anything is left running.
    """
    settings = load_settings(host=host, port=port)
    home = Home.make()
    with home.lock(), contextlib.ExitStack() as held:
        listener = held.enter_context(_listen(host, port))
        port = listener.getsockname()[1]
        url = f"http://{_shown_host(host)}:{port}"
        secret = settings.secret.get_secret_value() if settings.secret else home.make_secret()
        server = None if settings.redis_url else find_server()
        private = held.enter_context(contextlib.closing(PrivateRedis(home.path, server=server))) if server else None
        redis_url = settings.redis_url or (private.url if private else "memory://")
        in_memory = redis_url.startswith("memory://")
        env = _environment(redis_url, secret, host, port)
        banner = _banner(app, url, private, redis_url, secret, reloading=reload and not in_memory)
        if in_memory:
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # there is no worker to kill but all of this
            listener.close()
            say(banner)
            with home.announced(url, redis_url):
                return serve_here(env)
        return asyncio.run(_supervise(app, env, private, home, url, banner, listener, reload))


async def _supervise(
    app: str,
    env: dict[str, str],
    private: PrivateRedis | None,
    home: Home,
    url: str,
    banner: str,
    listener: socket.socket,
    reload: bool,
) -> int:
    # -P: a file redis.py in the user's folder is not to stand in for the library.
    rt = [sys.executable, "-P", "-m", "rt.cli"]
    if reload:
        # Python takes a compiled file for current when the second and the size are: two saves of one second may have both.
        env = env | {"PYTHONDONTWRITEBYTECODE": "1"}
    with contextlib.ExitStack() as while_ready:

        def announce() -> None:
            while_ready.enter_context(home.announced(url, env["REDIS_URL"]))
            say(f"{banner}\nready {url}")

        def programs() -> list[Program]:
            fd = listener.fileno()
            return [
                Program("web", [*rt, "web", app, "--fd", str(fd)], env, pass_fds=[fd]),
                Program("worker", [*rt, "worker", app], env),
            ]

        again = Reload(Sources.of(app), lambda: Check([*rt, "check", app], env)) if reload else None
        await Supervisor(programs, Redis(private) if private else None, announce, again).run()
    return 0


def _environment(redis_url: str, secret: str, host: str, port: int) -> dict[str, str]:
    """What web and worker are started with: the caller's environment, with one value for each thing that was decided here."""
    env = {name: value for name, value in os.environ.items() if name not in ("RT_REDIS_URL", "REDIS_TLS_URL", "RT_PORT")}
    if sys.stderr.isatty():
        # Their output goes through a pipe, at whose end somebody reads.
        env.setdefault("RT_LOG", "console")
    env.setdefault("RT_DRAIN_S", str(DRAIN_S))
    env.setdefault("RT_CONSOLE", "full")
    ours = {"REDIS_URL": redis_url, "RT_SECRET": secret, "RT_HOST": host, "PORT": str(port), "RT_DEV": "1", "PYTHONUNBUFFERED": "1"}
    return env | ours


def _listen(host: str, port: int) -> socket.socket:
    """Listens there; port 0 finds a free one. Raises DevFailed."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=_BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise DevFailed(f"port {port} is taken; name another one: rt dev --port {port + 1}, or --port 0 for any free one") from None
        raise DevFailed(f"cannot listen on {host}, port {port}: {error.strerror}") from None


def _shown_host(host: str) -> str:
    """Where a browser on this machine finds it: 0.0.0.0 is every interface and no address to go to."""
    one = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"[{one}]" if ":" in one else one


def _banner(app: str, url: str, private: PrivateRedis | None, redis_url: str, secret: str, *, reloading: bool) -> str:
    rt = _command()
    if private:
        redis = f"{private.server.kind} {private.server.version}, private, keeps its data in .rt/redis (your own: REDIS_URL=redis://…)"
    elif redis_url.startswith("memory://"):
        redis = "IN MEMORY: NOTHING IS KEPT when this ends; one process does all and is not reloaded (install valkey, or set REDIS_URL)"
    else:
        redis = f"{without_password(redis_url)} (whether it keeps its data: {rt} doctor)"
    body = """'{"job": "sentiment", "input": {"text": "I love this day"}}'"""
    return "\n".join(
        [
            f"rt {__version__} · dev · Python {platform.python_version()}",
            f"  Redis   {redis}",
            f"  Demo    {url}/demo",
            f"  Console {url}/console",
            f"  API     {url}/docs",
            f"  Worker  one process, serving {app}{', anew whenever a .py file is saved' if reloading else ''}",
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
