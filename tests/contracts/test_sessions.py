"""Sessions in Redis: whose they are, which connection is the newest, and how far each stream was read."""

import asyncio
from typing import Any

import pytest

from rt import keys
from rt.cursor import Cursor
from rt.errors import Refused, TakenOver, Unavailable
from rt.redis import Store
from rt.settings import Settings, load_settings
from rt.streams import sessions as sessions_module
from rt.streams.sessions import Cursors, Entry, Known, Session, open_session
from tests.chaos.proxy import HALF_OPEN, Proxy
from tests.helpers import TENANT, eventually


@pytest.fixture
def cursors(store: Store, settings: Settings) -> Cursors:
    return Cursors(store, settings)


class Connection:
    """A connection as `Cursors` sees it."""

    def __init__(self, session: Session, subject: str = "ann") -> None:
        self.taken_over = 0
        self.entry = Entry(TENANT, subject, session.id, session.generation, self._take_over)

    def _take_over(self) -> None:
        self.taken_over += 1


async def opened(store: Store, settings: Settings, id: str | None = None, subject: str = "ann") -> Session:
    return await open_session(store, settings, TENANT, subject, id)


async def test_a_new_session_has_an_id_that_nobody_guesses(store: Store, settings: Settings) -> None:
    first, second = await opened(store, settings), await opened(store, settings)
    assert first.id != second.id
    assert len(first.id) >= 43  # 256 bits
    assert (first.generation, first.resumed, followed(first), first.done) == (1, False, {}, {})
    assert str(keys.parse_stream(keys.session_stream(first.id))) == keys.session_stream(first.id)


async def test_a_session_is_kept_for_its_time_without_a_connection(store: Store, settings: Settings) -> None:
    session = await opened(store, settings)
    key = keys.cursors(TENANT, session.id)
    assert settings.session_ttl_s - 5 <= await store.call("TTL", key) <= settings.session_ttl_s
    await store.call("EXPIRE", key, 5)
    await opened(store, settings, session.id)
    assert await store.call("TTL", key) > 5


async def test_each_resume_raises_the_generation(store: Store, settings: Settings) -> None:
    session = await opened(store, settings)
    again = [await opened(store, settings, session.id) for _ in range(3)]
    assert [(one.id, one.resumed) for one in again] == [(session.id, True)] * 3
    generations = [one.generation for one in (session, *again)]
    assert generations == sorted(set(generations))


async def test_a_generation_that_a_failover_lost_is_not_given_again(store: Store, settings: Settings) -> None:
    # Counted on from what the replica had, two living connections were of one generation, and neither was refused.
    session = await opened(store, settings)
    key = keys.cursors(TENANT, session.id)
    replica = await store.call("DUMP", key)
    lost = await opened(store, settings, session.id)
    await store.call("DEL", key)
    await store.call("RESTORE", key, 0, replica)
    assert (await opened(store, settings, session.id)).generation > lost.generation


async def test_an_unknown_session_begins_a_new_one_under_another_id(store: Store, settings: Settings) -> None:
    made_up = "x" * 43
    session = await opened(store, settings, made_up)
    assert not session.resumed
    assert session.id != made_up
    assert await store.call("EXISTS", keys.cursors(TENANT, made_up)) == 0


async def test_another_subject_s_session_is_refused_and_left_alone(store: Store, settings: Settings) -> None:
    session = await opened(store, settings)
    with pytest.raises(Refused) as refused:
        await opened(store, settings, session.id, subject="bob")
    assert refused.value.code == "forbidden"
    assert int(await store.call("HGET", keys.cursors(TENANT, session.id), "generation")) == session.generation


async def test_another_tenant_s_session_is_unknown(store: Store, settings: Settings) -> None:
    session = await opened(store, settings)
    other = await open_session(store, settings, "other", "ann", session.id)
    assert not other.resumed
    assert other.id != session.id


async def test_a_resume_tells_the_older_connection_at_once(store: Store, settings: Settings) -> None:
    session = await opened(store, settings)
    async with store.listen() as listener:
        await listener.subscribe(keys.live(TENANT, keys.session_stream(session.id)))
        assert (await listener.next(5) or ("",))[0] == "subscribe"
        newer = await opened(store, settings, session.id)
        _, _, data = await eventually(lambda: listener.next(1))
    assert data == b"!%d" % newer.generation


async def test_cursors_are_saved_and_restored(store: Store, settings: Settings, cursors: Cursors) -> None:
    connection = Connection(session := await opened(store, settings))
    cursors.add(connection.entry)
    connection.entry.fields = {
        "c:user:ann": "0a1b2c3d:7",
        "c:room:tea": "0a1b2c3d:0",
        "c:job:a%20b": f"ffffffff:3 {keys.session_stream(session.id)} 12",
        "d:job:old": "user:ann 5",
    }
    await cursors.flush()
    assert connection.entry.fields == {}
    again = await opened(store, settings, session.id)
    assert again.cursors == {
        "user:ann": Known(Cursor("0a1b2c3d", 7)),
        "room:tea": Known(Cursor("0a1b2c3d", 0)),
        "job:a%20b": Known(Cursor("ffffffff", 3), (keys.session_stream(session.id), 12)),
    }
    assert again.done == {"job:old": ("user:ann", 5)}


