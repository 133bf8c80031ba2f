"""The gate that tasks wait at."""

import asyncio

from rt.gate import Gate


async def test_who_waits_goes_on_when_it_is_opened_and_not_before() -> None:
    gate = Gate.shut()
    waiting = [asyncio.create_task(gate.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    assert not any(one.done() for one in waiting)
    waiting[0].cancel()
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(*waiting[1:])
    assert gate.open
    await gate.wait()


async def test_it_can_be_shut_again() -> None:
    gate = Gate()
    assert gate.open
    gate.clear()
    waiting = asyncio.create_task(gate.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    gate.set()
    await waiting
