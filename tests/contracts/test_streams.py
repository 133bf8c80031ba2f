"""The contract of streams: whatever Redis stands behind `StreamLog` passes all of it."""

import asyncio
import json

import pytest

from rt import events, keys
from rt.cursor import Cursor
from rt.errors import Refused, TakenOver, Unavailable
from rt.keys import Stream
from rt.redis import Store
from rt.settings import Settings
from rt.streams.log import Authorship, Batch, StreamLog
from rt.streams.replay import NOTHING, Gap, place
from rt.streams.sessions import open_session
from tests.helpers import TENANT, eventually, read_all

ROOM = Stream("room", "tea")
JOB = "job:one"


def event(text: str, stream: object = ROOM, *, ts: int = 1_700_000_000_000) -> bytes:
    return events.encode("message", str(stream), {"text": text}, ts)


async def texts(store: Store, settings: Settings, stream: object = ROOM) -> list[str]:
    return [one["data"]["text"] for one in await read_all(store, settings, str(stream))]


async def own(store: Store, stream: str, fence: str = "1:token", tenant: str = TENANT) -> None:
    """What a claim leaves behind: the attempt's fence."""
    await store.call("HSET", keys.meta(tenant, stream), "fence", fence)


def batch(number: int, *said: str, stream: str = JOB, fence: str = "1:token", checkpoint: bytes = b"", tenant: str = TENANT) -> Batch:
    return Batch(tenant, stream, fence, number, [event(one, stream) for one in said], checkpoint)


async def incarnate(store: Store, word: str) -> None:
    await store.call("SET", keys.INCARNATION, word)


async def test_seq_counts_from_one_without_holes(streams: StreamLog, store: Store, settings: Settings) -> None:
    seqs = [(await streams.publish(TENANT, ROOM, event(str(i)))).seq for i in range(5)]
    assert seqs == [1, 2, 3, 4, 5]
    assert [one["seq"] for one in await read_all(store, settings, str(ROOM))] == [1, 2, 3, 4, 5]


async def test_entries_carry_their_seq_as_the_id_and_as_the_first_member(streams: StreamLog, store: Store) -> None:
    await streams.publish(TENANT, ROOM, event("a"))
    ((id, fields),) = await store.call("XRANGE", keys.log(TENANT, str(ROOM)), "-", "+")
    _, body, _, at = fields
    assert id == b"1-0"
    assert abs(int(at) - await store.now_ms()) < 5000
    assert body.startswith(b'{"seq":1,"type":"message","stream":"room:tea",')
    assert events.seq_of(body) == 1


async def test_a_stream_has_one_epoch_and_another_stream_another(streams: StreamLog) -> None:
    first, second = [await streams.publish(TENANT, ROOM, event("a")) for _ in range(2)]
    other = await streams.publish(TENANT, Stream("room", "coffee"), event("b"))
    assert first.epoch == second.epoch
    assert first.epoch != other.epoch
    assert (await streams.read(TENANT, str(ROOM), 0)).head.epoch == first.epoch


async def test_tenants_do_not_share_a_stream(streams: StreamLog) -> None:
    await streams.publish("a", ROOM, event("a"))
    assert (await streams.read("b", str(ROOM), 0)).events == []
    assert (await streams.publish("b", ROOM, event("b"))).seq == 1


async def test_a_stream_that_does_not_exist_has_an_empty_head(streams: StreamLog) -> None:
    page = await streams.read(TENANT, str(ROOM), 0)
    assert page.head == NOTHING
    assert page.events == []
    assert await streams.heads(TENANT, [str(ROOM)]) == {str(ROOM): page.head}


async def test_opening_names_an_epoch_that_the_first_event_keeps(streams: StreamLog, store: Store) -> None:
    heads = await streams.open(TENANT, [str(ROOM), "user:ann"])
    assert {head.top for head in heads.values()} == {0}
    assert all(head.epoch and head.first == 1 for head in heads.values())
    assert (await streams.publish(TENANT, ROOM, event("a"))).epoch == heads[str(ROOM)].epoch
    assert (await streams.open(TENANT, [str(ROOM)]))[str(ROOM)].top == 1
    assert await store.call("TTL", keys.meta(TENANT, "user:ann")) > 0


