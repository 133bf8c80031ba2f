"""`rt bench`: what a deployment does for its clients, measured from outside by the promise's own rules.

Clients submit the built-in job `echo` over WebSockets and check every event: a stream's seqs have no hole and no repeat,
and the deltas joined are the text. What is lost, repeated or out of order is counted beside the speed.

All clients are one process and one event loop: near its own limit it measures itself. `bench/` in the source tree is
the laboratory: it compares with other systems, on pinned cores.
"""

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException
from websockets.typing import Subprotocol

from rt.codec import from_json_bytes, to_json_bytes
from rt.dev import Home
from rt.errors import RtError
from rt.localredis import die_with_parent
from rt.tokens import DEFAULT_SCOPES, mint

WORDS = 100
TEXT = " ".join(f"word-{i}" for i in range(WORDS))

#: A job that has not ended by then, or a server that has not answered, is given up.
_GIVE_UP_S = 30.0
_READY_S = 60.0
#: Acknowledgements are cumulative: about one a second is enough.
_ACK_S = 1.0
_TOKEN_TTL_S = 86_400
_WARM = 3


class BenchFailed(RtError):
    """Nothing could be measured; the text says why."""


@dataclass(slots=True)
class Faults:
    """Broken promises, in events."""

    lost: int = 0
    repeated: int = 0
    disordered: int = 0

    @property
    def any(self) -> bool:
        return bool(self.lost or self.repeated or self.disordered)


@dataclass(slots=True)
class Figures:
    """What was measured. `cpu_s_per_10k` is of all processes of a private deployment, None where they are out of reach."""

    url: str
    clients: int
    first_ms: list[float] = field(default_factory=list)
    last_ms: list[float] = field(default_factory=list)
    events_per_s: float = 0.0
    cpu_s_per_10k: float | None = None
    faults: Faults = field(default_factory=Faults)

    def public(self) -> dict[str, Any]:
        """For `--json` and the table: percentiles instead of samples."""
        times = {f"{name}_p{q}": round(percentile(getattr(self, name), q / 100), 2) for name in ("first_ms", "last_ms") for q in (50, 99)}
        cpu = None if self.cpu_s_per_10k is None else round(self.cpu_s_per_10k, 3)
        rate = round(self.events_per_s)
        return {"url": self.url, "clients": self.clients, **times, "events_per_s": rate, "cpu_s_per_10k": cpu, **asdict(self.faults)}


class Client:
    """One session on one connection. `faults` is shared by all clients."""

    def __init__(self, socket: ClientConnection, faults: Faults) -> None:
        self._socket = socket
        self._faults = faults
        self._seqs: dict[str, int] = {}
        self._moved: set[str] = set()
        self._acked = 0.0
        self._jobs = 0
        #: Characters of deltas so far.
        self.chars = 0

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(cls, url: str, token: str, faults: Faults) -> AsyncIterator["Client"]:
        """A connected client of the server at an http(s) URL. Raises BenchFailed."""
        here = urlsplit(url)
        address = f"{'wss' if here.scheme == 'https' else 'ws'}://{here.netloc}{here.path.rstrip('/')}/v1/ws"
        # A proxy that the environment names cannot reach this machine's own addresses.
        proxy = None if here.hostname in ("localhost", "127.0.0.1", "::1") else True
        options: dict[str, Any] = {"compression": None, "max_size": None, "proxy": proxy}
        try:
            async with connect(address, subprotocols=[Subprotocol("rt.v1.json")], **options) as socket:
                client = cls(socket, faults)
                await client._send({"type": "connect", "token": token, "batch": True})
                async with asyncio.timeout(_GIVE_UP_S):
                    async for frame in client._frames():
                        client._take(frame)
                        if frame["type"] == "connected":
                            break
                yield client
        except TimeoutError:
            raise BenchFailed(f"{url}: no answer, or a job that did not end, within {_GIVE_UP_S:g} s") from None
        except (OSError, WebSocketException) as error:
            raise BenchFailed(f"{url}: {type(error).__name__}: {error}") from None

    async def run(self) -> tuple[float, float]:
        """One job from its submission to its end: milliseconds until the first and the last piece of its text."""
        self._jobs += 1
        id = f"bench-{self._jobs}"
        began = time.perf_counter()
        await self._send({"type": "job.submit", "id": id, "job": "echo", "input": {"text": TEXT}})
        first = last = 0.0
        stream = ""
        # Of all jobs: events may come before the reply that says which one is this one's.
        said: dict[str, str] = {}
        ended: set[str] = set()
        async with asyncio.timeout(_GIVE_UP_S):
            async for frame in self._frames():
                self._take(frame)
                match frame["type"]:
                    case "error":
                        raise BenchFailed(f"the server refused a job: {frame['code']}: {frame['message']}")
                    case "reply" if frame["id"] == id:
                        stream = frame["data"]["stream"]
                    case "job.delta":
                        last = time.perf_counter()
                        first = first or last
                        text = frame["data"]["text"]
                        said[frame["stream"]] = said.get(frame["stream"], "") + text
                        self.chars += len(text)
                if frame.get("final"):
                    ended.add(frame["stream"])
                if stream in ended:
                    break
        self._compare(said.get(stream, ""))
        await self._ack()
        return (first - began) * 1000, (last - began) * 1000

    def _compare(self, said: str) -> None:
        """The deltas of a job, joined, are its text."""
        missing = WORDS - len(said.split())
        if missing > 0:
            self._faults.lost += missing
        elif said != TEXT:
            self._faults.disordered += 1

    async def _frames(self) -> AsyncIterator[dict[str, Any]]:
        """Frames as they come, those that came joined one by one."""
        while True:
            got = from_json_bytes(await self._socket.recv())
            for frame in got if isinstance(got, list) else [got]:
                if frame["type"] == "ping":
                    await self._send({"type": "pong"})
                yield frame

    def _take(self, frame: dict[str, Any]) -> None:
        """Holds a frame against the promise."""
        if frame["type"] == "gap":
            self._faults.lost += frame.get("to", 1) - frame.get("from", 1) + 1
        if frame["type"] == "connected":
            self._seqs |= {stream: known["seq"] for stream, known in frame["streams"].items()}
        if "seq" not in frame or frame["type"] == "subscribed":
            return
        stream, seq, known = frame["stream"], frame["seq"], self._seqs.get(frame["stream"], 0)
        self._faults.repeated += seq <= known
        self._faults.lost += max(0, seq - known - 1)
        self._seqs[stream] = max(seq, known)
        self._moved.add(stream)

    async def _ack(self) -> None:
        if time.monotonic() - self._acked > _ACK_S:
            self._acked = time.monotonic()
            await self._send({"type": "ack", "cursors": {stream: self._seqs[stream] for stream in self._moved}})
            self._moved.clear()

    async def _send(self, frame: dict[str, Any]) -> None:
        await self._socket.send(to_json_bytes(frame).decode())


