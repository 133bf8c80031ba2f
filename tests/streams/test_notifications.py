"""Notifications in Redis: appended once, muted by level, unread until somebody says otherwise."""

import asyncio
from typing import Any

import pytest

from rt import keys
from rt.cursor import Cursor
from rt.errors import Refused
from rt.redis import Store
from rt.settings import Settings, load_settings
from rt.streams.log import StreamLog
from rt.streams.notifications import Notification, Notifications
from rt.streams.sessions import Cursors, Entry, open_session
from tests.helpers import TENANT, read_all

HELLO = Notification("Hello", "there", "info", {"n": 1})
ALARM = Notification("Fire", "run", "error", {})


@pytest.fixture
def notifications(store: Store, streams: StreamLog, settings: Settings) -> Notifications:
    return Notifications(store, streams, settings)


async def titles(store: Store, settings: Settings, subject: str) -> list[str]:
    return [one["data"]["title"] for one in await read_all(store, settings, keys.user_stream(subject)) if one["type"] == "notification"]


async def test_a_notification_is_an_event_of_the_subject_s_stream(notifications: Notifications, store: Store, settings: Settings) -> None:
    sent = await notifications.send(TENANT, "ann/b", HELLO)
    event = (await read_all(store, settings, "user:ann%2Fb"))[0]
    assert (event["type"], event["seq"], sent.seq, sent.muted) == ("notification", 1, 1, False)
    assert event["data"] == {"title": "Hello", "message": "there", "level": "info", "metadata": {"n": 1}}


async def test_the_same_record_sends_once_and_another_request_s_is_a_conflict(
    notifications: Notifications, store: Store, settings: Settings
) -> None:
    record = [keys.idempotency(TENANT, "svc", "k")]
    sent = await asyncio.gather(*(notifications.send(TENANT, "ann", HELLO, hash="h", records=record) for _ in range(5)))
    assert sorted(one.duplicate for one in sent) == [False, True, True, True, True]
    assert {one.seq for one in sent} == {1}
    with pytest.raises(Refused) as refused:
        await notifications.send(TENANT, "ann", ALARM, hash="other", records=record)
    assert refused.value.code == "conflict"
    assert await titles(store, settings, "ann") == ["Hello"]


async def test_a_muted_level_is_not_written_and_others_are(notifications: Notifications, store: Store, settings: Settings) -> None:
    await notifications.mute(TENANT, "ann", ["info", "success"])
    assert await notifications.muted(TENANT, "ann") == ["info", "success"]
    muted = await notifications.send(TENANT, "ann", HELLO)
    assert (muted.muted, muted.seq) == (True, 0)
    await notifications.send(TENANT, "ann", ALARM)
    await notifications.send(TENANT, "bob", HELLO)
    assert await titles(store, settings, "ann") == ["Fire"]
    assert await titles(store, settings, "bob") == ["Hello"]
    await notifications.mute(TENANT, "ann", [])
    await notifications.send(TENANT, "ann", HELLO)
    assert await titles(store, settings, "ann") == ["Fire", "Hello"]


async def test_a_preference_lives_on_while_it_is_asked_for(notifications: Notifications, store: Store) -> None:
    await notifications.mute(TENANT, "ann", ["info"])
    await store.call("EXPIRE", keys.muted(TENANT, "ann"), 5)
    await notifications.send(TENANT, "ann", HELLO)
    assert await store.call("TTL", keys.muted(TENANT, "ann")) > 5


async def test_unread_is_what_nobody_marked_as_read(
    notifications: Notifications, streams: StreamLog, store: Store, settings: Settings
) -> None:
    assert (await notifications.unread(TENANT, "ann")).unread == 0
    sent = [await notifications.send(TENANT, "ann", HELLO) for _ in range(3)]
    epoch = sent[0].epoch
    assert await notifications.unread(TENANT, "ann") == (3, Cursor(epoch, 0))
    assert await notifications.mark_read(TENANT, "ann", Cursor(epoch, 2)) == (1, Cursor(epoch, 2))
    # Other events of the stream are no notifications; and the other devices are told of the mark.
    told = (await read_all(store, settings, "user:ann"))[-1]
    assert (told["type"], told["data"]) == ("notification.read", {"read": f"{epoch}:2", "unread": 1})
    assert await notifications.unread(TENANT, "ann") == (1, Cursor(epoch, 2))


async def test_the_mark_never_goes_back_and_moves_once(notifications: Notifications, store: Store, settings: Settings) -> None:
    sent = [await notifications.send(TENANT, "ann", HELLO) for _ in range(3)]
    for seq in (3, 1, 3, 0):
        marked = await notifications.mark_read(TENANT, "ann", Cursor(sent[0].epoch if seq else "", seq))
        assert marked == (0, Cursor(sent[0].epoch, 3))
    assert len(await read_all(store, settings, "user:ann")) == 4


