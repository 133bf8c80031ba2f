"""A listener: follows one job over Server-Sent Events, and comes back with the last id whenever it was cut off."""

import asyncio
import json
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx2

from tests.chaos.judge import Ledger

if TYPE_CHECKING:
    from tests.chaos.load import Peer

#: Longest wait for an answer, and for the next bytes: the server says something every 15 s.
CONNECT_S, SILENT_S = 4.0, 20.0
#: Whoever is told to come back so late need not come back.
STAY_AWAY_S = 3600.0


class Listener:
    """The second device of a peer. `run` ends with the job, as its ledger tells, or when nobody knows it any more."""

    def __init__(self, peer: "Peer", stream: str, job_id: str) -> None:
        self.peer, self._job_id = peer, job_id
        self.ledger = Ledger(stream)
        self.news = asyncio.Event()
        self.newest_ms = 0.0
        #: It has the end, or was told that there is none.
        self.over = False
        self.unknown = False
        self._last_id = ""
        self._retry_s: float | None = None
        self._web = peer.number
        self._listening: asyncio.Task[None] | None = None

    @property
    def listening(self) -> bool:
        return self._listening is not None and not self.over

    def cut(self) -> None:
        """Ends the connection without a word, wherever it is."""
        if self._listening is not None:
            self._listening.cancel()

    async def until(self, condition: Callable[[], Any], limit_s: float) -> None:
        async with asyncio.timeout(limit_s):
            while not condition():
                self.news.clear()
                await self.news.wait()

    async def run(self) -> None:
        crowd = self.peer.crowd
        timeout = httpx2.Timeout(CONNECT_S, read=SILENT_S)
        try:
            while not self.over:
                await self.peer.home.wait()
                self._web = (self._web + 1) % len(crowd.doors)
                self._retry_s = None
                self.ledger.reconnected()
                self._listening = asyncio.create_task(self._listen(crowd.doors[self._web][0], timeout))
                await asyncio.wait({self._listening})
                error = None if self._listening.cancelled() else self._listening.exception()
                if error is not None and not isinstance(error, httpx2.HTTPError):
                    raise error
                if not self.over:
                    await asyncio.sleep(random.uniform(0, 0.2) if self._retry_s is None else self._retry_s)
        finally:
            if self._listening is not None:
                self._listening.cancel()
                await asyncio.wait({self._listening})

    async def _listen(self, port: int, timeout: httpx2.Timeout) -> None:
        url = f"http://127.0.0.1:{port}/v1/jobs/{self._job_id}/events"
        headers = {"Authorization": f"Bearer {self.peer.token}"}
        if self._last_id:
            headers["Last-Event-ID"] = self._last_id
        async with self.peer.crowd.http.stream("GET", url, headers=headers, timeout=timeout) as answer:
            if answer.status_code == 404:
                self.over = self.unknown = True
                self.news.set()
            elif answer.status_code not in (200, 503):
                self.peer.crowd.broken("other", self.ledger.stream, f"a listener was answered {answer.status_code}")
                self._retry_s = 1.0
            if answer.status_code != 200:
                return
            rest = b""
            async for data in answer.aiter_bytes():
                *blocks, rest = (rest + data).split(b"\n\n")
                for block in blocks:
                    self._take(block)
                self.news.set()
                # After the end nobody is to come back.
                if self.ledger.final is not None or (self._retry_s or 0) >= STAY_AWAY_S:
                    self.over = True
                    return

    def _take(self, block: bytes) -> None:
        fields = dict(line.split(b": ", 1) for line in block.split(b"\n") if b": " in line and not line.startswith(b":"))
        if b"retry" in fields:
            self._retry_s = int(fields[b"retry"]) / 1000
        if b"id" in fields:
            self._last_id = fields[b"id"].decode()
        if b"data" not in fields:
            return
        frame = json.loads(fields[b"data"])
        if frame["type"] == "gap":
            self.ledger.gap(frame)
            return
        self.ledger.epoch = self._last_id.rpartition(":")[0]
        if self.ledger.take(frame):
            self.peer.crowd.delivered += 1
            self.newest_ms = max(self.newest_ms, self.peer.crowd.written_ms(frame))
        if not self._last_id.endswith(f":{frame['seq']}"):
            self.peer.crowd.broken("disordered", self.ledger.stream, f"the id {self._last_id} came with {frame['seq']}")
