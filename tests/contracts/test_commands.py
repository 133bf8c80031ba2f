"""Commands take effect once: the same id gets the same answer, whoever asks and however often."""

import asyncio
from typing import Any

import pytest

from rt import keys
from rt.errors import JobError, Refused, TakenOver, Unavailable
from rt.redis import Store
from rt.settings import Settings
from rt.streams import commands as commands_module
from rt.streams.commands import Commands, request_hash, until_not_busy
from rt.streams.log import Authorship
from rt.streams.sessions import open_session
from tests.helpers import TENANT, eventually

RECORD = keys.command(TENANT, "session", "1")


@pytest.fixture
def commands(store: Store) -> Commands:
    return Commands(store)


class Effect:
    """Something that should happen once: counts, waits while it is held, then answers or raises."""

    def __init__(self, answer: Any = None, error: BaseException | None = None, *, held: bool = False) -> None:
        self.count = 0
        self.answer, self.error = answer, error
        self.go = asyncio.Event()
        if not held:
            self.go.set()

    async def __call__(self) -> Any:
        self.count += 1
        await self.go.wait()
        if self.error:
            raise self.error
        return self.answer


async def test_the_same_id_gets_the_same_answer(commands: Commands, store: Store) -> None:
    effect = Effect({"job_id": "j", "n": [1, None, "ü"]})
    for _ in range(3):
        assert await commands.once(TENANT, RECORD, "h", effect) == effect.answer
    assert effect.count == 1
    assert 86_000 < await store.call("TTL", RECORD) <= 86_400


async def test_an_answer_of_nothing_is_an_answer(commands: Commands) -> None:
    effect = Effect(None)
    assert [await commands.once(TENANT, RECORD, "h", effect) for _ in range(2)] == [None, None]
    assert effect.count == 1


_DEEP: Any = 1
for _ in range(70):
    _DEEP = [_DEEP]


@pytest.mark.parametrize("answer", [object(), "\ud800", _DEEP], ids=["an object", "half a pair", "deeper than can be read"])
async def test_an_answer_that_cannot_be_told_again_is_an_error_and_holds_nobody_up(commands: Commands, answer: Any) -> None:
    with pytest.raises(ValueError, match=r"JSON|surrogate|deep|nest|serialize"):
        await commands.once(TENANT, RECORD, "h", Effect(answer))
    async with asyncio.timeout(1):
        assert await commands.once(TENANT, RECORD, "h", Effect("fine")) == "fine"


async def test_the_same_id_with_another_body_is_a_conflict(commands: Commands) -> None:
    await commands.once(TENANT, RECORD, "h", Effect("first"))
    second = Effect("second")
    with pytest.raises(Refused) as refused:
        await commands.once(TENANT, RECORD, "other", second)
    assert refused.value.code == "conflict"
    assert second.count == 0


async def test_the_same_id_with_another_body_is_a_conflict_also_while_the_first_is_under_way(commands: Commands) -> None:
    first = Effect("first", held=True)
    async with asyncio.TaskGroup() as group:
        group.create_task(commands.once(TENANT, RECORD, "h", first))
        await eventually(lambda: first.count)
        with pytest.raises(Refused, match="another request"):
            await commands.once(TENANT, RECORD, "other", Effect())
        first.go.set()


async def test_a_repeat_that_meets_the_first_under_way_waits_and_gets_its_answer(commands: Commands, redis_url: str) -> None:
    first, repeat = Effect("answer", held=True), Effect("another")
    other = Store(redis_url)  # the repeat comes to another process
    try:
        async with asyncio.TaskGroup() as group:
            one = group.create_task(commands.once(TENANT, RECORD, "h", first))
            await eventually(lambda: first.count)
            two = group.create_task(Commands(other).once(TENANT, RECORD, "h", repeat))
            done, _ = await asyncio.wait({two}, timeout=0.2)
            assert not done
            first.go.set()
    finally:
        await other.close()
    assert (one.result(), two.result(), repeat.count) == ("answer", "answer", 0)


async def test_fifty_callers_at_once_have_one_effect(commands: Commands, redis_url: str) -> None:
    effect = Effect("answer")
    other = Store(redis_url)
    try:
        both = [commands, Commands(other)]
        answers = await asyncio.gather(*(both[i % 2].once(TENANT, RECORD, "h", effect) for i in range(50)))
    finally:
        await other.close()
    assert answers == ["answer"] * 50
    assert effect.count == 1


async def test_a_dead_holder_lets_go_after_its_hold(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands_module, "HOLD_S", 0.3)
    dead, second = Effect(held=True), Effect("second")
    task = asyncio.create_task(commands.once(TENANT, RECORD, "h", dead))
    await eventually(lambda: dead.count)
    task.cancel()  # as the process that dies: it answers nothing and lets nothing go
    await asyncio.wait({task})
    assert task.cancelled()
    began = asyncio.get_running_loop().time()
    assert await commands.once(TENANT, RECORD, "h", second) == "second"
    assert asyncio.get_running_loop().time() - began < 2
    assert second.count == 1


@pytest.mark.parametrize("error", [None, Refused("unavailable", "later")], ids=["answers", "breaks"])
async def test_who_comes_back_after_its_hold_has_lapsed_ends_nothing_of_the_next_one_s(
    commands: Commands, store: Store, error: Refused | None
) -> None:
    first, second, third = Effect("first", error, held=True), Effect("second"), Effect("third")
    late = asyncio.create_task(commands.once(TENANT, RECORD, "h", first))
    await eventually(lambda: first.count)
    await store.call("DEL", RECORD)  # its process stood still for longer than its hold
    assert await commands.once(TENANT, RECORD, "h", second) == "second"
    first.go.set()
    await asyncio.wait({late})
    assert late.exception() is error
    assert await commands.once(TENANT, RECORD, "h", third) == "second"
    assert third.count == 0


async def test_a_living_holder_keeps_its_hold_however_long_it_takes(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands_module, "HOLD_S", 0.2)
    slow, repeat = Effect("slow", held=True), Effect("repeat")
    async with asyncio.TaskGroup() as group:
        one = group.create_task(commands.once(TENANT, RECORD, "h", slow))
        await eventually(lambda: slow.count)
        two = group.create_task(commands.once(TENANT, RECORD, "h", repeat))
        done, _ = await asyncio.wait({two}, timeout=1.0)  # five times the hold
        assert not done
        slow.go.set()
    assert (one.result(), two.result(), repeat.count) == ("slow", "slow", 0)


async def test_who_waits_too_long_is_told_to_come_back(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands_module, "HOLD_S", -1.9)  # the patience is the hold and two seconds
    calls = 0

    async def busy() -> None:
        nonlocal calls
        calls += 1
        raise Refused("unavailable", "busy", retry_after_ms=100)

    with pytest.raises(Refused, match="busy"):
        await until_not_busy(busy)
    assert calls > 1


async def test_a_store_that_is_away_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    async def away() -> None:
        nonlocal calls
        calls += 1
        raise Unavailable()

    with pytest.raises(Unavailable):
        await until_not_busy(away)
    assert calls == 1


@pytest.mark.parametrize("code", ["rate_limited", "queue_full", "unavailable", "internal"])
async def test_a_temporary_refusal_is_not_remembered(commands: Commands, code: Any) -> None:
    with pytest.raises(Refused, match="later"):
        await commands.once(TENANT, RECORD, "h", Effect(error=Refused(code, "later")))
    assert await commands.once(TENANT, RECORD, "h", Effect("done")) == "done"


async def test_a_permanent_refusal_is_remembered_with_all_it_said(commands: Commands) -> None:
    first = Refused("invalid_input", "input.text: missing", details=[{"loc": ["input", "text"], "msg": "missing"}], facts={"a": 1})
    with pytest.raises(Refused):
        await commands.once(TENANT, RECORD, "h", Effect(error=first))
    again = Effect("never")
    with pytest.raises(Refused) as refused:
        await commands.once(TENANT, RECORD, "h", again)
    assert again.count == 0
    assert refused.value.frame("1") == first.frame("1")
    assert refused.value.facts == first.facts


@pytest.mark.parametrize("error", [JobError("x", "y"), ValueError("broken handler"), TimeoutError()])
async def test_a_handler_that_broke_is_raised_as_it_is_and_may_be_tried_again(commands: Commands, error: Exception) -> None:
    with pytest.raises(type(error)) as raised:
        await commands.once(TENANT, RECORD, "h", Effect(error=error))
    assert raised.value is error
    assert await commands.once(TENANT, RECORD, "h", Effect("now")) == "now"


async def test_an_older_connection_begins_nothing(commands: Commands, store: Store, settings: Settings) -> None:
    opened = await open_session(store, settings, TENANT, "ann", None)
    old = Authorship(opened.id, opened.generation)
    newer = await open_session(store, settings, TENANT, "ann", opened.id)
    effect = Effect("done")
    with pytest.raises(TakenOver):
        await commands.once(TENANT, RECORD, "h", effect, by=old)
    assert effect.count == 0
    assert await commands.once(TENANT, RECORD, "h", effect, by=Authorship(opened.id, newer.generation)) == "done"


async def test_a_connection_that_was_taken_over_leaves_its_answer_for_the_newer_one(
    commands: Commands, store: Store, settings: Settings
) -> None:
    opened = await open_session(store, settings, TENANT, "ann", None)
    effect = Effect("answer", held=True)
    async with asyncio.TaskGroup() as group:
        one = group.create_task(commands.once(TENANT, RECORD, "h", effect, by=Authorship(opened.id, opened.generation)))
        await eventually(lambda: effect.count)
        newer = await open_session(store, settings, TENANT, "ann", opened.id)
        two = group.create_task(commands.once(TENANT, RECORD, "h", Effect("no"), by=Authorship(opened.id, newer.generation)))
        effect.go.set()
    assert (one.result(), two.result()) == ("answer", "answer")


async def test_nothing_is_begun_when_redis_is_away(settings: Settings, tmp_path: object) -> None:
    away = Store(f"unix://{tmp_path}/nobody.sock")
    effect = Effect()
    with pytest.raises(Unavailable):
        await Commands(away).once(TENANT, RECORD, "h", effect)
    assert effect.count == 0
    await away.close()


def test_a_request_s_hash_does_not_depend_on_the_order_of_members() -> None:
    assert request_hash({"a": 1, "b": [{"x": 1, "y": 2}]}) == request_hash({"b": [{"y": 2, "x": 1}], "a": 1})
    distinct: list[Any] = [{"a": 1}, {"a": "1"}, {"a": [1]}, {"a": None}, {}, [], None, "", 0, False, [1, 2], [2, 1]]
    assert len({request_hash(one) for one in distinct}) == len(distinct)
