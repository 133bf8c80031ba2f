"""Workers that stand still: a blocked event loop, a frozen process, one killed in the midst of a model's answer."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.chaos.client import Client, Journal
from tests.chaos.endpoint import Endpoint
from tests.chaos.scene import compare
from tests.chaos.stack import Stack
from tests.chaos.test_main_job import check, words
from tests.helpers import eventually

LEASE_S, STALL_LIMIT_S = 1.0, 1.0
TEXT = words(60)


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    async with Endpoint() as endpoint:
        yield endpoint


async def _begin(stack: Stack, *jobs: tuple[str, dict[str, str]]) -> tuple[Client, list[Journal]]:
    """A client whose jobs have said something, at the first of two workers."""
    stack.env["RT_LEASE_S"] = str(LEASE_S)
    stack.start(webs=1, workers=1)
    client = Client(stack.ws(), stack.token())
    await client.open()
    journals = []
    for job, input in jobs:
        journals.append(journal := await client.submit(job, **input))
        await client.until(lambda journal=journal: "job.delta" in journal.types())  # type: ignore[misc]
    stack.worker().wait_ready()
    return client, journals


async def _in_order(stack: Stack, journal: Journal) -> None:
    """No event of an older attempt after a newer one's first, in what the client was given and in the log, which are the same."""
    attempts = [event["attempt"] for event in journal.events if "attempt" in event]
    assert attempts == sorted(attempts), "an event of an older attempt came after a newer one had begun"
    redis = stack.direct()
    assert await compare(redis, journal) == len(journal.events)
    await redis.aclose()


async def test_a_blocked_event_loop_loses_its_job_after_its_stall_limit(stack: Stack, tmp_path: Path) -> None:
    stack.env["RT_STALL_LIMIT_S"] = str(STALL_LIMIT_S)
    release = tmp_path / "release"
    client, [journal] = await _begin(stack, ("blocks", {"text": TEXT, "until": str(release)}))
    blocked_at = time.monotonic()
    await client.until(lambda: 2 in journal.attempts())
    assert time.monotonic() - blocked_at < STALL_LIMIT_S + LEASE_S + 2
    check(await client.finished(journal), TEXT)
    assert journal.final is not None
    assert journal.final["data"]["result"] == {"attempt": 2}
    release.touch()
    # Its worker serves again, and writes in the order in which things were said: what the old attempt had still to say went nowhere.
    stack.workers[1].kill()
    check(await client.finished(await client.submit("paced", text="ab", delay_ms=1)), "ab")
    await _in_order(stack, journal)
    await client.close()


async def test_a_block_that_is_longer_than_the_lease_and_shorter_than_the_stall_limit_costs_nothing(stack: Stack, tmp_path: Path) -> None:
    stack.env["RT_STALL_LIMIT_S"] = "30"
    release = tmp_path / "release"
    client, [journal] = await _begin(stack, ("blocks", {"text": TEXT, "until": str(release)}))
    redis, blocked_at = stack.direct(), time.monotonic()
    lease = f"arq:in-progress:{journal.stream.removeprefix('job:')}"
    fence = await redis.get(lease)
    while time.monotonic() < blocked_at + 2.5 * LEASE_S:
        assert await redis.get(lease) == fence is not None
        await asyncio.sleep(0.02)
    release.touch()
    check(await client.finished(journal), TEXT)
    assert journal.attempts() == [1]
    await redis.aclose()
    await client.close()


async def _closed_once_awake(client: Client, journal: Journal, endpoint: Endpoint, wake: Callable[[], None]) -> None:
    """The next attempt asks anew, and ends; the first one's call stands for as long as its worker does, and not longer."""
    await client.until(lambda: 2 in journal.attempts())
    await eventually(lambda: len(endpoint.calls) == 2)
    first, second = endpoint.calls
    second.finish.set()
    check(await client.finished(journal), "begun. whole.")
    assert not first.gone.is_set()
    wake()
    async with asyncio.timeout(2):
        await first.gone.wait()


async def test_the_model_call_of_a_worker_whose_loop_was_blocked_is_closed(stack: Stack, endpoint: Endpoint, tmp_path: Path) -> None:
    """It is another job that blocks: its neighbours lose their leases with it."""
    stack.env |= {"RT_STALL_LIMIT_S": str(STALL_LIMIT_S), "RT_OPENAI_BASE_URL": endpoint.url}
    release = tmp_path / "release"
    client, [told, _] = await _begin(stack, ("tell", {"prompt": "speak"}), ("blocks", {"text": TEXT, "until": str(release)}))
    await _closed_once_awake(client, told, endpoint, release.touch)
    await _in_order(stack, told)
    await client.close()


async def test_the_model_call_of_a_worker_that_was_frozen_is_closed(stack: Stack, endpoint: Endpoint) -> None:
    stack.env["RT_OPENAI_BASE_URL"] = endpoint.url
    client, [told] = await _begin(stack, ("tell", {"prompt": "speak"}))
    stack.workers[0].freeze()
    await _closed_once_awake(client, told, endpoint, stack.workers[0].thaw)
    await _in_order(stack, told)
    await client.close()


async def test_the_embedded_model_s_text_goes_on_after_its_worker_was_killed(stack: Stack) -> None:
    """Nothing that was streamed is discarded or comes again; joined, it is the text that another run of the same seed has."""
    stack.app = "rt.builtin:app"
    stack.env["RT_LEASE_S"] = str(LEASE_S)
    stack.start(webs=1, workers=1)
    client = Client(stack.ws(), stack.token())
    await client.open()
    journal = await client.submit("generate", prompt="Once upon a time", max_tokens=4096, seed=7)
    await client.until(lambda: "job.delta" in journal.types())
    stack.workers[0].kill()
    stack.worker().wait_ready()
    check(await client.finished(journal))
    restarted = next(event for event in journal.events if event["type"] == "job.restarted")
    deltas = [event for event in journal.events if event["type"] == "job.delta"]
    assert restarted["data"] == {"reason": "lease_lost", "discard_after": max(one["seq"] for one in deltas if one["attempt"] == 1)}
    whole = "".join(event["data"]["text"] for event in deltas)
    assert journal.final is not None
    assert journal.final["data"]["result"]["text"] == whole
    again = await client.finished(await client.submit("generate", prompt="Once upon a time", max_tokens=4096, seed=7))
    assert again.text() == whole
    await _in_order(stack, journal)
    await client.close()
