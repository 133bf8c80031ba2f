"""The client itself: the session's actions performed on a real socket, clock and store. What it decides is in `session`."""

import asyncio
import contextlib
import inspect
import secrets
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

from rt.client import messages as m
from rt.client.errors import ClientError, Unreachable
from rt.client.feed import Feed, Job, Subscription
from rt.client.link import LAST_WORDS_S, Link
from rt.client.session import Config, Session
from rt.client.store import CursorStore, MemoryStore
from rt.cursor import Cursor, parse_cursor
from rt.errors import RtError
from rt.keys import job_stream, session_stream, user_stream

#: A token, or a function that is asked for one: at first, when the one it gave expires, and after it has expired.
TokenSource = str | Callable[[], str] | Callable[[], Awaitable[str]]

_PATH = "/v1/ws"
Reader = TypeVar("Reader", Job, Subscription)

#: How long the socket is left unread for a reader that is behind. Servers give up on clients that take nothing for 20 s.
_CALM_S = 8.0


def connect(
    url: str,
    *,
    token: TokenSource | None = None,
    store: CursorStore | None = None,
    on_state: Callable[[m.Changed], None] | None = None,
    open_timeout_s: float = 10.0,
    config: Config | None = None,
) -> "Client":
    """A client of the server at `url` (http, https, ws or wss; the path is the server's, `/v1/ws` is added). For an `async with`.

    `store` keeps session and cursors: with a `FileStore` a process that is started again goes on where it stopped.
    `on_state` is called with each change of state, soon after it.

    Entering waits until the server has answered. Raises Unreachable when it does not within `open_timeout_s`, Stopped when
    it refuses (a wrong token, no such server), SessionTaken, and what `store.load` raises. From then on the connection is
    made again, and the session resumed, whenever it breaks. Leaving acknowledges what was processed, and closes.
    """
    return Client(url, token=token, store=store, on_state=on_state, open_timeout_s=open_timeout_s, config=config or Config())


