"""Asking every process what it is doing: who answers, for how long one waits, and what breaks nobody."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from rt import inspect, keys
from rt.inspect import Inspector, Look, Question
from rt.redis import Store
from rt.streams.log import StreamLog
from rt.streams.tail import Tail
from rt.telemetry import metrics, numbers

Join = Callable[..., Awaitable[Inspector]]


@asynccontextmanager
async def process(store: Store, streams: StreamLog, kind: str, **looks: Look) -> AsyncIterator[Inspector]:
    """What a process has of it: an inspector, and a reader that gives it what it hears."""
    inspector, tail = Inspector(store, kind, looks), Tail(store, streams)
    tail.hear(inspector.channels)
    async with asyncio.TaskGroup() as group:
        chores = [group.create_task(tail.run()), group.create_task(inspector.run())]
        await tail.connected.wait()
        yield inspector
        for chore in chores:
            chore.cancel()


@pytest.fixture
async def join(store: Store, streams: StreamLog) -> AsyncIterator[Join]:
    async with AsyncExitStack() as stack:

        async def joining(kind: str = "web", **looks: Look) -> Inspector:
            return await stack.enter_async_context(process(store, streams, kind, **looks))

        yield joining


def says(*items: dict[str, Any]) -> Look:
    return lambda question: {"total": len(items), "items": [*items]}


async def test_every_process_answers_and_each_answer_names_it(join: Join) -> None:
    one = await join("web", things=says({"n": 1}, {"n": 2}))
    two = await join("worker", things=says({"n": 3}))
    found = await one.ask("things", "-")
    assert (found.asked, [answer.process for answer in found.all]) == (2, [one.name, two.name])
    assert found.items("web") == [{"n": 1, "process": one.name}, {"n": 2, "process": one.name}]
    assert found.items("worker") == [{"n": 3, "process": two.name}]
    assert found.total("total") == 3
    assert all(0 < answer.after_ms < inspect.ANSWER_S * 1000 for answer in found.all)


async def test_a_question_carries_whose_it_is_and_what_belongs_to_it(join: Join) -> None:
    heard: list[Question] = []

    def look(question: Question) -> dict[str, Any]:
        heard.append(question)
        return {}

    await (await join("web", things=look)).ask("things", "acme", limit=3, name="ü")
    assert heard == [Question("things", "acme", {"limit": 3, "name": "ü"})]


async def test_what_a_process_knows_nothing_of_it_answers_with_nothing(join: Join) -> None:
    one = await join("web")
    found = await one.ask("weather", "-")
    assert [answer.told for answer in found.all] == [{}]


async def test_every_process_tells_its_age_memory_and_metrics(join: Join) -> None:
    one = await join("web", processes=lambda question: {"connections": 7})
    metrics.gaps.labels("trimmed").inc(2)
    metrics.gaps.labels("overflow").inc(3)
    ((answer),) = (await one.ask("processes", "-")).all
    told = answer.told
    assert told["connections"] == 7
    assert told["memory_bytes"] > 1_000_000
    assert told["cpu_s"] > 0
    assert told["uptime_s"] >= 0
    assert told["numbers"] == numbers()
    assert told["numbers"]["counts"]["rt_gaps"] >= 5


async def test_the_asker_waits_no_longer_than_it_says_for_one_that_hangs(join: Join, store: Store, streams: StreamLog) -> None:
    one = await join("web", things=says({"n": 1}))
    silent = Tail(store, streams)
    silent.hear({keys.QUESTIONS: lambda raw: None})
    hearing = asyncio.create_task(silent.run())
    await silent.connected.wait()
    began = asyncio.get_running_loop().time()
    found = await one.ask("things", "-")
    took = asyncio.get_running_loop().time() - began
    hearing.cancel()
    await asyncio.wait({hearing})
    assert (found.asked, len(found.all)) == (2, 1)
    assert inspect.ANSWER_S <= took < inspect.ANSWER_S + 1


async def test_a_look_that_fails_and_a_question_that_is_none_break_nobody(
    join: Join, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspect, "ANSWER_S", 0.05)

    def broken(question: Question) -> dict[str, Any]:
        raise RuntimeError("as the test wants it")

    one = await join("web", things=broken, others=says({"n": 1}))
    assert (await one.ask("things", "-")).all == []
    for raw in (b"{}", b"\xff"):
        await store.call("PUBLISH", keys.QUESTIONS, raw)
        await store.call("PUBLISH", keys.answers(one.name), raw)
    monkeypatch.setattr(inspect, "ANSWER_S", 5)
    assert len((await one.ask("others", "-")).items("web")) == 1


async def test_a_flood_of_questions_is_bounded_and_what_nobody_waits_for_is_not_answered(
    join: Join, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[Question] = []

    def look(question: Question) -> dict[str, Any]:
        looked.append(question)
        return {}

    alone = Inspector(store, "web", {"things": look})
    raw = b'{"number":"1","by":"x","about":"things","tenant":"-","args":{}}'
    for _ in range(inspect.WAITING + 10):
        alone.channels[keys.QUESTIONS](raw)
    monkeypatch.setattr(inspect, "ANSWER_S", -1)
    one = await join("web", things=look)
    answering = asyncio.create_task(alone.run())
    while not alone._questions.empty():
        await asyncio.sleep(0)
    answering.cancel()
    assert looked == [], "they came too late"
    monkeypatch.setattr(inspect, "ANSWER_S", 5)
    assert len((await one.ask("things", "-")).all) == 1
    assert len(looked) == 1


async def test_several_ask_at_once_and_each_gets_its_own_answers(join: Join) -> None:
    one = await join("web", things=lambda question: {"items": [question.args]})
    two = await join("web", things=lambda question: {"items": [question.args]})
    found = await asyncio.gather(*(asker.ask("things", "-", n=n) for asker in (one, two) for n in range(10)))
    assert [sorted(item["n"] for item in answers.items("web")) for answers in found] == [[n, n] for _ in range(2) for n in range(10)]
