"""Connections that are half open, paused, doubled, taken over: what was sent on them counts once or not at all, and nothing is lost."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, Protocol

import pytest

from tests.api.rawsocket import RawSocket
from tests.chaos.client import Client
from tests.chaos.proxy import HALF_OPEN, Proxy
from tests.chaos.scene import compare
from tests.chaos.stack import Stack
from tests.helpers import eventually

HEARTBEAT_S = 0.5


@pytest.fixture(scope="module")
def brisk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Two servers with short heartbeats, and a worker; no test kills them."""
    with Stack(tmp_path_factory.mktemp("stack"), "tests.chaos.jobs:app", RT_HEARTBEAT_S=str(HEARTBEAT_S)) as stack:
        yield stack.start(webs=2, workers=1)


async def _metric(http: Any, name: str) -> float:
    lines = (await http.get("/metrics")).text.splitlines()
    return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(name)), 0.0)


class Dial(Protocol):
    """A connection that answers nothing by itself."""

    async def __call__(self, stack: Stack, subject: str, web: int = 0, **fields: Any) -> RawSocket: ...


@pytest.fixture
async def dial() -> AsyncIterator[Dial]:
    opened: list[RawSocket] = []

    async def dialling(stack: Stack, subject: str, web: int = 0, **fields: Any) -> RawSocket:
        opened.append(ws := await RawSocket.open(stack.ws(web)))
        return await ws.join(token=stack.token(subject), **fields)

    yield dialling
    for one in opened:
        one.cut()


async def _publish(sender: Client, room: str, words: list[str]) -> None:
    for word in words:
        assert (await sender.ask("publish", stream=room, data=word))["type"] == "reply"


def _said(events: list[dict[str, Any]]) -> list[Any]:
    return [event["data"]["data"] for event in events]


async def test_a_half_open_connection_is_noticed_after_two_heartbeats_and_costs_its_client_nothing(brisk: Stack) -> None:
    """Neither side hears the other, and nobody says so."""
    room = "room:tunnel"
    sender = Client(brisk.ws(1), brisk.token("sender"))
    await sender.open()
    async with Proxy(brisk.ports[0]) as network, brisk.http("tunnel") as http:
        client = Client(f"ws://127.0.0.1:{network.port}/v1/ws", brisk.token("tunnel"))
        await client.open()
        await client.ask("subscribe", stream=room, cursor="0")
        await _publish(sender, room, ["heard"])
        await client.until(lambda: client.journal(room).events)
        noticed, open_now = await _metric(http, 'rt_disconnects_total{code="4001"}'), await _metric(http, "rt_connections ")
        network.set(HALF_OPEN)
        lost_at = time.monotonic()
        await _publish(sender, room, ["unheard", "unheard too"])

        async def given_up() -> bool:
            return await _metric(http, 'rt_disconnects_total{code="4001"}') > noticed

        await eventually(given_up, within_s=5)
        # It answered its last ping within the heartbeat before.
        assert HEARTBEAT_S < time.monotonic() - lost_at < 2 * HEARTBEAT_S + 2
        assert await _metric(http, "rt_connections ") == open_now - 1, "nothing is left of it"
        assert client.close_code is None, "and it does not know"
        await client.cut()
        network.set()
        assert (await client.reopen())["resumed"] is True
        await client.until(lambda: len(client.journal(room).events) == 3)
    assert _said(client.journal(room).events) == ["heard", "unheard", "unheard too"]
    assert (client.faults(), client.journal(room).repeated) == ([], 0)
    await asyncio.gather(client.close(), sender.close())


async def test_a_laptop_that_was_closed_for_longer_than_two_heartbeats_goes_on_where_it_was(brisk: Stack, dial: Dial) -> None:
    """Its process stands still: what arrives lies in its socket, unread and unanswered."""
    room = "room:lid"
    sender = Client(brisk.ws(1), brisk.token("sender"))
    await sender.open()
    laptop = await dial(brisk, "lid")
    epoch = (await laptop.ask("subscribe", "s", stream=room, cursor="0"))["epoch"]
    await _publish(sender, room, ["awake"])
    await laptop.until(lambda: laptop.events(room))
    await _publish(sender, room, ["asleep"])
    async with brisk.http("lid") as http:
        known = await _metric(http, 'rt_disconnects_total{code="4001"}')

        async def given_up() -> bool:
            return await _metric(http, 'rt_disconnects_total{code="4001"}') > known

        await eventually(given_up, within_s=5)
    await _publish(sender, room, ["gone"])
    # The lid opens: first what lay there, then the end, and back.
    assert await laptop.end() == 4001
    assert _said(laptop.events(room)) == ["awake", "asleep"]
    again = await dial(brisk, "lid", session=laptop.session, cursors={room: f"{epoch}:{laptop.seqs(room)[-1]}"})
    assert again.hello["resumed"] is True
    await again.until(lambda: again.events(room))
    assert _said(again.events(room)) == ["gone"]
    await sender.close()


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_what_a_connection_had_under_way_when_it_was_taken_over_takes_effect_once(brisk: Stack, elsewhere: bool) -> None:
    """A duplicated tab: the newer one sends again what the older one has no answer to, under the same ids."""
    room = f"room:twice{elsewhere}"
    old = Client(brisk.ws(0), brisk.token("twin"))
    await old.open()
    commands = [{"type": "publish", "id": f"{room} {number}", "stream": room, "data": number} for number in range(150)]
    for command in commands[:100]:
        await old.send(command)
    new = Client(brisk.ws(int(elsewhere)), old.token)
    new.session = old.session
    assert (await new.open())["resumed"] is True
    for command in commands[100:]:
        await old.send(command)
    await old.until(lambda: old.close_code == 4003)
    assert [frame for frame in old.control if frame["type"] == "error"] == []
    await new.ask("subscribe", stream=room, cursor="0")
    for command in commands:
        answer = await new.ask(command["type"], **{name: value for name, value in command.items() if name != "type"})
        assert answer["type"] == "reply"
    journal = new.journal(room)
    await new.until(lambda: len(journal.events) >= len(commands))
    assert sorted(_said(journal.events)) == list(range(len(commands)))
    redis = brisk.direct()
    assert await compare(redis, journal) == len(commands)
    await redis.aclose()
    await asyncio.gather(old.close(), new.close())


