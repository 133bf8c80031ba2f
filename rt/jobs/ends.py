"""The ends of runs, as the worker's writer of ends sends them: many in one call of `settle.lua`."""

import asyncio
from typing import Any

from rt import keys
from rt.cursor import new_epoch
from rt.jobs.queue import letter_bounds
from rt.redis import ReplyError, Store, load_script
from rt.settings import Settings
from rt.streams.log import StreamLog
from rt.streams.writer import Writer

SETTLE = load_script("streams/stream", "jobs/job", "jobs/settle")


class End:
    """What `settle.lua` takes of one run; `answer` is what it says: "ok", "fenced", "cancelled <by>" or "behind"."""

    def __init__(self, tenant: str, stream: str, args: list[Any]) -> None:
        self.names = (keys.log(tenant, stream), keys.meta(tenant, stream))
        self.args = args
        self.answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    # as a passenger of the writer

    def board(self) -> tuple["End", int]:
        return self, sum(len(one) for one in self.args if isinstance(one, bytes))

    def land(self, answer: str) -> None:
        if not self.answer.done():
            self.answer.set_result(answer)

    def refuse(self, error: ReplyError) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


def writer_of_ends(store: Store, streams: StreamLog, settings: Settings) -> Writer[End, str]:
    """One that is sent again is recognised by its fence and kind, and does nothing twice."""
    kept = (*streams.keep("job:-"), settings.keep_result_s * 1000, *letter_bounds(settings))

    async def send(ends: list[End]) -> list[str]:
        names = [settings.queue, *(name for one in ends for name in one.names)]
        args = [new_epoch(), *kept, *(arg for one in ends for arg in one.args)]
        return [said.decode() for said in await store.run(SETTLE, names, args)]

    return Writer("settle", send)
