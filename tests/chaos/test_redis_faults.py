"""Redis dies, hangs, slows down, fills up, forgets its scripts. What is checked is what clients were given, and when.

The faults are short here; CHAOS_LONG in the environment makes an outage last as long as an operator's worst half minute.
"""

import asyncio
import functools
import json
import os
import signal
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from rt import keys
from rt.errors import Unavailable
from rt.redis import Store
from tests.chaos.proxy import HALF_OPEN, HELD, Proxy
from tests.chaos.scene import Scene
from tests.chaos.stack import Stack
from tests.helpers import eventually

#: Redis may be away this long in a test.
AWAY_S = 30.0 if "CHAOS_LONG" in os.environ else 4.0
#: What is promised: readiness, and live delivery after the fault is over.
NOTICED_S = BACK_S = 2.0


async def test_a_killed_redis_comes_back_with_all_that_was_written(stack: Stack, tmp_path: Path) -> None:
    stack.start()
    async with Scene(stack, tmp_path) as scene:
        # With `everysec` a write may wait for the fsync before it, and be lost with the process.
        await scene.redis.config_set("appendfsync", "always")
        await scene.live(2)
        stack.redis.kill()
        await scene.ready(False, NOTICED_S)
        await asyncio.sleep(2)  # long enough for all that waits to wait as long as it ever does
        await asyncio.to_thread(stack.redis.start)
        await asyncio.gather(scene.ready(True, BACK_S), scene.live(BACK_S))
        await scene.finish()
        await scene.judge()
        scene.unbroken()


async def test_a_frozen_redis_is_waited_for_as_if_nothing_had_been(stack: Stack, tmp_path: Path) -> None:
    """What was sent to it before everybody gave up is done after it thaws, and nobody hears the answers."""
    stack.start()
    async with Scene(stack, tmp_path) as scene:
        os.kill(stack.redis.pid, signal.SIGSTOP)
        try:
            await scene.ready(False, NOTICED_S)
            await asyncio.sleep(AWAY_S + 2)  # longer than anybody waits for an answer, and than the leases
        finally:
            os.kill(stack.redis.pid, signal.SIGCONT)
        await asyncio.gather(scene.ready(True, BACK_S), scene.live(BACK_S))
        await scene.finish()
        await scene.judge()
        scene.unbroken()


async def test_a_redis_that_lost_its_last_second_says_so(stack: Stack, tmp_path: Path) -> None:
    """A power failure: the end of the append-only file never reached the disk. Numbers are given again, cursors are not."""
    stack.start()
    async with Scene(stack, tmp_path) as scene:
        away = scene.clients[0]
        [file] = (stack.redis.folder / "redis" / "appendonlydir").glob("*.incr.aof")
        written = file.stat().st_size
        await scene.live(2)
        # Accepted, and lost as a whole.
        lost = await scene.clients[1].submit("count", until=str(tmp_path / "end"), every_ms=20)
        await scene.clients[1].until(lambda: len(lost.events) > 5)
        await away.cut()
        held = scene.journals[0].cursor
        stack.redis.kill()
        os.truncate(file, written)
        await asyncio.to_thread(stack.redis.start)
        await away.reopen()
        await asyncio.gather(scene.ready(True, BACK_S), scene.live(BACK_S))
        await scene.clients[1].until(lambda: lost.gaps, 5)
        assert not scene.journals[0].cursor.startswith(held.split(":")[0])
        assert [[gap["reason"] for gap in one.gaps] for one in (*scene.journals, lost)] == [["epoch_changed"]] * 4
        async with stack.http(scopes=("admin",)) as http:
            answer = await http.get(f"/v1/jobs/{lost.stream.removeprefix('job:')}")
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
        await scene.finish()
        await scene.judge(whole=False)


async def test_an_unreachable_redis_is_waited_for(weathered: Stack, tmp_path: Path) -> None:
    async with Scene(weathered, tmp_path) as scene:
        weathered.network.refuse()
        weathered.network.cut()
        await scene.ready(False, NOTICED_S)
        await asyncio.sleep(AWAY_S)
        weathered.network.accept()
        await asyncio.gather(scene.ready(True, BACK_S), scene.live(BACK_S))
        await scene.finish()
        await scene.judge()
        scene.unbroken()


async def test_packets_that_arrive_nowhere_are_waited_for(weathered: Stack, tmp_path: Path) -> None:
    async with Scene(weathered, tmp_path) as scene:
        weathered.network.set(HELD)
        await scene.ready(False, NOTICED_S)
        await asyncio.sleep(AWAY_S)
        weathered.network.set()
        await asyncio.gather(scene.ready(True, BACK_S), scene.live(BACK_S))
        await scene.finish()
        await scene.judge()
        scene.unbroken()


async def test_connections_that_only_seem_open_are_given_up(weathered: Stack, tmp_path: Path) -> None:
    async with Scene(weathered, tmp_path) as scene:
        weathered.network.set(HALF_OPEN)
        await scene.ready(False, NOTICED_S)
        await asyncio.sleep(AWAY_S)
        weathered.network.set()
        await asyncio.gather(scene.ready(True, BACK_S), scene.live(BACK_S))
        await scene.finish()
        await scene.judge()
        scene.unbroken()


