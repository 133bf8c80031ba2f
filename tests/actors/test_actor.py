"""The actor's life: start, one message after the other, stop; and how it ended."""

import asyncio

import pytest

from rt.actors.actor import Actor, Ended
from rt.actors.mailbox import MailboxClosed


class Recorder(Actor[str]):
    """Writes down what happens to it; some messages break it."""

    def __init__(self, *, broken_start: bool = False, broken_stop: bool = False) -> None:
        super().__init__("recorder", 8)
        self.seen: list[object] = []
        self.busy = asyncio.Event()
        self.broken_start, self.broken_stop = broken_start, broken_stop

    async def on_start(self) -> None:
        self.seen.append("start")
        if self.broken_start:
            raise RuntimeError("start")

    async def handle(self, message: str) -> None:
        self.seen.append(message)
        if message == "break":
            raise RuntimeError("broken")
        if message == "wait":
            self.busy.set()
            await asyncio.Event().wait()

    async def on_stop(self, ended: Ended) -> None:
        self.seen.append(ended.how)
        if self.broken_stop:
            raise RuntimeError("stop")


async def test_messages_are_handled_in_order_and_what_is_left_after_stop_still_is() -> None:
    actor = Recorder()
    for one in ("a", "b"):
        actor.mailbox.put_nowait(one)
    actor.stop()
    assert await actor.run() == Ended("stopped")
    assert actor.seen == ["start", "a", "b", "stopped"]


async def test_a_failure_is_an_outcome_and_never_raised() -> None:
    actor = Recorder()
    for one in ("break", "never handled"):
        actor.mailbox.put_nowait(one)
    ended = await actor.run()
    assert ended.how == "failed"
    assert isinstance(ended.error, RuntimeError)
    assert actor.seen == ["start", "break", "failed"]


async def test_a_failing_start_still_stops() -> None:
    actor = Recorder(broken_start=True)
    assert (await actor.run()).how == "failed"
    assert actor.seen == ["start", "failed"]


async def test_a_failing_stop_is_a_failure() -> None:
    actor = Recorder(broken_stop=True)
    actor.stop()
    ended = await actor.run()
    assert ended.how == "failed"
    assert str(ended.error) == "stop"


async def test_cancelling_its_task_is_seen_by_on_stop_and_not_swallowed() -> None:
    actor = Recorder()
    actor.mailbox.put_nowait("wait")
    task = asyncio.create_task(actor.run())
    await actor.busy.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert actor.seen[-1] == "cancelled"


async def test_nobody_can_write_to_an_actor_that_has_ended() -> None:
    actor = Recorder()
    actor.mailbox.put_nowait("break")
    await actor.run()
    with pytest.raises(MailboxClosed):
        actor.mailbox.put_nowait("a")


async def test_an_actor_must_say_what_it_does_with_messages() -> None:
    actor: Actor[str] = Actor("silent", 1)
    actor.mailbox.put_nowait("a")
    assert isinstance((await actor.run()).error, NotImplementedError)
