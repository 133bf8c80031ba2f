"""The supervisor owns every actor's task, and no actor can end its neighbours."""

import asyncio

import pytest

from rt.actors.actor import Actor, Ended
from rt.actors.supervisor import Supervisor


class Worker(Actor[str]):
    def __init__(self, name: str) -> None:
        super().__init__(name, 4)
        self.ended: str | None = None
        self.handled = asyncio.Event()

    async def handle(self, message: str) -> None:
        if message == "break":
            raise RuntimeError("broken")
        self.handled.set()

    async def on_stop(self, ended: Ended) -> None:
        self.ended = ended.how


async def test_an_actors_failure_ends_that_actor_alone() -> None:
    async with Supervisor() as supervisor:
        bad, good = Worker("bad"), Worker("good")
        lives = supervisor.start(bad), supervisor.start(good)
        bad.mailbox.put_nowait("break")
        assert (await lives[0]).how == "failed"
        good.mailbox.put_nowait("go on")
        await asyncio.wait_for(good.handled.wait(), 5)
        good.stop()
        assert (await lives[1]).how == "stopped"


async def test_actors_that_are_left_are_cancelled_at_the_end_and_waited_for() -> None:
    actors = [Worker("a"), Worker("b")]
    before = asyncio.all_tasks()
    async with Supervisor() as supervisor:
        for actor in actors:
            supervisor.start(actor).get_name()
            actor.mailbox.put_nowait("go on")
            await actor.handled.wait()
    assert [one.ended for one in actors] == ["cancelled", "cancelled"]
    assert asyncio.all_tasks() == before


async def test_an_actor_that_ends_is_forgotten() -> None:
    async with Supervisor() as supervisor:
        actor = Worker("short")
        life = supervisor.start(actor)
        assert supervisor.actors == [actor]
        actor.stop()
        await life
        await asyncio.sleep(0)
        assert supervisor.actors == []


async def test_an_actor_that_ends_while_the_supervisor_leaves_disturbs_nothing() -> None:
    actors = [Worker(str(number)) for number in range(20)]
    async with Supervisor() as supervisor:
        for actor in actors:
            supervisor.start(actor)
        await asyncio.sleep(0)
        for actor in actors[::2]:
            actor.stop()
    assert all(one.ended in ("stopped", "cancelled") for one in actors)


async def test_nothing_is_started_before_it_is_open() -> None:
    with pytest.raises(RuntimeError):
        Supervisor().start(Worker("early"))