async def test_one_call_appends_batches_of_several_streams(streams: StreamLog, store: Store, settings: Settings) -> None:
    for name in ("job:a", "job:b"):
        await own(store, name)
    batches = [batch(1, "a1", "a2", stream="job:a"), batch(1, "b1", stream="job:b"), batch(2, "a3", stream="job:a")]
    answers = await streams.append(batches)
    assert [(one.verdict, one.first, one.last) for one in answers] == [("ok", 1, 2), ("ok", 1, 1), ("ok", 3, 3)]
    assert await texts(store, settings, "job:a") == ["a1", "a2", "a3"]
    assert await texts(store, settings, "job:b") == ["b1"]


async def test_a_repeated_batch_gets_the_same_numbers_and_appends_nothing(streams: StreamLog, store: Store, settings: Settings) -> None:
    await own(store, JOB)
    await streams.append([batch(1, "a")])
    first = await streams.append([batch(2, "b", "c")])
    assert await streams.append([batch(2, "b", "c")]) == first
    assert (first[0].first, first[0].last) == (2, 3)
    assert await texts(store, settings, JOB) == ["a", "b", "c"]


async def test_an_attempt_whose_output_redis_has_lost_in_part_is_refused(streams: StreamLog, store: Store, settings: Settings) -> None:
    """Redis came back as it was after the first batch: the third would follow on a hole that nobody is told of."""
    await own(store, JOB)
    await streams.append([batch(1, "a")])
    log, meta = keys.log(TENANT, JOB), keys.meta(TENANT, JOB)
    copies = [(name, await store.call("DUMP", name)) for name in (log, meta)]
    await streams.append([batch(2, "b")])
    for name, copy in copies:
        await store.call("RESTORE", name, 0, copy, "REPLACE")
    assert [one.verdict for one in await streams.append([batch(3, "c")])] == ["behind"]
    assert await texts(store, settings, JOB) == ["a"]
    # One whose answer was lost with it is appended as if it were new.
    assert [one.verdict for one in await streams.append([batch(2, "b")])] == ["ok"]


async def test_a_repeat_after_a_cancel_is_still_answered_with_its_numbers(streams: StreamLog, store: Store) -> None:
    await own(store, JOB)
    first = await streams.append([batch(1, "a")])
    await store.call("HSET", keys.meta(TENANT, JOB), "cancel", "ann")
    assert await streams.append([batch(1, "a")]) == first


async def test_an_attempt_without_the_fence_is_refused(streams: StreamLog, store: Store, settings: Settings) -> None:
    assert (await streams.append([batch(1, "nobody's")]))[0].verdict == "fenced"
    await own(store, JOB, "2:token")
    for fence in ("1:token", "2:other", "2", ""):
        assert (await streams.append([batch(1, "stale", fence=fence)]))[0].verdict == "fenced"
    assert await texts(store, settings, JOB) == []


async def test_one_refused_batch_does_not_hinder_the_others_of_its_call(streams: StreamLog, store: Store, settings: Settings) -> None:
    await own(store, "job:a")
    await own(store, "job:b")
    await store.call("HSET", keys.meta(TENANT, "job:b"), "cancel", "ann")
    answers = await streams.append(
        [batch(1, "x", stream="job:b"), batch(1, "y", stream="job:c"), batch(1, "z", stream="job:a")],
    )
    assert [one.verdict for one in answers] == ["cancelled", "fenced", "ok"]
    assert await texts(store, settings, "job:a") == ["z"]
    assert await texts(store, settings, "job:b") == []


async def test_a_cancelled_attempt_is_refused_and_told_by_whom(streams: StreamLog, store: Store) -> None:
    await own(store, JOB)
    await store.call("HSET", keys.meta(TENANT, JOB), "cancel", "user:ann")
    (answer,) = await streams.append([batch(1, "a")])
    assert (answer.verdict, answer.by) == ("cancelled", "user:ann")


async def test_a_checkpoint_is_stored_with_the_last_seq_before_it(streams: StreamLog, store: Store) -> None:
    await own(store, JOB)
    await streams.append([batch(1, "a", "b", checkpoint=b'{"at":2}')])
    meta = keys.meta(TENANT, JOB)
    assert await store.call("HMGET", meta, "checkpoint", "checkpoint_seq") == [b'{"at":2}', b"2"]
    (answer,) = await streams.append([batch(2, checkpoint=b'{"at":3}')])  # nothing was emitted in between
    assert (answer.first, answer.last) == (3, 2)
    assert await store.call("HMGET", meta, "checkpoint", "checkpoint_seq") == [b'{"at":3}', b"2"]
    await streams.append([batch(3, "c")])
    assert await store.call("HMGET", meta, "checkpoint", "checkpoint_seq") == [b'{"at":3}', b"2"]