async def test_what_was_done_and_not_answered_is_not_done_twice(weathered: Stack, tmp_path: Path) -> None:
    async with Scene(weathered, tmp_path) as scene, weathered.http() as http:
        room = f"room:{uuid.uuid4().hex}"
        for turn in range(8):
            weathered.network.set(drop_down=True)
            # Sent again as the same one until it is answered, by this test and by our processes.
            publish = functools.partial(
                http.post, f"/v1/streams/{room}/events", json={"data": turn}, headers={"Idempotency-Key": f"{room}{turn}"}
            )
            asked = asyncio.create_task(publish())
            await asyncio.sleep(0.1)
            weathered.network.set()
            weathered.network.cut()
            await asked

            async def answered(publish: Callable[[], Awaitable[Any]] = publish) -> bool:
                return (await publish()).status_code in (200, 201)

            await eventually(answered)
        assert [json.loads(fields[b"e"])["data"]["data"] for _, fields in await scene.redis.xrange(keys.log("-", room))] == list(range(8))
        await scene.live(BACK_S)
        await scene.finish()
        await scene.judge()


async def test_a_try_to_connect_that_was_swallowed_holds_up_nobody(real_redis: str) -> None:
    async with Proxy(real_redis.removeprefix("unix://")) as proxy:
        proxy.set(HALF_OPEN)
        store = Store(f"redis://127.0.0.1:{proxy.port}/0")
        asked = asyncio.create_task(store.call("ECHO", "here"))
        await eventually(lambda: proxy.statistics().dropped)
        proxy.set()
        async with asyncio.timeout(BACK_S):
            assert await asked == b"here"
        await store.close()


async def test_a_subscription_that_only_seems_open_is_given_up(real_redis: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rt.redis.DOUBT_S", 0.2)
    async with Proxy(real_redis.removeprefix("unix://")) as proxy:
        store = Store(f"redis://127.0.0.1:{proxy.port}/0")
        async with store.listen() as listener:
            await listener.subscribe("channel")
            assert (await listener.hear())[0] == "subscribe"
            waiting = asyncio.create_task(listener.hear())
            await asyncio.sleep(0.7)  # nothing is said, but asked and answered
            await store.call("PUBLISH", "channel", "word")
            assert await waiting == ("message", "channel", b"word")
            proxy.set(HALF_OPEN)
            async with asyncio.timeout(2):
                with pytest.raises(Unavailable):
                    await listener.hear()
        await store.close()


async def test_a_slow_redis_makes_everything_slow_and_breaks_nothing(weathered: Stack, tmp_path: Path) -> None:
    async with Scene(weathered, tmp_path) as scene:
        weathered.network.set(up_ms=100)
        for _ in range(3):
            await scene.live(BACK_S)
        await scene.ready(True, 0.5)
        weathered.network.set()
        await scene.finish()
        await scene.judge()


async def test_killed_subscriptions_are_made_anew(weathered: Stack, tmp_path: Path) -> None:
    async with Scene(weathered, tmp_path) as scene:
        for _ in range(5):
            assert await scene.redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub") > 0
            await scene.live(BACK_S)
        await scene.finish()
        await scene.judge()


async def test_flushed_scripts_are_sent_again(weathered: Stack, tmp_path: Path) -> None:
    async with Scene(weathered, tmp_path) as scene:
        until = time.monotonic() + 2
        while time.monotonic() < until:
            await scene.redis.script_flush()
        await scene.live(BACK_S)
        await scene.finish()
        await scene.judge()


async def test_a_full_redis_takes_nothing_and_loses_nothing(weathered: Stack, tmp_path: Path) -> None:
    async with Scene(weathered, tmp_path) as scene:
        await scene.redis.config_set("maxmemory", "1mb")
        try:
            await scene.ready(False, NOTICED_S)
            await asyncio.sleep(2)
        finally:
            await scene.redis.config_set("maxmemory", "0")
        await asyncio.gather(scene.ready(True, BACK_S), scene.live(BACK_S))
        await scene.finish()
        await scene.judge()


async def test_processes_end_in_time_while_redis_is_away(tmp_path: Path) -> None:
    """However many connections and jobs they have: nobody waits for Redis once for each of them."""
    drain_s = 2
    with Stack(tmp_path, "tests.chaos.jobs:app", proxied=True, RT_DRAIN_S=str(drain_s)) as stack:
        assert stack.network is not None
        await asyncio.to_thread(stack.start)
        async with Scene(stack, tmp_path, clients=6) as scene:
            stack.network.set(HALF_OPEN)
            await scene.ready(False, NOTICED_S)
            began = time.monotonic()
            processes = (*stack.webs, *stack.workers)
            assert await asyncio.gather(*(asyncio.to_thread(one.terminate) for one in processes)) == [0, 0]
            assert time.monotonic() - began < drain_s + 14
            assert stack.tracebacks() == []
