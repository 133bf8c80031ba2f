"""What the machines of the scripts stand on: a store whose answers get lost and whose process dies, and Redis' own accidents."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from hypothesis.stateful import RuleBasedStateMachine

from rt import keys
from rt.errors import Unavailable
from rt.redis import Store

T = TypeVar("T")


class Killed(BaseException):
    """The process ends here: whatever was to follow in it does not happen."""


class Weather(Store):
    """The real store, and what may become of its next calls."""

    #: So many calls are still made; before the next one the process dies. None: it lives.
    calls_left: int | None = None
    #: How many calls were made.
    calls = 0
    #: The next call takes effect, and its answer is lost.
    lose_answer = False

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.dead = asyncio.Event()

    async def call(self, *command: Any) -> Any:
        if self.calls_left == 0:
            self.dead.set()
            raise Killed
        reply = await super().call(*command)
        # Only here: a script that the server does not know yet is sent once more, and has not run.
        self.calls += 1
        if self.calls_left is not None:
            self.calls_left -= 1
        if self.lose_answer:
            self.lose_answer = False
            raise Unavailable()
        return reply


class RedisMachine(RuleBasedStateMachine):
    """A machine over one empty Redis, on an event loop of its own. `do()` runs a coroutine to its end."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.store = Weather(url)
        self.words = 0
        self._dump: list[tuple[bytes, int, bytes]] | None = None
        self.call("FLUSHALL")
        # Small enough that trimming by length, which drops whole nodes, happens within a few events.
        self.call("CONFIG", "SET", "stream-node-max-entries", "3")
        self.incarnate()

    def do(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(coroutine)

    def call(self, *command: Any) -> Any:
        return self.do(self.store.call(*command))

    def calls(self, *commands: tuple[Any, ...]) -> list[Any]:
        async def gathered() -> list[Any]:
            return await asyncio.gather(*(self.store.call(*one) for one in commands))

        return self.do(gathered())

    def cut(self, coroutine: Coroutine[Any, Any, T], after: int | None) -> T | None:
        """Runs a process until it dies after so many calls (None: to its end); None when it died."""
        self.store.calls_left = after
        try:
            return self.do(coroutine)
        except Killed:
            return None
        finally:
            self.store.calls_left = None

    def lossy(self, lost: bool) -> None:
        """The next call's answer is lost."""
        self.store.lose_answer = lost

    # Redis' own accidents

    def incarnate(self) -> None:
        """As every connection notes it: the server has another `run_id` than before."""
        self.words += 1
        self.call("SET", keys.INCARNATION, f"run{self.words}")

    def save(self) -> None:
        """What a replica, or the file on the disk, has."""
        names = self.call("KEYS", "*")
        parts = self.calls(*(part for name in names for part in (("PTTL", name), ("DUMP", name))))
        self._dump = [(name, max(0, int(parts[2 * i])), parts[2 * i + 1]) for i, name in enumerate(names)]

    def fail_over(self) -> None:
        """Redis comes back with what was saved, under another incarnation: everything since is lost."""
        assert self._dump is not None
        self.call("FLUSHALL")
        if self._dump:
            self.calls(*(("RESTORE", name, left_ms, dump) for name, left_ms, dump in self._dump))
        self.incarnate()

    def teardown(self) -> None:
        self.call("CONFIG", "SET", "stream-node-max-entries", "100")
        self.do(self.store.close())
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()