async def test_expiry_is_set_and_only_grows(streams: StreamLog, store: Store, settings: Settings) -> None:
    await streams.publish(TENANT, ROOM, event("a"))
    log, meta = keys.log(TENANT, str(ROOM)), keys.meta(TENANT, str(ROOM))
    kept = settings.retention("room").age_s
    assert kept - 5 <= await store.call("TTL", log) <= kept + 60
    assert settings.meta_ttl_s - 5 <= await store.call("TTL", meta) <= max(kept, settings.meta_ttl_s) + 60

    async def a_minute_later() -> None:
        """An append in the same minute sets no expiry: what it keeps is kept a minute longer instead."""
        await store.call("HINCRBY", meta, "renewed", -60_000)

    await store.call("EXPIRE", log, 10 * kept)
    await store.call("EXPIRE", meta, 10 * kept)
    await a_minute_later()
    await streams.publish(TENANT, ROOM, event("b"))
    assert await store.call("TTL", log) > 9 * kept
    assert await store.call("TTL", meta) > 9 * kept
    await store.call("EXPIRE", log, 5)
    await streams.publish(TENANT, ROOM, event("c"))
    assert await store.call("TTL", log) == 5
    await a_minute_later()
    await streams.publish(TENANT, ROOM, event("d"))
    assert await store.call("TTL", log) > 5


async def test_a_log_that_vanished_expires_again_from_its_next_event_on(streams: StreamLog, store: Store, settings: Settings) -> None:
    await streams.publish(TENANT, ROOM, event("a"))
    await store.call("DEL", keys.log(TENANT, str(ROOM)))
    await streams.publish(TENANT, ROOM, event("b"))
    assert await store.call("TTL", keys.log(TENANT, str(ROOM))) > settings.retention("room").age_s - 5


async def test_a_stream_that_is_kept_for_seconds_has_its_expiry_set_by_each_append(store: Store, settings: Settings) -> None:
    streams = StreamLog(store, settings.model_copy(update={"room_age_s": 5}))
    await streams.publish(TENANT, ROOM, event("a"))
    await store.call("EXPIRE", keys.log(TENANT, str(ROOM)), 2)
    await streams.publish(TENANT, ROOM, event("b"))
    assert 3 <= await store.call("TTL", keys.log(TENANT, str(ROOM))) <= 5


async def test_a_meta_outlives_its_log(streams: StreamLog, store: Store, settings: Settings) -> None:
    shorter = settings.model_copy(update={"meta_ttl_s": 60})
    await StreamLog(store, shorter).publish(TENANT, ROOM, event("a"))
    assert await store.call("TTL", keys.meta(TENANT, str(ROOM))) >= await store.call("TTL", keys.log(TENANT, str(ROOM)))


async def test_trimming_by_length_writes_down_the_first_event_kept(store: Store, settings: Settings) -> None:
    streams = StreamLog(store, settings.model_copy(update={"room_length": 50}))
    # A real server drops whole nodes of a hundred entries.
    for i in range(400):
        await streams.publish(TENANT, ROOM, event(str(i)))
    page = await streams.read(TENANT, str(ROOM), 0)
    assert 1 < page.head.first == page.head.kept <= 351
    assert events.seq_of(page.events[0]) == page.head.first
    assert page.head.top == 400
    assert place(Cursor(page.head.epoch, 0), page.head).gap == Gap("trimmed", 1, page.head.first - 1)
    assert place(Cursor(page.head.epoch, page.head.first - 1), page.head).gap is None


