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
from tests.chaos.stack import Process, Stack
from tests.chaos.test_main_job import check
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


@pytest.fixture
async def leaving(brisk: Stack) -> AsyncIterator[tuple[Process, Proxy]]:
    """A third server, the last of the stack's, that a test sends away, and the network between it and Redis."""
    async with Proxy(brisk.redis_port) as network:
        # The drain itself closes connections only after 3 s.
        brisk.env |= {"RT_DRAIN_S": "8", "REDIS_URL": f"redis://127.0.0.1:{network.port}/0"}
        process = brisk.web()
        brisk.env["REDIS_URL"] = brisk.redis.url
        await asyncio.to_thread(process.wait_ready)
        yield process, network
        network.set()
        assert await asyncio.to_thread(process.popen.wait, 25) == 0
        brisk.ports.pop()
        brisk.webs.pop().end()


async def test_a_session_goes_on_elsewhere_while_its_first_connection_drains(
    brisk: Stack, dial: Dial, leaving: tuple[Process, Proxy]
) -> None:
    room, text = "room:drain", "a longer text " * 6
    follower = Client(brisk.ws(-1), brisk.token("mover"))
    await follower.open()
    await follower.ask("subscribe", stream=room, cursor="0")
    job = await follower.submit("paced", text=text, delay_ms=15)
    await follower.cut()
    old = await dial(brisk, "mover", web=-1, session=follower.session)
    leaving[0].popen.terminate()
    await old.wait("reconnect")
    follower.url = brisk.ws(1)
    assert (await follower.reopen())["resumed"] is True
    assert await old.end() == 4003
    await follower.ask("publish", stream=room, data="afterwards")
    await follower.until(lambda: follower.journal(room).events)
    check(await follower.finished(job), text)
    assert follower.faults() == []
    await follower.close()


async def test_an_overtaken_connection_can_do_nothing_any_more(brisk: Stack, dial: Dial, leaving: tuple[Process, Proxy]) -> None:
    """It drains, and its server does not hear that the sessions went on elsewhere: what is refused is refused in Redis."""
    room, process, network = "room:over", *leaving
    sender = Client(brisk.ws(1), brisk.token("sender"))
    await sender.open()
    await sender.ask("subscribe", stream=room, cursor="0")
    job = await sender.submit("parts", text="ab", attempts=9)
    await _publish(sender, room, ["in time"])
    late = {
        "ack": {"type": "ack", "cursors": {room: 1}},
        "submit": {"type": "job.submit", "id": "late", "job": "paced", "input": {"text": "late", "delay_ms": 1}},
        "publish": {"type": "publish", "id": "late", "stream": room, "data": "late"},
        "subscribe": {"type": "subscribe", "id": "late", "stream": "room:late"},
        "cancel": {"type": "job.cancel", "id": "late", "job_id": job.stream.removeprefix("job:")},
    }
    old, new = {}, {}
    for word in late:
        old[word] = await dial(brisk, "sender", web=-1)
        await old[word].ask("subscribe", "s", stream=room, cursor="0")
        await old[word].until(lambda word=word: old[word].events(room))  # type: ignore[misc]
    process.popen.terminate()
    for one in old.values():
        await one.wait("reconnect")
    network.set(which=lambda link: b"SUBSCRIBE" in link.opening, hold_down=True)
    for word, one in old.items():
        new[word] = await dial(brisk, "sender", web=1, session=one.session)
        await one.send(late[word])
    for word, one in old.items():
        assert await one.end() == 4003, word
        assert [frame for frame in one.frames if frame.get("id") == "late" or frame["type"] == "error"] == []
    # Nobody acknowledged anything: to the session alone the room's event comes again, and what was asked for late is not there.
    await _publish(sender, room, ["afterwards"])
    for word, one in new.items():
        again = await dial(brisk, "sender", web=0, session=one.session)
        await again.until(lambda again=again: len(again.events(room)) == 2)  # type: ignore[misc]
        assert _said(again.events(room)) == ["in time", "afterwards"], word
        assert set(again.hello["streams"]) == {again.own, "user:sender", room}, word
        assert again.events(again.own) == [], word
    known = len(job.events)
    await sender.until(lambda: len(job.events) > known + 3)
    assert job.final is None
    assert (await sender.ask("job.cancel", job_id=late["cancel"]["job_id"]))["type"] == "reply"
    await sender.finished(job)
    await sender.close()


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