class Client:
    """A session with a server, made by `connect`. Everything on the loop on which it was entered.

    Commands raise Refused (the server's answer), OutboxFull, OutcomeUnknown and Disconnected. They wait through lost connections, and
    are sent again with the same id, which the server takes once. Cancelling a wait does not take the command back.
    """

    def __init__(
        self,
        url: str,
        *,
        token: TokenSource | None,
        store: CursorStore | None,
        on_state: Callable[[m.Changed], None] | None,
        open_timeout_s: float,
        config: Config,
    ) -> None:
        self._address, self._local = _address(url)
        self._source = token
        self._store = store or MemoryStore()
        self._on_state = on_state
        self._open_timeout_s = open_timeout_s
        self._config = config
        self._answers: dict[str, asyncio.Future[Any]] = {}
        self._feeds: dict[str, Feed] = {}
        self._submitted: dict[str, Feed] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._error: RtError | None = None
        self._problem = ""
        self._link: Link | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._saved: m.Saved | None = None
        self._saving: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._moved = asyncio.Event()
        self._broken: BaseException | None = None

    # its life

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        saved = await asyncio.to_thread(self._store.load)
        renewable = callable(self._source)
        token = None if callable(self._source) else self._source
        self._session = Session(self._config, saved, token=token, renewable=renewable, prefix=secrets.token_hex(8))
        try:
            self._tell(m.Start())
            async with asyncio.timeout(self._open_timeout_s):
                while self._session.state != "open":
                    self._raise_if_over()
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            await self._shut()
            raise Unreachable(f"no rt server has answered at {self._address}: {self._problem or 'no answer in time'}") from None
        except BaseException:
            await self._shut()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            for feed in list(self._feeds.values()):
                feed.processed()
        await self._shut()
        if self._broken is not None and kind is None:
            raise self._broken

    async def close(self) -> None:
        """Leaves before the `async with` ends; what was given out last counts as not processed. May be called again."""
        await self._shut()

    async def _shut(self) -> None:
        """Says goodbye, and ends everything."""
        self._tell(m.Leave())
        try:
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=2 * LAST_WORDS_S)
        finally:
            if self._timer:
                self._timer.cancel()
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks)

    # what the application asks for

    @property
    def state(self) -> m.State:
        return self._session.state

    @property
    def session(self) -> str:
        """The session's id: a credential."""
        return self._session.id

    @property
    def subject(self) -> str:
        """Who the token says this is."""
        return self._session.subject

    @property
    def session_stream(self) -> str:
        return session_stream(self._session.id)

    @property
    def user_stream(self) -> str:
        return user_stream(self._session.subject)

    def submit(
        self,
        job: str,
        input: dict[str, Any] | None = None,
        *,
        stream: str | None = None,
        delay_s: float | None = None,
        timeout_s: float | None = None,
        idempotency_key: str | None = None,
    ) -> Job:
        """Submits a job by its registered name; what comes of it is read from what is returned, where errors are raised as well.

        `stream` names who else is told (`session:…`, `user:…`, `room:…`). The same `idempotency_key` within 24 h is the same job.
        Raises OutboxFull, Refused("too_large") and Disconnected at once: then nothing was sent.
        """
        given = {"stream": stream, "delay_s": delay_s, "timeout_s": timeout_s, "idempotency_key": idempotency_key}
        frame: dict[str, Any] = {"type": "job.submit", "job": job, "input": input or {}}
        if options := {name: value for name, value in given.items() if value is not None}:
            frame["options"] = options
        feed = self._feed()
        self._raise_if_over()
        id = self._session.new_id()
        self._submitted[id] = feed
        self._tell(m.Command(id, frame, reads=True, keyed=idempotency_key is not None))
        if feed.error is not None:
            raise feed.error
        return self._watched(Job(self, feed), feed)

    def job(self, job_id: str, *, cursor: str | None = None) -> Job:
        """A job that was submitted elsewhere, or by an earlier process: from where this session has processed it, otherwise from its start.

        Its text and the iteration begin there too: with `cursor="0"` at the start in any case.
        """
        feed = self._attach(job_stream(job_id), cursor)
        return self._watched(Job(self, feed), feed)

    def subscribe(self, stream: str, *, cursor: str | None = None) -> Subscription:
        """A stream's events: after `cursor` (`"<epoch>:<seq>"`, or `"0"` for the start), or else from where this session has
        processed it, or else from now on.

        Raises ValueError when the stream is being read already, Refused for what is no cursor or no stream. What the server says
        against it is raised by the subscription.
        """
        feed = self._attach(stream, cursor)
        return self._watched(Subscription(self, feed), feed)

    async def publish(self, stream: str, data: Any, *, event: str = "message", idempotency_key: str | None = None) -> int:
        """Appends an event to a stream; its seq."""
        frame = {"type": "publish", "stream": stream, "data": data, "event": event}
        if idempotency_key is not None:
            frame["idempotency_key"] = idempotency_key
        return int((await self._ask(frame, keyed=idempotency_key is not None))["seq"])

    async def call(self, type: str, data: dict[str, Any]) -> Any:
        """Sends an event that the application registered; what its handler answers."""
        return await self._ask({"type": type, "data": data})

    async def cancel(self, job_id: str) -> str:
        """Asks for a job's end; its status."""
        return str((await self._ask({"type": "job.cancel", "job_id": job_id}))["status"])

    async def input(self, job_id: str, data: Any, *, final: bool = False) -> int:
        """Feeds a job; the number of the input. Raises Refused("conflict") where it has ended, or was sent its last."""
        frame: dict[str, Any] = {"type": "job.input", "job_id": job_id, "data": data}
        return int((await self._ask(frame | ({"final": True} if final else {})))["seq"])

    def reconnect(self) -> None:
        """Takes the session back after SessionTaken; while waiting for the next try, tries now."""
        self._tell(m.Reconnect())

    def drop(self, feed: Feed) -> None:
        """Nobody reads this any more."""
        if self._feeds.get(feed.stream) is feed:
            del self._feeds[feed.stream]
            self._tell(m.Detach(feed.stream))
        for id, one in self._submitted.items():
            if one is feed:
                del self._submitted[id]
                self._tell(m.Abandon(id))
                break

    async def _ask(self, frame: dict[str, Any], *, keyed: bool = False) -> Any:
        self._raise_if_over()
        id = self._session.new_id()
        answer = self._answers[id] = self._loop.create_future()
        try:
            self._tell(m.Command(id, frame, keyed=keyed))
            return await answer
        finally:
            del self._answers[id]

    def _attach(self, stream: str, cursor: str | None) -> Feed:
        self._raise_if_over()
        if stream in self._feeds:
            raise ValueError(f"{stream} is being read already, by the one reader that a stream has")
        at: Cursor | None = None if cursor is None else parse_cursor(cursor)
        feed = self._feeds[stream] = self._feed()
        feed.begin(stream)
        self._tell(m.Attach(stream, at))
        return feed

    def _feed(self) -> Feed:
        return Feed(lambda stream: self._tell(m.Processed(stream)), self._moved.set, lambda: self._error)

    def _watched(self, reader: Reader, feed: Feed) -> Reader:
        weakref.finalize(reader, self._dropped, feed).atexit = False
        return reader

    def _dropped(self, feed: Feed) -> None:
        """A reader is no longer referenced; the interpreter may notice that on any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed, and the client with it
            self._loop.call_soon_threadsafe(self.drop, feed)

    def _raise_if_over(self) -> None:
        if self._error is not None:
            raise self._error

    # what the session wants

    def _tell(self, message: m.Message) -> None:
        for action in self._session.handle(message, self._loop.time()):
            self._perform(action)
        self._moved.set()
        self._arm()

    def _perform(self, action: m.Action) -> None:
        match action:
            case m.Send(text):
                assert self._link is not None
                self._link.send(text)
            case m.Deliver(stream, item):
                self._feeds[stream].put(item)
            case m.Answered(id, data):
                self._submitted.pop(id, None)
                if (answer := self._answers.get(id)) and not answer.done():
                    answer.set_result(data)
            case m.Failed(id, error):
                if feed := self._submitted.pop(id, None):
                    if not feed.stream:
                        feed.fail(error)
                elif (answer := self._answers.get(id)) and not answer.done():
                    answer.set_exception(error)
            case m.Accepted(id, stream):
                if feed := self._submitted.get(id):
                    self._feeds[stream] = feed
                    feed.begin(stream)
            case m.Ready(stream):
                if stream in self._feeds:
                    self._feeds[stream].make_ready()
            case m.Broken(stream, error):
                if broken := self._feeds.pop(stream, None):
                    broken.fail(error)
            case m.Dial():
                self._link = Link(
                    self._address, local=self._local, timeout_s=self._config.connect_timeout_s, say=self._tell, calm=self._wait_calm
                )
                self._spawn(self._link.run())
            case m.Hangup(code, reason):
                if self._link is not None:
                    self._link.hang_up(code, reason)
            case m.Renew():
                self._spawn(self._renew())
            case m.Save(saved):
                self._saved = saved
                if self._saving is None or self._saving.done():
                    self._saving = self._spawn(self._save())
            case m.Changed(_, _, problem, error):
                self._problem = problem or self._problem
                self._error = error
                self._changed.set()
                if error is not None:
                    for feed in (*self._feeds.values(), *self._submitted.values()):
                        feed.wake()
                if self._on_state is not None:
                    self._loop.call_soon(self._on_state, action)

    def _arm(self) -> None:
        """One timer, for when the session next wants to know the time; one that rings too early looks again."""
        at = self._session.next_tick()
        if at == float("inf") or (self._timer is not None and self._timer.when() <= at):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(at, self._ring)

    def _ring(self) -> None:
        self._timer = None
        if self._loop.time() >= self._session.next_tick():
            self._tell(m.Tick())
        else:
            self._arm()

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and self._broken is None:
            # The disk is full, or this client has a fault: nobody is to wait for what never comes.
            self._broken = error
            self._tell(m.Leave())
            self._error = ClientError(f"the client has failed: {type(error).__name__}: {error}")
            self._error.__cause__ = error

    async def _renew(self) -> None:
        assert callable(self._source)
        text, problem = None, ""
        try:
            given = self._source()
            text = await given if inspect.isawaitable(given) else given
        except Exception as error:  # the application's own function: whatever it raises is a token that is not there yet
            problem = f"{type(error).__name__}: {error}"
        self._tell(m.Token(text, problem))

    async def _save(self) -> None:
        while self._saved is not None:
            saved, self._saved = self._saved, None
            await asyncio.to_thread(self._store.save, saved)

    async def _wait_calm(self) -> None:
        """While a reader is behind and nobody waits for anything else, the socket is not read, and so the server sends no more.

        Otherwise, and after a while in any case, what does not fit is passed over and fetched again.
        """
        try:
            async with asyncio.timeout(_CALM_S):
                while self._session.crowded and not self._session.pending and self._session.state == "open":
                    if any(feed.wanting for feed in self._feeds.values()):
                        return
                    self._moved.clear()
                    await self._moved.wait()
        except TimeoutError:
            pass


def _address(url: str) -> tuple[str, bool]:
    """The WebSocket's address, and whether it is this machine's own. Raises ValueError."""
    at = urlsplit(url)
    scheme = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}.get(at.scheme)
    if scheme is None or not at.hostname or at.query or at.fragment:
        raise ValueError(f"a server's URL is http(s)://host or ws(s)://host, with a path at most; {url!r} is none")
    path = at.path.rstrip("/")
    return f"{scheme}://{at.netloc}{path if path.endswith(_PATH) else path + _PATH}", at.hostname in ("localhost", "127.0.0.1", "::1")
