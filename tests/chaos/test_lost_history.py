"""History that Redis no longer has, whoever took it: deleted, flushed, evicted, trimmed. What is lost is said, exactly, and soon."""

import asyncio
import json
import random
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from rt import keys
from tests.chaos.client import TERMINAL, Client, Journal
from tests.chaos.scene import Scene, compare
from tests.chaos.stack import Stack
from tests.helpers import eventually

TENANT = keys.DEFAULT_TENANT
#: What is promised: a vanished log under a living connection; a lost last announcement of a running job.
VANISHED_S, UNANNOUNCED_S = 5.0, 2.0


def log_of(stream: str) -> str:
    return keys.log(TENANT, stream)


def meta_of(stream: str) -> str:
    return keys.meta(TENANT, stream)


class Room:
    """A room of a test's own: somebody who writes into it, and clients that follow it."""

    def __init__(self, stack: Stack, redis: "Redis[bytes]", stream: str) -> None:
        self.stack, self.redis, self.stream = stack, redis, stream
        self.clients: list[Client] = []
        self._written = 0

    async def follow(self) -> tuple[Client, Journal]:
        client = Client(self.stack.ws(), self.stack.token())
        await client.open()
        await client.ask("subscribe", stream=self.stream, cursor="0")
        self.clients.append(client)
        return client, client.journal(self.stream)

    async def write(self, count: int = 1) -> int:
        """Publishes different events; returns the last one's seq."""
        async with self.stack.http() as http:
            for _ in range(count):
                self._written += 1
                answer = await http.post(f"/v1/streams/{self.stream}/events", json={"data": self._written})
                assert answer.status_code == 201, answer.text
        return int(answer.json()["seq"])

    async def caught_up(self, limit_s: float = VANISHED_S) -> None:
        """Every client came as far as its stream goes."""
        for client in self.clients:
            journal = client.journal(self.stream)
            epoch, seq = await self.redis.hmget(meta_of(self.stream), "epoch", "seq")
            at = f"{epoch.decode()}:{seq.decode()}"
            await client.until(lambda journal=journal, at=at: journal.cursor == at, limit_s)


@asynccontextmanager
async def room(stack: Stack, stream: str = "") -> AsyncIterator[Room]:
    redis = stack.direct()
    one = Room(stack, redis, stream or f"room:{uuid.uuid4().hex}")
    try:
        yield one
        await one.caught_up()
        for client in one.clients:
            assert client.faults() == []
            await compare(redis, client.journal(one.stream))
        assert stack.tracebacks() == []
    finally:
        for client in one.clients:
            await client.close()
        await redis.aclose()


async def cut_behind(room: Room, events: int = 5) -> tuple[Client, Journal, int]:
    """A client that has `events` events and is then away while twenty more are written; and the seq of the newest."""
    client, journal = await room.follow()
    await room.write(events)
    await room.caught_up()
    await client.cut()
    return client, journal, await room.write(20)


async def told_what_was_trimmed(room: Room, missed: Journal) -> None:
    """To one who had five events: a gap up to the first that the log has, and all from there on."""
    [gap] = missed.gaps
    first = int((await room.redis.xrange(log_of(room.stream), count=1))[0][0].split(b"-")[0])
    assert (gap["reason"], gap["from"], gap["to"]) == ("trimmed", 6, first - 1)
    assert [event["seq"] for event in missed.events[5:]] == list(range(first, missed.seq + 1))


async def test_a_deleted_log_is_a_gap_to_who_was_away_and_nothing_to_who_was_there(weathered: Stack) -> None:
    async with room(weathered) as one:
        away, missed, top = await cut_behind(one)
        _, there = await one.follow()
        one.clients.remove(away)
        await one.caught_up()
        await one.redis.delete(log_of(one.stream))
        await one.write(3)
        await away.reopen()
        one.clients.append(away)
        await one.caught_up()
        assert [(gap["reason"], gap["from"], gap["to"]) for gap in missed.gaps] == [("expired", 6, top)]
        assert there.gaps == []
        assert [event["seq"] for event in there.events] == list(range(1, top + 4))


async def test_a_deleted_log_is_a_gap_also_while_nothing_new_comes(weathered: Stack) -> None:
    async with room(weathered) as one:
        away, missed, top = await cut_behind(one)
        await one.redis.delete(log_of(one.stream))
        await away.reopen()
        await one.caught_up()
        assert [(gap["reason"], gap["from"], gap["to"]) for gap in missed.gaps] == [("expired", 6, top)]


