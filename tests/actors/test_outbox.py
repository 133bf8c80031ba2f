"""The outbox: what waits for one client, and when it is sent."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import ormsgpack
import pytest

from rt.actors.outbox import Outbox
from rt.streams.tail import Live
from tests.actors.memorysocket import MemorySocket


class Wire(MemorySocket):
    """Records messages, and what its outbox says."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        super().__init__(self.sent.append)
        self.rooms = 0
        self.lost: list[str] = []

    def on_room(self) -> None:
        self.rooms += 1

    def outbox(self, *, msgpack: bool = False, limit: int = 1000, timeout_s: float = 5) -> Outbox:
        return Outbox(self, msgpack=msgpack, limit_bytes=limit, timeout_s=timeout_s, on_room=self.on_room, on_lost=self.lost.append)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():
            await asyncio.sleep(0)


def event(seq: int, size: int = 0) -> bytes:
    return json.dumps({"seq": seq, "type": "message", "data": "x" * size}, separators=(",", ":")).encode()


async def test_frames_and_events_are_sent_in_order_one_message_each() -> None:
    wire = Wire()
    outbox = wire.outbox()
    outbox.put_frame({"type": "pong"})
    outbox.put_events([event(1), event(2)])
    await until(lambda: len(wire.sent) == 3)
    assert [json.loads(one) for one in wire.sent] == [{"type": "pong"}, json.loads(event(1)), json.loads(event(2))]
    assert wire.sent[1] == event(1)


async def test_what_one_turn_says_leaves_at_its_end_without_a_task() -> None:
    wire = Wire()
    before = asyncio.all_tasks()
    outbox = wire.outbox()
    for n in range(3):
        outbox.put_frame({"type": "pong"})
        outbox.put_events([event(n)])
        assert (len(wire.sent), outbox.waiting > 0) == (2 * n, True)
        await asyncio.sleep(0)
        assert (len(wire.sent), outbox.waiting) == (2 * n + 2, 0)
        assert asyncio.all_tasks() == before


def live(*sizes: int) -> Live:
    return Live("e", 1, len(sizes), [event(seq, size) for seq, size in enumerate(sizes, 1)])


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("msgpack", [False, True])
async def test_an_announcement_is_sent_as_its_events_are_and_made_ready_once(msgpack: bool, batch: bool) -> None:
    wires, told = [Wire() for _ in range(3)], live(5, 6)
    made: list[list[bytes]] = []
    for wire in wires:
        outbox = wire.outbox(msgpack=msgpack)
        outbox.batch = batch
        framed = wire.framed
        wire.framed = lambda messages, framed=framed: (made.append(messages), framed(messages))[1]  # type: ignore[method-assign, misc]
        outbox.put_live(told)
        assert (wire.sent, outbox.waiting, outbox.free) == ([], sum(map(len, told.events or ())), False)
    await asyncio.sleep(0)
    assert len(made) == 1
    decode: Callable[[bytes], Any] = ormsgpack.unpackb if msgpack else json.loads
    for wire in wires:
        messages = [decode(one) for one in wire.sent]
        assert messages == (
            [[json.loads(event(1, 5)), json.loads(event(2, 6))]] if batch else [json.loads(event(1, 5)), json.loads(event(2, 6))]
        )


@pytest.mark.parametrize("msgpack", [False, True])
async def test_an_announcement_keeps_its_place_between_others(msgpack: bool) -> None:
    wire = Wire()
    outbox = wire.outbox(msgpack=msgpack)
    outbox.put_live(live(1))
    outbox.put_frame({"type": "pong"})
    outbox.put_live(Live("e", 2, 2, [event(2)]))
    await asyncio.sleep(0)
    outbox.put_frame({"type": "pong"})
    outbox.put_live(Live("e", 3, 3, [event(3)]))
    wire.hold()
    await asyncio.sleep(0)
    wire.release()
    outbox.put_live(Live("e", 4, 4, [event(4)]))
    await asyncio.sleep(0)
    decode: Callable[[bytes], Any] = ormsgpack.unpackb if msgpack else json.loads
    assert [one.get("seq") for one in map(decode, wire.sent)] == [1, None, 2, None, 3, 4]
    assert (outbox.waiting, outbox.free) == (0, True)


async def test_an_announcement_waits_for_a_socket_that_has_no_room_and_counts_until_then() -> None:
    wire = Wire()
    wire.hold()
    outbox = wire.outbox(limit=1000, timeout_s=0.02)
    outbox.put_live(live(2000))
    await asyncio.sleep(0)
    assert (wire.sent, outbox.room < 0, outbox.free) == ([], True, False)
    wire.release()
    assert (len(wire.sent), outbox.room, wire.rooms) == (1, 1000, 1)
    wire.hold()
    outbox.put_live(live(5))
    await until(lambda: wire.lost == ["slow"])
    assert outbox.waiting == 0


async def test_an_announcement_for_a_socket_that_is_gone_is_said_once() -> None:
    wire = Wire()
    wire.gone = True
    outbox = wire.outbox()
    outbox.put_live(live(1))
    await asyncio.sleep(0)
    outbox.put_live(live(1))
    await asyncio.sleep(0)
    assert (wire.lost, outbox.waiting) == (["gone"], 0)


async def test_closing_sends_an_announcement_that_waits() -> None:
    wire = Wire()
    outbox = wire.outbox()
    outbox.put_live(live(1))
    assert await outbox.close(5)
    assert len(wire.sent) == 1


