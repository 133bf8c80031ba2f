"""A gate that tasks wait at. As asyncio.Event, which weighs 0.7 KiB whether anybody waits or not; a connection has several."""

import asyncio


class Gate:
    """`open` says whether it is; it is at first, unless it was made by `shut`."""

    __slots__ = ("_waiters", "open")

    def __init__(self) -> None:
        self.open = True
        self._waiters: list[asyncio.Future[None]] | None = None

    @classmethod
    def shut(cls) -> "Gate":
        gate = cls()
        gate.open = False
        return gate

    def set(self) -> None:
        """Opens it."""
        self.open = True
        waiters, self._waiters = self._waiters, None
        for one in waiters or ():
            if not one.done():
                one.set_result(None)

    def clear(self) -> None:
        """Shuts it."""
        self.open = False

    async def wait(self) -> None:
        """Returns at once when it is open, otherwise when it is opened, though it may be shut again by then. Cancelling is safe."""
        if self.open:
            return
        if self._waiters is None:
            self._waiters = []
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter
