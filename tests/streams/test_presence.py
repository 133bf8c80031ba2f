"""Who is in a room: counted once, leased, and neither joined nor left because of a restart."""

import asyncio
from typing import Any

import pytest

from rt import keys
from rt.redis import Store
from rt.settings import Settings
from rt.streams.log import StreamLog
from rt.streams.presence import AWAY_S, EVERY_S, LEASE_S, Attendee, Presence
from tests.helpers import TENANT, eventually, read_all

ROOM = "room:tea"


class Room:
    """Processes that tell of a room, and what came of it. Time passes by hand."""

    def __init__(self, store: Store, streams: StreamLog, settings: Settings) -> None:
        self.store, self.settings = store, settings
        self.one, self.two = Presence(store, streams, settings), Presence(store, streams, settings)

    async def start(self) -> "Room":
        await self.one.round()
        await self.two.round()
        return self

    async def events(self, tenant: str = TENANT) -> list[tuple[str, str]]:
        found = await read_all(self.store, self.settings, ROOM, tenant=tenant)
        return [(one["type"].removeprefix("presence."), one["data"]["subject"]) for one in found]

    async def kill(self, process: Presence) -> None:
        """Its lease has lapsed."""
        await self.store.call("ZADD", keys.PROCESSES, 1, process.process)

    async def wait_out(self) -> None:
        """Whoever is away has been so for long enough."""
        for member in await self.store.call("ZRANGE", keys.AWAY, 0, -1):
            await self.store.call("ZADD", keys.AWAY, 1, member)


@pytest.fixture
async def room(store: Store, streams: StreamLog, settings: Settings) -> Room:
    return await Room(store, streams, settings).start()


def someone(subject: str = "ann", session: str = "s1", generation: int = 1, tenant: str = TENANT) -> Attendee:
    return Attendee(tenant, ROOM, session, generation, subject)


async def test_who_comes_is_told_and_listed(room: Room) -> None:
    await room.one.tell({someone(): "here", someone('b b/ü"%', "s2"): "here"})
    assert await room.events() == [("joined", "ann"), ("joined", 'b b/ü"%')]
    assert await room.two.list(TENANT, ROOM) == {"ann": 1, 'b b/ü"%': 1}
    assert await room.two.list(TENANT, "room:other") == {}


async def test_several_sessions_of_a_subject_are_counted_once(room: Room) -> None:
    await room.one.tell({someone(): "here"})
    await room.two.tell({someone(session="s2"): "here"})
    assert await room.one.list(TENANT, ROOM) == {"ann": 2}
    await room.one.tell({someone(): "left"})
    assert await room.events() == [("joined", "ann")]
    await room.two.tell({someone(session="s2"): "left"})
    assert await room.events() == [("joined", "ann"), ("left", "ann")]
    assert await room.one.list(TENANT, ROOM) == {}
    assert await room.store.call("EXISTS", keys.presence(TENANT, ROOM)) == 0


async def test_tenants_do_not_meet(room: Room) -> None:
    await room.one.tell({someone(): "here", someone("bob", tenant="acme"): "here"})
    assert await room.one.list("acme", ROOM) == {"bob": 1}
    assert await room.events("acme") == [("joined", "bob")]


async def test_a_repeat_changes_nothing(room: Room) -> None:
    for change in ("here", "away", "here", "left"):
        for _ in range(2):
            await room.one.tell({someone(): change})  # type: ignore[dict-item]
    assert await room.events() == [("joined", "ann"), ("left", "ann")]
    await room.one.tell({someone(): "away"})
    await room.wait_out()
    await room.one.round()
    assert len(await room.events()) == 2


async def test_who_loses_the_connection_has_left_only_after_a_while(room: Room) -> None:
    await room.one.tell({someone(): "here"})
    before = await room.store.now_ms()
    await room.one.tell({someone(): "away"})
    assert await room.one.list(TENANT, ROOM) == {}
    await room.two.round()
    assert await room.events() == [("joined", "ann")]
    [(member, due)] = await _scores(room.store, keys.AWAY)
    assert (member, due >= before + AWAY_S * 1000) == (f"{TENANT} {ROOM} s1", True)
    await room.wait_out()
    await room.two.round()
    assert await room.events() == [("joined", "ann"), ("left", "ann")]


