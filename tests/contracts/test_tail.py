"""The live reader: history and live events join, and whatever an announcement loses is found in the log."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import pytest

from rt import events, keys
from rt.keys import Stream, parse_stream
from rt.localredis import PrivateRedis, find_server
from rt.redis import Listener, Store, insist
from rt.settings import Settings, load_settings
from rt.streams import tail as tail_module
from rt.streams.log import StreamLog
from rt.streams.replay import Head, join
from rt.streams.sessions import open_session
from rt.streams.tail import Live, Tail
from tests.helpers import TENANT, alive, eventually

ROOM = Stream("room", "tea")


def event(text: str = "x", stream: Stream = ROOM) -> bytes:
    return events.encode("message", str(stream), {"text": text}, 1)


class Recorder:
    """A sink that writes down what it is told."""

    def __init__(self) -> None:
        self.live: list[tuple[str, Live]] = []
        self.checked: list[tuple[str, Head]] = []
        self.taken_over: list[tuple[str, int]] = []

    def on_live(self, stream: str, live: Live) -> None:
        self.live.append((stream, live))

    def on_checked(self, stream: str, head: Head) -> None:
        self.checked.append((stream, head))

    def on_taken_over(self, stream: str, generation: int) -> None:
        self.taken_over.append((stream, generation))

    @property
    def seqs(self) -> list[int]:
        return [seq for _, live in self.live for seq in range(live.first, live.last + 1)]


class Reader:
    """The least that delivers every event once: registers, reads, then joins what is live. A hole is read from the log."""

    def __init__(self, streams: StreamLog, stream: str) -> None:
        self.got: list[bytes] = []
        self._streams, self._stream = streams, stream
        self._epoch, self._sent = "", 0
        self._wake = asyncio.Event()
        self._heard: list[Live] = []
        self._behind = True

    def on_live(self, stream: str, live: Live) -> None:
        self._heard.append(live)
        self._wake.set()

    def on_checked(self, stream: str, head: Head) -> None:
        self._behind = self._behind or (head.epoch, head.top) != (self._epoch, self._sent)
        self._wake.set()

    def on_taken_over(self, stream: str, generation: int) -> None: ...

    @property
    def seqs(self) -> list[int]:
        return list(map(events.seq_of, self.got))

    async def run(self, tail: Tail) -> None:
        await tail.follow(TENANT, self._stream, self)
        while True:
            if self._behind:
                self._behind = False
                await self._read()
            heard, self._heard = self._heard, []
            for live in heard:
                match join(self._epoch, self._sent, live.epoch, live.first, live.last):
                    case "next" if live.events is not None:
                        self._take(live.events)
                    case "old":
                        pass
                    case _:
                        await self._read()
            self._wake.clear()
            if not self._heard and not self._behind:
                await self._wake.wait()

    async def _read(self) -> None:
        while True:
            # After a restart each pooled connection that is used again is found dead once.
            page = await insist("test", self._streams.read, TENANT, self._stream, self._sent)
            self._epoch = page.head.epoch
            if not page.events:
                return
            self._take(page.events)

    def _take(self, bodies: list[bytes]) -> None:
        new = [one for one in bodies if events.seq_of(one) > self._sent]
        self.got += new
        self._sent = events.seq_of(new[-1]) if new else self._sent


@asynccontextmanager
async def reading(tail: Tail) -> AsyncIterator[Tail]:
    task = asyncio.create_task(tail.run())
    try:
        async with asyncio.timeout(10):
            await tail.connected.wait()
        yield tail
    finally:
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()


@pytest.fixture
async def tail(store: Store, streams: StreamLog) -> AsyncIterator[Tail]:
    async with reading(Tail(store, streams)) as one:
        yield one


async def silently(store: Store, streams: StreamLog, count: int = 1, stream: Stream = ROOM) -> None:
    """Appends events whose announcements are lost on their way."""
    log, meta = keys.log(TENANT, str(stream)), keys.meta(TENANT, str(stream))
    for _ in range(count):
        seq = await store.call("HINCRBY", meta, "seq", 1)
        await store.call("XADD", log, f"{seq}-0", "e", b'{"seq":%d,' % seq + event("silent", stream)[1:])


async def test_a_follower_hears_what_is_appended_with_its_bytes(tail: Tail, streams: StreamLog) -> None:
    sink = Recorder()
    await tail.follow(TENANT, str(ROOM), sink)
    published = await streams.publish(TENANT, ROOM, event("a"))
    await eventually(lambda: sink.live)
    ((stream, live),) = sink.live
    assert stream == str(ROOM)
    assert live == Live(published.epoch, 1, 1, (await streams.read(TENANT, str(ROOM), 0)).events)


async def test_a_large_event_is_announced_without_its_bytes(tail: Tail, streams: StreamLog) -> None:
    sink = Recorder()
    await tail.follow(TENANT, str(ROOM), sink)
    published = await streams.publish(TENANT, ROOM, event("x" * 40_000))
    await eventually(lambda: sink.live)
    assert sink.live == [(str(ROOM), Live(published.epoch, 1, 1, None))]


async def test_a_follower_hears_only_its_streams(tail: Tail, streams: StreamLog) -> None:
    tea, coffee = Recorder(), Recorder()
    await tail.follow(TENANT, "room:tea", tea)
    await tail.follow(TENANT, "room:coffee", coffee)
    await tail.follow("other", "room:tea", coffee)
    for name in ("tea", "coffee", "tea"):
        await streams.publish(TENANT, Stream("room", name), event())
    await eventually(lambda: len(tea.live) == 2 and len(coffee.live) == 1)
    assert coffee.live[0][0] == "room:coffee"


async def test_all_followers_of_a_stream_hear_it_over_one_subscription(tail: Tail, streams: StreamLog) -> None:
    sinks = [Recorder() for _ in range(5)]
    for sink in sinks:
        await tail.follow(TENANT, str(ROOM), sink)
    assert tail.statistics() == {"streams": 1, "sinks": 5}
    await streams.publish(TENANT, ROOM, event())
    await eventually(lambda: all(sink.seqs == [1] for sink in sinks))


async def test_who_unfollows_hears_nothing_more_and_the_others_do(tail: Tail, streams: StreamLog, store: Store) -> None:
    stays, leaves = Recorder(), Recorder()
    for sink in (stays, leaves):
        await tail.follow(TENANT, str(ROOM), sink)
    tail.unfollow(TENANT, str(ROOM), leaves)
    tail.unfollow(TENANT, str(ROOM), leaves)  # harmless
    await streams.publish(TENANT, ROOM, event())
    await eventually(lambda: stays.seqs == [1])
    assert leaves.live == []
    tail.unfollow(TENANT, str(ROOM), stays)
    assert tail.statistics() == {"streams": 0, "sinks": 0}
    channel = keys.live(TENANT, str(ROOM))

    async def nobody_listens() -> bool:
        return not await store.call("PUBLISH", channel, "x")

    await eventually(nobody_listens)


async def test_a_stream_that_was_dropped_can_be_followed_again(tail: Tail, streams: StreamLog) -> None:
    for i in range(1, 6):
        sink = Recorder()
        await tail.follow(TENANT, str(ROOM), sink)
        await streams.publish(TENANT, ROOM, event())
        await eventually(lambda sink=sink: sink.seqs)
        assert sink.seqs == [i]
        tail.unfollow(TENANT, str(ROOM), sink)


async def test_a_confirmation_of_an_earlier_subscription_says_nothing_of_a_later_one(
    store: Store, streams: StreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is published between the two would be read neither from the log nor live; and what the earlier one still brings may be
    followed by just that."""
    channel = keys.live(TENANT, str(ROOM))
    allowed = asyncio.Semaphore(0)
    sent: list[str] = []
    read, subscribe, unsubscribe = Listener.next, Listener.subscribe, Listener.unsubscribe

    async def slowly(listener: Listener, timeout_s: float) -> tuple[str, str, bytes] | None:
        message = await read(listener, timeout_s)
        if message and message[1] == channel:
            await allowed.acquire()
        return message

    async def noted(listener: Listener, *channels: str) -> None:
        sent.extend(f"+{one}" for one in channels)
        await subscribe(listener, *channels)

    async def noted_too(listener: Listener, *channels: str) -> None:
        sent.extend(f"-{one}" for one in channels)
        await unsubscribe(listener, *channels)

    monkeypatch.setattr(Listener, "next", slowly)
    monkeypatch.setattr(Listener, "heard", lambda _: None)
    monkeypatch.setattr(Listener, "subscribe", noted)
    monkeypatch.setattr(Listener, "unsubscribe", noted_too)
    async with reading(Tail(store, streams)) as tail:
        first, last = Recorder(), Recorder()
        gone = asyncio.create_task(tail.follow(TENANT, str(ROOM), first))
        await eventually(lambda: sent[-1:] == [f"+{channel}"])
        while await store.call("PUBSUB", "NUMSUB", channel) == [channel.encode(), 0]:
            await asyncio.sleep(0.01)
        await streams.publish(TENANT, ROOM, event())
        tail.unfollow(TENANT, str(ROOM), first)
        await eventually(lambda: sent[-1:] == [f"-{channel}"])
        follows = asyncio.create_task(tail.follow(TENANT, str(ROOM), last))
        await eventually(lambda: sent[-1:] == [f"+{channel}"])
        for _ in ("confirmed", "announced"):
            allowed.release()
        await asyncio.wait({follows}, timeout=0.1)
        assert not follows.done()
        for _ in ("dropped", "confirmed", "announced"):
            allowed.release()
        await asyncio.wait_for(follows, 5)
        await streams.publish(TENANT, ROOM, event())
        await eventually(lambda: last.seqs)
        assert last.seqs == [2]
        gone.cancel()


