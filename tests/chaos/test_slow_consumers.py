"""Clients that stop reading while 20 MB are due: what they cost their server, what their neighbours notice, what they miss."""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.api.rawsocket import RawSocket
from tests.chaos.client import Client
from tests.chaos.stack import Stack
from tests.helpers import eventually

SLOW = 16
DUE_BYTES = 20_000_000
#: A connection may hold this much and one event, its transport's buffer included.
BOUND_BYTES = 256 * 1024
SEND_TIMEOUT_S = 3.0


@contextmanager
def _peak(pid: int) -> Iterator[Callable[[], int]]:
    """How many bytes of memory the process has gained at its peak since the beginning of this block."""

    def status(name: str) -> int:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(name)).split()[1]) * 1024

    Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak begins anew
    before = status("VmRSS")
    yield lambda: status("VmHWM") - before


class _Neighbour:
    """Measures how long its own events take through its server, for as long as its block lasts."""

    def __init__(self, client: Client, room: str) -> None:
        self.client, self.room = client, room

    async def __aenter__(self) -> "_Neighbour":
        self.began = time.monotonic()
        self.took: list[tuple[float, float]] = []
        self._task = asyncio.create_task(self._measure())
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def median_s(self, within_s: float) -> float:
        """Of what was sent in the first so many seconds."""
        return statistics.median(took for at, took in self.took if at < self.began + within_s)

    async def _measure(self) -> None:
        journal = self.client.journal(self.room)
        while True:
            known, began = len(journal.events), time.monotonic()
            await self.client.send({"type": "publish", "id": f"{began}", "stream": journal.stream, "data": "!"})
            await self.client.until(lambda known=known: len(journal.events) > known)  # type: ignore[misc]
            self.took.append((began, time.monotonic() - began))
            await asyncio.sleep(0.003)


async def _publish(sender: Client, room: str, count: int, size: int) -> None:
    for number in range(count):
        assert (await sender.ask("publish", stream=room, data=f"{number:07}" + "x" * (size - 7)))["type"] == "reply"


async def _metric(http: Any, name: str) -> float:
    lines = (await http.get("/metrics")).text.splitlines()
    return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(name)), 0.0)


@pytest.fixture
async def cleanup() -> AsyncIterator[AsyncExitStack]:
    """Closes what is opened, however the test ends."""
    async with AsyncExitStack() as opened:
        yield opened


@pytest.mark.parametrize("size", [200_000, 2_000], ids=["large events of a room", "small events of a job"])
async def test_clients_that_stop_reading_cost_little_slow_nobody_and_miss_nothing(stack: Stack, size: int, cleanup: AsyncExitStack) -> None:
    stack.env |= {"RT_SEND_TIMEOUT_S": str(SEND_TIMEOUT_S), "RT_JOB_LENGTH": "100000"}
    stack.fresh = True  # a fork's memory is partly another's
    stack.start(webs=2, workers=1)
    pid = stack.webs[0].popen.pid
    sender, reader, neighbour, elsewhere = (Client(stack.ws(web), stack.token("alice")) for web in (1, 0, 0, 1))
    for client in (sender, reader, neighbour, elsewhere):
        cleanup.push_async_callback(client.close)
    await asyncio.gather(sender.open(), reader.open(), neighbour.open(), elsewhere.open())
    probe, control = _Neighbour(neighbour, "room:neighbour"), _Neighbour(elsewhere, "room:elsewhere")
    for each in (probe, control):
        await each.client.ask("subscribe", stream=each.room, cursor="0")
    slow = [await RawSocket.open(stack.ws(0), receive_buffer=4096) for _ in range(SLOW)]
    for one in slow:
        cleanup.callback(one.cut)

    async def flood(room: str, due: int, followers: list[RawSocket]) -> str:
        """So many events, which are due to a client that reads as well. Returns their stream."""
        if size > 32_768:
            stream, pouring = room, _publish(sender, room, due, size)
        else:
            stream, pouring = (await sender.submit("pour", events=due, size=size)).stream, asyncio.sleep(0)
        await reader.ask("subscribe", stream=stream, cursor="0")
        for one in followers:
            await one.send({"type": "subscribe", "id": "s", "stream": stream, "cursor": "0"})
        await pouring
        await reader.until(lambda: len(reader.journal(stream).events) >= due, 30)
        return stream

    for one in slow:
        await one.join(token=stack.token("alice"))
    async with probe:
        await flood("room:calm", DUE_BYTES // size // 4, [])
    calm_s = probe.median_s(SEND_TIMEOUT_S)
    async with stack.http() as http:
        with _peak(pid) as gained:
            async with probe, control:
                stream = await flood("room:stormy", DUE_BYTES // size, slow)
            # None of the slow ones can have been given up before.
            stormy_s, elsewhere_s = probe.median_s(SEND_TIMEOUT_S), control.median_s(SEND_TIMEOUT_S)

            async def given_up() -> bool:
                return await _metric(http, 'rt_disconnects_total{code="4002"}') == SLOW

            await eventually(given_up, within_s=SEND_TIMEOUT_S + 5)
            assert gained() < SLOW * (BOUND_BYTES + size)
        await eventually(lambda: _only(http, 2))
    # A machine that others use moves it as well, but then at the other server too; a server that waited for anybody would
    # by the whole deadline.
    assert stormy_s < 5 * max(calm_s, elsewhere_s) + 0.02
    assert max(took for _, took in probe.took) < SEND_TIMEOUT_S / 2
    due = [event["seq"] for event in reader.journal(stream).events]
    one = slow[0]
    assert await one.end() in (4002, None)
    back = Client(stack.ws(0), stack.token("alice"))
    cleanup.push_async_callback(back.close)
    back.session = one.session
    journal = back.journal(stream)
    for event in one.events(stream):
        journal.add({name: value for name, value in event.items() if name != "at"})
    assert len(journal.events) < len(due) / 2, "most was still due"
    journal.epoch = reader.journal(stream).epoch
    assert (await back.open())["resumed"] is True
    await back.until(lambda: len(journal.events) >= len(due), 30)
    assert [event["seq"] for event in journal.events] == due
    assert (journal.faults, journal.gaps, journal.repeated) == ([], [], 0)
    assert journal.events == reader.journal(stream).events


async def _only(http: Any, count: int) -> bool:
    return await _metric(http, "rt_connections ") == count
