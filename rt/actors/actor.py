"""The actor loop: one message after the other, from a mailbox of its own, until it is told to stop."""

import asyncio
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from rt.actors.mailbox import Mailbox, MailboxClosed

M = TypeVar("M")


@dataclass(frozen=True, slots=True)
class Ended:
    """How an actor's life ended: it was told to stop, it failed (`error`), or its task was cancelled."""

    how: Literal["stopped", "failed", "cancelled"]
    error: Exception | None = None


class Actor(Generic[M]):
    """Subclass it and write `handle`; the other hooks are optional. A supervisor runs it.

    Only the actor's own loop touches its state. Stopping is closing the mailbox: what is in it is still handled.
    """

    __slots__ = ("__weakref__", "mailbox", "name")

    def __init__(self, name: str, capacity: int) -> None:
        self.name = name
        self.mailbox: Mailbox[M] = Mailbox(capacity)

    async def on_start(self) -> None:
        """Before the first message."""

    async def handle(self, message: M) -> None:
        raise NotImplementedError

    async def on_stop(self, ended: Ended) -> None:
        """After the last message, however it ended; also when the task is cancelled. Must not wait for long."""

    def stop(self) -> None:
        self.mailbox.close()

    async def run(self) -> Ended:
        """The whole life. Raises nothing of the actor's own, only the CancelledError of whoever cancels its task."""
        ended = Ended("stopped")
        try:
            await self.on_start()
            while True:
                await self.handle(await self.mailbox.get())
        except MailboxClosed:
            pass
        except asyncio.CancelledError:
            ended = Ended("cancelled")
            raise
        except Exception as error:
            ended = Ended("failed", error)
        finally:
            self.mailbox.close()
            try:
                await self.on_stop(ended)
            except Exception as error:
                ended = Ended("failed", error)
        return ended