async def test_following_and_dropping_in_one_breath_leaves_the_last_wish(tail: Tail, streams: StreamLog) -> None:
    first, last = Recorder(), Recorder()
    waiting = asyncio.create_task(tail.follow(TENANT, str(ROOM), first))
    await asyncio.sleep(0)
    tail.unfollow(TENANT, str(ROOM), first)
    await tail.follow(TENANT, str(ROOM), last)
    waiting.cancel()
    await streams.publish(TENANT, ROOM, event())
    await eventually(lambda: last.seqs == [1])
    assert first.live == []


async def test_a_listener_that_is_cancelled_as_a_message_comes_is_cancelled(store: Store) -> None:
    # As in test_streams.py: the cancel of a reader, and with it the end of the process, was forgotten.
    async def read() -> None:
        while True:
            await listener.next(5)

    for turns in range(40):
        async with store.listen() as listener:
            await listener.subscribe("c")
            task = asyncio.create_task(read())
            await asyncio.sleep(0)
            publishing = asyncio.create_task(store.call("PUBLISH", "c", "x"))
            for _ in range(turns % 20):
                await asyncio.sleep(0)
            task.cancel()
            done, _ = await asyncio.wait({task}, timeout=5)
            assert done, f"still reading after a cancel in its turn {turns % 20}"
            await publishing


