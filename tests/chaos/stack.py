"""Real processes on a real Redis: `rt web` and `rt worker`, as a Procfile would start them."""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx2
from redis.asyncio import Redis

from rt.localredis import PrivateRedis
from rt.tokens import mint
from tests.chaos.clock import Clock
from tests.chaos.forks import ROOT, Fork
from tests.chaos.proxy import Proxy

SECRET = "a secret of the tests that is long enough to sign"


def free_port() -> int:
    """A port that nobody listens at, below those that Linux gives to connections: by the time that a process has started, one of
    the many clients could have got it."""
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            return port


class Process:
    """One started process; its output is kept, and its ready line waited for. A fork (see there), or one that begins as on a host:
    `fresh`, in a `folder` of its own, or with a clock of its own."""

    def __init__(
        self, *args: str, env: dict[str, str], clock: Clock | None = None, fresh: bool = False, folder: Path | None = None
    ) -> None:
        self.clock = clock
        if clock is not None:
            env = env | {"CLOCK": str(clock.path)}
        clean = {name: value for name, value in os.environ.items() if not name.startswith("RT_") and name not in ("REDIS_URL", "PORT")}
        self.popen: subprocess.Popen[str] | Fork
        if clock is None and folder is None and not fresh:
            self.popen = Fork(*args, env=clean | env)
        else:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.clock" if clock else "rt.cli", *args],
                cwd=folder or ROOT,
                env=clean | env,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        self.lines: list[str] = []
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            self.lines.append(line.rstrip())
            if line.startswith("ready "):
                self._ready.set()
        self._ready.set()

    def wait_ready(self, limit_s: float = 30) -> str:
        self._ready.wait(limit_s)
        line = next((one for one in self.lines if one.startswith("ready ")), None)
        assert line is not None, f"not ready: {self.lines[-5:]}"
        return line

    def kill(self) -> float:
        """kill -9; returns the time of it."""
        self.popen.kill()
        self.popen.wait(10)
        return time.monotonic()

    def freeze(self) -> None:
        self.popen.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.popen.send_signal(signal.SIGCONT)

    def terminate(self, limit_s: float = 30) -> int:
        """SIGTERM; returns the exit code."""
        self.popen.terminate()
        return self.popen.wait(limit_s)

    def end(self) -> None:
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGCONT)
            self.popen.kill()
        self.popen.wait(10)
        self._reader.join(10)
        assert self.popen.stdout is not None
        self.popen.stdout.close()

    def tracebacks(self) -> list[str]:
        return [line for line in self.lines if "Traceback (most recent" in line]


class Stack:
    """One Redis, and as many web and worker processes as a test asks for. They reach it through `network`, when there is one.

    With `fresh` they begin as on a host (see Process).
    """

    fresh = False

    def __init__(self, folder: Path, app: str = "rt.builtin:app", *, proxied: bool = False, **env: str) -> None:
        self.app = app
        self.redis_port = free_port()
        # Its file is never written anew: an archive may read it.
        self.redis = PrivateRedis(folder, port=self.redis_port, aof=True, options={"auto-aof-rewrite-percentage": "0"})
        self.network = Proxy(self.redis_port) if proxied else None
        # Most tests count what they say in a room: who comes is told only where a test is about that.
        self.env = {"RT_SECRET": SECRET, "RT_HOST": "127.0.0.1", "RT_LEASE_S": "2", "RT_DRAIN_S": "2", "RT_PRESENCE_EVENTS": "0", **env}
        self.token_ttl_s = 3600
        self.webs: list[Process] = []
        self.workers: list[Process] = []
        self.ports: list[int] = []

    def __enter__(self) -> "Stack":
        self.redis.__enter__()
        self.env["REDIS_URL"] = self.redis.url
        if self.network:
            self.network.__enter__()
            self.env["REDIS_URL"] = f"redis://127.0.0.1:{self.network.port}/0"
        return self

    def __exit__(self, *exc: object) -> None:
        for one in (*self.webs, *self.workers):
            one.end()
        if self.network:
            self.network.__exit__()
        self.redis.__exit__(None, None, None)

    def web(self, port: int | None = None, clock: Clock | None = None) -> Process:
        port = port or free_port()
        one = Process("web", self.app, env=self.env | {"PORT": str(port)}, clock=clock, fresh=self.fresh)
        self.webs.append(one)
        self.ports.append(port)
        return one

    def worker(self, app: str = "", clock: Clock | None = None) -> Process:
        one = Process("worker", app or self.app, env=self.env, clock=clock, fresh=self.fresh)
        self.workers.append(one)
        return one

    def start(self, webs: int = 1, workers: int = 1) -> "Stack":
        for _ in range(webs):
            self.web()
        for _ in range(workers):
            self.worker()
        for one in (*self.webs, *self.workers):
            one.wait_ready()
        return self

    def ws(self, web: int = 0) -> str:
        return f"ws://127.0.0.1:{self.ports[web]}/v1/ws"

    def http(self, subject: str = "alice", web: int = 0, *, scopes: tuple[str, ...] = ()) -> httpx2.AsyncClient:
        token = self.token(subject, *scopes)
        return httpx2.AsyncClient(
            base_url=f"http://127.0.0.1:{self.ports[web]}", headers={"Authorization": f"Bearer {token}"}, timeout=20, trust_env=False
        )

    def token(self, subject: str = "alice", *scopes: str) -> str:
        return mint(SECRET, subject, scopes or ("jobs:write", "jobs:read", "streams:read", "streams:publish"), self.token_ttl_s)

    def direct(self) -> "Redis[bytes]":
        """The server itself, past the proxy; close it."""
        return Redis.from_url(self.redis.url)

    def tracebacks(self) -> list[str]:
        return [line for one in (*self.webs, *self.workers) for line in one.tracebacks()]