async def test_a_cursor_above_the_top_or_of_a_lost_epoch_is_refused(notifications: Notifications) -> None:
    sent = await notifications.send(TENANT, "ann", HELLO)
    for cursor in (Cursor(sent.epoch, 2), Cursor("0badf00d", 1)):
        with pytest.raises(Refused) as refused:
            await notifications.mark_read(TENANT, "ann", cursor)
        assert refused.value.code == "conflict"
    assert (await notifications.unread(TENANT, "ann")).unread == 1


async def test_a_mark_of_before_a_restart_that_lost_nothing_counts(notifications: Notifications, store: Store) -> None:
    await store.call("SET", keys.INCARNATION, "one")
    sent = [await notifications.send(TENANT, "ann", HELLO) for _ in range(2)]
    await store.call("SET", keys.INCARNATION, "two")
    marked = await notifications.mark_read(TENANT, "ann", Cursor(sent[0].epoch, 1))
    assert (marked.unread, marked.read.seq) == (1, 1)
    assert marked.read.epoch != sent[0].epoch


async def test_what_the_stream_no_longer_has_is_not_unread(notifications: Notifications, streams: StreamLog, store: Store) -> None:
    for _ in range(4):
        await notifications.send(TENANT, "ann", HELLO)
    assert await streams.trim(TENANT, "user:ann", 2**53, look_at=3) == 3
    assert (await notifications.unread(TENANT, "ann")).unread == 1
    await store.call("DEL", keys.log(TENANT, "user:ann"))
    assert (await notifications.unread(TENANT, "ann")).unread == 0


async def test_the_seen_are_who_opened_a_session_in_the_order_in_which_they_did(
    notifications: Notifications, store: Store, settings: Settings
) -> None:
    sessions = {name: await open_session(store, settings, TENANT, name, None) for name in ("ann", "bob", "cid")}
    await open_session(store, settings, TENANT, "ann", sessions["ann"].id)  # too soon to be worth a note
    assert [subject for subject, _ in await notifications.seen(TENANT, 0, 10)] == ["ann", "bob", "cid"]
    await store.call("HSET", keys.cursors(TENANT, sessions["ann"].id), "seen", 1)
    await open_session(store, settings, TENANT, "ann", sessions["ann"].id)
    await open_session(store, settings, "other", "dan", None)
    found = await notifications.seen(TENANT, 0, 10)
    assert [subject for subject, _ in found] == ["bob", "cid", "ann"]
    assert len({at for _, at in found}) == 3
    assert await notifications.seen(TENANT, found[1][1], 1) == [found[1]]
    with pytest.raises(Refused):
        await open_session(store, settings, TENANT, "eve", sessions["ann"].id)
    assert len(await notifications.seen(TENANT, 0, 10)) == 3


async def test_the_seen_are_forgotten_with_the_retention_and_kept_by_a_connection(notifications: Notifications, store: Store) -> None:
    settings = load_settings(REDIS_URL="memory://", user_age_s=100)
    await open_session(store, settings, TENANT, "ann", None)
    await open_session(store, settings, TENANT, "bob", None)
    await store.call("ZADD", keys.seen(TENANT), 1, "ann", 2, "bob")
    cursors = Cursors(store, settings)
    cursors.add(Entry(TENANT, "bob", "s", 1, lambda: None))
    await cursors.note_seen()
    # A quarter of the time may pass between two notes: they are kept for as much longer.
    assert [subject for subject, _ in await notifications.seen(TENANT, 0, 10)] == ["bob"]
    assert 0 < await store.call("TTL", keys.seen(TENANT)) <= 125


async def test_a_part_of_a_broadcast_reaches_each_once(notifications: Notifications, store: Store, settings: Settings) -> None:
    await notifications.mute(TENANT, "bob", ["info"])
    assert await notifications.send_part(TENANT, "b1", ["ann", "bob"], HELLO) == (1, 1)
    assert await notifications.send_part(TENANT, "b1", ["bob", "ann", "sent"], HELLO) == (2, 1)
    assert await notifications.send_part(TENANT, "b1", [], HELLO) == (2, 1)
    assert await notifications.send_part(TENANT, "b2", ["ann"], HELLO) == (1, 0)
    for subject, count in {"ann": 2, "bob": 0, "sent": 1}.items():
        assert len(await titles(store, settings, subject)) == count
    # It may be run again for as long as its dead letter is kept; once it has reached everybody it is not.
    assert await store.call("TTL", keys.broadcast(TENANT, "b1")) > settings.dead_letter_age_s
    await notifications.sent_all(TENANT, "b1")
    assert 0 < await store.call("TTL", keys.broadcast(TENANT, "b1")) <= 86_400


async def test_a_notification_above_256_kib_is_too_large(notifications: Notifications) -> None:
    big: dict[str, Any] = {"x": "x" * 256 * 1024}
    with pytest.raises(Refused) as refused:
        await notifications.send(TENANT, "ann", Notification("t", "m", "info", big))
    assert refused.value.code == "too_large"