async def test_an_empty_value_forgets_a_field(store: Store, settings: Settings, cursors: Cursors) -> None:
    connection = Connection(session := await opened(store, settings))
    cursors.add(connection.entry)
    connection.entry.fields = {"c:room:tea": "aa:1", "c:room:mate": "aa:2"}
    await cursors.flush()
    connection.entry.fields = {"c:room:tea": "", "c:room:none": ""}
    await cursors.flush()
    assert followed(await opened(store, settings, session.id)) == {"room:mate": Known(Cursor("aa", 2))}


async def test_an_older_generation_saves_nothing_and_is_told_once(store: Store, settings: Settings, cursors: Cursors) -> None:
    old = Connection(session := await opened(store, settings))
    cursors.add(old.entry)
    new = Connection(await opened(store, settings, session.id))
    cursors.add(new.entry)
    old.entry.fields = {"c:room:tea": "aa:9"}
    new.entry.fields = {"c:room:tea": "aa:2"}
    await cursors.flush()
    await cursors.flush()
    assert (old.taken_over, new.taken_over) == (1, 0)
    assert followed(await opened(store, settings, session.id)) == {"room:tea": Known(Cursor("aa", 2))}


async def test_what_an_older_generation_wants_stored_at_once_is_refused_to_its_face(
    store: Store, settings: Settings, cursors: Cursors
) -> None:
    old = Connection(session := await opened(store, settings))
    cursors.add(old.entry)
    await cursors.put(old.entry, {"c:room:tea": "aa:1"})
    await opened(store, settings, session.id)
    for _ in range(2):
        with pytest.raises(TakenOver):
            await cursors.put(old.entry, {"c:room:late": "aa:9"})
    assert followed(await opened(store, settings, session.id)) == {"room:tea": Known(Cursor("aa", 1))}


async def test_a_session_that_expired_under_its_connection_is_told_too(store: Store, settings: Settings, cursors: Cursors) -> None:
    connection = Connection(session := await opened(store, settings))
    cursors.add(connection.entry)
    await store.call("DEL", keys.cursors(TENANT, session.id))
    connection.entry.fields = {"c:room:tea": "aa:9"}
    await cursors.flush()
    assert connection.taken_over == 1
    assert await store.call("EXISTS", keys.cursors(TENANT, session.id)) == 0


async def test_removing_a_connection_stores_what_is_left_and_calls_nobody(store: Store, settings: Settings, cursors: Cursors) -> None:
    connection = Connection(session := await opened(store, settings))
    cursors.add(connection.entry)
    connection.entry.fields = {"c:room:tea": "aa:3"}
    await cursors.remove(connection.entry)
    assert followed(await opened(store, settings, session.id)) == {"room:tea": Known(Cursor("aa", 3))}
    connection.entry.fields = {"c:room:tea": "aa:4"}
    await cursors.remove(connection.entry)  # of an older generation by now
    assert connection.taken_over == 0


