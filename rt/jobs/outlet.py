"""What one attempt has still to append: gathers deltas, keeps their order, bounds their number.

The first word leaves at once; later ones gather for 20 ms or more (`pace.py`), texts that wait together become one delta, and of
progress that waits only the newest is kept. One batch is under way at a time, so its number says whether it is new.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from rt import events
from rt.codec import from_json_bytes
from rt.errors import JobError
from rt.gate import Gate
from rt.jobs.pace import Pace
from rt.redis import ReplyError
from rt.streams.log import Appended, Batch
from rt.streams.writer import Writer
from rt.telemetry import get_logger

log = get_logger("rt.outlet")

#: How much earlier a batch may leave when those before it left late, of the time that it gathers: who says a word every 20 ms need not
#: wait for each.
EARLY = 0.5
#: Above this an emit waits: Redis is away, or the job is faster than it.
BUFFER_BYTES = 64 * 1024
#: A delta's text is cut here, so that an announcement carries it (32 KiB) even when each character takes four bytes.
DELTA_CHARS = 4096


class Outlet:
    """One attempt's way to its stream. `on_refused` is called once, when another attempt, an end or a cancel stands in the way."""

    def __init__(
        self,
        tenant: str,
        stream: str,
        fence: str,
        attempt: int,
        writer: Writer[Batch, Appended],
        pace: Pace,
        on_refused: Callable[[Appended], None],
    ) -> None:
        self._tenant, self._stream, self._fence, self._attempt = tenant, stream, fence, attempt
        self._writer, self._pace = writer, pace
        self._on_refused = on_refused
        self._loop = asyncio.get_running_loop()
        self._events: list[bytes] = []
        self._texts: list[str] = []
        self._progress: dict[str, Any] | None = None
        self._bytes = 0
        self._number = 0
        #: The number of the last batch that was appended for certain.
        self.answered = 0
        #: Shut while a batch is to be written, or is being written.
        self._landed = Gate()
        #: What a checkpoint's batch holds, which was made when it was asked for.
        self._made: Batch | None = None
        #: When the next batch is due that the job itself has something in: what the worker says of it holds up no word.
        self._due = float("-inf")
        self._spoken = False
        self._timer: asyncio.Handle | None = None
        #: Nothing that is added will be written: the attempt was refused, or has ended.
        self.over = False
        self.refused: Appended | None = None

    @property
    def full(self) -> bool:
        return self._bytes >= BUFFER_BYTES

    def add_text(self, text: str) -> None:
        """Raises JobError("bad_event") for a text that no encoder takes (half a surrogate pair)."""
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError:
                raise JobError("bad_event", "the text holds half a surrogate pair") from None
        if self.over:
            return  # nothing of it will ever leave
        self._spoken = True
        if self._progress is not None:
            self._seal_progress()
        self._texts.append(text)
        self._bytes += len(text)
        self._soon()

    def add(self, type: str, data: Any, *, flat: bool = False) -> None:
        """Raises JobError("too_large") for an event above 256 KiB and "bad_event" for what has no JSON form.

        `flat`: `data` is ours, and known to have one.
        """
        event = self._encode(type, data, flat=flat)
        if self.over:
            return
        self._spoken = self._spoken or type == "job.delta"
        self._seal_texts()
        self._seal_progress()
        self._push(event)
        self._soon()

    def add_progress(self, data: dict[str, Any]) -> None:
        self._encode("job.progress", data)  # what cannot be written is refused now, to the one who wrote it
        if self.over:
            return
        self._spoken = True
        self._seal_texts()
        self._progress = data
        self._soon()

    def close(self) -> list[bytes]:
        """Everything that waits, for the call that ends the attempt; what is added from now on goes nowhere.

        Only after `wait_landed`, in the same turn of the loop: nothing may overtake what is returned.
        """
        self.over = True
        return self._take()

    async def wait_room(self) -> None:
        while self.full and not self.over:
            self._fly()
            await self._landed.wait()

    async def wait_landed(self) -> None:
        """Returns when no batch is under way, and none will be before the caller waits again. Cancelling is safe."""
        if not self._landed.open and self._made is None and self._writer.withdraw(self):
            self._landed.set()  # it waits with what follows it
        # A loop: between a landing and the turn in which this is heard of, what waited may have taken off.
        while not self._landed.open:
            await self._landed.wait()
        if self._timer:
            self._timer.cancel()
            self._timer = None

    async def flush(self, checkpoint: bytes = b"") -> None:
        """Returns when everything that was added before is in the stream, `checkpoint` (JSON) with its last seq."""
        await self.wait_landed()
        if not self.over:
            self._fly(checkpoint)
            await self._landed.wait()

    # from here on nothing waits

    @property
    def _pending(self) -> bool:
        return bool(self._texts or self._events) or self._progress is not None

    def _take(self) -> list[bytes]:
        self._seal_texts()
        self._seal_progress()
        out, self._events, self._bytes = self._events, [], 0
        return out

    def _soon(self) -> None:
        if self._landed.open and self._timer is None and not self.over:
            wait_s = self._due - EARLY * self._pace.gather_s - self._loop.time()
            if wait_s > 0:
                self._timer = self._loop.call_later(wait_s, self._fly)
            elif self._spoken:
                self._fly()
            else:
                # What the worker says waits for a turn, so that the first word goes along.
                self._timer = self._loop.call_soon(self._fly)

    def _fly(self, checkpoint: bytes = b"") -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if not self._landed.open or self.over:
            return
        if checkpoint:
            self._made = self._batch(checkpoint)  # what is said from here on is none of it
        elif not self._pending:
            return
        self._landed.clear()
        self._writer.put(self)

    def _batch(self, checkpoint: bytes = b"") -> Batch:
        self._number += 1
        if self._spoken:
            now = self._loop.time()
            self._pace.step(now)
            self._due = max(self._due, now) + self._pace.gather_s
        return Batch(self._tenant, self._stream, self._fence, self._number, self._take(), checkpoint)

    # what the writer asks for and tells

    def board(self) -> tuple[Batch, int]:
        batch, self._made = self._made or self._batch(), None
        return batch, sum(map(len, batch.events))

    def land(self, said: Appended) -> None:
        self._landed.set()
        if said.verdict != "ok":
            self.over, self.refused = True, said
            self._on_refused(said)
        else:
            self.answered = self._number
            if self._pending:
                self._soon()

    def refuse(self, error: ReplyError) -> None:
        # Another hand has been at the stream. The lease lapses, and another attempt follows.
        log.error("a batch was refused", stream=self._stream, exc_info=error)
        self.land(Appended("fenced"))

    def _seal_texts(self) -> None:
        if self._texts:
            text = "".join(self._texts)
            self._texts.clear()
            self._bytes -= len(text)
            for start in range(0, len(text), DELTA_CHARS):
                self._push(self._encode("job.delta", {"text": text[start : start + DELTA_CHARS]}, flat=True))

    def _seal_progress(self) -> None:
        if self._progress is not None:
            self._push(self._encode("job.progress", self._progress))
            self._progress = None

    def _push(self, event: bytes) -> None:
        self._events.append(event)
        self._bytes += len(event)

    def _encode(self, type: str, data: Any, *, flat: bool = False) -> bytes:
        try:
            event = events.encode(type, self._stream, data, int(time.time() * 1000), attempt=self._attempt)
            if not flat:
                from_json_bytes(event)  # what a later attempt would refuse to read is refused now
        except ValueError:
            raise JobError("bad_event", f"the data of a {type} has no JSON form, or is nested too deep") from None
        if len(event) > events.MAX_EVENT_BYTES:
            raise JobError("too_large", f"a {type} of {len(event)} bytes; at most {events.MAX_EVENT_BYTES} are taken")
        return event
