"""The items of one stream that wait for their reader, and the readers: a subscription, and a job."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator
from typing import Any, Protocol, Self

from rt.client.errors import EventsLost, JobCancelled, JobFailed
from rt.client.events import Gap, StreamEvent
from rt.client.transcript import Piece, Transcript
from rt.errors import RtError
from rt.keys import parse_stream


class Feed:
    """What a client delivers to one reader. An item counts as processed when the next one is asked for."""

    def __init__(self, on_processed: Callable[[str], None], on_wanting: Callable[[], None], broken: Callable[[], RtError | None]) -> None:
        #: "" until it is known: of a job that is being submitted.
        self.stream = ""
        self.error: RtError | None = None
        self._items: deque[StreamEvent | Gap] = deque()
        self._given = False
        self._ready = False
        self._wanting = 0
        self._news = asyncio.Event()
        self._on_processed, self._on_wanting, self._broken = on_processed, on_wanting, broken

    @property
    def wanting(self) -> bool:
        """Whether somebody waits, and there is nothing for them."""
        return self._wanting > 0 and not self._items

    def put(self, item: StreamEvent | Gap) -> None:
        self._items.append(item)
        self._news.set()

    def begin(self, stream: str) -> None:
        self.stream = stream
        self._news.set()

    def make_ready(self) -> None:
        self._ready = True
        self._news.set()

    def fail(self, error: RtError) -> None:
        """What waits is still given out; then this is raised."""
        self.error = error
        self._news.set()

    def wake(self) -> None:
        self._news.set()

    def processed(self) -> None:
        """The reader is done with what it was given last."""
        if self._given:
            self._given = False
            self._on_processed(self.stream)

    async def wait_begun(self) -> str:
        await self._wait(lambda: bool(self.stream))
        return self.stream

    async def wait_ready(self) -> None:
        await self._wait(lambda: self._ready)

    async def next(self) -> StreamEvent | Gap:
        """Raises what the client or the stream was ended by. Cancelling is safe: nothing is taken."""
        if self._wanting:
            raise RuntimeError("somebody else waits for this stream's next item already")
        self.processed()
        await self._wait(lambda: bool(self._items))
        self._given = True
        return self._items.popleft()

    async def _wait(self, done: Callable[[], bool]) -> None:
        self._wanting += 1
        try:
            while not done():
                if error := self.error or self._broken():
                    raise error
                self._on_wanting()
                self._news.clear()
                await self._news.wait()
        finally:
            self._wanting -= 1


class Owner(Protocol):
    """What readers need of their client."""

    def drop(self, feed: Feed) -> None: ...
    async def cancel(self, job_id: str) -> str: ...
    async def input(self, job_id: str, data: Any, *, final: bool = False) -> int: ...


class Subscription(AsyncIterator[StreamEvent | Gap]):
    """A stream's events and gaps, in order, each once, through any number of connections. For one reader at a time.

    An item counts as processed (and is acknowledged) when the next one is asked for, or when the client's `async with` is left
    without an exception. `async with` waits until the server follows, and leaves the stream at its end. Without it, the
    stream is left when the object is no longer referenced; a room that is left is forgotten, with the position in it.
    """

    def __init__(self, owner: Owner, feed: Feed) -> None:
        self._owner, self._feed = owner, feed

    @property
    def stream(self) -> str:
        return self._feed.stream

    async def ready(self) -> Self:
        """Waits until the server follows the stream: from then on nothing is missed. Raises Refused and Disconnected."""
        await self._feed.wait_ready()
        return self

    async def __aenter__(self) -> Self:
        return await self.ready()

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._feed.processed()
        self.close()

    async def __anext__(self) -> StreamEvent | Gap:
        """Waits for the next one. Raises Refused where the stream may not be read, and Disconnected. Cancelling is safe."""
        return await self._feed.next()

    def close(self) -> None:
        """Leaves the stream. What was given out last counts as not processed, unless another one was asked for."""
        self._owner.drop(self._feed)


class Job(AsyncIterator[StreamEvent | Gap]):
    """A job's events, its text, its result. All three read the same events: take one of them, or one after the other.

    For one reader at a time. The iteration ends after the terminal event; `result()` and `text()` go on from wherever it is, and may be
    called again. Dropping the object leaves the stream, and the job runs on; `cancel()` ends it.
    """

    def __init__(self, owner: Owner, feed: Feed) -> None:
        self._owner, self._feed = owner, feed
        self._transcript = Transcript()
        self._final: StreamEvent | Gap | None = None

    async def accepted(self) -> str:
        """The job's id, once the server has accepted it: from then on it ends, whoever is killed. Raises Refused and ClientError."""
        return parse_stream(await self._feed.wait_begun()).subject

    @property
    def id(self) -> str | None:
        """None before the server has accepted it."""
        return parse_stream(self._feed.stream).subject if self._feed.stream else None

    async def __anext__(self) -> StreamEvent | Gap:
        """The next event or gap. Raises Refused where the job was not accepted, and Disconnected. Cancelling is safe."""
        return (await self._next())[0]

    async def _next(self) -> tuple[StreamEvent | Gap, Piece | None]:
        if self._final is not None:
            self._feed.processed()
            raise StopAsyncIteration
        item = await self._feed.next()
        if item.final:
            self._final = item
        return item, self._transcript.take(item)

    async def result(self) -> Any:
        """What the job's function returned, once it has. Cancelling is safe.

        Raises JobFailed, JobCancelled, EventsLost, Refused and Disconnected.
        """
        async for _ in self:
            pass
        return self._outcome()

    def text(self) -> "Text":
        """`await` it for the whole text, or iterate over it as it comes: see `Text`."""
        return Text(self)

    async def cancel(self) -> str:
        """Asks for the job's end; returns its status. Raises Refused("conflict") where it has ended otherwise."""
        return await self._owner.cancel(await self.accepted())

    async def input(self, data: Any, *, final: bool = False) -> int:
        """Feeds the job; returns the seq of the input. Raises Refused."""
        return await self._owner.input(await self.accepted(), data, final=final)

    def close(self) -> None:
        """Leaves the job's stream, and the job to itself."""
        self._owner.drop(self._feed)

    def _outcome(self) -> Any:
        assert self._final is not None
        end, id = self._final, self.id or ""
        if isinstance(end, Gap):
            data = end.snapshot["data"] if end.snapshot else {}
            type = f"job.{data.get('status')}"
        else:
            data, type = end.data, end.type
        match type:
            case "job.completed":
                return data.get("result")
            case "job.failed":
                raise JobFailed(id, data.get("error") or {})
            case "job.cancelled":
                raise JobCancelled(id, data.get("by"))
        raise EventsLost(end.stream, None, None)

    async def _pieces(self) -> AsyncIterator[Piece]:
        if self._transcript.text:
            yield Piece(self._transcript.text, 0)
        while True:
            try:
                _, piece = await self._next()
            except StopAsyncIteration:
                break
            if piece is not None:
                yield piece
        self._outcome()
        if self._transcript.lost:
            raise self._transcript.lost

    async def _whole(self) -> str:
        async for _ in self._pieces():
            pass
        return self._transcript.text


class Text:
    """A job's text. Raises what `Job.result` raises, at its end, and EventsLost where some of it is lost.

        text = await job.text()                     # the whole

        async for piece in job.text():              # as it comes
            print(piece, end="", flush=True)

    A piece is a `str` that says where it belongs: a job whose worker was killed may start over, and then some of what it said counts
    no more. Who shows the text where it can be changed writes `shown = shown[:piece.start] + piece`. The first piece is all that was
    said so far.
    """

    def __init__(self, job: Job) -> None:
        self._job = job

    def __await__(self) -> Generator[Any, None, str]:
        return self._job._whole().__await__()

    def __aiter__(self) -> AsyncIterator[Piece]:
        return self._job._pieces()
