"""Claims whose answers are lost, and leases that lapsed because nobody could reach Redis."""

import contextlib
from collections.abc import AsyncIterator

import pytest

from rt import keys
from rt.app import App
from rt.errors import Unavailable
from rt.jobs.context import JobContext
from rt.jobs.janitor import LEAD, SWEEP
from rt.jobs.job import JobDef
from rt.jobs.leases import Lease, Leases
from rt.jobs.queue import JobQueue, NewJob
from rt.jobs.runner import Claim
from rt.settings import Settings
from rt.streams.log import StreamLog
from tests.contracts.hands import Hands
from tests.contracts.weather import Weather
from tests.helpers import TENANT

app = App()


@app.job(max_attempts=1)
async def once(job: JobContext) -> None: ...


@app.job
async def many(job: JobContext) -> None: ...


@pytest.fixture
async def weather(redis_url: str, settings: Settings) -> AsyncIterator[Weather]:
    store = Weather(redis_url)
    await store.call("FLUSHALL")
    yield store
    await store.close()


@pytest.fixture
def hands(weather: Weather, settings: Settings) -> Hands:
    return Hands(app, settings, weather)


async def submit(store: Weather, settings: Settings, job: JobDef = app.jobs["many"]) -> str:
    accepted = await JobQueue(store, StreamLog(store, settings), settings).accept(NewJob(job, {}, TENANT, "ann"))
    return accepted.job_id


async def lost(hands: Hands, weather: Weather, want: int = 5) -> None:
    weather.lose_answer = True
    with pytest.raises(Unavailable):
        await hands.claim(want)


def told(claims: list[Claim]) -> list[tuple[str, int]]:
    return [(one.id, one.attempt) for one in claims]


async def lapse(store: Weather, settings: Settings, job_id: str) -> None:
    await store.call("DEL", f"arq:in-progress:{job_id}")
    await store.call("ZADD", keys.leases(settings.queue), "XX", 1, job_id)


async def silence(store: Weather, for_ms: int = 3000) -> None:
    """Nobody has reached Redis for so long."""
    await store.call("SET", keys.PULSE, await store.now_ms() - for_ms)


async def status(store: Weather, job_id: str) -> str:
    return (await store.call("HGET", keys.meta(TENANT, keys.job_stream(job_id)), "status")).decode()


async def test_a_claim_whose_answer_was_lost_is_told_again_and_costs_no_attempt(hands: Hands, weather: Weather, settings: Settings) -> None:
    first, second = await submit(weather, settings), await submit(weather, settings)
    await lost(hands, weather)
    third = await submit(weather, settings)
    await weather.call("PEXPIRE", f"arq:in-progress:{first}", 10)  # much of the lease is over by now
    assert sorted(told(await hands.claim(5))) == sorted([(first, 1), (second, 1)])
    assert await weather.call("PTTL", f"arq:in-progress:{first}") > settings.lease_s * 900
    assert told(await hands.claim(5)) == [(third, 1)]


async def test_what_another_has_claimed_since_is_not_told_again(hands: Hands, weather: Weather, settings: Settings) -> None:
    job_id = await submit(weather, settings)
    await lost(hands, weather)
    await lapse(weather, settings, job_id)
    assert told(await Hands(app, settings, weather).claim(5)) == [(job_id, 2)]
    assert told(await hands.claim(5)) == []


async def test_a_claim_that_comes_late_claims_nothing(hands: Hands, weather: Weather, settings: Settings) -> None:
    await hands.claim(5)
    await hands.claim(5)
    job_id = await submit(weather, settings)
    # As it was sent on a connection that was given up since.
    hands._claim_number = 1
    assert told(await hands.claim(5)) == []
    assert await status(weather, job_id) == "queued"
    hands._claim_number = 3
    assert told(await hands.claim(5)) == [(job_id, 1)]


async def test_a_retried_job_that_is_told_again_says_why_it_began_again(hands: Hands, weather: Weather, settings: Settings) -> None:
    job_id = await submit(weather, settings)
    await weather.call("HSET", keys.meta(TENANT, keys.job_stream(job_id)), "restart", "deploy")
    await lost(hands, weather)
    [claim] = await hands.claim(5)
    assert claim.restart == "deploy"
    await lapse(weather, settings, job_id)
    [claim] = await hands.claim(5)
    assert (claim.attempt, claim.restart) == (2, "")


async def test_leases_that_lapsed_while_nobody_reached_redis_are_left_to_their_holders(
    hands: Hands, weather: Weather, settings: Settings
) -> None:
    job_id, last = await submit(weather, settings), await submit(weather, settings, app.jobs["once"])
    holder = {one.id: one for one in await hands.claim(5)}[job_id]
    await lapse(weather, settings, job_id)
    await lapse(weather, settings, last)
    await silence(weather)
    other = Hands(app, settings, weather)
    assert told(await other.claim(5)) == []
    assert 2 < (other._next_due_s or 0) <= 3  # then it is looked at again
    await weather.run(SWEEP, [settings.queue], [100, *hands.queue.ends()])
    assert await status(weather, last) == "running"
    # The holder renews, and has lost nothing.
    verdicts: list[str] = []
    leases = Leases(weather, settings.queue, lease_s=60, stall_limit_s=30, on_verdict=lambda _, said: verdicts.append(said))
    leases.hold(Lease(job_id, TENANT, holder.fence))
    await leases.ask()
    assert verdicts == []
    # Whose worker has gone meanwhile begins again after the grace.
    await weather.call("DEL", keys.GRACE)
    assert told(await other.claim(5)) == []
    assert await status(weather, last) == "failed"


async def test_the_grace_is_given_once_for_each_silence(hands: Hands, weather: Weather, settings: Settings) -> None:
    job_id = await submit(weather, settings)
    await hands.claim(5)
    await lapse(weather, settings, job_id)
    await silence(weather)
    assert told(await hands.claim(5)) == []
    assert 2000 < await weather.call("PTTL", keys.GRACE) <= 3000
    await weather.call("DEL", keys.GRACE)
    assert told(await hands.claim(5)) == [(job_id, 2)]


@pytest.mark.parametrize("who", ["a claim", "the janitor"])
async def test_whoever_reaches_redis_shows_that_it_is_there(hands: Hands, weather: Weather, settings: Settings, who: str) -> None:
    async def comes() -> None:
        with contextlib.suppress(Unavailable):
            if who == "a claim":
                await hands.claim(1)
            else:
                await weather.run(LEAD, [keys.JANITOR], ["token", 5000])

    await comes()
    assert await weather.call("EXISTS", keys.GRACE) == 0  # a Redis that is new has no leases
    await silence(weather, 2000)
    await comes()
    assert await weather.call("EXISTS", keys.GRACE) == 0
    assert await weather.now_ms() - int(await weather.call("GET", keys.PULSE)) < 1000
    await silence(weather, 3000)
    await comes()
    assert await weather.call("EXISTS", keys.GRACE) == 1