async def test_what_vanished_is_trimmed_once_the_stream_would_keep_it_no_more(store: Store, settings: Settings) -> None:
    """The reason tells an operator whether something was lost that should still be there."""
    streams = StreamLog(store, settings.model_copy(update={"room_length": 50}))

    async def publish(count: int) -> None:
        for i in range(count):
            await streams.publish(TENANT, ROOM, event(str(i)))

    async def gaps(*cursors: int) -> list[Gap | None]:
        head = (await streams.read(TENANT, str(ROOM), 0)).head
        return [place(Cursor(head.epoch, cursor), head).gap for cursor in cursors]

    await publish(30)
    await store.call("DEL", keys.log(TENANT, str(ROOM)))
    assert await gaps(10, 30) == [Gap("expired", 11, 30), None]
    await publish(50)
    assert await gaps(10, 30) == [Gap("expired", 11, 30), None], "of fifty all are there"
    await publish(1)
    first = (await streams.read(TENANT, str(ROOM), 0)).head.first
    assert first in (31, 32)  # a real server drops whole nodes
    assert await gaps(10, first - 1) == [Gap("trimmed", 11, first - 1), None]
    await publish(219)
    first = (await streams.read(TENANT, str(ROOM), 0)).head.first
    assert 130 < first <= 251
    assert await gaps(10, first - 1) == [Gap("trimmed", 11, first - 1), None]
    await store.call("DEL", keys.log(TENANT, str(ROOM)))
    assert await gaps(10, 299, 300) == [Gap("expired", 11, 300), Gap("expired", 300, 300), None]
    await publish(1)
    assert await gaps(10, 299, 300) == [Gap("expired", 11, 300), Gap("expired", 300, 300), None]


async def test_what_vanished_of_a_job_is_trimmed_once_its_stream_would_keep_it_no_more(store: Store, settings: Settings) -> None:
    """Of a job a hundred events and more go at a time."""
    streams = StreamLog(store, settings.model_copy(update={"job_length": 50}))
    await own(store, JOB)

    async def reason(number: int, count: int) -> tuple[str, int | None, int | None]:
        await streams.append([batch(number, *map(str, range(count)))])
        head = (await streams.read(TENANT, JOB, 0)).head
        gap = place(Cursor(head.epoch, 10), head).gap
        assert gap
        return gap.reason, gap.first, gap.last

    await streams.append([batch(1, *map(str, range(30)))])
    await store.call("DEL", keys.log(TENANT, JOB))
    assert await reason(2, 149) == ("expired", 11, 30)
    assert await reason(3, 1) == ("trimmed", 11, 130)
    await store.call("DEL", keys.log(TENANT, JOB))
    assert await reason(4, 149) == ("expired", 11, 180)


async def later(store: Store) -> int:
    """A time by Redis's clock, in ms, that is after everything that was written before it."""
    began = await store.now_ms()
    while (now := await store.now_ms()) == began:
        pass
    return now


async def test_trimming_by_age_drops_what_is_older_and_nothing_young(streams: StreamLog, store: Store, settings: Settings) -> None:
    for i in range(2):
        await streams.publish(TENANT, ROOM, event(str(i)))
    young = await later(store)
    for i in range(2, 5):
        await streams.publish(TENANT, ROOM, event(str(i)))
    assert await streams.trim(TENANT, str(ROOM), young) == 2
    assert await texts(store, settings) == ["2", "3", "4"]
    head = (await streams.heads(TENANT, [str(ROOM)]))[str(ROOM)]
    assert (head.first, head.kept, head.top) == (3, 3, 5)
    assert await streams.trim(TENANT, str(ROOM), young) == 0


async def test_age_is_told_by_redis_s_clock_whatever_the_writer_s_said(streams: StreamLog, store: Store, settings: Settings) -> None:
    hour_ms = 3_600_000
    now = await store.now_ms()
    for i, ts in enumerate([now + hour_ms, now - hour_ms]):
        await streams.publish(TENANT, ROOM, event(str(i), ts=ts))
    young = await later(store)
    for i, ts in enumerate([now - hour_ms, now + hour_ms, now - hour_ms], 2):
        await streams.publish(TENANT, ROOM, event(str(i), ts=ts))
    assert await streams.trim(TENANT, str(ROOM), young) == 2
    assert await texts(store, settings) == ["2", "3", "4"]
    assert [one["ts"] - now for one in await read_all(store, settings, str(ROOM))] == [-hour_ms, hour_ms, -hour_ms]


async def test_an_entry_of_another_hand_has_no_age(streams: StreamLog, store: Store, settings: Settings) -> None:
    await streams.publish(TENANT, ROOM, event("old"))
    await store.call("XADD", keys.log(TENANT, str(ROOM)), "2-0", "e", b'{"seq":2,' + event("by hand")[1:])
    assert await streams.trim(TENANT, str(ROOM), await later(store)) == 1
    assert await texts(store, settings) == ["by hand"]


async def test_trimming_by_age_may_leave_nothing_and_numbers_go_on(streams: StreamLog, store: Store, settings: Settings) -> None:
    for i in range(3):
        await streams.publish(TENANT, ROOM, event(str(i)))
    young = await later(store)
    assert await streams.trim(TENANT, str(ROOM), young, look_at=2) == 2  # a step of a long one
    assert await streams.trim(TENANT, str(ROOM), young, look_at=2) == 1
    head = (await streams.heads(TENANT, [str(ROOM)]))[str(ROOM)]
    assert (head.top, head.first, head.kept) == (3, 4, 4)
    assert place(Cursor(head.epoch, 1), head).gap == Gap("trimmed", 2, 3)
    assert (await streams.publish(TENANT, ROOM, event("next"))).seq == 4
    assert await texts(store, settings) == ["next"]


async def test_trimming_a_stream_that_does_not_exist_makes_none(streams: StreamLog, store: Store) -> None:
    assert await streams.trim(TENANT, str(ROOM), 10) == 0
    assert await store.call("EXISTS", keys.log(TENANT, str(ROOM)), keys.meta(TENANT, str(ROOM))) == 0


async def test_a_page_ends_at_its_count(streams: StreamLog) -> None:
    for i in range(70):
        await streams.publish(TENANT, ROOM, event(str(i)))
    page = await streams.read(TENANT, str(ROOM), 3, count=40)
    assert list(map(events.seq_of, page.events)) == list(range(4, 44))
    assert page.head.top == 70
    page = await streams.read(TENANT, str(ROOM), 43, count=40)
    assert list(map(events.seq_of, page.events)) == list(range(44, 71))
    assert (await streams.read(TENANT, str(ROOM), 70)).events == []
    assert (await streams.read(TENANT, str(ROOM), 1000)).events == []


async def test_a_page_ends_at_its_bytes_and_holds_one_event_at_least(streams: StreamLog) -> None:
    for i in range(6):
        await streams.publish(TENANT, ROOM, event(str(i) * 1000))
    page = await streams.read(TENANT, str(ROOM), 0, max_bytes=3500)
    assert len(page.events) == 3
    assert sum(map(len, page.events)) <= 3500
    page = await streams.read(TENANT, str(ROOM), 3, max_bytes=10)
    assert list(map(events.seq_of, page.events)) == [4]


async def test_pages_joined_are_the_log(streams: StreamLog) -> None:
    for i in range(90):
        await streams.publish(TENANT, ROOM, event("x" * (i * 37 % 500)))
    got: list[int] = []
    while page := (await streams.read(TENANT, str(ROOM), got[-1] if got else 0, max_bytes=2000)).events:
        got += map(events.seq_of, page)
    assert got == list(range(1, 91))


async def test_heads_of_many_streams_come_in_one_call(streams: StreamLog) -> None:
    for i in range(30):
        for _ in range(i % 3):
            await streams.publish(TENANT, Stream("room", str(i)), event("x"))
    # More than one script's worth: the calls are split, and their answers come together.
    names = [f"room:{i}" for i in range(1100)]
    heads = await streams.heads(TENANT, names)
    assert list(heads) == names
    assert [heads[f"room:{i}"].top for i in range(30)] == [i % 3 for i in range(30)]
    assert {head.epoch for head in list(heads.values())[30:]} == {""}


async def test_a_log_that_vanished_under_its_meta_is_a_gap(streams: StreamLog, store: Store) -> None:
    for _ in range(5):
        last = await streams.publish(TENANT, ROOM, event("x"))
    await store.call("DEL", keys.log(TENANT, str(ROOM)))
    page = await streams.read(TENANT, str(ROOM), 2)
    assert page.events == []
    assert (page.head.top, page.head.first, page.head.kept) == (5, 6, 1)
    assert (await streams.heads(TENANT, [str(ROOM)]))[str(ROOM)] == page.head
    assert place(Cursor(last.epoch, 2), page.head).gap == Gap("expired", 3, 5)
    assert place(Cursor(last.epoch, 5), page.head).gap is None
    again = await streams.publish(TENANT, ROOM, event("y"))
    assert again == (last.epoch, 6, False)
    assert (await streams.read(TENANT, str(ROOM), 0)).head.first == 6