@pytest.mark.parametrize("count", [2, 15, 16, 200, 70_000])
@pytest.mark.parametrize("msgpack", [False, True])
async def test_arrays_decode_to_the_frames(msgpack: bool, count: int) -> None:
    wire = Wire()
    wire.hold()
    outbox = wire.outbox(msgpack=msgpack, limit=1 << 30)
    outbox.batch = True
    small = [b"{}"] * count if count > 1000 else [event(seq) for seq in range(count)]
    outbox.put_frame({"type": "first"})
    wire.release()
    wire.hold()
    outbox.put_events(small)
    wire.release()
    await until(lambda: outbox.waiting == 0)
    decode: Callable[[bytes], Any] = ormsgpack.unpackb if msgpack else json.loads
    first, *messages = [decode(one) for one in wire.sent]
    assert first == {"type": "first"}
    frames = [frame for one in messages for frame in (one if isinstance(one, list) else [one])]
    assert frames == [json.loads(one) for one in small]
    assert len(messages) < count


async def test_an_array_ends_before_it_becomes_large() -> None:
    wire = Wire()
    wire.hold()
    outbox = wire.outbox(limit=1 << 30)
    outbox.batch = True
    outbox.put_events([event(seq, 30_000) for seq in range(5)] + [event(5, 100_000), event(6)])
    wire.release()
    await until(lambda: outbox.waiting == 0)
    sizes = [1 if isinstance(value := json.loads(one), dict) else len(value) for one in wire.sent]
    assert sizes == [2, 2, 1, 1, 1]


async def test_a_client_that_did_not_ask_gets_no_arrays() -> None:
    wire = Wire()
    wire.hold()
    outbox = wire.outbox()
    outbox.put_events([event(seq) for seq in range(5)])
    wire.release()
    await until(lambda: outbox.waiting == 0)
    assert all(isinstance(json.loads(one), dict) for one in wire.sent)


async def test_msgpack_clients_get_the_same_objects() -> None:
    wire = Wire()
    outbox = wire.outbox(msgpack=True)
    outbox.put_frame({"type": "pong"})
    outbox.put_events([event(1, 5)])
    await until(lambda: len(wire.sent) == 2)
    assert [ormsgpack.unpackb(one) for one in wire.sent] == [{"type": "pong"}, json.loads(event(1, 5))]


async def test_it_says_when_it_is_full_and_when_half_of_it_is_free_again() -> None:
    wire = Wire()
    wire.hold()
    one = len(event(1, 50))
    outbox = wire.outbox(limit=4 * one)
    outbox.put_events([event(1, 50)] * 3)
    assert outbox.room == one
    outbox.put_events([event(1, 50)])
    assert outbox.room == 0
    taken: list[tuple[int, int]] = []

    def stepwise(message: bytes) -> None:
        """The socket takes one more message each time that it is writable."""
        taken.append((outbox.waiting, wire.rooms))
        wire.hold(unsent=one)

    wire._take = stepwise
    while outbox.waiting:
        wire.release()
        await asyncio.sleep(0)
    # (waiting when a message was taken: it, and those behind it)
    assert taken == [(4 * one, 0), (3 * one, 0), (2 * one, 0), (one, 1)]
    assert wire.rooms == 1


async def test_what_the_socket_has_not_got_rid_of_counts() -> None:
    wire = Wire()
    outbox = wire.outbox(limit=100)
    wire.hold(unsent=120)
    assert (outbox.room, outbox.waiting) == (-20, 120)
    wire.release()
    assert (outbox.room, wire.rooms) == (100, 1)


async def test_one_whose_socket_is_full_is_told_of_room_though_nothing_waits_here() -> None:
    """Else a session that stopped to forward would never go on."""
    wire = Wire()
    outbox = wire.outbox(limit=1000)
    wire._take = lambda message: wire.hold(unsent=len(message))
    outbox.put_events([event(1, 2000)])
    await asyncio.sleep(0)
    assert outbox.room < 0
    wire.release()
    assert wire.rooms == 1


async def test_one_that_was_never_full_says_nothing_of_room() -> None:
    wire = Wire()
    outbox = wire.outbox(limit=1000)
    outbox.put_events([event(1, 500)])
    await until(lambda: outbox.waiting == 0)
    assert wire.rooms == 0


async def test_a_client_that_takes_nothing_is_given_up_after_the_timeout() -> None:
    wire = Wire()
    wire.hold()
    outbox = wire.outbox(timeout_s=0.02)
    outbox.put_events([event(1), event(2)])
    await until(lambda: wire.lost == ["slow"])
    outbox.put_frame({"type": "pong"})
    wire.release()
    await asyncio.sleep(0)
    assert wire.sent == []


async def test_a_socket_that_is_gone_is_said_once() -> None:
    wire = Wire()
    wire.gone = True
    outbox = wire.outbox()
    outbox.put_events([event(1), event(2)])
    await until(lambda: wire.lost == ["gone"])
    outbox.put_events([event(3)])
    await asyncio.sleep(0)
    assert wire.lost == ["gone"]


async def test_closing_sends_what_waits_when_the_client_takes_it() -> None:
    wire = Wire()
    outbox = wire.outbox()
    outbox.put_events([event(1), event(2)])
    assert await outbox.close(5)
    assert len(wire.sent) == 2
    assert outbox.waiting == 0
    outbox.put_frame({"type": "pong"})
    assert len(wire.sent) == 2


async def test_closing_waits_no_longer_than_it_may() -> None:
    wire = Wire()
    wire.hold()
    before = asyncio.all_tasks()
    outbox = wire.outbox()
    outbox.put_events([event(1)])
    assert not await asyncio.wait_for(outbox.close(0.01), 5)
    assert asyncio.all_tasks() == before