@pytest.mark.parametrize("names", [(meta_of,), (meta_of, log_of)], ids=["meta", "both"])
async def test_a_stream_that_is_forgotten_begins_anew_under_another_epoch(weathered: Stack, names: Any) -> None:
    async with room(weathered) as one:
        away, missed, _ = await cut_behind(one)
        await one.follow()
        await one.redis.delete(*(name(one.stream) for name in names))
        before = missed.epoch
        assert await one.write(4) == 4
        await away.reopen()
        await one.caught_up()
        for client in one.clients:
            journal = client.journal(one.stream)
            assert [gap["reason"] for gap in journal.gaps] == ["epoch_changed"]
            assert journal.epoch != before
            assert [event["seq"] for event in journal.events] == [1, 2, 3, 4]


async def test_a_trimmed_stream_names_exactly_what_is_gone(weathered: Stack) -> None:
    """By its own length, while a client is away: the room keeps a hundred events, about."""
    async with room(weathered) as one:
        away, missed, _ = await cut_behind(one)
        await one.write(250)
        await away.reopen()
        await one.caught_up()
        await told_what_was_trimmed(one, missed)


async def test_a_deleted_log_that_was_trimmed_since_names_exactly_what_is_gone(weathered: Stack) -> None:
    """Whatever was deleted, the room would keep it no more."""
    async with room(weathered) as one:
        away, missed, _ = await cut_behind(one)
        await one.redis.delete(log_of(one.stream))
        await one.write(250)
        await away.reopen()
        await one.caught_up()
        await told_what_was_trimmed(one, missed)


async def test_a_stream_trimmed_by_hand_names_exactly_what_is_gone(weathered: Stack) -> None:
    async with room(weathered) as one:
        away, missed, top = await cut_behind(one)
        await one.redis.xtrim(log_of(one.stream), maxlen=7, approximate=False)
        await away.reopen()
        await one.caught_up()
        assert [(gap["reason"], gap["from"], gap["to"]) for gap in missed.gaps] == [("expired", 6, top - 7)]


async def test_events_that_grew_old_are_a_gap(weathered: Stack) -> None:
    """The janitor takes what is older than two seconds out of a user's stream that is still written to."""
    async with room(weathered, "user:alice") as one:
        client, journal = await one.follow()
        await one.write(3)
        await one.caught_up()
        await client.cut()
        old = await one.write(5)

        async def trimmed() -> bool:
            await one.write()
            return int((await one.redis.xrange(log_of(one.stream), count=1))[0][0].split(b"-")[0]) > old

        await eventually(trimmed, within_s=8)
        await client.reopen()
        await one.caught_up()
        [gap] = journal.gaps
        assert gap["reason"] == "trimmed"
        assert gap["from"] == journal.events[2]["seq"] + 1
        assert gap["to"] == journal.events[3]["seq"] - 1 >= old


async def test_whatever_is_taken_at_whatever_moment_is_said(weathered: Stack) -> None:
    """Deletions and trims at random, under clients that stay, and clients that come and go."""
    draw = random.Random(5)
    async with room(weathered) as one:
        pairs = [await one.follow() for _ in range(4)]

        async def come_and_go(client: Client) -> None:
            while True:
                await asyncio.sleep(draw.uniform(0, 0.1))
                await client.cut()
                await client.reopen()

        async def write() -> None:
            while True:
                await one.write(draw.randrange(1, 4))

        async with asyncio.TaskGroup() as group:
            restless = [group.create_task(come_and_go(client)) for client, _ in pairs[:2]] + [group.create_task(write())]
            for _ in range(60):
                await asyncio.sleep(draw.uniform(0, 0.08))
                match draw.randrange(4):
                    case 0:
                        await one.redis.delete(log_of(one.stream))
                    case 1:
                        await one.redis.delete(meta_of(one.stream))
                    case 2:
                        await one.redis.delete(log_of(one.stream), meta_of(one.stream))
                    case 3:
                        await one.redis.xtrim(log_of(one.stream), maxlen=draw.randrange(5), approximate=False)
            for task in restless:
                task.cancel()
        for client, _ in pairs[:2]:
            await client.cut()
            await client.reopen()
        await one.write()