async def test_a_stream_that_vanished_whole_begins_a_new_epoch(streams: StreamLog, store: Store) -> None:
    old = await streams.publish(TENANT, ROOM, event("x"))
    await store.call("DEL", keys.log(TENANT, str(ROOM)), keys.meta(TENANT, str(ROOM)))
    new = await streams.publish(TENANT, ROOM, event("y"))
    assert new.seq == 1
    assert new.epoch != old.epoch
    head = (await streams.heads(TENANT, [str(ROOM)]))[str(ROOM)]
    assert place(Cursor(old.epoch, 1), head).gap == Gap("epoch_changed")


async def test_a_log_without_its_meta_is_not_taken_for_the_new_stream(streams: StreamLog, store: Store, settings: Settings) -> None:
    for _ in range(3):
        await streams.publish(TENANT, ROOM, event("old"))
    await store.call("DEL", keys.meta(TENANT, str(ROOM)))
    assert (await streams.publish(TENANT, ROOM, event("new"))).seq == 1
    assert await texts(store, settings) == ["new"]


async def test_another_incarnation_begins_a_new_epoch_with_its_next_append(streams: StreamLog, store: Store) -> None:
    await incarnate(store, "first")
    old = [await streams.publish(TENANT, ROOM, event("x")) for _ in range(3)][-1]
    await incarnate(store, "second")
    assert (await streams.heads(TENANT, [str(ROOM)]))[str(ROOM)].epoch == old.epoch  # nothing was written yet
    new = await streams.publish(TENANT, ROOM, event("y"))
    assert new.epoch != old.epoch
    assert new.seq == 4
    head = (await streams.heads(TENANT, [str(ROOM)]))[str(ROOM)]
    assert head.past == (Cursor(old.epoch, 3),)
    assert (await streams.publish(TENANT, ROOM, event("z"))).epoch == new.epoch
    # A reader of the old epoch goes on without a gap; one that had seen more than came back is told.
    assert place(Cursor(old.epoch, 2), head).gap is None
    assert place(Cursor(old.epoch, 2), head).moved
    assert place(Cursor(old.epoch, 4), head).gap == Gap("epoch_changed")


async def test_whoever_asks_for_a_place_under_another_incarnation_is_told_an_epoch_that_counts(streams: StreamLog, store: Store) -> None:
    """The old one's next numbers may have been given to somebody before Redis lost them."""
    await incarnate(store, "first")
    old = await streams.publish(TENANT, ROOM, event("x"))
    await streams.publish(TENANT, Stream("room", "coffee"), event("x"))
    await incarnate(store, "second")
    assert not (await streams.heads(TENANT, [str(ROOM)]))[str(ROOM)].current
    opened = (await streams.open(TENANT, [str(ROOM)]))[str(ROOM)]
    assert opened.current
    assert opened.epoch != old.epoch
    assert (opened.top, opened.past) == (1, (Cursor(old.epoch, 1),))
    assert (await streams.open(TENANT, [str(ROOM)]))[str(ROOM)] == opened
    assert (await streams.publish(TENANT, ROOM, event("y"))).epoch == opened.epoch
    page = await streams.read_open(TENANT, "room:coffee", 0)
    assert (page.head.current, len(page.head.past), len(page.events)) == (True, 1, 1)


async def test_a_job_that_has_ended_keeps_its_epoch(streams: StreamLog, store: Store) -> None:
    """Where Redis has its end it has all of it, and nobody who follows it need be told anything."""
    await incarnate(store, "first")
    await own(store, JOB)
    (written,) = await streams.append([batch(1, "a")])
    await store.call("HSET", keys.meta(TENANT, JOB), "status", "completed")
    await incarnate(store, "second")
    assert (await streams.open(TENANT, [JOB]))[JOB].epoch == written.epoch
    await store.call("HSET", keys.meta(TENANT, JOB), "status", "running")
    assert (await streams.open(TENANT, [JOB]))[JOB].epoch != written.epoch


async def test_a_full_redis_is_read_also_after_a_restart(streams: StreamLog, store: Store) -> None:
    if store.memory:
        pytest.skip("fakeredis is never full")
    await incarnate(store, "first")
    await streams.publish(TENANT, ROOM, event("x"))
    await incarnate(store, "second")
    await store.call("CONFIG", "SET", "maxmemory", "1mb")
    try:
        with pytest.raises(Unavailable):
            await streams.publish(TENANT, ROOM, event("y"))
        assert len((await streams.read_open(TENANT, str(ROOM), 0)).events) == 1
    finally:
        await store.call("CONFIG", "SET", "maxmemory", "0")
    assert (await streams.open(TENANT, [str(ROOM)]))[str(ROOM)].current


