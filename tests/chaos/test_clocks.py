"""Hosts whose clocks differ, and jump while they work: nothing but timestamps changes."""

import asyncio
import json
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pytest

from rt import keys
from tests.chaos.client import Client, Journal
from tests.chaos.clock import Clock
from tests.chaos.stack import Process, Stack
from tests.chaos.test_main_job import check
from tests.helpers import eventually

HEARTBEAT_S, LEASE_S, ROOM_AGE_S = 0.5, 2.0, 2
HOUR_S = 3600.0
#: Tokens are checked by the wall clock, which is theirs: here they outlive every jump.
TOKEN_S = 12 * 3600


@dataclass
class Astray:
    """Two servers and two workers, the first of each ahead of the time and the second behind it."""

    stack: Stack
    webs: list[Clock]
    workers: list[Clock]

    def jump(self, by_s: float) -> None:
        """All of them at once."""
        for clock in (*self.webs, *self.workers):
            clock.set(clock.offset_s + by_s)

    async def client(self, web: int) -> Client:
        client = Client(self.stack.ws(web), self.stack.token())
        await client.open()
        return client

    def worker_of(self, journal: Journal) -> Process:
        name = next(event["data"]["worker"] for event in reversed(journal.events) if event["type"] == "job.started")
        return next(one for one in self.stack.workers if name in one.wait_ready())


@pytest.fixture(scope="module")
def astray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Astray]:
    folder = tmp_path_factory.mktemp("clocks")
    settings = {"RT_HEARTBEAT_S": str(HEARTBEAT_S), "RT_LEASE_S": str(LEASE_S), "RT_ROOM_AGE_S": str(ROOM_AGE_S)}
    with Stack(tmp_path_factory.mktemp("stack"), "tests.chaos.jobs:app", **settings) as stack:
        stack.token_ttl_s = TOKEN_S
        webs = [Clock(folder / f"web{i}", offset) for i, offset in enumerate((60, -60))]
        workers = [Clock(folder / f"worker{i}", offset) for i, offset in enumerate((2 * HOUR_S, -2 * HOUR_S))]
        for clock in webs:
            stack.web(clock=clock)
        for clock in workers:
            stack.worker(clock=clock)
        for process in (*stack.webs, *stack.workers):
            process.wait_ready()
        yield Astray(stack, webs, workers)


async def _submit(client: Client, job: str, options: dict[str, Any], **input: Any) -> Journal:
    answer = await client.ask("job.submit", job=job, input=input, options=options)
    assert answer["type"] == "reply", answer
    return client.journal(answer["data"]["stream"])


async def test_timestamps_are_of_their_writers(astray: Astray) -> None:
    """What the other tests stand on: the clocks are wrong indeed."""
    for web, clock in enumerate(astray.webs):
        client = await astray.client(web)
        await client.ask("subscribe", stream="room:when")
        await client.ask("publish", stream="room:when", data="now")
        event = (await client.until(lambda client=client: client.journal("room:when").events))[-1]  # type: ignore[misc]
        assert abs(event["ts"] / 1000 - time.time() - clock.offset_s) < 10
        journal = await client.finished(await client.submit("paced", text="ab", delay_ms=1))
        worker = astray.stack.workers.index(astray.worker_of(journal))
        said = next(event["ts"] for event in journal.events if event["type"] == "job.delta")
        assert abs(said / 1000 - time.time() - astray.workers[worker].offset_s) < 10
        await client.close()


async def test_a_lease_is_held_while_its_worker_s_clock_jumps_and_lost_when_it_stands_still(astray: Astray) -> None:
    client = await astray.client(0)
    journal = await client.submit("parts", text="abc", attempts=2)
    await client.until(lambda: "job.delta" in journal.types())
    redis = astray.stack.direct()
    lease = f"arq:in-progress:{journal.stream.removeprefix('job:')}"
    for by_s in (HOUR_S, -2 * HOUR_S, HOUR_S):
        astray.jump(by_s)
        known, renewed = await redis.pttl(lease), 0
        while renewed < 2:  # each a third of the lease after the other
            await asyncio.sleep(0.02)
            now = await redis.pttl(lease)
            assert now > 0
            renewed, known = renewed + (now > known), now
    assert journal.attempts() == [1]
    busy = astray.worker_of(journal)
    busy.freeze()
    frozen_at = time.monotonic()
    await client.until(lambda: 2 in journal.attempts())
    assert 0 < time.monotonic() - frozen_at < LEASE_S + 2
    check(await client.finished(journal), "abc")
    busy.thaw()
    await redis.aclose()
    await client.close()


async def test_delays_and_deadlines_are_as_long_as_they_were_told(astray: Astray) -> None:
    async def one(web: int) -> None:
        client = await astray.client(web)
        began = time.monotonic()
        delayed = await _submit(client, "paced", {"delay_s": 1}, text="ab", delay_ms=1)
        limited = await _submit(client, "parts", {"timeout_s": 1}, text="ab", attempts=9)
        astray.jump(HOUR_S if web else -HOUR_S)
        await client.until(lambda: "job.started" in delayed.types())
        assert 1 <= time.monotonic() - began < 3
        await client.finished(limited)
        assert 1 <= time.monotonic() - began < 3
        assert limited.final is not None
        assert (limited.final["type"], limited.final["data"]["error"]["code"]) == ("job.failed", "timeout")
        assert limited.attempts() == [1]
        check(await client.finished(delayed), "ab")
        await client.close()

    await asyncio.gather(*(one(web) for web in (0, 1, 0, 1)))


