"""One writer of attempts' events per worker process: batches of all its jobs leave in one call.

The first batch goes at once. Whatever gathers while a call is under way goes with the next, so calls grow with load
only, and an idle process adds nothing but one round trip. A call whose answer is lost is sent again with the same
batch numbers until Redis answers: each batch is appended once.
"""

import asyncio
import time

from rt.redis import insist
from rt.streams.log import Appended, Batch, StreamLog
from rt.telemetry import metrics

#: Bytes of one call. Redis is held while it appends them.
CALL_BYTES = 1024 * 1024


class Writer:
    """Run `run()` in a task of its own; `append()` from any task of the loop."""

    def __init__(self, streams: StreamLog) -> None:
        self._streams = streams
        self._waiting: list[tuple[Batch, asyncio.Future[Appended]]] = []
        self._some = asyncio.Event()

    def append(self, batch: Batch) -> asyncio.Future[Appended]:
        """The batch's answer, whenever Redis gives it. At most one batch of a stream may be under way.

        Cancelling the future does not take the batch back.
        """
        answer: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        self._waiting.append((batch, answer))
        self._some.set()
        return answer

    async def run(self) -> None:
        while True:
            await self._some.wait()
            taken, size = 0, 0
            for batch, _ in self._waiting:
                size += sum(map(len, batch.events))
                if taken and size > CALL_BYTES:
                    break
                taken += 1
            call, self._waiting = self._waiting[:taken], self._waiting[taken:]
            if not self._waiting:
                self._some.clear()
            answers = await self._send([batch for batch, _ in call])
            for (_, future), answer in zip(call, answers, strict=True):
                if not future.done():
                    future.set_result(answer)

    async def _send(self, batches: list[Batch]) -> list[Appended]:
        began = time.perf_counter()
        answers = await insist("append", self._streams.append, batches)
        metrics.append_seconds.observe(time.perf_counter() - began)
        metrics.append_events.observe(sum(len(one.events) for one in batches))
        return answers
