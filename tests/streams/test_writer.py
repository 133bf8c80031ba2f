"""One call at a time: what gathers, what is taken back, what is refused."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from rt.errors import Unavailable
from rt.redis import ReplyError
from rt.streams.writer import BUSY_ITEMS, Writer
from tests.helpers import eventually


class Passenger:
    def __init__(self, item: str) -> None:
        self.item, self.boarded, self.answers = item, 0, list[str]()
        self.refused: list[ReplyError] = []

    def board(self) -> tuple[str, int]:
        self.boarded += 1
        return self.item, len(self.item)

    def land(self, answer: str) -> None:
        self.answers.append(answer)

    def refuse(self, error: ReplyError) -> None:
        self.refused.append(error)


class Redis:
    """Answers when it is open; knows no item that begins with "bad"."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.began: list[float] = []
        self.open = asyncio.Event()
        self.open.set()
        self.lose_answers = 0

    async def send(self, items: list[str]) -> list[str]:
        self.calls.append(items)
        self.began.append(asyncio.get_running_loop().time())
        await self.open.wait()
        if any(one.startswith("bad") for one in items):
            raise ReplyError("WRONGTYPE")
        if self.lose_answers:
            self.lose_answers -= 1
            raise Unavailable()
        return [one.upper() for one in items]


@pytest.fixture
def redis() -> Redis:
    return Redis()


@pytest.fixture
async def writer(redis: Redis) -> AsyncIterator[Writer[str, str]]:
    writer = Writer("test", redis.send, patience_s=0.2)
    task = asyncio.create_task(writer.run())
    yield writer
    task.cancel()
    await asyncio.wait({task})


def put(writer: Writer[str, str], *items: str) -> list[Passenger]:
    passengers = [Passenger(one) for one in items]
    for one in passengers:
        writer.put(one)
    return passengers


async def test_what_gathers_while_a_call_is_under_way_goes_with_the_next(redis: Redis, writer: Writer[str, str]) -> None:
    redis.open.clear()
    first = put(writer, "a")
    await eventually(lambda: redis.calls)
    later = put(writer, "b", "c")
    assert [one.boarded for one in later] == [0, 0]
    redis.open.set()
    await eventually(lambda: later[-1].answers)
    assert redis.calls == [["a"], ["b", "c"]]
    assert [one.answers for one in first + later] == [["A"], ["B"], ["C"]]


async def test_one_that_has_not_boarded_can_be_taken_back(redis: Redis, writer: Writer[str, str]) -> None:
    redis.open.clear()
    (first,) = put(writer, "a")
    await eventually(lambda: redis.calls)
    second, third = put(writer, "b", "c")
    assert writer.withdraw(second)
    assert not writer.withdraw(second)
    assert not writer.withdraw(first)
    redis.open.set()
    await eventually(lambda: third.answers)
    assert redis.calls == [["a"], ["c"]]
    assert (first.answers, second.boarded, second.answers) == (["A"], 0, [])


async def test_an_answer_that_is_lost_is_asked_for_again(redis: Redis, writer: Writer[str, str]) -> None:
    redis.lose_answers = 2
    (one,) = put(writer, "a")
    await eventually(lambda: one.answers)
    assert redis.calls == [["a"]] * 3
    assert (one.boarded, one.answers) == (1, ["A"])


async def test_one_that_redis_refuses_takes_no_other_with_it(redis: Redis, writer: Writer[str, str]) -> None:
    first, bad, last = put(writer, "a", "bad", "b")
    await eventually(lambda: last.answers)
    assert (first.answers, bad.answers, last.answers) == (["A"], [], ["B"])
    assert [str(one) for one in bad.refused] == ["WRONGTYPE"]
    (alone,) = put(writer, "bad too")
    await eventually(lambda: alone.refused)
    assert len(redis.calls[-1]) == 1


async def test_a_busy_writer_waits_between_its_calls_and_a_quiet_one_never(redis: Redis, writer: Writer[str, str]) -> None:
    writer._patience_s = patience_s = 1.0  # longer than a busy machine keeps a quiet writer
    for some in (["a"], ["b"]):
        (one,) = put(writer, *some)
        await eventually(lambda one=one: one.answers)
    assert redis.began[1] - redis.began[0] < patience_s
    many = put(writer, *(f"m{i}" for i in range(BUSY_ITEMS + 1)))
    await eventually(lambda: many[-1].answers)
    (late,) = put(writer, "late")
    await eventually(lambda: late.answers)
    assert redis.began[3] - redis.began[2] >= patience_s
