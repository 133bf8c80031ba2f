"""A thread for each plain `def` job: one that never ends costs no other job its thread, and no exit waits for it.

The loop's own pool would do both: its few threads are shared by every `asyncio.to_thread`, and joined when the loop closes.
"""

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class Threads:
    """`alive` has a future for each call that has not returned yet, also when nobody waits for its answer any more."""

    def __init__(self) -> None:
        self.alive: set[asyncio.Future[None]] = set()

    async def run(self, call: Callable[[], T], name: str) -> T:
        """What `call()` returns or raises. Cancelling ends the wait alone: a thread cannot be interrupted."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        ended: asyncio.Future[None] = loop.create_future()
        context = contextvars.copy_context()

        def land(set_answer: Callable[[Any], None], value: Any) -> None:
            self.alive.discard(ended)
            ended.set_result(None)
            if not answer.done():
                set_answer(value)

        def work() -> None:
            told: tuple[Callable[[Any], None], Any] = answer.set_exception, RuntimeError("the call has ended its thread")
            try:
                told = answer.set_result, context.run(call)
            except StopIteration as error:  # which no future takes
                told = answer.set_exception, RuntimeError(f"raised {error!r}")
            except (Exception, SystemExit) as error:
                told = answer.set_exception, error
            finally:
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                    loop.call_soon_threadsafe(land, *told)

        self.alive.add(ended)
        threading.Thread(target=work, name=name, daemon=True).start()
        return await answer
