import asyncio
import contextvars
import sys
import threading
import time

import pytest

from rt.jobs.threads import Threads
from tests.helpers import eventually


async def test_a_call_s_answer_and_its_error_are_the_caller_s() -> None:
    threads = Threads()
    assert await threads.run(lambda: threading.current_thread().name, "a job") == "a job"
    with pytest.raises(ZeroDivisionError):
        await threads.run(lambda: 1 // 0, "a job")
    with pytest.raises(SystemExit):
        await threads.run(lambda: sys.exit(3), "a job")
    with pytest.raises(RuntimeError, match="StopIteration"):
        await threads.run(lambda: next(iter(())), "a job")
    assert threads.alive == set()


async def test_a_call_sees_its_caller_s_context() -> None:
    word = contextvars.ContextVar("word", default="")
    word.set("of the caller")
    assert await Threads().run(word.get, "a job") == "of the caller"


async def test_as_many_run_at_a_time_as_are_asked_for() -> None:
    threads, together = Threads(), threading.Barrier(100)
    await asyncio.gather(*(threads.run(lambda: together.wait(10), "a job") for _ in range(100)))


async def test_a_cancelled_call_goes_on_alone_and_is_known_until_it_ends() -> None:
    threads, release = Threads(), threading.Event()
    waiting = asyncio.create_task(threads.run(lambda: release.wait(10), "a job"))
    await eventually(lambda: threads.alive)
    waiting.cancel()
    await asyncio.wait({waiting})
    assert waiting.cancelled()
    assert len(threads.alive) == 1
    release.set()
    await asyncio.wait(threads.alive, timeout=5)
    assert threads.alive == set()


def test_a_call_that_never_ends_holds_up_no_loop() -> None:
    release = threading.Event()

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(Threads().run(lambda: release.wait(20), "deaf"), 0.01)

    began = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - began < 5
    release.set()
    for one in threading.enumerate():
        if one.name == "deaf":
            one.join(5)  # it finds the loop closed, and says nothing
            assert not one.is_alive()
