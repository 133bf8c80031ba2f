"""The supervisor: the one TaskGroup that owns every actor of a process.

An actor's failure ends that actor alone. Its loop returns an outcome and never raises into the group, so that no
connection can end its neighbours; what ends is counted and logged by its kind.
"""

import asyncio
from types import TracebackType
from typing import Any

from rt.actors.actor import Actor, Ended
from rt.telemetry import get_logger

log = get_logger("rt.supervisor")


class Supervisor:
    """`async with supervisor:` opens the group; leaving it waits for every actor, and cancels those that are left."""

    def __init__(self) -> None:
        self._group: asyncio.TaskGroup | None = None
        self._actors: dict[Actor[Any], asyncio.Task[Ended]] = {}

    async def __aenter__(self) -> "Supervisor":
        self._group = asyncio.TaskGroup()
        await self._group.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for task in self._actors.values():
            task.cancel()
        assert self._group is not None
        await self._group.__aexit__(kind, error, trace)

    def start(self, actor: Actor[Any]) -> asyncio.Task[Ended]:
        """Runs an actor in the group; the task's result is how it ended. Raises RuntimeError when the group is not open."""
        if self._group is None:
            raise RuntimeError("the supervisor is not open")
        task = self._group.create_task(self._run(actor), name=f"actor {actor.name}")
        self._actors[actor] = task
        return task

    def __len__(self) -> int:
        """Actors that live."""
        return len(self._actors)

    @property
    def actors(self) -> list[Actor[Any]]:
        return list(self._actors)

    async def _run(self, actor: Actor[Any]) -> Ended:
        try:
            ended = await actor.run()
        finally:
            del self._actors[actor]
        if ended.error is not None:
            log.error("an actor failed", exc_info=ended.error)
        return ended