async def test_eight_past_epochs_are_kept_the_newest_first(streams: StreamLog, store: Store) -> None:
    made = []
    for i in range(11):
        await incarnate(store, f"run-{i}")
        made.append(await streams.publish(TENANT, ROOM, event("x")))
    head = (await streams.heads(TENANT, [str(ROOM)]))[str(ROOM)]
    assert head.past == tuple(Cursor(one.epoch, one.seq) for one in made[-2:-10:-1])
    assert len(head.past) == 8


async def test_a_running_attempt_goes_on_under_the_new_incarnation(streams: StreamLog, store: Store, settings: Settings) -> None:
    await incarnate(store, "first")
    await own(store, JOB)
    (before,) = await streams.append([batch(1, "a")])
    await incarnate(store, "second")
    (after,) = await streams.append([batch(2, "b")])
    assert (after.first, after.last) == (2, 2)
    assert after.epoch != before.epoch
    assert await texts(store, settings, JOB) == ["a", "b"]


async def test_a_stream_keeps_its_epoch_while_the_incarnation_is_unknown(streams: StreamLog, store: Store) -> None:
    await incarnate(store, "first")
    old = await streams.publish(TENANT, ROOM, event("x"))
    await store.call("DEL", keys.INCARNATION)  # INFO is refused now: that is no restart
    assert (await streams.publish(TENANT, ROOM, event("z"))).epoch == old.epoch
    await incarnate(store, "second")
    assert (await streams.publish(TENANT, ROOM, event("z"))).epoch != old.epoch


async def test_a_stream_that_was_begun_under_an_unknown_incarnation_does_not_outlive_it(streams: StreamLog, store: Store) -> None:
    """FLUSHALL takes the note of the incarnation as well. Had Redis then lost its last second, seqs would be used again."""
    await store.call("DEL", keys.INCARNATION)
    old = await streams.publish(TENANT, ROOM, event("x"))
    assert (await streams.publish(TENANT, ROOM, event("y"))).epoch == old.epoch
    await incarnate(store, "first")
    new = await streams.publish(TENANT, ROOM, event("z"))
    assert (new.epoch != old.epoch, new.seq) == (True, 3)
    assert (await streams.heads(TENANT, [str(ROOM)]))[str(ROOM)].past == (Cursor(old.epoch, 2),)


async def test_a_publish_with_a_record_happens_once(streams: StreamLog, store: Store, settings: Settings) -> None:
    record = keys.idempotency(TENANT, "ann", "k")
    first = await streams.publish(TENANT, ROOM, event("a"), hash="h", records=[record])
    again = await streams.publish(TENANT, ROOM, event("a"), hash="h", records=[record])
    assert (first.duplicate, again.duplicate) == (False, True)
    assert again[:2] == first[:2]
    assert await texts(store, settings) == ["a"]
    assert 0 < await store.call("TTL", record) <= 86_400


async def test_a_record_of_another_request_is_a_conflict(streams: StreamLog, store: Store, settings: Settings) -> None:
    record = keys.idempotency(TENANT, "ann", "k")
    await streams.publish(TENANT, ROOM, event("a"), hash="h", records=[record])
    with pytest.raises(Refused) as refused:
        await streams.publish(TENANT, ROOM, event("b"), hash="other", records=[record])
    assert refused.value.code == "conflict"
    assert await texts(store, settings) == ["a"]


async def test_any_of_several_records_makes_a_publish_a_repeat(streams: StreamLog, store: Store, settings: Settings) -> None:
    await streams.publish(TENANT, ROOM, event("a"), hash="h", records=["rt:-:idem:k:ann:1"])
    again = await streams.publish(TENANT, ROOM, event("a"), hash="h", records=["rt:-:idem:c:s:9", "rt:-:idem:k:ann:1"])
    assert again.duplicate
    assert await texts(store, settings) == ["a"]


