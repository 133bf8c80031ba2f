"""A careful `rt.v1` client that knows the protocol page and nothing else, and a journal of what it was given.

It keeps a cursor for each stream, drops what it has, acknowledges what it processed, sends unanswered commands again
after a cut; and it writes down everything that breaks the promise. The tests judge the journal, never a log.
"""

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import Callable
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.protocol import State

CONTROL = {"connected", "subscribed", "reply", "error", "gap", "ping", "pong", "token_expiring", "reconnect"}
#: The name of the task that acknowledges.
ACKNOWLEDGING = "acknowledging"
TERMINAL = {"job.completed", "job.failed", "job.cancelled"}


class Journal:
    """What came of one stream: the events in order, the losses that were announced, and what should not have been."""

    def __init__(self, stream: str) -> None:
        self.stream = stream
        self.epoch = ""
        self.seq = 0
        self.events: list[dict[str, Any]] = []
        self.gaps: list[dict[str, Any]] = []
        self.faults: list[str] = []
        self.repeated = 0
        #: What was given under each cursor. It is that event's for ever, whatever Redis lost since.
        self.held: dict[tuple[str, int], dict[str, Any]] = {}
        self._last_here = -1

    @property
    def final(self) -> dict[str, Any] | None:
        return self.events[-1] if self.events and self.events[-1].get("final") else None

    @property
    def cursor(self) -> str:
        return f"{self.epoch}:{self.seq}"

    def reconnected(self) -> None:
        self._last_here = -1

    def placed(self, epoch: str, recovered: bool) -> None:
        if self.epoch and epoch != self.epoch and not recovered:
            self.seq = -1  # a gap says from where it goes on
        self.epoch = epoch

    def gap(self, frame: dict[str, Any]) -> None:
        self.gaps.append(frame)
        self.epoch = frame["epoch"]
        if "from" in frame:
            if frame["from"] > self.seq + 1 >= 1:
                self.faults.append(f"the gap begins at {frame['from']}, but {self.seq} was the last")
            self.seq = frame["to"]
        else:
            # What was there counts no more: it begins anew with the first event kept.
            self.seq, self.events = -1, []
        self._last_here = -1

    def add(self, event: dict[str, Any]) -> None:
        seq = event["seq"]
        if self._last_here >= 0 and seq != self._last_here + 1:
            self.faults.append(f"{seq} after {self._last_here} on one connection")
        self._last_here = seq
        if self.held.setdefault((self.epoch, seq), event) != event:
            self.faults.append(f"another event under {self.epoch}:{seq}")
        if self.seq >= 0 and seq <= self.seq:
            self.repeated += 1
            return
        if self.seq >= 0 and seq != self.seq + 1:
            self.faults.append(f"a hole: {self.seq + 1} to {seq - 1}")
        if self.final is not None:
            self.faults.append(f"{event['type']} after the end")
        if bool(event.get("final")) != (event["type"] in TERMINAL):
            self.faults.append(f"{event['type']} with final {event.get('final')}")
        self.seq = seq
        self.events.append(event)

    def text(self) -> str:
        """The deltas joined, as `job.restarted` says."""
        kept: list[tuple[int, str]] = []
        for event in self.events:
            if event["type"] == "job.delta":
                kept.append((event["seq"], event["data"].get("text", "")))
            elif event["type"] == "job.restarted":
                kept = [one for one in kept if one[0] <= event["data"]["discard_after"]]
        return "".join(text for _, text in kept)

    def types(self) -> list[str]:
        return [event["type"] for event in self.events]

    def attempts(self) -> list[int]:
        """The attempts in the order in which they first wrote."""
        return list(dict.fromkeys(event["attempt"] for event in self.events if "attempt" in event))