async def test_a_newer_connection_of_a_session_is_told_to_the_older(tail: Tail, store: Store, settings: Settings) -> None:
    session = await open_session(store, settings, TENANT, "ann", None)
    name = keys.session_stream(session.id)
    sink = Recorder()
    await tail.follow(TENANT, name, sink)
    newer = await open_session(store, settings, TENANT, "ann", session.id)
    await eventually(lambda: sink.taken_over)
    assert sink.taken_over == [(name, newer.generation)]
    assert sink.live == []


async def test_an_announcement_that_is_not_ours_harms_nobody(tail: Tail, streams: StreamLog, store: Store) -> None:
    sink = Recorder()
    await tail.follow(TENANT, str(ROOM), sink)
    for junk in (b"", b"x", b"!x", b"a b c", b"\xff \xff \xff", b"e 1 2 3\n{}"):
        await store.call("PUBLISH", keys.live(TENANT, str(ROOM)), junk)
    await streams.publish(TENANT, ROOM, event())
    await eventually(lambda: sink.seqs == [1])


@pytest.mark.parametrize("repetition", range(3))
async def test_history_and_live_join_without_a_hole_or_a_repeat(
    tail: Tail, streams: StreamLog, redis_url: str, settings: Settings, repetition: int
) -> None:
    other = Store(redis_url)
    log = StreamLog(other, settings)
    written = 0

    async def write(count: int) -> None:
        nonlocal written
        for i in range(count):
            await log.publish(TENANT, ROOM, event("y" * 40_000 if i % 17 == 5 else "y"))
            written += 1

    try:
        await write(20)
        readers = [Reader(streams, str(ROOM)) for _ in range(5)]
        async with asyncio.TaskGroup() as group:
            writers = [group.create_task(write(60)) for _ in range(2)]
            tasks = []
            for reader in readers:  # each joins at another moment
                await asyncio.sleep(0)
                tasks.append(group.create_task(reader.run(tail)))
                before = written
                await eventually(lambda before=before: written > before + 5 or all(one.done() for one in writers))
            await asyncio.wait(writers)
            await eventually(lambda: all(len(reader.got) >= 140 for reader in readers))
            for task in tasks:
                task.cancel()
    finally:
        await other.close()
    stored: list[bytes] = []
    while page := (await streams.read(TENANT, str(ROOM), len(stored))).events:
        stored += page
    assert len(stored) == 140
    for reader in readers:
        assert reader.seqs == list(range(1, 141))
        assert reader.got == stored


