"""One attempt's way to its stream: nothing lost, nothing out of order, little written."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from rt import keys
from rt.errors import JobError, Unavailable
from rt.events import MAX_EVENT_BYTES
from rt.jobs.outlet import BUFFER_BYTES, DELTA_CHARS, Outlet
from rt.jobs.pace import Pace
from rt.redis import Store, forget_memory
from rt.settings import Settings, load_settings
from rt.streams.log import Appended, Batch, StreamLog
from rt.streams.writer import Writer
from tests.helpers import TENANT, eventually, joined, read_all, types

JOB = "job:one"


class Weather(StreamLog):
    """The log over a network that can be held, slow, or lose answers; what arrives is real."""

    def __init__(self, store: Store, settings: Settings) -> None:
        super().__init__(store, settings)
        self.calls: list[int] = []
        self.open = asyncio.Event()
        self.open.set()
        self.delay_s = 0.0
        self.lose_answers = 0

    async def append(self, batches: Any) -> list[Appended]:
        await self.open.wait()
        await asyncio.sleep(self.delay_s)
        answers = await super().append(batches)
        self.calls.append(sum(len(one.events) for one in batches))
        if self.lose_answers:
            self.lose_answers -= 1
            raise Unavailable()
        return answers


class Still(Pace):
    """One that stays as it is set, and counts."""

    steps = 0

    def step(self, now: float) -> None:
        self.steps += 1


class Attempt:
    """An outlet with the fence that a claim would have given it."""

    def __init__(self, store: Store, settings: Settings, log: Weather, writer: Writer) -> None:
        self.store, self.settings, self.log, self.writer = store, settings, log, writer
        self.refused: list[Appended] = []
        self.pace = Still()
        self.outlet = Outlet(TENANT, JOB, "1:t", 1, writer, self.pace, self.refused.append)

    async def events(self) -> list[dict[str, Any]]:
        return await read_all(self.store, self.settings, JOB)

    async def settle(self) -> list[dict[str, Any]]:
        """Ends the attempt as the runner does: lands, and hands over what waits with one more batch."""
        await self.outlet.wait_landed()
        rest = self.outlet.close()
        await self.log.append([Batch(TENANT, JOB, "1:t", self.outlet.answered + 1, rest)])
        return await self.events()


@pytest.fixture
async def attempt(store: Store, settings: Settings) -> AsyncIterator[Attempt]:
    await store.call("HSET", keys.meta(TENANT, JOB), "fence", "1:t")
    log = Weather(store, settings)
    writer = Writer("append", log.append)
    task = asyncio.create_task(writer.run())
    yield Attempt(store, settings, log, writer)
    task.cancel()
    await asyncio.wait({task})


async def test_the_first_event_leaves_at_once(attempt: Attempt) -> None:
    attempt.pace.gather_s = 60
    attempt.outlet.add_text("first")
    assert joined(await eventually(attempt.events)) == "first"


async def test_each_batch_in_which_the_job_speaks_counts_for_the_pace(attempt: Attempt) -> None:
    attempt.outlet.add("job.started", {})
    await eventually(attempt.events)
    assert attempt.pace.steps == 0
    for n in (1, 2):
        await attempt.outlet.flush()
        attempt.outlet.add_text("a")
        await attempt.outlet.flush()
        assert attempt.pace.steps >= n


async def test_what_is_added_before_the_job_first_waits_leaves_together(attempt: Attempt) -> None:
    attempt.outlet.add("job.started", {})
    attempt.outlet.add_text("a")
    attempt.outlet.add_text("b")
    await eventually(attempt.events)
    assert attempt.log.calls == [2]


async def test_the_first_word_leaves_with_what_the_worker_says(attempt: Attempt) -> None:
    """A job that yields once before it speaks, as every `async for` does, costs its reader no second round trip."""
    attempt.outlet.add("job.started", {})
    await asyncio.sleep(0)
    attempt.outlet.add_text("first")
    await eventually(attempt.events)
    assert attempt.log.calls == [2]


async def test_the_first_word_is_not_held_up_by_what_the_worker_said(attempt: Attempt) -> None:
    attempt.pace.gather_s = 60
    attempt.outlet.add("job.started", {})
    await eventually(attempt.events)
    attempt.outlet.add_text("first")
    await eventually(lambda: attempt.log.calls == [1, 1])
    attempt.outlet.add_text("second")
    await asyncio.sleep(0.05)
    assert attempt.log.calls == [1, 1]


async def test_texts_that_wait_together_become_one_delta(attempt: Attempt) -> None:
    attempt.log.open.clear()
    attempt.outlet.add_text("first")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for i in range(100):
        attempt.outlet.add_text(f" {i}")
    attempt.log.open.set()
    events = await attempt.settle()
    assert joined(events) == "first" + "".join(f" {i}" for i in range(100))
    assert len(events) == 2


async def test_of_progress_that_waits_the_newest_is_kept(attempt: Attempt) -> None:
    attempt.pace.gather_s = 60
    attempt.outlet.add_text("first")
    await eventually(attempt.events)
    for i in range(50):
        attempt.outlet.add_progress({"current": i})
    attempt.outlet.add_text("then")  # what comes after it keeps its place
    attempt.outlet.add_progress({"current": 99})
    events = await attempt.settle()
    assert [(one["type"], one["data"]) for one in events] == [
        ("job.delta", {"text": "first"}),
        ("job.progress", {"current": 49}),
        ("job.delta", {"text": "then"}),
        ("job.progress", {"current": 99}),
    ]


async def test_texts_and_data_keep_their_order(attempt: Attempt) -> None:
    for i in range(200):
        if i % 3:
            attempt.outlet.add_text(f"{i} ")
        else:
            attempt.outlet.add("job.delta", {"data": i})
        if i % 7 == 0:
            await asyncio.sleep(0)
    said = ""
    for one in await attempt.settle():
        said += one["data"].get("text") or f"{one['data']['data']} "
    assert said.split() == [str(i) for i in range(200)]


async def test_a_long_text_is_cut_into_events_that_an_announcement_carries(attempt: Attempt) -> None:
    text = "😀" * (3 * DELTA_CHARS + 5)
    attempt.outlet.add_text(text)
    events = await attempt.settle()
    assert joined(events) == text
    assert [len(one["data"]["text"]) for one in events] == [DELTA_CHARS] * 3 + [5]


async def test_one_that_is_full_waits_until_there_is_room(attempt: Attempt) -> None:
    attempt.log.open.clear()
    while not attempt.outlet.full:
        attempt.outlet.add_text("x" * 1000)
        await asyncio.sleep(0)
    waiting = asyncio.create_task(attempt.outlet.wait_room())
    done, _ = await asyncio.wait({waiting}, timeout=0.05)
    assert not done
    attempt.log.open.set()
    await waiting
    assert not attempt.outlet.full
    assert len(joined(await attempt.settle())) >= BUFFER_BYTES


async def test_a_flush_returns_when_all_is_stored_with_its_checkpoint(attempt: Attempt, store: Store) -> None:
    attempt.outlet.add_text("a")
    await attempt.outlet.flush(b'{"at":1}')
    assert joined(await attempt.events()) == "a"
    assert await store.call("HMGET", keys.meta(TENANT, JOB), "checkpoint", "checkpoint_seq") == [b'{"at":1}', b"1"]
    await attempt.outlet.flush(b'{"at":2}')
    assert await store.call("HMGET", keys.meta(TENANT, JOB), "checkpoint", "checkpoint_seq") == [b'{"at":2}', b"1"]
    await attempt.outlet.flush()
    assert attempt.log.calls == [1, 0]  # there was nothing to write


@pytest.mark.parametrize("delay_s", [0.0, 0.03])
async def test_a_checkpoint_that_meets_a_flight_is_stored_all_the_same(attempt: Attempt, store: Store, delay_s: float) -> None:
    # Where Redis takes longer than the gathering (30 ms), what waits takes off in the turn of the landing: the flush
    # took that flight for its own, and its checkpoint was never written.
    attempt.log.delay_s = delay_s
    for i in range(5):
        attempt.outlet.add_text("a")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        attempt.outlet.add_text("b")
        await attempt.outlet.flush(b"%d" % i)
        assert await store.call("HMGET", keys.meta(TENANT, JOB), "checkpoint", "seq") == [
            b"%d" % i,
            await store.call("HGET", keys.meta(TENANT, JOB), "checkpoint_seq"),
        ]
        assert joined(await attempt.events()) == "ab" * (i + 1)


@pytest.mark.parametrize("delay_s", [0.0, 0.03])
async def test_the_last_words_are_never_under_way_when_they_are_handed_over(attempt: Attempt, delay_s: float) -> None:
    # The same race at the end of a job: its last deltas were refused, because the terminal event overtook them.
    attempt.log.delay_s = delay_s
    attempt.outlet.add_text("a")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    attempt.outlet.add_text("b")
    await attempt.outlet.wait_landed()
    before = list(attempt.log.calls)
    rest = attempt.outlet.close()
    assert [json.loads(one)["data"] for one in rest] == [{"text": "b"}] or joined(await attempt.events()) == "ab"
    await asyncio.sleep(2 * delay_s)
    assert attempt.log.calls == before


async def test_what_no_call_has_been_made_for_is_handed_over_with_the_last_words(attempt: Attempt, store: Store) -> None:
    """A short job's life is one call: it is not the writer's, which is busy with others, that its end waits for."""
    await store.call("HSET", keys.meta(TENANT, "job:other"), "fence", "1:t")
    other = Outlet(TENANT, "job:other", "1:t", 1, attempt.writer, attempt.pace, attempt.refused.append)
    attempt.log.open.clear()
    other.add_text("other")
    await asyncio.sleep(0.01)
    attempt.outlet.add("job.started", {})
    attempt.outlet.add_text("a")
    await asyncio.sleep(0.01)
    async with asyncio.timeout(1):
        await attempt.outlet.wait_landed()
    assert [json.loads(one)["type"] for one in attempt.outlet.close()] == ["job.started", "job.delta"]
    attempt.log.open.set()
    await other.wait_landed()
    assert attempt.log.calls == [1]


async def test_what_is_added_after_the_last_words_goes_nowhere(attempt: Attempt) -> None:
    """A task that the job left behind goes on emitting while its end is written."""
    attempt.outlet.add_text("a")
    await attempt.outlet.wait_landed()
    rest = attempt.outlet.close()
    attempt.outlet.add_text("b")
    attempt.outlet.add("job.delta", {"data": 1})
    attempt.outlet.add_progress({"current": 1})
    await attempt.outlet.flush(b"1")
    await attempt.outlet.wait_room()
    await asyncio.sleep(0.05)
    assert [json.loads(one)["data"] for one in rest] == [{"text": "a"}]
    assert await attempt.events() == []


async def test_an_answer_that_is_lost_writes_nothing_twice(attempt: Attempt) -> None:
    attempt.log.lose_answers = 3
    attempt.outlet.add_text("a")
    await attempt.outlet.flush()
    attempt.outlet.add_text("b")
    assert joined(await attempt.settle()) == "ab"
    assert attempt.log.calls[:4] == [1, 1, 1, 1]


async def test_a_refusal_is_told_once_and_ends_all_waiting(attempt: Attempt, store: Store) -> None:
    await store.call("HSET", keys.meta(TENANT, JOB), "cancel", "ann")
    attempt.outlet.add_text("x" * (2 * BUFFER_BYTES))
    await attempt.outlet.wait_room()
    attempt.outlet.add_text("y")
    await attempt.outlet.flush(b"1")
    assert [(one.verdict, one.by) for one in attempt.refused] == [("cancelled", "ann")]
    assert await attempt.events() == []


async def test_an_event_that_is_too_large_is_refused_to_who_added_it(attempt: Attempt) -> None:
    with pytest.raises(JobError) as refused:
        attempt.outlet.add("job.delta", {"data": "x" * MAX_EVENT_BYTES})
    assert refused.value.code == "too_large"
    with pytest.raises(JobError):
        attempt.outlet.add_progress({"message": "x" * MAX_EVENT_BYTES})
    attempt.outlet.add("job.delta", {"data": "x" * (MAX_EVENT_BYTES - 200)})
    assert types(await attempt.settle()) == ["job.delta"]


@pytest.mark.parametrize("bad", [object(), {1, object()}, "\ud800"])
async def test_data_without_a_json_form_is_refused_to_who_added_it(attempt: Attempt, bad: Any) -> None:
    attempt.outlet.add_text("a")
    for add in (lambda: attempt.outlet.add("job.delta", {"data": bad}), lambda: attempt.outlet.add_progress({"message": bad})):
        with pytest.raises(JobError) as refused:
            add()
        assert refused.value.code == "bad_event"
    assert joined(await attempt.settle()) == "a"


async def test_half_a_surrogate_pair_is_refused_and_takes_nothing_with_it(attempt: Attempt) -> None:
    # A model's JSON may be cut in the middle of an escaped pair; unnoticed, it took all the text that waited with it.
    attempt.outlet.add_text("a")
    with pytest.raises(JobError, match="surrogate"):
        attempt.outlet.add_text("b\ud83d")
    attempt.outlet.add_text("c")
    assert joined(await attempt.settle()) == "ac"


Steps = st.lists(
    st.one_of(
        st.tuples(st.just("text"), st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5)),
        st.tuples(st.just("data"), st.integers()),
        st.tuples(st.just("wait"), st.sampled_from([0.0, 0.0, 0.021])),
        st.tuples(st.just("flush"), st.none()),
        st.tuples(st.just("lose"), st.none()),
    ),
    max_size=30,
)


@given(Steps, st.sampled_from([0.0, 0.0, 0.025]))
@hypothesis_settings(max_examples=25, deadline=None)
def test_whatever_a_job_does_its_stream_is_what_it_said(steps: list[tuple[str, Any]], delay_s: float) -> None:
    async def run() -> None:
        settings = load_settings(REDIS_URL=f"memory://{uuid.uuid4().hex}")
        store = Store(settings.redis_url)
        await store.call("HSET", keys.meta(TENANT, JOB), "fence", "1:t")
        log = Weather(store, settings)
        log.delay_s = delay_s
        writer = Writer("append", log.append)
        task = asyncio.create_task(writer.run())
        attempt = Attempt(store, settings, log, writer)
        said: list[Any] = []
        for what, value in steps:
            match what:
                case "text":
                    attempt.outlet.add_text(value)
                    said += value
                case "data":
                    attempt.outlet.add("job.delta", {"data": value})
                    said.append(value)
                case "wait":
                    await asyncio.sleep(value)
                case "flush":
                    await attempt.outlet.flush()
                case "lose":
                    log.lose_answers = 1
        log.lose_answers = 0
        heard: list[Any] = []
        for event in await attempt.settle():
            heard += list(event["data"]["text"]) if "text" in event["data"] else [event["data"]["data"]]
        task.cancel()
        await asyncio.wait({task})
        await store.close()
        forget_memory(settings.redis_url)
        assert heard == said

    asyncio.run(run())
