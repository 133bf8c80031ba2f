"""One writer of attempts' events per worker process: batches of all its jobs leave in one call.

The first batch goes at once. Whatever gathers while a call is under way goes with the next, so calls grow with load
only, and an idle process adds nothing but one round trip. What a batch holds is asked for when its call is made, so that
it has everything its job has said by then. A call whose answer is lost is sent again with the same
batch numbers until Redis answers: each batch is appended once.
"""

import asyncio
import time
from collections.abc import Callable

from rt.redis import insist
from rt.streams.log import Appended, Batch, StreamLog
from rt.telemetry import metrics

#: Bytes of one call, and one batch more. Redis is held while it appends them.
CALL_BYTES = 1024 * 1024


class Writer:
    """Run `run()` in a task of its own; `append()` from any task of the loop."""

    def __init__(self, streams: StreamLog) -> None:
        self._streams = streams
        self._waiting: list[tuple[Callable[[], Batch], asyncio.Future[Appended]]] = []
        self._some = asyncio.Event()

    def append(self, board: Callable[[], Batch]) -> asyncio.Future[Appended]:
        """The answer to a batch, whenever Redis gives it; `board` makes the batch, and is called once. At most one batch of a stream
        may be under way.

        Cancelling the future does not take the batch back.
        """
        answer: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        self._waiting.append((board, answer))
        self._some.set()
        return answer

    async def run(self) -> None:
        while True:
            await self._some.wait()
            batches: list[Batch] = []
            size = 0
            for board, _ in self._waiting:
                batches.append(batch := board())
                size += sum(map(len, batch.events))
                if size > CALL_BYTES:
                    break
            call, self._waiting = self._waiting[: len(batches)], self._waiting[len(batches) :]
            if not self._waiting:
                self._some.clear()
            answers = await self._send(batches)
            for (_, future), answer in zip(call, answers, strict=True):
                if not future.done():
                    future.set_result(answer)

    async def _send(self, batches: list[Batch]) -> list[Appended]:
        began = time.perf_counter()
        answers = await insist("append", self._streams.append, batches)
        metrics.append_seconds.observe(time.perf_counter() - began)
        metrics.append_events.observe(sum(len(one.events) for one in batches))
        return answers
