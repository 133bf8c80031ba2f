"""The archive knows what Redis had, and has no more: held against a real server that is trimmed, killed and set back."""

import asyncio
import json
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from rt import keys
from rt.keys import parse_stream
from rt.localredis import PrivateRedis
from rt.redis import Store, insist
from rt.settings import load_settings
from rt.streams.log import StreamLog
from tests.chaos.archive import Archive, History
from tests.chaos.stack import free_port

ROOM = parse_stream("room:lobby")
LOG = keys.log(keys.DEFAULT_TENANT, str(ROOM))


class Scribe:
    """A server, somebody who writes into a room of it, and the archive of both."""

    def __init__(self, server: PrivateRedis, folder: Path) -> None:
        self.server = server
        self.store = Store(server.url)
        self.streams = StreamLog(self.store, load_settings(room_length=10))
        self.archive = Archive(folder / "redis")
        self._count = 0

    @property
    def history(self) -> History:
        return self.archive.history(str(ROOM))

    async def write(self, count: int) -> None:
        for _ in range(count):
            self._count += 1
            body = json.dumps({"type": "message", "data": self._count}, separators=(",", ":")).encode()
            once = [f"rt:-:idem:k:t:{self._count}"]
            await insist("test", partial(self.streams.publish, keys.DEFAULT_TENANT, ROOM, body, records=once))

    async def read(self) -> list[int]:
        """What the archive knows, once it has all that the log has."""
        head = (await insist("test", self.streams.heads, keys.DEFAULT_TENANT, [str(ROOM)]))[str(ROOM)]
        assert await self.archive.wait(lambda: len(self.history.events) == head.top, 5)
        log = await self.store.call("XRANGE", LOG, "-", "+")
        assert [one.raw for one in self.history.events[self.history.first - 1 :]] == [fields[1] for _, fields in log]
        assert self.history.epoch == head.epoch
        return [one.event["data"] for one in self.history.events]

    async def start_again(self) -> None:
        await self.archive.restart()
        await asyncio.to_thread(self.server.start)


@pytest.fixture
async def scribe(tmp_path: Path) -> AsyncIterator[Scribe]:
    with PrivateRedis(tmp_path, port=free_port()) as server:
        scribe = Scribe(server, tmp_path)
        yield scribe
        await scribe.store.close()


async def test_it_has_what_was_trimmed_and_knows_where_the_log_began(scribe: Scribe) -> None:
    await scribe.write(250)
    assert await scribe.read() == list(range(1, 251))
    assert scribe.history.first > 100
    assert len(scribe.history.firsts) > 1
    await scribe.store.call("XTRIM", LOG, "MAXLEN", 3)
    await scribe.write(1)
    assert await scribe.read() == list(range(1, 252))
    assert {248} < set(scribe.history.firsts)
    await scribe.store.call("DEL", LOG)
    await scribe.write(1)
    assert await scribe.read() == list(range(1, 253))
    assert scribe.history.first == 252


async def test_a_killed_redis_that_has_everything_goes_on_in_another_epoch(scribe: Scribe) -> None:
    await scribe.write(20)
    await scribe.read()
    before = scribe.history.epoch
    scribe.server.kill()
    await scribe.start_again()
    await scribe.write(5)
    assert await scribe.read() == list(range(1, 26))
    assert scribe.history.epoch != before
    assert (scribe.history.stands(before), scribe.history.lost, scribe.history.faults) == (20, [], [])


async def test_what_a_redis_that_is_set_back_had_is_lost(scribe: Scribe) -> None:
    await scribe.write(20)
    await scribe.read()
    before, offset = scribe.history.epoch, scribe.archive.end
    await scribe.write(5)
    await scribe.read()
    scribe.server.kill()
    await scribe.archive.set_back(offset)
    await scribe.start_again()
    assert await scribe.read() == list(range(1, 21))
    await scribe.write(7)
    assert await scribe.read() == [*range(1, 21), *range(26, 33)]
    assert [one.event["data"] for one in scribe.history.lost] == list(range(21, 26))
    assert scribe.history.stands(before) == 20
    assert [one.event["data"] for one in scribe.history.lines[before]] == list(range(1, 26))
    assert not scribe.history.is_lost
    assert scribe.history.faults == []


async def test_a_file_that_ends_in_the_middle_is_read_as_redis_reads_it(scribe: Scribe) -> None:
    await scribe.write(20)
    await scribe.read()
    scribe.server.kill()
    with scribe.archive.path.open("r+b") as file:
        file.truncate(scribe.archive.end - 7)
    # As if it had never seen the rest.
    scribe.archive = Archive(scribe.server.folder / "redis")
    await scribe.start_again()
    assert await scribe.read() == list(range(1, 20))
    await scribe.write(3)
    assert await scribe.read() == [*range(1, 20), 21, 22, 23]


async def test_a_stream_that_is_lost_as_a_whole(scribe: Scribe) -> None:
    await scribe.store.call("SET", "x", 1)
    await scribe.archive.read()
    offset = scribe.archive.end
    await scribe.write(2)
    await scribe.read()
    scribe.server.kill()
    await scribe.archive.set_back(offset)
    await scribe.start_again()
    assert scribe.history.is_lost


async def test_what_is_written_to_a_stream_that_nobody_follows_any_more_is_a_fault(scribe: Scribe) -> None:
    await scribe.write(3)
    await scribe.read()
    scribe.archive.forget(str(ROOM))
    assert scribe.archive.faults == []
    await scribe.write(1)
    assert await scribe.archive.wait(lambda: scribe.archive.faults, 5)
