"""Signals as a process hears them. That one ends in time, whatever it does, is shown in `tests/chaos/test_drains.py`."""

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator

import pytest
import uvloop

from rt.signals import heard

NewLoop = Callable[[], asyncio.AbstractEventLoop]

pytestmark = pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])


@pytest.fixture(autouse=True)
def _keeps_signals() -> Iterator[None]:
    known = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    yield
    for number, handler in known.items():
        signal.signal(number, handler)


def _elsewhere(number: int) -> None:
    """Sends the signal from a thread, and to it: the loop's own is asleep, and no call of its is interrupted."""
    sender = threading.Timer(0.05, lambda: signal.pthread_kill(threading.get_ident(), number))
    sender.start()


def test_each_signal_wakes_the_loop_and_is_told_there(new_loop: NewLoop) -> None:
    async def run() -> None:
        told: asyncio.Queue[threading.Thread] = asyncio.Queue()
        with heard(lambda: told.put_nowait(threading.current_thread()), 1):
            for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
                _elsewhere(number)
                async with asyncio.timeout(5):
                    assert await told.get() is threading.main_thread()
            assert told.empty()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(run())


def test_other_signals_reach_their_handlers_of_the_loop(new_loop: NewLoop) -> None:
    async def run() -> None:
        told = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, told.set)
        with heard(lambda: pytest.fail("which is no reason to stop"), 1):
            _elsewhere(signal.SIGUSR1)
            async with asyncio.timeout(5):
                await told.wait()
        asyncio.get_running_loop().remove_signal_handler(signal.SIGUSR1)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(run())


def test_afterwards_signals_do_nothing_and_nothing_is_left(new_loop: NewLoop) -> None:
    async def run() -> None:
        wakes = signal.set_wakeup_fd(-1)
        signal.set_wakeup_fd(wakes)
        with heard(lambda: pytest.fail("it has ended"), 1):
            pass
        assert signal.set_wakeup_fd(-1) == wakes
        signal.set_wakeup_fd(wakes)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(run())
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)
    assert "rt signals" not in {one.name for one in threading.enumerate()}
