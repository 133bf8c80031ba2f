"""An application for tests that break things: its job never ends by itself before the attempt that it was told of."""

import asyncio
import contextlib
import ctypes
import os
import threading
import time
from pathlib import Path

from rt import App, JobContext

app = App()


@app.job(max_attempts=3, keep=lambda past: True)
async def parts(job: JobContext, text: str, attempts: int) -> dict[str, str]:
    """Emits one part of the text per attempt and then is busy for ever; the attempt numbered `attempts` ends it."""
    assert text.startswith(job.past.text)
    size = -(-len(text) // attempts)
    end = len(text) if job.attempt >= attempts else job.attempt * size
    await job.emit(text[len(job.past.text) : end])
    beat = 0
    while job.attempt < attempts:
        beat += 1
        await job.progress(beat)
        await asyncio.sleep(0.05)
    return {"text": text}


@app.job(max_attempts=3, keep=lambda past: True)
async def paced(job: JobContext, text: str, delay_ms: int) -> dict[str, str]:
    """Emits the text letter by letter."""
    for letter in text[len(job.past.text) :]:
        await job.emit(letter)
        await asyncio.sleep(delay_ms / 1000)
    return {"text": text}


@app.job(max_attempts=3)
def deadly(job: JobContext, mended: str) -> dict[str, int]:
    """Ends its worker, as a crash in a library does, until the file `mended` is there."""
    job.wait(job.emit(f"attempt {job.attempt}"))
    if not Path(mended).exists():
        os._exit(1)
    return {"attempt": job.attempt}


@app.job(max_attempts=9, timeout_s=600, keep=lambda past: True)
async def count(job: JobContext, until: str, every_ms: int) -> dict[str, int]:
    """Counts aloud until somebody puts a file at the path `until`: a job as long as the fault that it is to live through."""
    number = job.past.text.count(" ")
    while not Path(until).exists():  # noqa: ASYNC240
        await job.emit(f"{number} ")
        number += 1
        await asyncio.sleep(every_ms / 1000)
    return {"count": number}


@app.job(max_attempts=2, keep=lambda past: True)
async def blocks(job: JobContext, text: str, until: str) -> dict[str, int]:
    """Emits one half of the text, blocks its worker's event loop until there is a file at the path `until`, and emits the other."""
    half = len(text) // 2
    if job.attempt == 1:
        await job.emit(text[:half])
        await job.checkpoint(None)
        while not Path(until).exists():  # noqa: ASYNC240
            time.sleep(0.01)  # noqa: ASYNC251
    await job.emit(text[max(half, len(job.past.text)) :])
    return {"attempt": job.attempt}


@app.job(max_attempts=3)
async def tell(job: JobContext, prompt: str) -> dict[str, int]:
    """Emits what the worker's model says."""
    async for piece in job.model.stream(prompt):
        await job.emit(piece)
    return {"attempt": job.attempt}


@app.job(max_attempts=3)
async def deaf(job: JobContext) -> None:
    """Never ends, whoever cancels it."""
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await job.emit(".")
            await asyncio.sleep(0.05)


@app.job(max_attempts=3)
def deaf_thread(job: JobContext) -> None:
    """Never ends, and looks at nothing: a library that waits for good."""
    job.wait(job.emit("."))
    threading.Event().wait()


@app.job(max_attempts=2, keep=lambda past: True)
async def deadlocks(job: JobContext, text: str, begun: str) -> dict[str, str]:
    """Emits one half of the text, puts a file at the path `begun` and blocks its worker's event loop for good, in a library that
    knows of no signal; its next attempt emits the other half."""
    half = len(text) // 2
    if job.attempt == 1:
        await job.emit(text[:half])
        await job.checkpoint(None)
        Path(begun).touch()  # noqa: ASYNC240
        libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
        for _ in range(2):
            libc.pthread_mutex_lock(mutex)
    await job.emit(text[len(job.past.text) :])
    return {"text": text}


@app.job(timeout_s=60)
async def pour(job: JobContext, events: int, size: int) -> dict[str, int]:
    """Emits so many data deltas of so many bytes, as fast as they are taken."""
    for number in range(events):
        await job.emit({"number": number, "fill": "x" * size})
    return {"events": events}