async def test_a_session_that_is_resumed_elsewhere_while_its_first_connection_drains(brisk: Stack, dial: Dial) -> None:
    """The old connection can neither acknowledge, submit, publish nor subscribe any more, and closes with 4003."""
    brisk.env["RT_DRAIN_S"] = "8"  # the drain itself would close it after 3 s
    room = "room:drain"
    leaving = brisk.web()
    leaving.wait_ready()
    follower = Client(brisk.ws(-1), brisk.token("mover"))
    await follower.open()
    await follower.ask("subscribe", stream=room, cursor="0")
    job = await follower.submit("paced", text="a longer text " * 6, delay_ms=20)
    await follower.cut()
    old = await dial(brisk, "mover", web=-1, session=follower.session)
    await old.ask("publish", "p", stream=room, data="in time")
    await old.until(lambda: old.events(room))
    leaving.popen.terminate()
    await old.wait("reconnect")
    # What it says now reaches its server only after the session has gone on elsewhere.
    leaving.freeze()
    await old.send({"type": "ack", "cursors": {room: 1}})
    await old.send({"type": "job.submit", "id": "late 1", "job": "paced", "input": {"text": "late", "delay_ms": 1}})
    await old.send({"type": "publish", "id": "late 2", "stream": room, "data": "late"})
    await old.send({"type": "subscribe", "id": "late 3", "stream": "room:late"})
    follower.url = brisk.ws(1)
    resumed = await follower.reopen()
    assert resumed["resumed"] is True
    leaving.thaw()
    assert await old.end() == 4003
    assert [frame for frame in old.frames if str(frame.get("id")).startswith("late") or frame["type"] == "error"] == []
    await follower.finished(job)
    await follower.ask("publish", stream=room, data="afterwards")
    await follower.until(lambda: len(follower.journal(room).events) >= 2)
    assert _said(follower.journal(room).events) == ["in time", "afterwards"]
    assert [event["type"] for event in follower.journal(f"session:{follower.session}").events] == ["job.created"]
    assert (follower.faults(), job.text()) == ([], "a longer text " * 6)
    assert await asyncio.to_thread(leaving.popen.wait, 25) == 0
    await follower.cut()
    # The session follows what it did, from where its own client had acknowledged.
    assert "room:late" not in (await follower.reopen())["streams"]
    await follower.close()
    brisk.ports.pop()
    brisk.webs.pop().end()


async def test_two_tabs_of_a_user_do_not_know_of_one_another_s_cursors(brisk: Stack) -> None:
    mine = "user:tabs"
    one, two = Client(brisk.ws(0), brisk.token("tabs")), Client(brisk.ws(1), brisk.token("tabs"))
    await asyncio.gather(one.open(), two.open())
    assert one.session != two.session
    job = await one.submit("paced", text="abc", delay_ms=1)
    await _publish(one, mine, ["first"])
    await asyncio.gather(*(tab.until(lambda tab=tab: tab.journal(mine).events) for tab in (one, two)))  # type: ignore[misc]
    await two.cut()
    await _publish(one, mine, ["second"])
    await one.until(lambda: len(one.journal(mine).events) == 2)
    await one.finished(job)
    # The first tab has stored that it has both; the second one's cursor is where it was.
    await one.close()
    assert (await two.reopen())["resumed"] is True
    await two.until(lambda: len(two.journal(mine).events) == 2)
    for tab in (one, two):
        assert _said(tab.journal(mine).events) == ["first", "second"]
        assert (tab.faults(), tab.journal(mine).repeated) == ([], 0)
    assert job.stream not in two.journals, "a job belongs to the session that submitted it"
    await two.close()


async def test_two_tabs_of_one_session_take_it_from_one_another_only_when_they_are_asked_to(brisk: Stack) -> None:
    """A tab that was duplicated in the browser has the session's id as well."""
    tabs = [Client(brisk.ws(web), brisk.token("double")) for web in (0, 1)]
    await tabs[0].open()
    job = await tabs[0].submit("paced", text="0123456789" * 12, delay_ms=10)
    tabs[1].session = tabs[0].session
    for turn in range(6):
        there, gone = tabs[(turn + 1) % 2], tabs[turn % 2]
        known = len(there.journal(job.stream).events)
        assert (await there.reopen())["resumed"] is True
        await gone.until(lambda gone=gone: gone.close_code == 4003)  # type: ignore[misc]
        await gone.close()
        await there.until(lambda there=there, known=known: len(there.journal(job.stream).events) > known)  # type: ignore[misc]
    for tab in tabs:
        if tab.close_code is not None:
            await tab.reopen()
        journal = await tab.finished(tab.journal(job.stream))
        assert journal.text() == "0123456789" * 12
        assert (tab.faults(), journal.gaps) == ([], [])
    await asyncio.gather(*(tab.close() for tab in tabs))
