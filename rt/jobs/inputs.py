"""What a job is sent while it runs: kept in order until it ends, so that another attempt reads it again.

The sender's side is `Inbox`; the job's is `Inputs`, which its context holds.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from rt import keys
from rt.codec import from_json_bytes, to_json_bytes
from rt.errors import JobError, Refused
from rt.events import MAX_EVENT_BYTES
from rt.jobs.queue import JobQueue
from rt.redis import Store, insist, load_script
from rt.streams.commands import request_hash, until_not_busy
from rt.streams.log import NOBODY, RECORD_TTL_S, Authorship, check_verdict

INPUT = load_script("streams/stream", "jobs/job", "jobs/input")

#: What one job is sent at most, whether it has read it or not.
MAX_INPUTS = 1000
MAX_BYTES = 4 * 1024 * 1024
#: Inputs outlive any job's longest run.
TTL_S = 2 * 86_400
#: The safety net when the wake-up is lost.
LOOK_S = 1.0


class Inbox:
    """The way in. Raises Unavailable when Redis does not answer; with a record it may then be repeated."""

    def __init__(self, store: Store, queue: JobQueue) -> None:
        self._store, self._queue = store, queue

    async def send(
        self, tenant: str, job_id: str, data: Any, *, final: bool = False, records: Iterable[str] = (), by: Authorship = NOBODY
    ) -> int:
        """The number of this input: 1 is the job's first. `final`: none follows.

        Raises Refused: "conflict" when the job has ended (with its status), its last input was sent, or a record is another
        request's; "queue_full" when it was sent too much; "too_large" above 256 KiB; TakenOver.
        """
        raw = to_json_bytes(data)
        if len(raw) > MAX_EVENT_BYTES:
            raise Refused("too_large", f"an input of {len(raw)} bytes; at most {MAX_EVENT_BYTES} are taken")
        stream = keys.job_stream(job_id)
        meta = keys.meta(tenant, stream)
        names = [meta, keys.inputs(tenant, stream), keys.cursors(tenant, by.session) if by.session else meta, *records]
        args = [
            *(raw, "1" if final else "", request_hash(["input", job_id, data, final]), RECORD_TTL_S, by.generation),
            *(TTL_S, MAX_INPUTS, MAX_BYTES, keys.doorbell(self._queue.name), job_id),
        ]

        async def call() -> list[Any]:
            reply: list[Any] = await self._store.run(INPUT, names, args)
            check_verdict(reply[0])
            return reply

        reply = await until_not_busy(call)
        match reply[0]:
            case b"ended":
                status = reply[1].decode()
                raise Refused("conflict", f"the job has {status} already", facts={"job_id": job_id, "status": status})
            case b"closed":
                raise Refused("conflict", "the job was sent its last input already", facts={"job_id": job_id})
            case b"full":
                message = f"a job is sent {MAX_INPUTS} inputs and {MAX_BYTES} bytes at most"
                raise Refused("conflict", message, facts={"job_id": job_id})
        return int(from_json_bytes(reply[1])["seq"])


class Inputs:
    """What a job was sent, in order: `async for data in job.inputs`, which ends after the last one.

    `position` is how many this attempt has read. A later attempt begins with the first again; one that goes on from a
    checkpoint keeps the position in it and sets it. `touch` is told when the job begins to wait (True) and goes on (False).
    """

    def __init__(self, store: Store, tenant: str, job_id: str, touch: Callable[[bool], None]) -> None:
        stream = keys.job_stream(job_id)
        self._store, self._key, self._meta = store, keys.inputs(tenant, stream), keys.meta(tenant, stream)
        self._touch = touch
        self._news = asyncio.Event()
        self.position = 0

    def wake(self) -> None:
        """There may be more."""
        self._news.set()

    async def next_now(self) -> tuple[bool, Any]:
        """`(True, data)`, or `(False, None)` when there is none yet. Raises StopAsyncIteration after the last one."""
        # In this order: what is sent last is in the list before it is said to be the last.
        last = await insist("input", self._store.call, "HGET", self._meta, "input_last")
        found = await insist("input", self._store.call, "LINDEX", self._key, self.position)
        if found is not None:
            self.position += 1
            return True, from_json_bytes(found)
        if last is not None and self.position >= int(last):
            raise StopAsyncIteration
        return False, None

    def __aiter__(self) -> "Inputs":
        return self

    async def __anext__(self) -> Any:
        self._touch(True)
        try:
            while True:
                self._news.clear()
                there, data = await self.next_now()
                if there:
                    return data
                try:
                    async with asyncio.timeout(LOOK_S):
                        await self._news.wait()
                except TimeoutError:
                    pass  # the wake-up may have been lost
        finally:
            self._touch(False)


def ended() -> JobError:
    return JobError("input_ended", "the job waits for an input, and its last one was sent already")
