"""Clients that follow counting jobs, while a test breaks something; and what they say of it afterwards, held against the log."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from redis.asyncio import Redis

from rt import keys
from tests.chaos.client import TERMINAL, Client, Journal
from tests.chaos.stack import Stack
from tests.helpers import eventually

EVERY_MS = 20


class Scene:
    """`async with`: the clients are connected and their jobs count aloud; at its end everything is closed.

    `journals` are those of the jobs, client by client.
    """

    def __init__(self, stack: Stack, folder: Path, clients: int = 3) -> None:
        self.stack = stack
        self.redis = stack.direct()
        self.clients = [Client(stack.ws(i % len(stack.webs)), stack.token(f"user{i}")) for i in range(clients)]
        self.journals: list[Journal] = []
        self._end = folder / "end"

    async def __aenter__(self) -> Self:
        for client in self.clients:
            await client.open()
            self.journals.append(await client.submit("count", until=str(self._end), every_ms=EVERY_MS))
        await self.live(limit_s=10)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end.touch()
        for client in self.clients:
            await client.close()
        await self.redis.aclose()

    # what is waited for

    async def ready(self, want: bool, limit_s: float) -> float:
        """Seconds until `/readyz` of every web process said so."""
        began = time.monotonic()

        async def one(web: int) -> None:
            async with self.stack.http(web=web) as http:

                async def said() -> bool:
                    return ((await http.get("/readyz")).status_code == 200) == want

                await eventually(said, within_s=limit_s)

        await asyncio.gather(*map(one, range(len(self.stack.webs))))
        return time.monotonic() - began

    async def live(self, limit_s: float) -> float:
        """Seconds until every job's newest words reached its client: ones that its worker said after this was asked for."""
        began, now_ms = time.monotonic(), time.time() * 1000

        def fresh(journal: Journal) -> bool:
            return bool(journal.events) and journal.events[-1]["type"] == "job.delta" and journal.events[-1]["ts"] > now_ms

        pairs = zip(self.clients, self.journals, strict=True)
        await asyncio.gather(*(client.until(lambda journal=journal: fresh(journal), limit_s) for client, journal in pairs))
        return time.monotonic() - began

    async def finish(self, limit_s: float = 20) -> None:
        """Lets the jobs end, and waits until their clients know."""
        self._end.touch()
        pairs = zip(self.clients, self.journals, strict=True)
        await asyncio.gather(*(client.finished(journal, limit_s) for client, journal in pairs))

    async def each(self, do: Callable[[Client], Awaitable[Any]]) -> None:
        await asyncio.gather(*map(do, self.clients))

    # what is held against them

    def alive(self) -> None:
        """No process ended, and none was surprised."""
        assert [one.popen.poll() for one in (*self.stack.webs, *self.stack.workers)] == [None] * (
            len(self.stack.webs) + len(self.stack.workers)
        )
        assert self.stack.tracebacks() == []

    def unbroken(self) -> None:
        """No job was begun again: its attempt was not lost with what was broken."""
        assert [one.attempts() for one in self.journals] == [[1]] * len(self.journals)

    async def judge(self, *, whole: bool = True) -> None:
        """Every client has every event of the log, once and in order, and nothing else; each job one end.

        With `whole` nothing may have been lost, said or not; otherwise a client may lack what a gap told it of, and may
        hold what Redis has lost. What the jobs have said in the end is whole in any case.
        """
        self.alive()
        for client, journal in zip(self.clients, self.journals, strict=True):
            assert client.faults() == []
            assert journal.repeated == 0 or not whole
            assert [one for one in journal.types() if one in TERMINAL] == ["job.completed"]
            length = await compare(self.redis, journal)
            assert journal.final is not None
            assert journal.text() == "".join(f"{i} " for i in range(journal.final["data"]["result"]["count"]))
            if whole:
                assert [one.gaps for one in client.journals.values() if one.gaps] == []
                assert len(journal.events) == length


async def compare(redis: "Redis[bytes]", journal: Journal) -> int:
    """Holds a client's journal against the log, up to whose end it must have come: what it lacks, a gap has named.

    Returns how many events the log has.
    """
    epoch = await redis.hget(keys.meta(keys.DEFAULT_TENANT, journal.stream), "epoch")
    assert journal.epoch.encode() == epoch
    have = {event["seq"]: event for event in journal.events}
    log = [json.loads(fields[b"e"]) for _, fields in await redis.xrange(keys.log(keys.DEFAULT_TENANT, journal.stream))]
    for event in log:
        told = any("from" in gap and gap["from"] <= event["seq"] <= gap["to"] for gap in journal.gaps)
        assert have.get(event["seq"]) == event or told, f"lost, or changed: {event}"
    return len(log)
