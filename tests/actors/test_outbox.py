"""The outbox: what waits for one client, and the task that sends it."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import ormsgpack
import pytest

from rt.actors.outbox import Outbox


class Wire:
    """Records messages; writing waits while it is held, and fails once it is cut."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.free = asyncio.Event()
        self.free.set()
        self.cut: Exception | None = None
        self.rooms = 0
        self.lost: list[str] = []

    async def send(self, message: bytes) -> None:
        await self.free.wait()
        if self.cut:
            raise self.cut
        self.sent.append(message)

    def on_room(self) -> None:
        self.rooms += 1

    def outbox(self, *, msgpack: bool = False, limit: int = 1000, timeout_s: float = 5) -> Outbox:
        return Outbox(self.send, msgpack=msgpack, limit_bytes=limit, timeout_s=timeout_s, on_room=self.on_room, on_lost=self.lost.append)


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


async def test_there_is_no_task_while_nothing_waits() -> None:
    wire = Wire()
    before = asyncio.all_tasks()
    outbox = wire.outbox()
    assert asyncio.all_tasks() == before
    for _ in range(3):
        outbox.put_frame({"type": "pong"})
        assert len(asyncio.all_tasks()) == len(before) + 1
        await until(lambda: outbox.waiting == 0)
        await until(lambda: asyncio.all_tasks() == before)


@pytest.mark.parametrize("count", [2, 15, 16, 200, 70_000])
@pytest.mark.parametrize("msgpack", [False, True])
async def test_arrays_decode_to_the_frames(msgpack: bool, count: int) -> None:
    wire = Wire()
    wire.free.clear()
    outbox = wire.outbox(msgpack=msgpack, limit=1 << 30)
    outbox.batch = True
    small = [b"{}"] * count if count > 1000 else [event(seq) for seq in range(count)]
    outbox.put_frame({"type": "first"})
    await asyncio.sleep(0)  # it is being sent: what comes now gathers behind it
    outbox.put_events(small)
    wire.free.set()
    await until(lambda: outbox.waiting == 0)
    decode: Callable[[bytes], Any] = ormsgpack.unpackb if msgpack else json.loads
    first, *messages = [decode(one) for one in wire.sent]
    assert first == {"type": "first"}
    frames = [frame for one in messages for frame in (one if isinstance(one, list) else [one])]
    assert frames == [json.loads(one) for one in small]
    assert len(messages) < count


async def test_an_array_ends_before_it_becomes_large() -> None:
    wire = Wire()
    wire.free.clear()
    outbox = wire.outbox(limit=1 << 30)
    outbox.batch = True
    outbox.put_events([event(seq, 30_000) for seq in range(5)] + [event(5, 100_000), event(6)])
    wire.free.set()
    await until(lambda: outbox.waiting == 0)
    sizes = [1 if isinstance(value := json.loads(one), dict) else len(value) for one in wire.sent]
    assert sizes == [2, 2, 1, 1, 1]


async def test_a_client_that_did_not_ask_gets_no_arrays() -> None:
    wire = Wire()
    wire.free.clear()
    outbox = wire.outbox()
    outbox.put_events([event(seq) for seq in range(5)])
    wire.free.set()
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
    wire.free.clear()
    one = len(event(1, 50))
    outbox = wire.outbox(limit=4 * one)
    outbox.put_events([event(1, 50)] * 3)
    assert outbox.room == one
    outbox.put_events([event(1, 50)])
    assert outbox.room == 0
    taken: list[tuple[int, int]] = []
    send = wire.send

    async def stepwise(message: bytes) -> None:
        taken.append((outbox.waiting, wire.rooms))
        await send(message)

    outbox._send = stepwise
    wire.free.set()
    await until(lambda: outbox.waiting == 0)
    assert taken == [(4 * one, 0), (3 * one, 0), (2 * one, 1), (one, 1)]
    assert wire.rooms == 1


async def test_one_that_was_never_full_says_nothing_of_room() -> None:
    wire = Wire()
    outbox = wire.outbox(limit=1000)
    outbox.put_events([event(1, 500)])
    await until(lambda: outbox.waiting == 0)
    assert wire.rooms == 0


async def test_a_client_that_takes_nothing_is_given_up_after_the_timeout() -> None:
    wire = Wire()
    wire.free.clear()
    outbox = wire.outbox(timeout_s=0.02)
    outbox.put_events([event(1), event(2)])
    await until(lambda: wire.lost == ["slow"])
    outbox.put_frame({"type": "pong"})
    wire.free.set()
    await asyncio.sleep(0)
    assert wire.sent == []


async def test_a_socket_that_is_gone_is_said_once() -> None:
    wire = Wire()
    wire.cut = RuntimeError("closed")
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
    await outbox.close(5)
    assert len(wire.sent) == 2
    assert outbox.waiting == 0
    outbox.put_frame({"type": "pong"})
    assert len(wire.sent) == 2


async def test_closing_waits_no_longer_than_it_may() -> None:
    wire = Wire()
    wire.free.clear()
    before = asyncio.all_tasks()
    outbox = wire.outbox()
    outbox.put_events([event(1)])
    await asyncio.wait_for(outbox.close(0.01), 5)
    assert outbox.waiting > 0
    assert asyncio.all_tasks() == before
