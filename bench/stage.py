"""A stage: one system's processes for one repeat, with a private Redis, each on its core, all of them ended at the exit.

What is measured (web and worker) shares one core; Redis and the load client share the other. Where the machine has one
core, or cannot pin, nothing is pinned, and the report says so.
"""

import contextlib
import json
import os
import resource
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis as sync_redis

from bench.house import BENCH, HOME, MODULES, ROOT
from rt.bench import own_cpu_s
from rt.localredis import PrivateRedis, die_with_parent
from rt.tokens import DEFAULT_SCOPES, mint

SERVER_CORE, CLIENT_CORE = 0, 1
PINNED = hasattr(os, "sched_setaffinity") and {SERVER_CORE, CLIENT_CORE} <= os.sched_getaffinity(0)
_READY_S = 30.0
_DRIVER_S = 120.0


class BenchFailed(Exception):
    """A process did not start, or ended, or answered nonsense; the text names it and its log."""


@dataclass(frozen=True)
class Command:
    """How a process is started. It is ready when it prints a line that begins with "ready"."""

    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)


class Process:
    """A child process on one core, its output in a log."""

    def __init__(self, name: str, command: Command, env: Mapping[str, str], core: int) -> None:
        self.name = name
        self.log = HOME / "logs" / f"{name}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as out:
            self._process = subprocess.Popen(
                command.argv,
                cwd=ROOT,
                env={**env, **command.env},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,  # Ctrl-C is the harness's to answer
                preexec_fn=_on_core(core),
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_ready(self) -> None:
        until = time.monotonic() + _READY_S
        while not any(line.startswith("ready") for line in self.log.read_text(errors="replace").splitlines()):
            if self._process.poll() is not None:
                raise BenchFailed(f"{self.name} ended before it was ready: {self.log.read_text(errors='replace')[-400:]}")
            if time.monotonic() > until:
                raise BenchFailed(f"{self.name} was not ready within {_READY_S:g} s; see {self.log}")
            time.sleep(0.02)

    def signal(self, number: signal.Signals) -> None:
        """To it and to its children."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        if self._process.poll() is None:
            self.signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(3)
        self.kill()


class Stage:
    """`with Stage() as stage:` then `stage.start(…)`. Its Redis keeps nothing on disk and is empty."""

    def __init__(self) -> None:
        self.web_port, self._redis_port = _free_port(), _free_port()
        self._folder = Path(tempfile.mkdtemp(prefix="rt-bench-"))
        self.marks = self._folder / "marks"
        self._redis = PrivateRedis(self._folder, port=self._redis_port, aof=False)
        self._processes: list[Process] = []
        secret = secrets.token_hex(32)
        self.env = {
            **{name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ},
            "NODE_PATH": str(MODULES),
            "NODE_ENV": "production",
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "REDIS_URL": self._redis.url,
            "REDIS_PORT": str(self._redis_port),
            "WEB_PORT": str(self.web_port),
            "PORT": str(self.web_port),
            "RT_HOST": "127.0.0.1",
            "RT_SECRET": secret,
            "RT_LOG_LEVEL": "warning",
            "BENCH_TOKEN": mint(secret, "bench", (*DEFAULT_SCOPES, "admin"), 86_400),
            "BENCH_MARKS": str(self.marks),
        }

    def __enter__(self) -> Self:
        try:
            self._redis.start()
            if PINNED:
                os.sched_setaffinity(self._redis.pid, {CLIENT_CORE})
            # What a private Redis of ours has on by itself would cost the peers something; our worker turns it on.
            self.redis.config_set("notify-keyspace-events", "")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        for one in reversed(self._processes):
            one.stop()
        self._redis.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def redis(self) -> Any:
        """A plain client, for looking."""
        return sync_redis.Redis(port=self._redis_port)

    @property
    def redis_pid(self) -> int:
        return self._redis.pid

    def start(self, name: str, command: Command, env: Mapping[str, str] | None = None, *, core: int = SERVER_CORE) -> Process:
        """Starts a process and waits until it is ready."""
        process = Process(name, command, {**self.env, **(env or {})}, core)
        self._processes.append(process)
        process.wait_ready()
        return process

    def run(self, command: Command, env: Mapping[str, str] | None = None, *, input: str | None = None) -> str:
        """Runs a command to its end beside the load client; what it printed."""
        done = subprocess.run(
            command.argv,
            cwd=ROOT,
            env={**self.env, **command.env, **(env or {})},
            input=input,
            capture_output=True,
            text=True,
            timeout=_DRIVER_S,
            preexec_fn=_on_core(CLIENT_CORE),
        )
        if done.returncode:
            raise BenchFailed(f"{' '.join(command.argv[-3:])}: {done.stderr[-600:]}")
        return done.stdout

    def client(
        self,
        mode: str,
        adapter: str,
        options: Mapping[str, float | str],
        *,
        answer: Callable[[str], None] | None = None,
        watch: Mapping[str, int] | None = None,
        moment: Callable[[], None] | None = None,
    ) -> dict[str, Any]:
        """Runs the load client and returns what it measured.

        `answer` does what the client asks for; `moment` is called at its "start" and its "stop". With `watch` (name: pid)
        `cpu_s` has the CPU seconds of each between the two.
        """
        argv = ["node", "--max-old-space-size=4096", str(BENCH / "client" / "load.js"), mode, adapter, f"port={self.web_port}"]
        argv += [f"{name}={value}" for name, value in options.items()]
        log = HOME / "logs" / "client.log"
        at: dict[str, dict[str, float]] = {}
        with (
            log.open("wb") as errors,
            subprocess.Popen(
                argv,
                env=self.env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
                preexec_fn=_on_core(CLIENT_CORE),
            ) as process,
        ):
            try:
                assert process.stdin
                assert process.stdout
                for line in process.stdout:
                    what, _, text = line.strip().partition(" ")
                    if what in ("start", "stop"):
                        at[what] = {name: own_cpu_s(pid) for name, pid in (watch or {}).items()}
                        if moment:
                            moment()
                    elif what == "ask" and answer:
                        answer(text)
                        process.stdin.write("\n")
                        process.stdin.flush()
                    elif what == "result":
                        result: dict[str, Any] = json.loads(text)
                        if watch:
                            result["cpu_s"] = {name: at["stop"][name] - at["start"][name] for name in watch}
                        return result
                raise BenchFailed(f"the load client failed ({mode} {adapter}): {log.read_text(errors='replace')[-600:]}")
            finally:
                process.kill()


def rss_bytes(pid: int) -> int:
    """Resident memory of a process, from /proc (Linux)."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


def python(*words: str, **env: str) -> Command:
    """A command of this Python, which has the project and what it pins."""
    return Command([sys.executable, *words], env)


def raise_limits() -> None:
    """As many open files as the machine allows, for this process and those that it starts."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _on_core(core: int) -> Callable[[], None]:
    dies = die_with_parent()

    def in_child() -> None:
        if PINNED:
            os.sched_setaffinity(0, {core})
        dies()

    return in_child


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
