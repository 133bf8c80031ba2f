"""A job's log that was trimmed or lost: what it said so far comes with the gap, the whole of it or nothing."""

import random
from typing import Any

import pytest

from rt import events, keys
from rt.cursor import START
from rt.keys import Stream
from rt.redis import Store
from rt.settings import Settings
from rt.streams.log import Batch, StreamLog
from rt.streams.replay import place
from tests.helpers import TENANT, joined, read_all

JOB = "job:j"
FENCE = "1:token"


class Attempt:
    """Writes as an attempt does: one batch a call."""

    def __init__(self, streams: StreamLog) -> None:
        self.streams = streams
        self.number = 0

    async def write(self, *said: tuple[str, Any]) -> None:
        self.number += 1
        made = [events.encode(f"job.{kind}", JOB, data, 1, attempt=1) for kind, data in said]
        (answer,) = await self.streams.append([Batch(TENANT, JOB, FENCE, self.number, made)])
        assert answer.verdict == "ok"

    async def say(self, *texts: str) -> None:
        await self.write(*(("delta", {"text": one}) for one in texts))


@pytest.fixture
def streams(store: Store, settings: Settings) -> StreamLog:
    return StreamLog(store, settings.model_copy(update={"job_length": 50}))


@pytest.fixture
async def attempt(store: Store, streams: StreamLog) -> Attempt:
    await store.call("HSET", keys.meta(TENANT, JOB), "fence", FENCE, "status", "running", "attempt", 1)
    return Attempt(streams)


async def gap(streams: StreamLog) -> dict[str, Any]:
    """The gap frame of a reader that begins at the start; the page's and the head's are the same."""
    page = await streams.read(TENANT, JOB, 0)
    head = (await streams.open(TENANT, [JOB]))[JOB]
    frames = [found.frame(JOB, "e") for one in (page.head, head) if (found := place(START, one).gap)]
    assert len(frames) == 2
    assert frames[0] == frames[1]
    return frames[0]


async def test_what_was_trimmed_comes_with_the_gap_and_the_rest_follows(
    attempt: Attempt, streams: StreamLog, store: Store, settings: Settings
) -> None:
    said = [f"{i} ü\n" for i in range(400)]
    for i in range(0, 400, 7):
        await attempt.say(*said[i : i + 7])
    frame = await gap(streams)
    seq = frame["to"]
    assert 200 < seq < 400
    assert frame["snapshot"] == {"seq": seq, "data": {"status": "running", "attempt": 1, "text": "".join(said[:seq])}}
    assert frame["snapshot"]["data"]["text"] + joined(await read_all(store, settings, JOB)) == "".join(said)
    assert 0 < await store.call("TTL", keys.text(TENANT, JOB)) <= await store.call("TTL", keys.log(TENANT, JOB))


async def test_a_log_within_its_length_has_no_snapshot(attempt: Attempt, streams: StreamLog) -> None:
    await attempt.say(*map(str, range(100)))
    assert (await streams.read(TENANT, JOB, 0)).head.snapshot is None


async def test_a_reader_that_misses_nothing_is_given_none(attempt: Attempt, streams: StreamLog) -> None:
    await attempt.say(*map(str, range(200)))
    page = await streams.read(TENANT, JOB, 199)
    assert page.head.first > 100
    assert page.head.snapshot is None


@pytest.mark.parametrize(("discard_after", "text"), [(0, "new"), (10, "x" * 10 + "new"), (200, "x" * 10 + "new"), (9, None)])
async def test_what_a_restart_discards_is_not_told(attempt: Attempt, streams: StreamLog, discard_after: int, text: str | None) -> None:
    await attempt.say(*"x" * 10)
    await attempt.write(("restarted", {"reason": "lease_lost", "discard_after": discard_after}), ("delta", {"text": "new"}))
    for _ in range(4):
        await attempt.write(*[("progress", {"current": i}) for i in range(50)])
    assert (await gap(streams))["snapshot"]["data"].get("text") == text