async def test_who_comes_back_in_time_to_another_process_was_never_gone(room: Room) -> None:
    await room.one.tell({someone(): "here"})
    await room.one.tell({someone(): "away"})
    await room.two.tell({someone(generation=2): "here"})
    await room.wait_out()
    await room.one.round()
    assert await room.events() == [("joined", "ann")]
    assert await room.one.list(TENANT, ROOM) == {"ann": 1}


async def test_another_tab_keeps_a_subject_there(room: Room) -> None:
    await room.one.tell({someone(): "here", someone(session="s2"): "here"})
    await room.one.tell({someone(): "away"})
    await room.wait_out()
    await room.one.round()
    assert await room.events() == [("joined", "ann")]
    assert await room.one.list(TENANT, ROOM) == {"ann": 1}


async def test_the_end_of_an_overtaken_connection_says_nothing_of_the_newer_one(room: Room) -> None:
    await room.one.tell({someone(): "here"})
    await room.two.tell({someone(generation=2): "here"})
    await room.one.tell({someone(): "away"})
    await room.one.tell({someone(): "left"})
    await room.one.tell({someone(): "here"})  # late
    await room.kill(room.one)
    assert await room.two.list(TENANT, ROOM) == {"ann": 1}
    assert await room.events() == [("joined", "ann")]


async def test_a_killed_process_s_sessions_are_not_listed_and_leave_later(room: Room) -> None:
    await room.one.tell({someone(): "here", someone("bob", "s2"): "here"})
    await room.two.tell({someone("cid", "s3"): "here"})
    await room.kill(room.one)
    assert await room.two.list(TENANT, ROOM) == {"cid": 1}, "before anybody has cleared up"
    await room.two.round()
    await room.two.tell({someone(generation=2): "here"})  # ann's client comes back
    await room.wait_out()
    await room.two.round()
    assert await room.events() == [("joined", "ann"), ("joined", "bob"), ("joined", "cid"), ("left", "bob")]
    assert await room.two.list(TENANT, ROOM) == {"ann": 1, "cid": 1}
    assert await room.store.call("ZSCORE", keys.PROCESSES, room.one.process) is None
    assert await room.store.call("EXISTS", keys.attended(room.one.process)) == 0


async def test_the_lease_is_short_enough_for_the_list_to_be_true_within_five_seconds(room: Room) -> None:
    assert LEASE_S + EVERY_S <= 5
    now = await room.store.now_ms()
    await room.one.round()
    [score] = [at for process, at in await _scores(room.store, keys.PROCESSES) if process == room.one.process]
    assert now < score <= now + LEASE_S * 1000 + 1000


async def test_a_process_that_was_taken_for_dead_says_again_who_is_there(room: Room) -> None:
    room.one.here(someone())
    life = asyncio.create_task(room.one.run())
    try:
        await eventually(lambda: room.two.list(TENANT, ROOM))
        await room.kill(room.one)
        await room.two.round()  # its sessions are away now
        await eventually(lambda: room.two.list(TENANT, ROOM))
        await room.wait_out()
        await room.two.round()
        assert await room.events() == [("joined", "ann")]
        # Redis has lost it all, and the streams with it.
        await room.store.call("FLUSHALL")
        await eventually(lambda: room.two.list(TENANT, ROOM))
        room.one.away(someone())
        await eventually(lambda: room.store.call("ZCARD", keys.AWAY))
    finally:
        life.cancel()
        await asyncio.wait({life})


async def test_a_process_is_asked_about_rooms_in_which_it_has_somebody_and_no_others(room: Room) -> None:
    for process in (room.one, room.two):
        process.here(someone())
        await process.tell({someone(): "here"})
    attended = keys.attended(room.one.process)
    assert await room.store.call("SMEMBERS", attended) == [f"{TENANT} {ROOM}".encode()]
    room.one.here(someone(session="s2"))
    room.one.away(someone())
    await room.one.tell({someone(session="s2"): "here", someone(): "away"})
    assert await room.store.call("SCARD", attended) == 1
    room.one.left(someone(session="s2"))
    await room.one.tell({someone(session="s2"): "left"})
    assert await room.store.call("EXISTS", attended) == 0


