"""The application of the long form: jobs whose words are known beforehand, whatever happens to their workers."""

import asyncio
import time

from rt import App, JobContext

app = App()


def word(seed: str, i: int) -> str:
    return f"{seed}.{i} "


def speech(seed: str, count: int) -> str:
    """What a job of these inputs says, whatever happens to it on its way: its deltas joined, as `job.restarted` tells."""
    return "".join(word(seed, i) for i in range(count))


async def _speak(job: JobContext, seed: str, count: int, burst: int, pause_ms: int, begin: int) -> dict[str, int]:
    """A word of each burst as text, which may be joined with others, the rest as data: an event each."""
    for i in range(begin, count):
        await job.emit({"w": word(seed, i)} if i % burst else word(seed, i))
        if i % burst == burst - 1:
            await asyncio.sleep(pause_ms / 1000)
    return {"count": count}


#: No fault that is drawn may end a job, so a run may be lost any number of times.
_FOR_EVER = 10_000


@app.job(max_attempts=_FOR_EVER, keep=lambda past: True)
async def goes_on(job: JobContext, seed: str, count: int, burst: int, pause_ms: int) -> dict[str, int]:
    return await _speak(job, seed, count, burst, pause_ms, begin=len(job.past.text.split()) + len(job.past.deltas))


@app.job(max_attempts=_FOR_EVER)
async def begins_again(job: JobContext, seed: str, count: int, burst: int, pause_ms: int) -> dict[str, int]:
    return await _speak(job, seed, count, burst, pause_ms, begin=0)


@app.job(max_attempts=_FOR_EVER)
async def from_checkpoint(job: JobContext, seed: str, count: int, burst: int, pause_ms: int) -> dict[str, int]:
    """Stores where it is after every fourth burst."""
    at = job.past.checkpoint["at"] if job.past.checkpoint else 0
    while at < count:
        at_most = min(count, at + 4 * burst)
        await _speak(job, seed, at_most, burst, pause_ms, begin=at)
        at = at_most
        await job.checkpoint({"at": at})
    return {"count": count}


@app.job(max_attempts=_FOR_EVER, keep=lambda past: True)
async def tells(job: JobContext, seed: str, count: int, burst: int, pause_ms: int) -> dict[str, int]:
    """All in text, and each word an event of its own, with another between: more than the log of a job keeps."""
    for i in range(job.past.text.count(" "), count):
        await job.emit(word(seed, i))
        await job.progress(i)
        if i % burst == burst - 1:
            await asyncio.sleep(pause_ms / 1000)
    return {"count": count}


@app.job(max_attempts=_FOR_EVER, keep=lambda past: True)
async def flood(job: JobContext, seed: str, count: int, bytes: int) -> dict[str, int]:
    """Large pieces, as fast as they are taken."""
    for i in range(len(job.past.deltas), count):
        await job.emit({"w": word(seed, i), "padding": "x" * bytes})
    return {"count": count}


@app.job(max_attempts=_FOR_EVER, keep=lambda past: True)
async def blocks(job: JobContext, seed: str, block_s: float) -> dict[str, int]:
    """Blocks its worker's event loop in its first attempt: what nobody should write, and somebody does."""
    if not job.past.text:
        await job.emit(word(seed, 0))
        await asyncio.sleep(0.1)  # the word leaves; a later attempt finds it, and does not block
        time.sleep(block_s)  # noqa: ASYNC251
    return {"count": 1}