async def test_a_job_is_accepted_once_and_listed_in_its_place(astray: Astray) -> None:
    async with astray.stack.http(web=0) as ahead, astray.stack.http(web=1) as behind:
        ids = []
        for number in range(8):
            body = {"job": "paced", "input": {"text": f"{number}", "delay_ms": 1}}
            first, second = (ahead, behind) if number % 2 else (behind, ahead)
            answer = await first.post("/v1/jobs", json=body, headers={"Idempotency-Key": f"clocks-{number}"})
            again = await second.post("/v1/jobs", json=body, headers={"Idempotency-Key": f"clocks-{number}"})
            assert (answer.status_code, again.status_code) == (202, 200)
            assert again.json()["job_id"] == answer.json()["job_id"]
            ids.append(answer.json()["job_id"])
        for http in (ahead, behind):
            items = (await http.get("/v1/jobs", params={"limit": 8})).json()["items"]
            assert [one["job_id"] for one in items] == ids[::-1]
            times = [datetime.fromisoformat(one["created_at"]).timestamp() for one in items]
            assert times == sorted(times, reverse=True)
            assert all(abs(one - time.time()) < 10 for one in times)


async def test_events_grow_old_at_the_same_pace_whoever_wrote_them(astray: Astray) -> None:
    """The janitor works in any of the processes, and takes what is older than two seconds."""

    async def one(web: int) -> None:
        client, room = await astray.client(web), f"room:age{web}"
        redis, written = astray.stack.direct(), dict[int, float]()
        for _ in range(30):
            answer = await client.ask("publish", stream=room, data=0)
            written[answer["data"]["seq"]] = time.monotonic()
            await asyncio.sleep(0.15)
            kept = await redis.xrange(keys.log(keys.DEFAULT_TENANT, room), count=1)
            looked_at, first = time.monotonic(), int(kept[0][0].split(b"-")[0])
            for seq, at in written.items():
                if seq < first:
                    assert looked_at - at > ROOM_AGE_S, "a young event was taken"
                else:
                    assert looked_at - at < ROOM_AGE_S + 3, "an old event was kept"
        assert first > 1
        await redis.aclose()
        await client.close()

    await asyncio.gather(one(0), one(1))


async def test_heartbeats_go_on_while_a_server_s_clock_jumps(astray: Astray) -> None:
    clients = [await astray.client(web) for web in (0, 1)]

    def pings(client: Client) -> int:
        return sum(frame["type"] == "ping" for frame in client.control)

    async def twice(client: Client) -> None:
        known, began = pings(client), time.monotonic()
        await client.until(lambda: pings(client) >= known + 2)
        assert time.monotonic() - began < 2 * HEARTBEAT_S + 1

    for by_s in (HOUR_S, -2 * HOUR_S, HOUR_S):
        astray.jump(by_s)
        await asyncio.gather(*map(twice, clients))
    for client in clients:
        assert client.close_code is None
        assert {frame["type"] for frame in client.control} == {"connected", "ping"}
        check(await client.finished(await client.submit("paced", text="ab", delay_ms=1)), "ab")
        await client.close()


async def test_the_list_of_workers_is_by_redis_s_clock(astray: Astray) -> None:
    redis = astray.stack.direct()

    async def both() -> list[tuple[bytes, float]]:
        found = await redis.zrange(keys.WORKERS, 0, -1, withscores=True)
        return list(found) if len(found) == 2 else []

    listed = await eventually(both)
    now_s = (await redis.time())[0]
    for name, at_ms in listed:
        assert abs(at_ms / 1000 - now_s) < 60
        assert await redis.exists(keys.worker(name.decode()))
    await redis.aclose()


@pytest.mark.parametrize("offset_s", [-HOUR_S, HOUR_S])
async def test_a_client_s_clock_is_nobody_s_concern(astray: Astray, tmp_path: Any, offset_s: float) -> None:
    env = {"RT_URL": f"http://127.0.0.1:{astray.stack.ports[0]}", "RT_TOKEN": astray.stack.token()}
    command = ("job", "submit", "paced", "text=abc", "delay_ms:=1", "--json")
    process = Process(*command, env=env, clock=Clock(tmp_path / "clock", offset_s))
    try:
        assert await asyncio.to_thread(process.popen.wait, 20) == 0
    except subprocess.TimeoutExpired:
        raise AssertionError(process.lines) from None
    finally:
        process.end()
    said = [json.loads(line) for line in process.lines]
    assert said[-1]["type"] == "job.completed"
    assert "".join(one["data"]["text"] for one in said if one["type"] == "job.delta") == "abc"
