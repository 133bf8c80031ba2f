"""Processes killed and frozen. What is checked is what clients were given, and how long they waited for it."""

import time

from tests.chaos.client import Client
from tests.chaos.stack import Stack
from tests.chaos.test_main_job import check, words

LEASE_S = 2.0


async def test_a_killed_worker_s_job_goes_on_elsewhere_within_the_lease_and_two_seconds(stack: Stack) -> None:
    stack.start(webs=1, workers=1)
    client = Client(stack.ws(), stack.token())
    await client.open()
    text = words(100)
    echo = await client.submit("echo", text=text, delay_ms=30)
    await client.until(lambda: len(echo.text()) > 100)
    stack.worker().wait_ready()
    killed_at = stack.workers[0].kill()
    await client.until(lambda: 2 in echo.attempts())
    assert time.monotonic() - killed_at < LEASE_S + 2
    check(await client.finished(echo), text)
    restarted = next(event for event in echo.events if event["type"] == "job.restarted")
    # `echo` goes on from what it streamed: nothing is discarded, nothing comes twice.
    assert restarted["data"]["reason"] == "lease_lost"
    assert restarted["data"]["discard_after"] == max(e["seq"] for e in echo.events if e["type"] == "job.delta" and e["attempt"] == 1)
    assert "".join(e["data"]["text"] for e in echo.events if e["type"] == "job.delta") == text
    await client.close()


async def test_a_frozen_worker_is_fenced_out(stack: Stack) -> None:
    """It comes back after another attempt has begun: nothing that it still writes appears."""
    stack.start(webs=1, workers=1)
    client = Client(stack.ws(), stack.token())
    await client.open()
    text = words(150, 1)
    echo = await client.submit("echo", text=text, delay_ms=30)
    await client.until(lambda: len(echo.text()) > 50)
    stack.worker().wait_ready()
    stack.workers[0].freeze()
    await client.until(lambda: 2 in echo.attempts())
    stack.workers[0].thaw()
    check(await client.finished(echo), text)
    attempts = [event["attempt"] for event in echo.events if "attempt" in event]
    assert attempts == sorted(attempts), "an event of the old attempt came after the new one had begun"
    await client.close()


async def test_a_killed_server_s_clients_go_on_at_another(stack: Stack) -> None:
    stack.start(webs=2, workers=1)
    client = Client(stack.ws(0), stack.token())
    await client.open()
    text = words(100, 2)
    echo = await client.submit("echo", text=text, delay_ms=20)
    await client.until(lambda: len(echo.text()) > 100)
    stack.webs[0].kill()
    await client.until(lambda: client.close_code is not None)
    client.url = stack.ws(1)
    assert (await client.reopen())["resumed"] is True
    check(await client.finished(echo), text)
    assert client.faults() == []
    await client.close()


async def test_a_drained_server_sends_its_clients_away_and_exits_cleanly(stack: Stack) -> None:
    stack.start(webs=2, workers=1)
    client = Client(stack.ws(0), stack.token())
    await client.open()
    text = words(100, 3)
    echo = await client.submit("echo", text=text, delay_ms=20)
    await client.until(lambda: len(echo.text()) > 50)
    stack.webs[0].popen.terminate()
    await client.until(lambda: client.close_code is not None)
    assert client.close_code == 4000
    assert [frame["delay_ms"] >= 0 for frame in client.control if frame["type"] == "reconnect"] == [True]
    assert stack.webs[0].popen.wait(25) == 0
    client.url = stack.ws(1)
    assert (await client.reopen())["resumed"] is True
    check(await client.finished(echo), text)
    await client.close()


async def test_a_deploy_of_the_workers_costs_a_job_no_attempt(stack: Stack) -> None:
    stack.env["RT_DRAIN_S"] = "0.2"  # the job is not to end while it is waited for
    stack.start(webs=1, workers=1)
    client = Client(stack.ws(), stack.token())
    await client.open()
    text = words(200, 4)
    echo = await client.submit("echo", text=text, delay_ms=30)
    for turn in range(4):  # more often than the job has attempts
        await client.until(lambda turn=turn: turn + 1 in echo.attempts() and echo.types()[-1] == "job.delta")  # type: ignore[misc]
        stack.worker().wait_ready()
        assert stack.workers[turn].terminate() == 0
    check(await client.finished(echo, 30), text)
    assert {event["data"]["reason"] for event in echo.events if event["type"] == "job.restarted"} == {"deploy"}
    await client.close()


async def test_a_redis_that_is_killed_and_restarted_costs_nothing_that_was_written(stack: Stack) -> None:
    stack.start(webs=1, workers=1)
    client = Client(stack.ws(), stack.token())
    await client.open()
    text = words(150, 5)
    echo = await client.submit("echo", text=text, delay_ms=20)
    await client.until(lambda: len(echo.text()) > 100)
    stack.redis.kill()
    stack.redis.start()
    await client.finished(echo, 30)
    assert echo.faults == []
    assert echo.final is not None
    assert echo.final["type"] == "job.completed"
    if not any(journal.gaps for journal in client.journals.values()):
        assert echo.text() == text
    assert all(process.popen.poll() is None for process in (*stack.webs, *stack.workers))
    await client.close()