async def test_a_lost_last_announcement_is_found_by_a_check(tail: Tail, streams: StreamLog, store: Store) -> None:
    sink = Recorder()
    await tail.follow(TENANT, str(ROOM), sink)
    await streams.publish(TENANT, ROOM, event())
    await eventually(lambda: sink.seqs == [1])
    await tail.check()
    sink.checked.clear()
    await silently(store, streams)
    await tail.check()
    ((stream, head),) = sink.checked
    assert (stream, head.top) == (str(ROOM), 2)


async def test_a_check_says_nothing_about_what_was_heard(tail: Tail, streams: StreamLog) -> None:
    sink = Recorder()
    await tail.follow(TENANT, str(ROOM), sink)
    await streams.publish(TENANT, ROOM, event())
    await eventually(lambda: sink.seqs == [1])
    await tail.check()
    sink.checked.clear()
    for _ in range(3):
        await tail.check()
    assert sink.checked == []


async def test_a_job_s_lost_last_event_is_found_by_itself(
    store: Store, streams: StreamLog, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    monkeypatch.setattr(tail_module, "ACTIVE_CHECK_S", 0.05)
    job, sink, idle = Stream("job", "one"), Recorder(), Recorder()
    async with reading(Tail(store, streams)) as tail:
        await tail.follow(TENANT, str(job), sink)
        await tail.follow(TENANT, str(ROOM), idle)
        for stream in (job, ROOM):
            await streams.publish(TENANT, stream, event(stream=stream))
        await eventually(lambda: sink.seqs == [1] and idle.seqs == [1])
        idle.checked.clear()
        await silently(store, streams, stream=ROOM)
        await silently(store, streams, stream=job)
        await eventually(lambda: any(head.top == 2 for _, head in sink.checked))
        # A room need not move: it is looked at in the long round only.
        assert idle.checked == []


async def test_a_log_that_vanished_is_told_by_the_check(tail: Tail, streams: StreamLog, store: Store) -> None:
    sink = Recorder()
    await tail.follow(TENANT, str(ROOM), sink)
    published = await streams.publish(TENANT, ROOM, event())
    await eventually(lambda: sink.seqs == [1])
    await tail.check()
    sink.checked.clear()
    await store.call("DEL", keys.log(TENANT, str(ROOM)), keys.meta(TENANT, str(ROOM)))
    await tail.check()
    assert [(head.epoch, head.top) for _, head in sink.checked] == [("", 0)]
    again = await streams.publish(TENANT, ROOM, event())
    await eventually(lambda: len(sink.live) == 2)
    assert again.epoch != published.epoch
    assert sink.live[-1][1].epoch == again.epoch


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[PrivateRedis]:
    if find_server() is None:
        pytest.skip("no server")
    with PrivateRedis(tmp_path) as server:
        yield server


@contextmanager
def real_only(redis_kind: str) -> Iterator[None]:
    if redis_kind == "fake":
        pytest.skip("fakeredis has no connections to kill or to count")
    yield


async def test_a_connection_that_was_killed_is_made_again_and_everything_checked(
    redis_kind: str, tail: Tail, streams: StreamLog, store: Store
) -> None:
    with real_only(redis_kind):
        readers = [Reader(streams, f"room:{i}") for i in range(20)]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(reader.run(tail)) for reader in readers]
            for round in range(1, 5):
                assert await store.call("CLIENT", "KILL", "TYPE", "pubsub") >= 1
                for i in range(20):
                    await streams.publish(TENANT, Stream("room", str(i)), event())
                await eventually(lambda round=round: all(reader.seqs == list(range(1, round + 1)) for reader in readers))
                await eventually(tail.connected.is_set)
            for task in tasks:
                task.cancel()


