"""`rt …` processes that need not import anything: forks of one process that has imported it all, has read the embedded model, and has
done nothing else.

A second of imports is most of what a process costs that a test starts to kill it. A fork is a process like others, with its own
session, output and end: its interpreter ends as one does. Those that are to begin as a host begins them are started as such.

`python -m tests.chaos.forks` is the process that is forked. It is asked through the socket that is its standard input, once for each
fork: a JSON object {"argv", "env"} and two descriptors, for the output and for what becomes of the fork, which are lines: its process
id, and later its exit code.
"""

import atexit
import functools
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TextIO

ROOT = Path(__file__).parent.parent.parent
#: What `rt web` and `rt worker` import.
IMPORTED = ("rt.cli", "rt.api.serve", "rt.jobs.worker", "rt.builtin", "uvicorn.protocols.http.httptools_impl", "uvicorn.loops.auto")
_REQUEST_BYTES = 1024 * 1024


class Fork:
    """What tests use of a `subprocess.Popen`, for `rt` with these arguments in a fork with this environment."""

    def __init__(self, *args: str, env: dict[str, str]) -> None:
        self.returncode: int | None = None
        self._one_looks = threading.Lock()
        out, out_there = os.pipe()
        self._fate, fate_there = os.pipe()
        self.stdout: TextIO = os.fdopen(out)
        try:
            self.pid = _origin().fork({"argv": ["rt", *args], "env": env}, [out_there, fate_there], self._fate)
        finally:
            os.close(out_there)
            os.close(fate_there)

    def poll(self) -> int | None:
        return self._ended(0)

    def wait(self, timeout: float) -> int:
        """The exit code, negative for a signal. Raises subprocess.TimeoutExpired."""
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired("rt", timeout)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _ended(self, timeout_s: float) -> int | None:
        if self._one_looks.acquire(timeout=timeout_s):
            try:
                if self.returncode is None and select.select([self._fate], [], [], timeout_s)[0]:
                    self.returncode = int(_line(self._fate))
                    os.close(self._fate)
            finally:
                self._one_looks.release()
        return self.returncode


class _Origin:
    """The process that is forked, for as long as this one lives."""

    def __init__(self) -> None:
        self._here, there = socket.socketpair()
        with there:
            command = [sys.executable, "-m", "tests.chaos.forks"]
            self._popen = subprocess.Popen(command, cwd=ROOT, stdin=there.fileno(), start_new_session=True)
        self._one_at_a_time = threading.Lock()
        atexit.register(self._end)

    def fork(self, order: dict[str, object], files: list[int], fate: int) -> int:
        with self._one_at_a_time:
            socket.send_fds(self._here, [json.dumps(order).encode()], files)
            return int(_line(fate))

    def _end(self) -> None:
        self._here.close()
        self._popen.wait()


_origin = functools.cache(_Origin)


def _line(file: int) -> bytes:
    """One byte at a time: the next line is another reader's, or has not been written."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(file, 1)
        if not byte:
            raise EOFError("the process that is forked has ended")
        line += byte
    return line


def _serve(here: socket.socket) -> bool:
    """Returns True in every fork, and False where nobody asks any more."""
    while True:
        request, files, _, _ = socket.recv_fds(here, _REQUEST_BYTES, 2)
        if not request:
            return False
        if os.fork() == 0:
            break
        for file in files:
            os.close(file)
    # Who looks after one fork, and tells of its end: nobody else here could wait for it and for the next request.
    here.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    out, fate = files
    pid = os.fork()
    if pid:
        os.close(out)
        os.write(fate, f"{pid}\n".encode())
        _, status = os.waitpid(pid, 0)
        os.write(fate, f"{os.waitstatus_to_exitcode(status)}\n".encode())
        os._exit(0)
    os.close(fate)
    os.setsid()
    for standard in (1, 2):
        os.dup2(out, standard)
    os.close(out)
    # Those that are there were made for another kind of file.
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", buffering=1, closefd=False)
    order = json.loads(request)
    sys.argv = order["argv"]
    os.environ.clear()
    os.environ.update(order["env"])
    return True


def _prepare() -> None:
    """Imports, and reads the embedded model, once for all forks."""
    for name in IMPORTED:
        importlib.import_module(name)
    from rt.jobs.models import EmbeddedModel, ngram

    for maker in ("read_corpus", "NGramModel"):
        setattr(ngram, maker, functools.cache(getattr(ngram, maker)))
    EmbeddedModel().load()


if __name__ == "__main__":
    _prepare()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # who looks after a fork is waited for by nobody
    with socket.socket(fileno=os.dup(0)) as asked:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        is_fork = _serve(asked)
    if is_fork:
        from rt.cli import main

        sys.exit(main())