async def test_connections_that_end_together_are_stored_together(
    store: Store, settings: Settings, cursors: Cursors, monkeypatch: pytest.MonkeyPatch
) -> None:
    connections = [Connection(await opened(store, settings)) for _ in range(100)]
    for one in connections:
        cursors.add(one.entry)
        one.entry.fields = {"c:room:x": "e:1"}
    run, calls = store.run, 0

    async def counted(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        return await run(*args)

    monkeypatch.setattr(store, "run", counted)
    await asyncio.gather(*(cursors.remove(one.entry) for one in connections))
    assert calls == 2, "the first one's, and all the others'"
    for one in connections:
        assert await store.call("HGET", keys.cursors(TENANT, one.entry.session), "c:room:x") == b"e:1"


async def test_connections_that_end_wait_for_no_redis(
    settings: Settings, real_redis: str, monkeypatch: pytest.MonkeyPatch, redis_kind: str
) -> None:
    if redis_kind == "fake":
        pytest.skip("it is never away")
    monkeypatch.setattr(sessions_module, "_LAST_WORDS_S", 0.2)
    async with Proxy(real_redis.removeprefix("unix://")) as proxy:
        store = Store(f"redis://127.0.0.1:{proxy.port}/0")
        connections = [Connection(await opened(store, settings)) for _ in range(10)]
        proxy.set(HALF_OPEN)
        cursors = Cursors(store, settings)
        async with asyncio.timeout(1):
            await asyncio.gather(*(cursors.remove(one.entry) for one in connections))
        cursors.add(connections[0].entry)
        connections[0].entry.fields = {"c:room:x": "e:1"}
        async with asyncio.timeout(1):
            with pytest.raises(Unavailable):
                await cursors.flush()
        await store.close()


async def test_changes_are_stored_by_themselves(
    store: Store, settings: Settings, cursors: Cursors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions_module, "FLUSH_S", 0.01)
    connection = Connection(session := await opened(store, settings))
    cursors.add(connection.entry)
    running = asyncio.create_task(cursors.run())
    try:
        connection.entry.fields["c:room:tea"] = "aa:3"
        await eventually(lambda: store.call("HGET", keys.cursors(TENANT, session.id), "c:room:tea"))
    finally:
        running.cancel()


async def test_a_connected_session_is_renewed_though_nothing_changes(
    store: Store, settings: Settings, cursors: Cursors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions_module, "FLUSH_S", 0.01)
    monkeypatch.setattr(sessions_module, "RENEW_S", 0.05)
    connection = Connection(session := await opened(store, settings))
    key = keys.cursors(TENANT, session.id)
    await store.call("EXPIRE", key, 5)
    cursors.add(connection.entry)
    running = asyncio.create_task(cursors.run())

    async def renewed() -> bool:
        return bool(await store.call("TTL", key) > 5)

    try:
        await eventually(renewed)
    finally:
        running.cancel()


def followed(session: Session) -> dict[str, Known]:
    """What a session follows besides its subject's own stream, which every session follows from its beginning."""
    return {stream: known for stream, known in session.cursors.items() if not stream.startswith("user:")}


async def furthest(store: Store, tenant: str, subject: str) -> Cursor | None:
    """Where a new session of the subject begins to read the subject's own stream."""
    begun = (await open_session(store, load_settings(), tenant, subject, None)).cursors[keys.user_stream(subject)].cursor
    return begun if begun.epoch else None


async def test_the_furthest_acknowledgement_of_any_session_is_known(store: Store, settings: Settings, cursors: Cursors) -> None:
    assert await furthest(store, TENANT, "ann") is None
    phone, laptop = Connection(await opened(store, settings)), Connection(await opened(store, settings))
    for connection in (phone, laptop):
        cursors.add(connection.entry)

    async def acknowledge(connection: Connection, cursor: str) -> Cursor | None:
        connection.entry.furthest = cursor
        await cursors.flush()
        return await furthest(store, TENANT, "ann")

    assert await acknowledge(phone, "aa:5") == Cursor("aa", 5)
    assert await acknowledge(laptop, "aa:3") == Cursor("aa", 5)  # it never goes back within its epoch
    assert await acknowledge(laptop, "aa:12") == Cursor("aa", 12)  # numbers are compared as numbers
    assert await acknowledge(phone, "bb:1") == Cursor("bb", 1)
    assert await furthest(store, TENANT, "bob") is None
    assert await store.call("TTL", keys.furthest(TENANT, "ann")) > 0


async def test_an_older_generation_does_not_move_the_furthest(store: Store, settings: Settings, cursors: Cursors) -> None:
    old = Connection(session := await opened(store, settings))
    cursors.add(old.entry)
    await opened(store, settings, session.id)
    old.entry.furthest = "aa:9"
    await cursors.flush()
    assert await furthest(store, TENANT, "ann") is None
    assert old.taken_over == 1


async def test_many_connections_are_saved_in_several_calls(store: Store, settings: Settings, cursors: Cursors) -> None:
    connections = [Connection(await opened(store, settings, subject=f"s{i}"), f"s{i}") for i in range(450)]
    for i, connection in enumerate(connections):
        cursors.add(connection.entry)
        connection.entry.fields = {"c:room:tea": f"aa:{i}"}
        connection.entry.furthest = f"aa:{i}"
    await cursors.flush()
    for i in (0, 199, 200, 449):
        again = await opened(store, settings, connections[i].entry.session, f"s{i}")
        assert followed(again) == {"room:tea": Known(Cursor("aa", i))}
        assert await furthest(store, TENANT, f"s{i}") == Cursor("aa", i)


async def test_nothing_is_forgotten_while_redis_is_away(settings: Settings, tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    away = Store(f"unix://{tmp_path}/nobody.sock")
    cursors = Cursors(away, settings)
    connection = Connection(Session("s" * 43, 1, False))
    cursors.add(connection.entry)
    connection.entry.fields = {"c:room:tea": "aa:3", "c:room:mate": "aa:1"}
    connection.entry.furthest = "aa:3"

    run = away.run

    async def and_meanwhile(*args: object) -> object:
        connection.entry.fields["c:room:tea"] = "aa:4"  # a client acknowledges during the call
        return await run(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(away, "run", and_meanwhile)
    with pytest.raises(Unavailable):
        await cursors.flush()
    assert connection.entry.fields == {"c:room:tea": "aa:4", "c:room:mate": "aa:1"}
    assert connection.entry.furthest == "aa:3"
    await cursors.remove(connection.entry)  # never raises
    assert connection.taken_over == 0
    with pytest.raises(Unavailable):
        await open_session(away, settings, TENANT, "ann", None)
    with pytest.raises(Unavailable):
        await furthest(away, TENANT, "ann")
    await away.close()
