"""Cables pulled at random: twenty clients, and nothing lost, repeated or out of order.

CHAOS_LONG in the environment makes it a hundred cuts each.
"""

import asyncio
import os
import random

from tests.chaos.client import Client
from tests.chaos.stack import Stack
from tests.chaos.test_main_job import check, words

CLIENTS, CUTS = 20, 100 if "CHAOS_LONG" in os.environ else 35


async def _one(shared: Stack, number: int) -> tuple[int, int]:
    draw = random.Random(number)
    client = Client(shared.ws(number % 2), shared.token(f"user{number % 5}"), keeps_cursors=number % 3 != 2)
    await client.open()
    text = words(5 * CUTS // 2, number)
    submitting = asyncio.create_task(client.submit("echo", limit_s=90, text=text, delay_ms=40))
    while client.cuts < CUTS:
        # In the middle of things, now and then at once after connecting, and from one server to the other.
        await asyncio.sleep(draw.choice([0, 0.02, draw.uniform(0.02, 0.15)]))
        await client.cut()
        client.url = shared.ws(draw.randrange(2))
        resumed = await client.reopen(30)
        assert resumed["resumed"] is True
    echo = await client.finished(await submitting, 60)
    check(echo, text)
    created = [event for event in client.journal(f"session:{client.session}").events if event["type"] == "job.created"]
    assert len(created) == 1, "a submit that was sent again over cuts makes one job"
    assert client.faults() == []
    assert not any(journal.gaps for journal in client.journals.values())
    await client.close()
    return client.cuts, len(echo.events)


async def test_twenty_clients_cut_again_and_again_lose_repeat_and_disorder_nothing(shared: Stack) -> None:
    results = await asyncio.gather(*(_one(shared, number) for number in range(CLIENTS)))
    assert sum(cuts for cuts, _ in results) == CLIENTS * CUTS
    assert shared.tracebacks() == []
