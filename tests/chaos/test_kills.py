"""Processes killed, frozen, drained. What is checked is what clients were given, and how long they waited for it."""

import time

from tests.chaos.client import Client, Journal
from tests.chaos.stack import Stack
from tests.chaos.test_main_job import check, words

LEASE_S = 2.0
TEXT = words(24)


async def _begin(stack: Stack, attempts: int = 2) -> tuple[Client, Journal]:
    """A client whose job is in its first attempt, which does not end by itself."""
    stack.start(webs=1, workers=1)
    client = Client(stack.ws(), stack.token())
    await client.open()
    journal = await client.submit("parts", text=TEXT, attempts=attempts)
    await client.until(lambda: "job.delta" in journal.types())
    return client, journal


async def test_a_killed_worker_s_job_goes_on_elsewhere_within_the_lease_and_two_seconds(stack: Stack) -> None:
    client, journal = await _begin(stack)
    stack.worker().wait_ready()
    killed_at = stack.workers[0].kill()
    await client.until(lambda: 2 in journal.attempts())
    assert time.monotonic() - killed_at < LEASE_S + 2
    check(await client.finished(journal), TEXT)
    restarted = next(event for event in journal.events if event["type"] == "job.restarted")
    assert restarted["data"]["reason"] == "lease_lost"
    # The job goes on from what it streamed: nothing is discarded, nothing comes twice.
    deltas = [event for event in journal.events if event["type"] == "job.delta"]
    assert restarted["data"]["discard_after"] == max(event["seq"] for event in deltas if event["attempt"] == 1)
    assert "".join(event["data"]["text"] for event in deltas) == TEXT
    await client.close()


async def test_a_frozen_worker_is_fenced_out(stack: Stack) -> None:
    """It comes back after another attempt has begun: nothing that it still writes appears."""
    client, journal = await _begin(stack, attempts=3)
    stack.worker().wait_ready()
    stack.workers[0].freeze()
    await client.until(lambda: journal.attempts()[-1] == 2)
    stack.workers[0].thaw()
    seen = len(journal.events)
    await client.until(lambda: len(journal.events) > seen + 10)  # the first attempt had time to write, had it been let
    stack.workers[1].kill()
    check(await client.finished(journal), TEXT)
    attempts = [event["attempt"] for event in journal.events if "attempt" in event]
    assert attempts == sorted(attempts), "an event of an older attempt came after a newer one had begun"
    await client.close()


async def test_a_job_that_loses_every_worker_fails_after_its_attempts(stack: Stack) -> None:
    client, journal = await _begin(stack, attempts=9)
    for turn in range(3):
        await client.until(lambda turn=turn: turn + 1 in journal.attempts())  # type: ignore[misc]
        stack.worker().wait_ready()
        stack.workers[turn].kill()
    check(await client.finished(journal), end="job.failed")
    assert journal.final is not None
    assert journal.final["data"]["error"]["code"] == "lease_lost"
    await client.close()


async def test_a_killed_server_s_clients_go_on_at_another(stack: Stack) -> None:
    """Also what the dead server had not stored yet: which jobs the session follows."""
    stack.start(webs=2, workers=1)
    client = Client(stack.ws(0), stack.token())
    await client.open()
    journal = await client.submit("paced", text=TEXT, delay_ms=15)
    await client.until(lambda: "job.delta" in journal.types())
    stack.webs[0].kill()
    await client.until(lambda: client.close_code is not None)
    client.url = stack.ws(1)
    assert (await client.reopen())["resumed"] is True
    check(await client.finished(journal), TEXT)
    assert client.faults() == []
    await client.close()


async def test_a_drained_server_sends_its_clients_away_and_exits_cleanly(stack: Stack) -> None:
    stack.start(webs=2, workers=1)
    client = Client(stack.ws(0), stack.token())
    await client.open()
    journal = await client.submit("paced", text=TEXT, delay_ms=15)
    await client.until(lambda: "job.delta" in journal.types())
    stack.webs[0].popen.terminate()
    await client.until(lambda: client.close_code is not None)
    assert client.close_code == 4000
    assert [frame["delay_ms"] >= 0 for frame in client.control if frame["type"] == "reconnect"] == [True]
    assert stack.webs[0].popen.wait(25) == 0
    client.url = stack.ws(1)
    assert (await client.reopen())["resumed"] is True
    check(await client.finished(journal), TEXT)
    await client.close()


async def test_a_deploy_of_the_workers_costs_a_job_no_attempt(stack: Stack) -> None:
    stack.env["RT_DRAIN_S"] = "0.2"  # the job does not end while it is waited for
    client, journal = await _begin(stack, attempts=5)
    for turn in range(4):  # more often than the job has attempts
        await client.until(lambda turn=turn: turn + 1 in journal.attempts())  # type: ignore[misc]
        stack.worker().wait_ready()
        assert stack.workers[turn].terminate() == 0
    check(await client.finished(journal), TEXT)
    assert {event["data"]["reason"] for event in journal.events if event["type"] == "job.restarted"} == {"deploy"}
    await client.close()