async def test_an_older_connection_of_a_session_publishes_nothing(streams: StreamLog, store: Store, settings: Settings) -> None:
    opened = await open_session(store, settings, TENANT, "ann", None)
    by = Authorship(opened.id, opened.generation)
    await streams.publish(TENANT, ROOM, event("mine"), by=by)
    newer = await open_session(store, settings, TENANT, "ann", opened.id)
    with pytest.raises(TakenOver):
        await streams.publish(TENANT, ROOM, event("stale"), by=by)
    await streams.publish(TENANT, ROOM, event("newer"), by=Authorship(opened.id, newer.generation))
    assert await texts(store, settings) == ["mine", "newer"]


async def test_an_announcement_carries_the_stored_bytes(streams: StreamLog, store: Store) -> None:
    await own(store, JOB)
    async with store.listen() as listener:
        await listener.subscribe(keys.live(TENANT, JOB))
        assert (await listener.next(5) or ("",))[0] == "subscribe"
        (answer,) = await streams.append([batch(1, "a", "b")])
        kind, channel, data = await eventually(lambda: listener.next(1)) or ("", "", b"")
    assert (kind, channel) == ("message", keys.live(TENANT, JOB))
    head, *bodies = data.split(b"\n")
    assert head.decode() == f"{answer.epoch} 1 2"
    assert bodies == (await streams.read(TENANT, JOB, 0)).events


async def test_a_large_announcement_carries_only_the_numbers(streams: StreamLog, store: Store) -> None:
    async with store.listen() as listener:
        await listener.subscribe(keys.live(TENANT, str(ROOM)))
        assert (await listener.next(5) or ("",))[0] == "subscribe"
        envelope = len(event("")) + len(b'"seq":1,')
        exact = await streams.publish(TENANT, ROOM, event("x" * (32 * 1024 - envelope)))
        _, _, data = await eventually(lambda: listener.next(1))
        assert data.count(b"\n") == 1
        assert len(data.partition(b"\n")[2]) == 32 * 1024
        await streams.publish(TENANT, ROOM, event("x" * (32 * 1024 - envelope + 1)))
        _, _, data = await eventually(lambda: listener.next(1))
    assert data.decode() == f"{exact.epoch} 2 2"


async def test_two_writers_at_once_make_no_hole_and_no_double(redis_url: str, streams: StreamLog, store: Store, settings: Settings) -> None:
    other = Store(redis_url)
    try:
        writers = [streams, StreamLog(other, settings)]
        seqs = await asyncio.gather(*(writers[i % 2].publish(TENANT, ROOM, event(str(i))) for i in range(200)))
    finally:
        await other.close()
    assert sorted(one.seq for one in seqs) == list(range(1, 201))
    by_seq = {one.seq: str(i) for i, one in enumerate(seqs)}
    assert await texts(store, settings) == [by_seq[seq] for seq in range(1, 201)]


async def test_a_store_that_is_away_is_unavailable_and_never_raises_its_library_s_errors(settings: Settings, tmp_path: object) -> None:
    away = Store(f"unix://{tmp_path}/nobody.sock")
    streams = StreamLog(away, settings)
    calls = [
        streams.publish(TENANT, ROOM, event("a")),
        streams.append([batch(1, "a")]),
        streams.read(TENANT, str(ROOM), 0),
        streams.heads(TENANT, [str(ROOM)]),
        streams.open(TENANT, [str(ROOM)]),
        streams.trim(TENANT, str(ROOM), 0),
    ]
    for call in calls:
        with pytest.raises(Unavailable):
            await call
    assert not await away.takes_writes()
    await away.close()


async def test_stored_bytes_are_what_was_encoded_with_its_seq(streams: StreamLog) -> None:
    raw = events.encode("message", str(ROOM), {"text": 'ünï "quoted"\n\x00 {"seq":9}'}, 7)
    await streams.publish(TENANT, ROOM, raw)
    (stored,) = (await streams.read(TENANT, str(ROOM), 0)).events
    assert json.loads(stored) == {"seq": 1, **json.loads(raw)}


async def test_a_call_that_is_cancelled_as_its_answer_comes_is_cancelled(store: Store) -> None:
    # Python 3.11's asyncio.wait_for, with which redis-py sends, returned the result and forgot the cancel: a chore that
    # is cancelled once, as at shutdown, went on for good.
    async def chore() -> None:
        while True:
            await store.call("GET", "x")

    for turns in range(60):
        task = asyncio.create_task(chore())
        for _ in range(turns % 20):
            await asyncio.sleep(0)
        task.cancel()
        done, _ = await asyncio.wait({task}, timeout=5)
        assert done, f"still running after a cancel in its turn {turns % 20}"