async def measure(
    url: str, token: str, *, clients: int, seconds: float, samples: int, pid: int | None = None, say: Callable[[str], None]
) -> Figures:
    """One client with one job at a time, `samples` times; then `clients` with one in flight each, for `seconds`.

    `pid` is the process above all of a private deployment. Raises BenchFailed when the server cannot be reached or
    refuses the job. Cancelling is safe: the connections are closed.
    """
    figures = Figures(url, clients)
    say(f"one client: {samples} jobs of {WORDS} words")
    async with Client.opened(url, token, figures.faults) as one:
        for number in range(_WARM + samples):
            first, last = await one.run()
            if number >= _WARM:
                figures.first_ms.append(first)
                figures.last_ms.append(last)
    say(f"{clients} clients: {seconds:g} s")
    async with contextlib.AsyncExitStack() as stack:
        all_of_them = [await stack.enter_async_context(Client.opened(url, token, figures.faults)) for _ in range(clients)]
        began, spent = time.perf_counter(), cpu_s(pid)
        until = began + seconds

        async def keep_busy(client: Client) -> None:
            while time.perf_counter() < until:
                await client.run()

        try:
            async with asyncio.TaskGroup() as group:
                for client in all_of_them:
                    group.create_task(keep_busy(client))
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        # To the end of the last job: every event that is counted was checked.
        took_s = time.perf_counter() - began
        words = sum(client.chars for client in all_of_them) * WORDS / len(TEXT)
        figures.events_per_s = words / took_s
        after = cpu_s(pid)
        if spent is not None and after is not None and words:
            figures.cpu_s_per_10k = (after - spent) / words * 10_000
    return figures


@dataclass(frozen=True, slots=True)
class Deployment:
    url: str
    token: str
    pid: int


@contextlib.contextmanager
def private() -> Iterator[Deployment]:
    """`rt dev` in a folder of its own, for as long as it is measured. Raises BenchFailed with its last words."""
    settings = ("RT_", "REDIS_URL", "REDIS_TLS_URL", "PORT")
    env = {name: value for name, value in os.environ.items() if not name.startswith(settings)}
    with tempfile.TemporaryDirectory(prefix="rt-bench-") as folder:
        log = Path(folder, "log")
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "rt.cli", "dev", "--port", "0"],
                cwd=folder,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                process_group=0,
                preexec_fn=die_with_parent(),
            )
        try:
            home, until = Home(Path(folder, ".rt")), time.monotonic() + _READY_S
            while (running := home.running()) is None:
                if process.poll() is not None or time.monotonic() > until:
                    raise BenchFailed(f"the private deployment is not ready: {log.read_text(errors='replace')[-500:]}")
                time.sleep(0.05)
            yield Deployment(running.url, mint(home.make_secret(), "bench", DEFAULT_SCOPES, _TOKEN_TTL_S), process.pid)
        finally:
            process.terminate()
            process.wait()


def cpu_s(pid: int | None) -> float | None:
    """User and system seconds of a process and everything below it; None where there is no /proc, or no process."""
    if pid is None:
        return None
    try:
        own = own_cpu_s(pid)
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return None
    return own + sum(cpu_s(int(child)) or 0.0 for child in children)


def own_cpu_s(pid: int) -> float:
    """User and system seconds of one process so far, from /proc. Raises OSError where there is none."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def percentile(values: Sequence[float], quantile: float) -> float:
    """The nearest rank; raises IndexError for no values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(quantile * len(ordered)))]
