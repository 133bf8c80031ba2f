"""SIGTERM and SIGINT, heard by the loop, and by a thread, because a loop that is blocked hears nothing.

Not by handlers of the loop: they are gone with it, and a second signal would then kill a process that is about to exit with 0.
"""

import asyncio
import contextlib
import faulthandler
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator

_STOPPING = (signal.SIGTERM, signal.SIGINT)
#: What ends at all ends within this time after the drain: what was cancelled has its grace, what is stored its last try. With
#: the default drain of 15 s a process has ended after 25. (Measured without a Redis: 7.)
END_S = 10.0


@contextlib.contextmanager
def heard(stop: Callable[[], None], drain_s: float) -> Iterator[None]:
    """Calls `stop` in the running loop for each SIGTERM and SIGINT. It is for the main thread of a process that does nothing else.

    When this block has not ended `drain_s` and `END_S` after the first signal, the process ends there, with exit code 1, and
    says where its threads were: a job, or a handler, blocks the loop for good. After the block the signals are ignored.
    """
    loop = asyncio.get_running_loop()
    told, tell = socket.socketpair()
    tell.setblocking(False)

    def listen() -> None:
        ending = False
        while byte := told.recv(1):
            if byte[0] in _STOPPING and not ending:
                ending = True
                # It needs neither the loop nor the interpreter, which the job may hold.
                faulthandler.dump_traceback_later(drain_s + END_S, exit=True)
            if loops < 0:
                loop.call_soon_threadsafe(_nothing)
            else:
                with contextlib.suppress(BlockingIOError):  # so full that the loop wakes anyway
                    os.write(loops, byte)

    # A handler waits for the main thread. But whatever that does, Python writes each signal's number to this descriptor at once.
    # The loop wakes by what comes from here: uvloop has handed its own descriptor over, asyncio's has none.
    loops = signal.set_wakeup_fd(tell.fileno(), warn_on_full_buffer=False)
    for number in _STOPPING:
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop))
    listening = threading.Thread(target=listen, name="rt signals", daemon=True)
    listening.start()
    try:
        yield
    finally:
        for number in _STOPPING:
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(loops, warn_on_full_buffer=False)
        tell.close()
        listening.join()
        told.close()
        faulthandler.cancel_dump_traceback_later()


def _nothing() -> None:
    """Run by a loop that is to wake."""