async def test_one_room_that_cannot_be_written_takes_nobody_along(room: Room) -> None:
    await room.store.call("SET", keys.presence(TENANT, "room:broken"), "somebody else's")
    running = asyncio.create_task(room.one.run())
    broken = Attendee(TENANT, "room:broken", "s1", 1, "ann")
    for one in (broken, someone()):
        room.one.here(one)
    await eventually(room.events)
    room.one.here(someone("bob", "s2"))
    while await room.events() != [("joined", "ann"), ("joined", "bob")]:
        await asyncio.sleep(0.01)
    assert not running.done()
    running.cancel()
    await asyncio.wait({running})


@pytest.mark.parametrize("redis_kind", ["real"])  # the other one takes seconds for it
async def test_the_many_of_a_killed_process_are_away_a_part_at_a_time(room: Room) -> None:
    everybody = {someone(f"u{n}", f"s{n}"): "here" for n in range(1100)}
    for start in range(0, 1100, 100):
        await room.one.tell(dict(list(everybody.items())[start : start + 100]))  # type: ignore[arg-type]
    await room.kill(room.one)
    away = []
    for _ in range(3):
        await room.two.round()
        away.append(await room.store.call("ZCARD", keys.AWAY))
        assert await room.two.list(TENANT, ROOM) == {}
    assert away == [500, 1000, 1100]
    assert await room.store.call("ZSCORE", keys.PROCESSES, room.one.process) is None


async def test_while_redis_is_away_nobody_s_time_runs_out(room: Room) -> None:
    await room.one.tell({someone(): "here"})
    await room.one.tell({someone(): "away"})
    await room.store.call("SET", keys.ATTENDED, 1)  # the last call of any process was long ago
    await room.wait_out()
    await room.one.round()
    assert await room.events() == [("joined", "ann")]
    await room.store.call("DEL", keys.ABSENCE_GRACE)
    await room.one.round()
    assert await room.events() == [("joined", "ann"), ("left", "ann")]


async def test_a_process_without_a_lease_does_not_leave_anybody_behind(
    store: Store, streams: StreamLog, settings: Settings, room: Room
) -> None:
    late = Presence(store, streams, settings)
    await late.tell({someone(): "here"})  # and is killed before its first round
    await eventually(lambda: _swept(room))
    await room.wait_out()
    await room.two.round()
    assert await room.events() == [("joined", "ann"), ("left", "ann")]


async def test_who_comes_to_a_large_room_is_only_listed_and_who_was_told_of_is_seen_to_leave(
    store: Store, streams: StreamLog, settings: Settings, room: Room
) -> None:
    few = Presence(store, streams, settings.model_copy(update={"presence_events": 2}))
    await few.round()
    everybody = [someone(f"u{i}", f"s{i}") for i in range(4)]
    await few.tell(dict.fromkeys(everybody, "here"))
    assert len(await few.list(TENANT, ROOM)) == 4
    await few.tell(dict.fromkeys(everybody, "left"))
    assert await room.events() == [("joined", "u0"), ("joined", "u1"), ("left", "u0"), ("left", "u1")]


@pytest.mark.parametrize("redis_kind", ["real"])  # the other one takes seconds for it
async def test_many_leave_a_part_at_a_time(room: Room, streams: StreamLog, settings: Settings) -> None:
    room.one, room.two = (Presence(room.store, streams, settings.model_copy(update={"presence_events": 1000})) for _ in range(2))
    await room.one.round()
    for start in range(0, 600, 100):
        await room.one.tell({someone(f"u{i}", f"s{i}"): "here" for i in range(start, start + 100)})
    await room.kill(room.one)
    for _ in range(2):
        await room.two.round()
    await room.wait_out()
    await room.two.round()
    left = [one for one in await room.events() if one[0] == "left"]
    assert len(left) == 500
    await room.two.round()
    assert len(await room.events()) == 1200


async def _swept(room: Room) -> Any:
    await room.two.round()
    return await room.store.call("ZCARD", keys.AWAY)


async def _scores(store: Store, key: str) -> list[tuple[str, float]]:
    found = await store.call("ZRANGE", key, 0, -1, "WITHSCORES")
    return [(member.decode(), float(score)) for member, score in zip(found[::2], found[1::2], strict=True)]
