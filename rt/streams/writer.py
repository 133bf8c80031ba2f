"""One call to Redis at a time for what many tasks have to write.

The first one leaves at once. Whatever gathers while a call is under way goes with the next, so calls grow with load
only, and an idle process adds nothing but one round trip. What is to be written is asked for when its call is made, so
that it has everything that was said by then. A call whose answer is lost is sent again until Redis answers: what it
carries must say by itself that it is a repeat.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

from rt.redis import ReplyError, insist

#: Bytes of one call, and one item more; and items. Redis is held while it takes them.
CALL_BYTES = 1024 * 1024
CALL_ITEMS = 200
#: More than these, in a call and behind it, make the next one wait: a call costs the three processes that take part in it as
#: much as several items do, and a person does not see the wait. A few jobs alone are never held up.
BUSY_ITEMS = 4

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
R = TypeVar("R")
R_contra = TypeVar("R_contra", contravariant=True)


class Passenger(Protocol[T_co, R_contra]):
    """Who has something to write. None of these waits or raises."""

    def board(self) -> tuple[T_co, int]:
        """The item, and its bytes, about; asked for once, when the call is made."""

    def land(self, answer: R_contra) -> None: ...

    def refuse(self, error: ReplyError) -> None:
        """Redis will not do it."""


class Writer(Generic[T, R]):
    """Run `run()` in a task of its own; `put()` from any task of the loop.

    `send` writes items in one call and returns an answer for each; it may raise Unavailable, and is then called again.
    Under load a call begins `patience_s` after the one before at the earliest.
    """

    def __init__(self, name: str, send: Callable[[list[T]], Awaitable[list[R]]], *, patience_s: float = 0.0) -> None:
        self._name, self._send, self._patience_s = name, send, patience_s
        self._waiting: dict[Passenger[T, R], None] = {}
        self._some = asyncio.Event()

    def put(self, passenger: Passenger[T, R]) -> None:
        """Has it board the next call. At most once until it has landed."""
        self._waiting[passenger] = None
        self._some.set()

    def withdraw(self, passenger: Passenger[T, R]) -> bool:
        """Takes back one that has not boarded; False when its call is under way."""
        waits = passenger in self._waiting
        if waits:
            del self._waiting[passenger]
        return waits

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._some.wait()
            self._some.clear()
            while self._waiting:
                began = loop.time()
                count = await self._call()
                if count + len(self._waiting) > BUSY_ITEMS and (wait_s := began + self._patience_s - loop.time()) > 0:
                    await asyncio.sleep(wait_s)

    async def _call(self) -> int:
        """Returns how many items it wrote."""
        passengers: list[Passenger[T, R]] = []
        items: list[T] = []
        bytes = 0
        while self._waiting and bytes <= CALL_BYTES and len(items) < CALL_ITEMS:
            passenger = next(iter(self._waiting))
            del self._waiting[passenger]
            item, size = passenger.board()
            passengers.append(passenger)
            items.append(item)
            bytes += size
        try:
            answers = await insist(self._name, self._send, items)
        except ReplyError as error:
            if len(items) == 1:
                passengers[0].refuse(error)
                return 1
        else:
            for passenger, answer in zip(passengers, answers, strict=True):
                passenger.land(answer)
            return len(items)
        # One of them cannot be written, whatever the reason: the others can. What was written is known as a repeat.
        for passenger, item in zip(passengers, items, strict=True):
            try:
                (answer,) = await insist(self._name, self._send, [item])
            except ReplyError as error:
                passenger.refuse(error)
            else:
                passenger.land(answer)
        return len(items)
