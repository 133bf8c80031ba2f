"""A bounded mailbox: one reader, many writers.

`put` waits while it is full, which is how a flooded connection's socket comes to be read no further. `put_nowait`
refuses, for those who have another way to be heard (a live event can be read from the log). One place is reserved for
a nudge from the reader's own helpers.
"""

import asyncio
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")

#: Places beyond the capacity for `reserved` messages: a nudge from the reader's own helpers.
RESERVED = 1


class MailboxFull(Exception):
    """There is no room now."""


class MailboxClosed(Exception):
    """Nobody reads it any more (for writers), or nothing will come any more (for the reader)."""


class Mailbox(Generic[T]):
    __slots__ = ("_capacity", "_closed", "_messages", "_reader", "_writers")

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        #: A list: it is short, and an empty queue of the other kind weighs 0.6 KiB for each idle connection.
        self._messages: list[T] = []
        self._reader: asyncio.Future[None] | None = None
        self._writers: deque[asyncio.Future[None]] | None = None
        self._closed = False

    async def put(self, message: T) -> None:
        """Waits for room. Cancelling is safe: the message is in or it is not. Raises MailboxClosed."""
        while len(self._messages) >= self._capacity and not self._closed:
            if self._writers is None:
                self._writers = deque()
            waiter = asyncio.get_running_loop().create_future()
            self._writers.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled():
                    self._wake_writer()  # the room that was offered goes to the next one
                raise
        self._append(message)

    def put_nowait(self, message: T, *, reserved: bool = False) -> None:
        """Raises MailboxFull or MailboxClosed. `reserved` may use the reserved place."""
        if len(self._messages) >= self._capacity + (RESERVED if reserved else 0) and not self._closed:
            raise MailboxFull
        self._append(message)

    async def get(self) -> T:
        """The next message. After `close` what is left still comes, then MailboxClosed. Cancelling loses nothing."""
        while not self._messages:
            if self._closed:
                raise MailboxClosed
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        message = self._messages.pop(0)
        self._wake_writer()
        return message

    def close(self) -> None:
        """No more messages; writers that wait get MailboxClosed."""
        self._closed = True
        if self._reader and not self._reader.done():
            self._reader.set_result(None)
        for waiter in self._writers or ():
            if not waiter.done():
                waiter.set_result(None)

    @property
    def depth(self) -> int:
        """Messages that wait."""
        return len(self._messages)

    def _append(self, message: T) -> None:
        if self._closed:
            raise MailboxClosed
        self._messages.append(message)
        if self._reader and not self._reader.done():
            self._reader.set_result(None)

    def _wake_writer(self) -> None:
        while self._writers and len(self._messages) < self._capacity:
            waiter = self._writers.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