async def test_a_flushed_redis_loses_jobs_and_says_so_and_goes_on(weathered: Stack, tmp_path: Path) -> None:
    async with Scene(weathered, tmp_path) as scene:
        forgotten = [journal.stream for journal in scene.journals]
        await scene.redis.flushall()
        began = time.monotonic()
        for client, journal in zip(scene.clients, scene.journals, strict=True):
            await client.until(lambda journal=journal: journal.gaps, VANISHED_S)
            assert [gap["reason"] for gap in journal.gaps] == ["epoch_changed"]
        assert time.monotonic() - began < VANISHED_S
        async with weathered.http(scopes=("admin",)) as http:
            for stream in forgotten:
                answer = await http.get(f"/v1/jobs/{stream.removeprefix('job:')}")
                assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
        # The sessions live on: what they submit now runs, also for who comes back to it.
        scene.journals = [await client.submit("count", until=str(tmp_path / "end"), every_ms=20) for client in scene.clients]
        await scene.live(2)
        for client in scene.clients:
            await client.cut()
            assert (await client.reopen())["resumed"] is True
        await scene.finish()
        for client, journal in zip(scene.clients, scene.journals, strict=True):
            assert client.faults() == []
            await compare(scene.redis, journal)
            assert [one for one in journal.types() if one in TERMINAL] == ["job.completed"]
        scene.alive()


async def test_eviction_takes_what_it_likes_and_never_in_silence(weathered: Stack, tmp_path: Path) -> None:
    async with Scene(weathered, tmp_path) as scene, room(weathered) as one:
        await one.follow()
        used = int((await scene.redis.info("memory"))["used_memory"])
        await scene.redis.config_set("maxmemory-policy", "allkeys-random")
        try:
            for _ in range(20):
                # Barely below what is used, so that each write takes a few keys.
                await scene.redis.config_set("maxmemory", used - 4096)
                await one.write(2)
                await scene.redis.config_set("maxmemory", 0)
                used = int((await scene.redis.info("memory"))["used_memory"])
        finally:
            await scene.redis.config_set("maxmemory", 0)
            await scene.redis.config_set("maxmemory-policy", "noeviction")
        assert int((await scene.redis.info("stats"))["evicted_keys"]) > 20
        await one.write()
        (tmp_path / "end").touch()
        async with weathered.http(scopes=("admin",)) as http:
            for client, journal in zip(scene.clients, scene.journals, strict=True):
                id = journal.stream.removeprefix("job:")

                async def over(id: str = id) -> bool:
                    answer = await http.get(f"/v1/jobs/{id}")
                    return answer.status_code == 404 or answer.json()["status"] in ("completed", "failed")

                await eventually(over)
                await client.until(lambda journal=journal: journal.gaps or journal.final, VANISHED_S)
                assert client.faults() == []
        scene.alive()


async def test_a_lost_last_announcement_of_a_running_job_is_noticed_within_two_seconds(weathered: Stack, tmp_path: Path) -> None:
    redis = weathered.direct()
    client = Client(weathered.ws(), weathered.token())
    await client.open()
    journal = await client.submit("count", until=str(tmp_path / "never"), every_ms=60_000)
    await client.until(lambda: "job.delta" in journal.types())
    # What append.lua does, but for the announcement.
    seq = await redis.hincrby(meta_of(journal.stream), "seq", 1)
    event = {"seq": seq, "type": "job.progress", "stream": journal.stream, "ts": 1, "attempt": 1, "data": {"current": seq}}
    await redis.xadd(log_of(journal.stream), {"e": json.dumps(event, separators=(",", ":"))}, id=f"{seq}-0")
    await client.until(lambda: journal.seq == seq, UNANNOUNCED_S + 0.3)
    await client.ask("job.cancel", job_id=journal.stream.removeprefix("job:"))
    await client.finished(journal)
    assert client.faults() == []
    await client.close()
    await redis.aclose()


async def test_announcements_that_no_longer_arrive_are_made_up_for(weathered: Stack, tmp_path: Path) -> None:
    async with Scene(weathered, tmp_path) as scene:
        # From here on none reaches the server, and nobody tells it.
        weathered.network.set(which=lambda link: b"rt:tail" in link.opening, drop_down=True)
        await scene.live(UNANNOUNCED_S + 0.5)
        await scene.finish(UNANNOUNCED_S + 0.5)
        await scene.judge()