async def test_a_follower_that_waits_while_redis_is_away_is_served_when_it_is_back(own_redis: PrivateRedis) -> None:
    store = Store(own_redis.url)
    streams = StreamLog(store, load_settings(REDIS_URL=own_redis.url))
    try:
        async with reading(Tail(store, streams)) as tail:
            before = await streams.publish(TENANT, ROOM, event())
            reader = Reader(streams, str(ROOM))
            following = asyncio.create_task(reader.run(tail))
            await eventually(lambda: reader.seqs == [1])
            own_redis.kill()
            await eventually(lambda: not tail.connected.is_set())
            late = Recorder()
            waiting = asyncio.create_task(tail.follow(TENANT, "room:late", late))
            done, _ = await asyncio.wait({waiting}, timeout=0.1)
            assert not done
            await asyncio.to_thread(own_redis.start)
            await waiting
            await eventually(lambda: alive(store))
            after = await insist("test", partial(streams.publish, hash="h", records=["rt:-:idem:k:ann:1"]), TENANT, ROOM, event())
            await eventually(lambda: events.seq_of(reader.got[-1]) == after.seq)
            assert after.epoch != before.epoch  # another incarnation of the server
            following.cancel()
    finally:
        await store.close()


async def test_thousands_of_follows_cost_one_connection(redis_kind: str, tail: Tail, streams: StreamLog, store: Store) -> None:
    with real_only(redis_kind):

        async def connections() -> list[str]:
            return [line for line in (await store.call("CLIENT", "LIST")).decode().splitlines() if line]

        before = len(await connections())
        sink = Recorder()
        names = [f"room:{i}" for i in range(3000)]
        await asyncio.gather(*(tail.follow(TENANT, name, sink) for name in names))
        lines = await connections()
        assert len(lines) == before
        assert sum(" sub=3001 " in line for line in lines) == 1
        chosen = secrets.choice(names)
        await streams.publish(TENANT, parse_stream(chosen), event())
        await eventually(lambda: sink.live)
        assert sink.live[0][0] == chosen
        for name in names:
            tail.unfollow(TENANT, name, sink)

        async def dropped() -> bool:
            return any(" sub=1 " in line for line in await connections())

        await eventually(dropped)
