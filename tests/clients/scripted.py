"""A server that plays the table: what it sends, when it cuts, what it wants from the client. README.md says how a script is written.

    python -m tests.clients.scripted        # prints `ready ws://127.0.0.1:PORT`; ends with its standard input

A client of the script `cuts.3` (the fourth of scripts/cuts.json) connects to `ws://127.0.0.1:PORT/cuts.3`; afterwards
`GET /cuts.3/verdict` says what went wrong, as JSON: `{"problems": [text], "done": bool}`. `GET /cuts.3/begin` begins it anew.
"""

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

FOLDER = Path(__file__).parent / "scripts"
TERMINAL = ("job.completed", "job.failed", "job.cancelled")
#: The longest that a script waits for its client.
PATIENCE_S = 8.0
Script = dict[str, Any]


def load() -> dict[str, Script]:
    """Every script by its key."""
    return {
        f"{path.stem}.{number}": script
        for path in sorted(FOLDER.glob("*.json"))
        for number, script in enumerate(json.loads(path.read_text()))
    }


class Mismatch(Exception):
    """The client did something else than the script says."""


class Play:
    """One script's state over its connections."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.problems: list[str] = []
        self.connections = 0
        self.ended_at = time.monotonic()
        self.captured: dict[str, Any] = {}
        #: What was acknowledged so far, and in how many frames.
        self.acked: dict[str, Any] = {}
        self.acks = 0
        self.played = 0
        self.busy = 0

    @property
    def done(self) -> bool:
        """Every connection was made and played to its end, and none more."""
        return self.played == self.connections == len(self.script["server"]) and not self.busy

    def next_steps(self) -> list[dict[str, Any]]:
        self.connections += 1
        if self.connections > len(self.script["server"]):
            raise Mismatch(f"connection {self.connections}, but there are only {len(self.script['server'])}")
        steps: list[dict[str, Any]] = self.script["server"][self.connections - 1]
        return steps

    def match(self, pattern: Any, value: Any, at: str = "frame") -> None:
        """Raises Mismatch. "*" is anything, "$name" the same thing wherever it stands; objects have these members and no others."""
        if pattern == "*":
            return
        if isinstance(pattern, str) and pattern.startswith("$"):
            if pattern not in self.captured:
                self.captured[pattern] = value
            pattern = self.captured[pattern]
        if isinstance(pattern, dict) and isinstance(value, dict):
            if set(pattern) != set(value):
                raise Mismatch(f"{at} has {sorted(value)}, not {sorted(pattern)}: {value}")
            for name in pattern:
                self.match(pattern[name], value[name], f"{at}.{name}")
        elif pattern != value:
            raise Mismatch(f"{at} is {value!r}, not {pattern!r}")

    def fill(self, value: Any) -> Any:
        if isinstance(value, str) and value.startswith("$"):
            return self.captured[value]
        if isinstance(value, dict):
            return {name: self.fill(one) for name, one in value.items()}
        return [self.fill(one) for one in value] if isinstance(value, list) else value


class Line:
    """One connection of a script."""

    def __init__(self, play: Play, socket: ServerConnection) -> None:
        self.play, self.socket = play, socket
        self.frames: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.pongs = 0
        self.news = asyncio.Event()

    async def run(self, steps: list[dict[str, Any]]) -> None:
        reading = asyncio.create_task(self._read())
        try:
            for number, step in enumerate(steps):
                try:
                    async with asyncio.timeout(PATIENCE_S):
                        await self._step(step)
                except TimeoutError:
                    raise Mismatch(f"connection {self.play.connections}, step {number} {json.dumps(step)}: nothing came") from None
                except Mismatch as problem:
                    raise Mismatch(f"connection {self.play.connections}, step {number} {json.dumps(step)}: {problem}") from None
            self.play.played += 1
            await reading  # until the client has gone
            if not self.frames.empty():
                raise Mismatch(f"connection {self.play.connections}: more came than was expected: {self.frames.get_nowait()}")
        finally:
            reading.cancel()
            await asyncio.wait({reading})

    async def _read(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for message in self.socket:
                value = json.loads(message)
                for frame in value if isinstance(value, list) else [value]:
                    if frame["type"] == "ack":
                        self.play.acked |= frame["cursors"]
                        self.play.acks += 1
                        self.news.set()
                    elif frame["type"] == "pong":
                        self.pongs += 1
                        self.news.set()
                    else:
                        self.frames.put_nowait(frame)

    async def _step(self, step: dict[str, Any]) -> None:
        (word, what), *_ = step.items()
        match word:
            case "connect":
                default = {"type": "connect", "token": "t", "batch": True, "client": "*"}
                self.play.match({name: one for name, one in (default | what).items() if one is not None}, await self._frame())
            case "connected":
                await self._send(connected(what))
            case "expect":
                await self._expected(what)
            case "send":
                await self._send(what)
            case "raw":
                await self.socket.send(what)
            case "events":
                await self._send([event(*one) for one in what])
            case "flood":
                for seq in range(what["from"], what["to"] + 1):
                    await self._send(event(what["stream"], seq, what["type"], {"text": "x" * what.get("size", 1)}))
            case "subscribed":
                await self._send({"type": "subscribed", "seq": 0, "recovered": True} | what)
            case "acked":
                while any(self.play.acked.get(stream) != cursor for stream, cursor in what.items()):
                    self.news.clear()
                    await self.news.wait()
            case "acks_at_most":
                if self.play.acks > what:
                    raise Mismatch(f"{self.play.acks} acks")
            case "not_acked":
                if known := [stream for stream in what if stream in self.play.acked]:
                    raise Mismatch(f"{known} were acknowledged")
            case "after_ms":
                since = (time.monotonic() - self.play.ended_at) * 1000
                if not what[0] <= since <= what[1]:
                    raise Mismatch(f"it came after {since:.0f} ms")
            case "quiet_ms":
                await asyncio.sleep(what / 1000)
                if not self.frames.empty():
                    raise Mismatch(f"{self.frames.get_nowait()} came")
            case "close":
                await self.socket.close(what, step.get("reason", ""))
            case "cut":
                self.socket.transport.abort()
            case "gone":
                await self.socket.wait_closed()
                if what is not None and self.socket.close_code != what:
                    raise Mismatch(f"it went with {self.socket.close_code}")
            case _:
                raise Mismatch("there is no such step")

    async def _expected(self, pattern: dict[str, Any]) -> None:
        if pattern["type"] == "pong":
            while not self.pongs:
                self.news.clear()
                await self.news.wait()
            self.pongs -= 1
        else:
            self.play.match(pattern, await self._frame())

    async def _frame(self) -> dict[str, Any]:
        getting, closed = asyncio.create_task(self.frames.get()), asyncio.create_task(self.socket.wait_closed())
        try:
            await asyncio.wait({getting, closed}, return_when=asyncio.FIRST_COMPLETED)
            if getting.done():
                return getting.result()
            raise Mismatch("the client has gone")
        finally:
            getting.cancel()
            closed.cancel()

    async def _send(self, value: Any) -> None:
        with contextlib.suppress(ConnectionClosed):
            await self.socket.send(json.dumps(self.play.fill(value)))


def connected(over: dict[str, Any]) -> dict[str, Any]:
    """The frame, with what most scripts do not care for filled in; `streams` are beside the two that every session has."""
    session = over.get("session", "s1")
    always = {f"session:{session}": {"epoch": "s", "seq": 0, "recovered": True}, "user:alice": {"epoch": "u", "seq": 0, "recovered": True}}
    frame = {"type": "connected", "session": session, "resumed": False, "subject": "alice", "heartbeat_s": 20, "max_message_bytes": 262144}
    streams = {name: {"recovered": True} | at for name, at in over.get("streams", {}).items()}
    return frame | {"expires_at": 4102444800000} | over | {"streams": always | streams}


def event(stream: str, seq: int, type: str, data: Any = None, attempt: int | None = None) -> dict[str, Any]:
    frame = {"type": type, "stream": stream, "seq": seq, "ts": 1700000000000 + seq, "data": {} if data is None else data}
    if attempt is not None:
        frame["attempt"] = attempt
    return frame | ({"final": True} if type in TERMINAL else {})


class Scripted:
    """The server; `url(key)` is where a script's client connects."""

    def __init__(self, scripts: dict[str, Script]) -> None:
        self._scripts = scripts
        self.plays: dict[str, Play] = {}
        self._server: Server | None = None

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, scripts: dict[str, Script]) -> AsyncIterator["Scripted"]:
        scripted = cls(scripts)
        async with serve(
            scripted._serve, "127.0.0.1", 0, process_request=scripted._request, compression=None, ping_interval=None, max_size=None
        ) as server:
            scripted.port = server.sockets[0].getsockname()[1]
            yield scripted

    def url(self, key: str) -> str:
        return f"ws://127.0.0.1:{self.port}/{key}"

    def begin(self, key: str) -> Play:
        self.plays[key] = Play(self._scripts[key])
        return self.plays[key]

    def _request(self, socket: ServerConnection, request: Request) -> Response | None:
        _, key, word, *_ = [*request.path.split("/"), ""]
        if key not in self._scripts:
            return socket.respond(HTTPStatus.NOT_FOUND, "no such script\n")
        if word == "begin":
            self.begin(key)
            return socket.respond(HTTPStatus.OK, "{}")
        play = self.plays.get(key) or self.begin(key)
        if word == "verdict":
            return socket.respond(HTTPStatus.OK, json.dumps({"problems": play.problems, "done": play.done}))
        steps = play.script["server"][play.connections] if play.connections < len(play.script["server"]) else []
        refusing = next((one for one in steps if "refuse" in one), None)
        if refusing is not None:
            play.connections += 1
            play.played += 1
            play.ended_at = time.monotonic()
            headers = Headers({"Content-Type": "text/plain", "Content-Length": "2", **refusing.get("headers", {})})
            return Response(refusing["refuse"], "No", headers, b"no")
        return None

    async def _serve(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        play = self.plays[socket.request.path.split("/")[1]]
        play.busy += 1
        try:
            await Line(play, socket).run(play.next_steps())
        except Mismatch as problem:
            play.problems.append(str(problem))
            await socket.close(4599, "the script says otherwise")
        except ConnectionClosed:
            pass
        finally:
            play.busy -= 1
            play.ended_at = time.monotonic()


async def main() -> None:
    async with Scripted.running(load()) as scripted:
        print(f"ready ws://127.0.0.1:{scripted.port}", flush=True)  # noqa: T201
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