class Client:
    """`keeps_cursors`: resumes with its own cursors; otherwise with the session alone."""

    #: What a subclass may have otherwise.
    journal_type: type[Journal] = Journal
    batch = False
    ack_every_s = 0.3

    def __init__(self, url: str, token: str, *, keeps_cursors: bool = True) -> None:
        self.url, self.token, self.keeps_cursors = url, token, keeps_cursors
        self.headers: dict[str, str] = {}
        self.session: str | None = None
        self.connected: dict[str, Any] = {}
        self.journals: dict[str, Journal] = {}
        self.control: list[dict[str, Any]] = []
        self.cuts = 0
        self.close_code: int | None = None
        self._ws: ClientConnection | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._unanswered: dict[str, tuple[dict[str, Any], asyncio.Future[dict[str, Any]]]] = {}
        self._news = asyncio.Event()

    def journal(self, stream: str) -> Journal:
        if stream not in self.journals:
            self.journals[stream] = self.journal_type(stream)
        return self.journals[stream]

    def faults(self) -> list[str]:
        return [f"{one.stream[:24]}: {fault}" for one in self.journals.values() for fault in one.faults]

    async def open(self, limit_s: float = 10) -> dict[str, Any]:
        """Connects, or resumes. Raises OSError, TimeoutError or ConnectionClosed."""
        async with asyncio.timeout(limit_s):
            self._ws = await connect(
                self.url, compression=None, ping_interval=None, max_size=None, proxy=None, additional_headers=self.headers
            )
            frame: dict[str, Any] = {"type": "connect", "token": self.token, "batch": self.batch}
            if self.session:
                frame["session"] = self.session
                if self.keeps_cursors:
                    frame["cursors"] = {
                        one.stream: one.cursor for one in self.journals.values() if one.epoch and one.seq > 0 and not one.final
                    }
            for journal in self.journals.values():
                journal.reconnected()
            self.connected, self.close_code = {}, None
            await self.send(frame)
            self._tasks = [asyncio.create_task(self._read(self._ws)), asyncio.create_task(self._acknowledge(), name=ACKNOWLEDGING)]
            await self.until(lambda: self.connected or self.close_code is not None, limit_s)
        if not self.connected:
            raise ConnectionRefusedError(f"closed with {self.close_code}")
        for frame, _ in list(self._unanswered.values()):
            await self.send(frame)
        return self.connected

    async def reopen(self, limit_s: float = 20) -> dict[str, Any]:
        """Resumes as soon as somebody answers at the address."""
        end = time.monotonic() + limit_s
        while True:
            try:
                return await self.open(5)
            except (OSError, TimeoutError, ConnectionClosed, InvalidHandshake):
                if time.monotonic() > end:
                    raise
                await self._drop()
                await asyncio.sleep(0.05)

    async def cut(self) -> None:
        """A pulled cable: no close handshake, and what lies in buffers is lost."""
        self.cuts += 1
        await self._drop()

    async def close(self) -> None:
        if self._ws is not None:
            with contextlib.suppress(ConnectionClosed, OSError, TimeoutError):
                await asyncio.wait_for(self._ws.close(), 3)
        await self._drop()

    async def _drop(self) -> None:
        if self._ws is not None:
            self._ws.transport.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    async def send(self, frame: Any) -> None:
        assert self._ws is not None
        # The library waits for the end of a connection that is being closed: for ever, when it is its reader that answers a ping,
        # and frames of before the close still wait.
        if self._ws.state is not State.OPEN:
            return
        with contextlib.suppress(ConnectionClosed):
            await self._ws.send(json.dumps(frame))

    async def ask(self, type: str, limit_s: float = 15, **fields: Any) -> dict[str, Any]:
        """The answer to a command, also when it comes on a later connection."""
        id = fields.pop("id", uuid.uuid4().hex)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        frame = {"type": type, "id": id, **fields}
        self._unanswered[id] = (frame, answer)
        await self.send(frame)
        return await asyncio.wait_for(answer, limit_s)

    async def submit(self, job: str, limit_s: float = 15, **input: Any) -> Journal:
        """The journal of the accepted job's stream."""
        answer = await self.ask("job.submit", limit_s, job=job, input=input)
        assert answer["type"] == "reply", answer
        return self.journal(answer["data"]["stream"])

    async def until(self, condition: Callable[[], Any], limit_s: float = 15) -> Any:
        """Waits for a condition on what has come, and returns it."""
        async with asyncio.timeout(limit_s):
            while not (value := condition()):
                self._news.clear()
                await self._news.wait()
            return value

    async def finished(self, journal: Journal, limit_s: float = 20) -> Journal:
        await self.until(lambda: journal.final, limit_s)
        return journal

    async def _read(self, ws: ClientConnection) -> None:
        try:
            async for message in ws:
                value = json.loads(message)
                for frame in value if isinstance(value, list) else [value]:
                    await self._frame(frame)
                self._news.set()
        except ConnectionClosed:
            pass
        finally:
            self.close_code = ws.close_code or 1006
            self._news.set()

    async def _frame(self, frame: dict[str, Any]) -> None:
        type = frame["type"]
        if type not in CONTROL:
            self.journal(frame["stream"]).add(frame)
            return
        self.control.append(frame)
        if type == "connected":
            self.session, self.connected = frame["session"], frame
            if not frame["resumed"]:
                # It begins where the furthest of the subject's sessions has been, which nobody tells.
                self.journal(f"user:{frame['subject']}").seq = -1
            for stream, at in frame["streams"].items():
                self.journal(stream).placed(at["epoch"], at["recovered"])
        elif type == "subscribed":
            self.journal(frame["stream"]).placed(frame["epoch"], frame["recovered"])
        elif type == "gap":
            self.journal(frame["stream"]).gap(frame)
        elif type == "ping":
            await self.send({"type": "pong"})
        if frame.get("id") in self._unanswered:
            _, answer = self._unanswered.pop(frame["id"])
            if not answer.done():
                answer.set_result(frame)

    async def _acknowledge(self) -> None:
        told: dict[str, int] = {}
        while True:
            await asyncio.sleep(self.ack_every_s)
            now = {one.stream: one.seq for one in self.journals.values() if one.epoch and one.seq > 0}
            if news := {stream: seq for stream, seq in now.items() if told.get(stream) != seq}:
                await self.send({"type": "ack", "cursors": news})
                told |= news
