"""The benchmark's jobs. Their source yields to the loop before each event and does not wait, unless a gap is given, as the peers' do."""

import asyncio
import time
from collections.abc import AsyncIterator

from bench.marks import mark
from rt import App, JobContext

app = App()


async def source(n: int, gap_ms: float) -> AsyncIterator[int]:
    """One is due every `gap_ms` from the start on, however long the last one took."""
    began = time.perf_counter()
    for i in range(n):
        await asyncio.sleep(max(0, began + i * gap_ms / 1000 - time.perf_counter()))
        yield i


@app.job
async def words(job: JobContext, n: int, gap_ms: float = 0) -> None:
    """Text: "word-0 word-1 …", with the time of each one where they are paced. What waits together becomes one event."""
    async for i in source(n, gap_ms):
        await job.emit(f"word-{i}@{time.time() * 1000:.1f} " if gap_ms else f"word-{i} ")


@app.job
async def items(job: JobContext, n: int, gap_ms: float = 0) -> None:
    """The same as data, of which each piece stays an event of its own."""
    async for i in source(n, gap_ms):
        await job.emit({"i": i, "d": f"word-{i}", **({"ts": time.time() * 1000} if gap_ms else {})})


@app.job
async def noop(job: JobContext, id: str) -> None:
    mark(id)


@app.job(timeout_s=600)
async def hold(job: JobContext, id: str) -> None:
    mark(id)
    await asyncio.sleep(600)
