"""Deploys: what SIGTERM costs those who are connected, and what it takes to end a process."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from rt.signals import END_S
from tests.chaos.client import Client
from tests.chaos.stack import Stack
from tests.chaos.test_main_job import check, words
from tests.helpers import eventually

CLIENTS, ACCEPT_RATE = 120, 40
ROOM = "room:deploy"


async def test_a_drained_server_sends_a_hundred_clients_away_one_by_one_and_keeps_their_cursors(stack: Stack) -> None:
    stack.env |= {"RT_DRAIN_S": "10", "RT_ACCEPT_RATE": str(ACCEPT_RATE)}
    stack.start(webs=2, workers=0)
    clients = [Client(stack.ws(), stack.token(f"user{i}")) for i in range(CLIENTS)]
    await asyncio.gather(*(client.open() for client in clients))
    await asyncio.gather(*(client.ask("subscribe", stream=ROOM, cursor="0") for client in clients))
    for number in range(3):
        await clients[0].ask("publish", stream=ROOM, data=number)
    await asyncio.gather(*(client.until(lambda client=client: len(client.journal(ROOM).events) == 3) for client in clients))  # type: ignore[misc]
    async with stack.http() as http:
        assert (await http.get("/readyz")).status_code == 200
        stack.webs[0].popen.terminate()
        asked_at = time.monotonic()
        await eventually(lambda: _not_ready(http), within_s=1)
    assert all(client.close_code is None for client in clients), "not ready before the first one is sent away"
    elsewhere = Client(stack.ws(1), stack.token())
    await elsewhere.open()
    await elsewhere.ask("publish", stream=ROOM, data="last")
    await asyncio.gather(*(client.until(lambda client=client: _told(client) and client.journal(ROOM).seq == 4) for client in clients))  # type: ignore[misc]
    # Half of them leave at once: what they acknowledge with their last word is stored as they go, or never.
    leaving, staying = clients[::2], clients[1::2]
    for client in leaving:
        await client.send({"type": "ack", "cursors": {ROOM: 4}})
        await client.close()
    await asyncio.gather(*(client.until(lambda client=client: client.close_code is not None) for client in clients))  # type: ignore[misc]
    assert await asyncio.to_thread(stack.webs[0].popen.wait, 25) == 0
    assert time.monotonic() - asked_at < 25
    assert {client.close_code for client in staying} == {4000}
    assert [len(_told(client)) for client in clients] == [1] * CLIENTS
    window_ms = CLIENTS / ACCEPT_RATE * 1000
    delays = sorted(_told(client)[0] for client in clients)
    assert 0 <= delays[0] <= delays[-1] <= window_ms
    for third in range(3):
        within = [one for one in delays if third * window_ms / 3 <= one <= (third + 1) * window_ms / 3]
        assert CLIENTS / 6 <= len(within) <= CLIENTS / 2, "the delays are not spread over the window"
    back = [Client(stack.ws(1), client.token, keeps_cursors=False) for client in clients]
    for client, gone in zip(back, clients, strict=True):
        client.session = gone.session
    assert {hello["resumed"] for hello in await asyncio.gather(*(client.open() for client in back))} == {True}
    await elsewhere.ask("publish", stream=ROOM, data="after")
    await asyncio.gather(*(client.until(lambda client=client: client.journal(ROOM).events) for client in back))  # type: ignore[misc]
    assert {tuple(event["seq"] for event in client.journal(ROOM).events) for client in back} == {(5,)}
    await asyncio.gather(*(client.close() for client in [*clients, *back, elsewhere]))


async def _not_ready(http: Any) -> bool:
    return bool((await http.get("/readyz")).status_code == 503)


def _told(client: Client) -> list[int]:
    """The delays that it was asked to wait before it comes back."""
    return [frame["delay_ms"] for frame in client.control if frame["type"] == "reconnect"]


class _Traveller:
    """A client as the protocol page wants it: publishes, follows jobs, and comes back when it is told to, at the other server.

    One that is hasty leaves as soon as it is told to, with commands under way, and sends those again that it has no answer to.
    """

    def __init__(self, stack: Stack, number: int) -> None:
        self.stack, self.web, self.hasty = stack, number % 2, number % 4 >= 2
        self.client = Client(stack.ws(self.web), stack.token(f"user{number}"))
        self.moves = 0
        self.codes: list[int | None] = []
        self.published: list[str] = []
        self.number = number
        self.text = words(40, number)

    async def run(self, end: asyncio.Event) -> None:
        client = self.client
        await client.open()
        await client.ask("subscribe", stream=ROOM, cursor="0")
        async with asyncio.TaskGroup() as group:
            coming_back = group.create_task(self._come_back())
            publishing = group.create_task(self._publish_until(end))
            while not end.is_set():
                await self._submit(self.text, delay_ms=5)
            await publishing
            coming_back.cancel()

    async def _come_back(self) -> None:
        client = self.client
        while True:
            await client.until(lambda: client.close_code is not None or (self.hasty and len(_told(client)) > self.moves), 120)
            under_way = await self._leave() if client.close_code is None else []
            self.moves += 1
            if not under_way:
                self.codes.append(client.close_code)
            told = _told(client)
            assert len(told) == self.moves, "closed without having been told when to come back"
            await asyncio.sleep(told[-1] / 1000)
            self.web = 1 - self.web
            client.url = self.stack.ws(self.web)
            assert (await client.reopen())["resumed"] is True
            await asyncio.gather(*under_way)

    async def _leave(self) -> list[asyncio.Task[None]]:
        """Cuts the connection while commands are under way: of some it has the answer, some were done and the answer is lost."""
        under_way = []
        for turn in range(10):
            under_way.append(asyncio.create_task(self._publish(f"{self.number} leaving {self.moves} {turn}")))
            under_way.append(asyncio.create_task(self._submit("ab", delay_ms=1)))
        await self.client.until(lambda: under_way[0].done() or self.client.close_code is not None)
        await self.client.cut()
        return under_way

    async def _publish_until(self, end: asyncio.Event) -> None:
        turn = 0
        while not end.is_set():
            await self._publish(f"{self.number} {turn}")
            turn += 1
            await asyncio.sleep(0.05)

    async def _publish(self, word: str) -> None:
        answer = await self.client.ask("publish", stream=ROOM, data=word)
        assert answer["type"] == "reply", answer
        self.published.append(word)

    async def _submit(self, text: str, delay_ms: int) -> None:
        journal = await self.client.submit("paced", text=text, delay_ms=delay_ms)
        check(await self.client.finished(journal, 30), text)


async def test_a_rolling_restart_under_load_loses_nothing_and_is_no_error_to_anybody(stack: Stack) -> None:
    stack.env |= {"RT_DRAIN_S": "2", "RT_ACCEPT_RATE": "100"}
    stack.start(webs=2, workers=1)
    travellers, end = [_Traveller(stack, number) for number in range(16)], asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for one in travellers:
            group.create_task(one.run(end))
        for web in (0, 1):
            await eventually(lambda web=web: all(len(one.published) > 5 * web + 3 for one in travellers))  # type: ignore[misc]
            assert await asyncio.to_thread(stack.webs[web].terminate, 25) == 0
            await asyncio.to_thread(stack.web(stack.ports[web]).wait_ready)
        counts = [len(one.published) for one in travellers]
        await eventually(lambda: all(len(one.published) > count + 3 for one, count in zip(travellers, counts, strict=True)))
        end.set()
    published = sorted(word for one in travellers for word in one.published)
    for one in travellers:
        client = one.client
        await client.until(lambda client=client: len(client.journal(ROOM).events) >= len(published))  # type: ignore[misc]
        assert sorted(event["data"]["data"] for event in client.journal(ROOM).events) == published
        own = client.journal(f"session:{client.session}")
        asked = [event["data"]["request_id"] for event in own.events if event["type"] == "job.created"]
        assert len(asked) == len(set(asked)), "a submission that was sent again made another job"
        assert client.faults() == []
        assert [journal.gaps for journal in client.journals.values() if journal.gaps] == []
        assert [frame for frame in client.control if frame["type"] == "error"] == []
        assert one.moves > 0
        assert set(one.codes) <= {4000}
        assert one.hasty or len(one.codes) == one.moves
        await client.close()
    assert stack.tracebacks() == []


@pytest.mark.parametrize("job", ["deaf", "deaf_thread"])
async def test_a_job_that_heeds_no_cancel_does_not_keep_its_worker_from_exiting(stack: Stack, job: str) -> None:
    stack.env["RT_DRAIN_S"] = "0.2"
    stack.start(webs=1, workers=2)
    client = Client(stack.ws(), stack.token())
    await client.open()
    journal = await client.submit(job)
    await client.until(lambda: "job.delta" in journal.types())
    started = next(event for event in journal.events if event["type"] == "job.started")
    [busy] = [one for one in stack.workers if started["data"]["worker"] in one.wait_ready()]
    assert await asyncio.to_thread(busy.terminate, 10) == 0  # of the 25 s, the rest is RT_DRAIN_S
    await client.until(lambda: 2 in journal.attempts())
    assert [event["data"]["reason"] for event in journal.events if event["type"] == "job.restarted"] == ["deploy"]
    await client.close()


async def test_a_worker_whose_event_loop_is_blocked_for_good_ends_in_time_and_its_job_goes_on_elsewhere(
    stack: Stack, tmp_path: Path
) -> None:
    """No signal reached it, and it held its jobs for as long as nobody killed it."""
    stack.env["RT_DRAIN_S"] = "0"
    stack.start(webs=1, workers=1)
    client = Client(stack.ws(), stack.token())
    await client.open()
    journal = await client.submit("deadlocks", text="one half and the other", begun=str(tmp_path / "begun"))
    await eventually((tmp_path / "begun").exists)
    [blocked] = stack.workers
    asked_at = time.monotonic()
    assert await asyncio.to_thread(blocked.terminate, 15) == 1
    assert time.monotonic() - asked_at < END_S + 2
    assert any("tests/chaos/jobs.py" in line and "deadlocks" in line for line in blocked.lines), "it says where it was"
    stack.worker()
    check(await client.finished(journal), "one half and the other")
    assert journal.attempts() == [1, 2]
    await client.close()


@pytest.mark.parametrize("command", ["web", "worker"])
async def test_a_second_signal_at_the_very_end_does_not_change_the_exit_code(stack: Stack, command: str) -> None:
    """The loop is closed, its handlers are gone: what came then killed a process that had drained well."""
    stack.app = "tests.chaos.leaving:app"
    process = stack.web() if command == "web" else stack.worker()
    await asyncio.to_thread(process.wait_ready)
    assert await asyncio.to_thread(process.terminate, 10) == 0