async def test_deltas_that_are_no_text_leave_the_status_alone(attempt: Attempt, streams: StreamLog) -> None:
    await attempt.say("a")
    await attempt.write(("delta", {"data": [1]}))
    await attempt.say(*"x" * 200)
    assert (await gap(streams))["snapshot"]["data"] == {"status": "running", "attempt": 1}


async def test_a_text_that_is_too_long_is_not_told_in_part(attempt: Attempt, streams: StreamLog, store: Store) -> None:
    for _ in range(80):
        await attempt.say(*["x" * 1000] * 5)
    assert "text" not in (await gap(streams))["snapshot"]["data"]
    assert await store.call("EXISTS", keys.text(TENANT, JOB)) == 0


async def test_a_log_that_vanished_leaves_what_the_meta_knows(attempt: Attempt, streams: StreamLog, store: Store) -> None:
    await attempt.say(*"abc")
    await store.call("HSET", keys.meta(TENANT, JOB), "status", "completed", "result", '{"text":"abc"}')
    await store.call("DEL", keys.log(TENANT, JOB))
    frame = await gap(streams)
    assert (frame["from"], frame["to"], frame["reason"]) == (1, 3, "expired")
    assert frame["snapshot"] == {"seq": 3, "data": {"status": "completed", "attempt": 1, "result": {"text": "abc"}}}


async def test_after_a_log_has_vanished_its_text_is_told_no_more(attempt: Attempt, streams: StreamLog, store: Store) -> None:
    await attempt.say(*"abc")
    await store.call("DEL", keys.log(TENANT, JOB))
    await attempt.say(*"x" * 300)
    assert (await gap(streams))["snapshot"]["data"] == {"status": "running", "attempt": 1}


async def test_a_stream_that_begins_anew_has_said_nothing_yet(attempt: Attempt, streams: StreamLog, store: Store) -> None:
    await attempt.say(*"x" * 200)
    await store.call("DEL", keys.meta(TENANT, JOB))
    await store.call("HSET", keys.meta(TENANT, JOB), "fence", FENCE, "status", "running", "attempt", 1)
    attempt.number = 0
    await attempt.say(*"y" * 200)
    frame = await gap(streams)
    assert frame["snapshot"]["data"]["text"] == "y" * frame["to"]


async def test_other_streams_have_none(store: Store, settings: Settings) -> None:
    streams = StreamLog(store, settings.model_copy(update={"room_length": 1}))
    for i in range(300):
        await streams.publish(TENANT, Stream("room", "tea"), events.encode("message", "room:tea", {"data": i}, 1))
    page = await streams.read(TENANT, "room:tea", 0)
    assert page.head.first > 1
    assert page.head.snapshot is None


@pytest.mark.parametrize("seed", range(3))
async def test_a_text_that_is_told_is_what_a_reader_would_have(attempt: Attempt, streams: StreamLog, seed: int) -> None:
    """By chance: deltas, restarts that keep all, some or nothing, progress. Never another text than the events' own."""
    dice = random.Random(seed)
    kept: list[tuple[int, str]] = []
    at: dict[int, str] = {0: ""}
    seq, told = 0, 0
    for _ in range(60):
        batch: list[tuple[str, Any]] = []
        for _ in range(dice.randint(1, 12)):
            seq += 1
            match dice.choices(["delta", "progress", "restarted"], [10, 3, 0.2])[0]:
                case "delta":
                    text = dice.choice(["a", "ü", "\n", '"', "\\", " and so on"])
                    kept.append((seq, text))
                    batch.append(("delta", {"text": text}))
                case "progress":
                    batch.append(("progress", {"current": seq}))
                case "restarted":
                    within = kept[len(kept) // 2][0] if kept else 0
                    after = dice.choices([0, kept[-1][0] if kept else 0, within], [10, 10, 1])[0]
                    kept = [one for one in kept if one[0] <= after]
                    batch.append(("restarted", {"reason": "lease_lost", "discard_after": after}))
            at[seq] = "".join(text for _, text in kept)
        await attempt.write(*batch)
        snapshot = (await streams.read(TENANT, JOB, 0)).head.snapshot
        if snapshot and "text" in snapshot["data"]:
            told += 1
            assert snapshot["data"]["text"] == at[snapshot["seq"]]
    assert told, "it was never told: another seed is needed"
