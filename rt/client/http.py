"""The client of services: HTTP calls that are safe to repeat, and event streams that are taken up where they were cut. No asyncio.

For who enqueues, follows, waits and is done. A session with streams that come by themselves is `rt.client.connect`.
"""

import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import quote, urlsplit

import httpx2

from rt.client.backoff import Backoff
from rt.client.errors import ClientError, EventsLost, JobCancelled, JobFailed, Unreachable
from rt.client.events import Gap, StreamEvent, event_of, gap_of
from rt.client.session import refused
from rt.codec import DecodeError, TooDeep, from_json_bytes
from rt.events import Level

#: Servers say something at least every 20 s; one that is silent for longer is gone.
_SILENCE_S = 60.0
_CONNECT_S = 10.0
#: A request that has stood for so long is no failure.
_STOOD_S = 10.0
#: What asks for more than this is not waited for.
_LONGEST_WAIT_S = 60.0
#: What the server says after a job's end, so that a browser does not come back.
_STAY_AWAY_S = 3600.0
#: Answers that are another one later: too many calls, and what proxies say of a server that restarts.
_LATER = frozenset({429, 502, 503, 504})
#: More than any seq.
_ANY = 2**53
_LETTERS = "/v1/dead-letters"


@dataclass(frozen=True, slots=True)
class Accepted:
    """What the server says to a submission. `duplicate`: this key has made the job before."""

    job_id: str
    status: str
    stream: str
    events_url: str
    duplicate: bool


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a list, or of a stream's history. `next` leads to the one after it; None: this is the last."""

    items: list[dict[str, Any]]
    next: str | None


@dataclass(frozen=True, slots=True)
class Unread:
    """`unread` counts the notifications that the user's stream still has and that are not marked as read; `read` is the mark, a cursor."""

    unread: int
    read: str


class Lost(Unreachable):
    """A server that has answered before does so no more."""


class NotAnRtServer(ClientError):
    """Somebody answers at the address, and not as an rt server does. `status` is the HTTP status."""

    def __init__(self, url: str, status: int) -> None:
        super().__init__(f"{url} answered {status}, and not as an rt server does")
        self.status = status


class HttpClient:
    """A server's HTTP API at `url` (`https://host`, with a path where the server has one). For a `with`; for one thread at a time.

    `token` is a token, or a function that is asked for one before each call. A call whose answer is lost or temporary (429,
    502, 503, 504) is sent again, `tries` times at most in a row (ten are about half a minute), after `Retry-After` where
    that is a minute or less. Every call is harmless to repeat: what a repeat would do twice (a submission, a publication, an input,
    a notification) carries an idempotency key, one of its own where none is given. With `patient=False` a server that is not
    there, or has no time for a call, is said at once, as a person at a terminal wants it.

    Every call raises Refused with the server's words, Unreachable, or NotAnRtServer.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | Callable[[], str] | None = None,
        tries: int = 10,
        patient: bool = True,
    ) -> None:
        self.url = url.rstrip("/")
        self._token = token
        self._tries = tries
        self._patient = patient
        self._reached = False
        self._http = httpx2.Client(
            base_url=self.url,
            timeout=httpx2.Timeout(_CONNECT_S, read=_SILENCE_S),
            # A proxy that the environment names cannot reach this machine's own addresses.
            trust_env=urlsplit(self.url).hostname not in ("localhost", "127.0.0.1", "::1"),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    # jobs

    def submit(
        self,
        job: str,
        input: dict[str, Any] | None = None,
        *,
        idempotency_key: str | None = None,
        stream: str | None = None,
        delay_s: float | None = None,
        timeout_s: float | None = None,
    ) -> Accepted:
        """Enqueues a job: once it is accepted it ends, whoever is killed.

        The same `idempotency_key` and job within 24 h is the same job; another job with it is Refused("conflict"). `stream`
        names who is told (`user:…`, `room:…`, `session:…`).
        """
        body: dict[str, Any] = {"job": job, "input": input or {}}
        if stream is not None:
            body["stream"] = stream
        if options := {name: value for name, value in (("delay_s", delay_s), ("timeout_s", timeout_s)) if value is not None}:
            body["options"] = options
        return self._accepted(self.send("POST", "/v1/jobs", body, key=idempotency_key or str(uuid.uuid4())))

    def job(self, job_id: str) -> dict[str, Any]:
        """What is known of a job: `{job_id, job, status, attempt, created_at, started_at?, finished_at?, result?, error?, usage?}`."""
        return self.call("GET", job_path(job_id))  # type: ignore[no-any-return]

    def jobs(self, *, status: str | None = None, job: str | None = None, limit: int | None = None, cursor: str | None = None) -> Page:
        """Jobs, newest first; `cursor` is the `next` of the page before."""
        return _page(self.call("GET", "/v1/jobs", params={"status": status, "job": job, "limit": limit, "cursor": cursor}))

    def cancel(self, job_id: str) -> str:
        """Asks for a job's end; its status. Raises Refused("conflict") where it has ended otherwise."""
        return str(self.call("POST", f"{job_path(job_id)}/cancel")["status"])

    def input(self, job_id: str, data: Any, *, final: bool = False, idempotency_key: str | None = None) -> dict[str, Any]:
        """Feeds a job: `{job_id, seq}`, the number of the input. Raises Refused("conflict") where it has ended, or was sent its last."""
        body = {"data": data} | ({"final": True} if final else {})
        return self.call("POST", f"{job_path(job_id)}/input", body, key=idempotency_key or str(uuid.uuid4()))  # type: ignore[no-any-return]

    def wait(self, job_id: str, *, timeout_s: float | None = None, on_event: Callable[[StreamEvent | Gap], None] | None = None) -> Any:
        """A job's result, once it has ended; `on_event` is given everything until then: texts, `job.progress`, restarts.

        Raises JobFailed, JobCancelled, EventsLost where nobody knows the result any more, and TimeoutError after `timeout_s`
        (the job goes on).
        """
        last: StreamEvent | Gap | None = None
        for last in self.follow(job_id, timeout_s=timeout_s):
            if on_event is not None:
                on_event(last)
        if last is not None and last.final and isinstance(last, StreamEvent):
            data, status = last.data, last.type.removeprefix("job.")
        else:
            data = self.job(job_id)
            status = data["status"]
        match status:
            case "completed":
                return data.get("result")
            case "failed":
                raise JobFailed(job_id, data.get("error") or {})
            case "cancelled":
                raise JobCancelled(job_id, data.get("by"))
        raise EventsLost(f"job:{job_id}", None, None)

    def follow(self, job_id: str, *, cursor: str | None = None, timeout_s: float | None = None) -> Iterator[StreamEvent | Gap]:
        """A job's events and gaps, from its first (or after `cursor`) to its last, each once, through cuts and deploys.

        Raises Refused, Unreachable (Lost, where it has answered before), and TimeoutError after `timeout_s`.
        """
        for _, frame in self.frames(f"{job_path(job_id)}/events", cursor, timeout_s):
            yield _item(frame)
            if frame.get("final"):
                return

    # streams

    def publish(self, stream: str, data: Any, *, type: str = "message", idempotency_key: str | None = None) -> dict[str, Any]:
        """Appends an event to a stream: `{stream, seq, epoch}`."""
        path = _events_path(stream)
        return self.call("POST", path, {"type": type, "data": data}, key=idempotency_key or str(uuid.uuid4()))  # type: ignore[no-any-return]

    def events(self, stream: str, *, cursor: str | None = None, timeout_s: float | None = None) -> Iterator[tuple[str, StreamEvent | Gap]]:
        """A stream's events and gaps as they come, each with the cursor behind it, from now on or after `cursor` (`"0"`: from the start).

        Endless. Raises Refused, Unreachable (Lost, where it has answered before), and TimeoutError after `timeout_s`.
        """
        for id, frame in self.frames(_events_path(stream), cursor, timeout_s):
            yield id, _item(frame)

    def history(self, stream: str, *, after: str = "0", limit: int | None = None) -> Page:
        """A page of what a stream still has, after a seq or a cursor."""
        params = {"after": after, "limit": limit}
        return _page(self.call("GET", _events_path(stream), params=params, accept="application/json"))

    # people

    def presence(self, room: str, *, limit: int | None = None, cursor: str | None = None) -> Page:
        """Who is in a `room:…` now, in order: items `{subject, sessions}`; `cursor` is the `next` of the page before."""
        return _page(self.call("GET", f"{_stream_path(room)}/presence", params={"limit": limit, "cursor": cursor}))

    def notify(
        self,
        user: str,
        title: str,
        message: str = "",
        *,
        level: Level = "info",
        metadata: dict[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> dict[str, Any]:
        """Notifies a user on all devices, also one who is away: `{stream, muted, seq?, epoch?}`; `muted`: nothing was written.

        Needs the scope `notifications:send`, as `broadcast` does.
        """
        body = {"user": user} | _notification(title, message, level, metadata)
        return self.call("POST", "/v1/notifications", body, key=idempotency_key or str(uuid.uuid4()))  # type: ignore[no-any-return]

    def broadcast(
        self,
        title: str,
        message: str = "",
        *,
        level: Level = "info",
        metadata: dict[str, Any] | None = None,
        exclude: Iterable[str] = (),
        idempotency_key: str | None = None,
    ) -> Accepted:
        """Notifies everybody but `exclude` (1,000 subjects at most), by a job; its result is `{sent, muted}`."""
        body = _notification(title, message, level, metadata) | {"exclude": list(exclude)}
        return self._accepted(self.send("POST", "/v1/notifications/broadcast", body, key=idempotency_key or str(uuid.uuid4())))

    def muted(self, subject: str) -> list[Level]:
        """The levels of notifications that a user does not want."""
        return self.call("GET", _user_path(subject, "preferences"))["muted_levels"]  # type: ignore[no-any-return]

    def mute(self, subject: str, levels: Iterable[Level]) -> None:
        """Sets them, from now on; none: everything is wanted again. What was sent stays."""
        self.call("PUT", _user_path(subject, "preferences"), {"muted_levels": list(levels)})

    def unread(self, subject: str) -> Unread:
        """How many notifications a user has not marked as read."""
        return _unread(self.call("GET", _user_path(subject, "unread")))

    def mark_read(self, subject: str, cursor: str) -> Unread:
        """Marks everything up to a cursor of the user's stream (`"<epoch>:<seq>"`) as read, on all devices.

        The mark never goes back. Raises Refused("conflict") for a cursor that counts no more.
        """
        return _unread(self.call("POST", _user_path(subject, "read"), {"cursor": cursor}))

    # jobs that have failed for good

    def letters(self, *, job: str | None = None, limit: int | None = None, cursor: str | None = None) -> Page:
        """Dead letters, newest first; `cursor` is the `next` of the page before."""
        return _page(self.call("GET", _LETTERS, params={"job": job, "limit": limit, "cursor": cursor}))

    def letter(self, job_id: str) -> dict[str, Any]:
        """One of them, with its input and every error."""
        return self.call("GET", job_path(job_id, _LETTERS))  # type: ignore[no-any-return]

    def retry(self, job_id: str) -> Accepted:
        """The job as which a dead letter is run again: the same one however often it is called."""
        return self._accepted(self.send("POST", f"{job_path(job_id, _LETTERS)}/retry"))

    def forget(self, job_id: str) -> None:
        """Deletes a dead letter. Where there is none (any more: the answer of a first try may be lost) that is Refused("not_found")."""
        self.call("DELETE", job_path(job_id, _LETTERS))

    # every other call of the server's

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        key: str | None = None,
        params: dict[str, Any] | None = None,
        accept: str | None = None,
    ) -> Any:
        """The answer's JSON; None where it has no content. Parameters that are None are not sent."""
        return self.read(self.send(method, path, body, key=key, params=params, accept=accept))

    def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        key: str | None = None,
        params: dict[str, Any] | None = None,
        accept: str | None = None,
    ) -> httpx2.Response:
        """As `call`, unread. The last answer, however often it was asked for; Unreachable when there was none."""
        headers = {name: value for name, value in (("Idempotency-Key", key), ("Accept", accept)) if value is not None}
        given = {name: value for name, value in (params or {}).items() if value is not None}
        backoff = self._backoff()
        while True:
            wait_s = backoff.next_s()
            try:
                response = self._http.request(method, path, json=body, headers=headers | self._authorization(), params=given)
            except httpx2.TransportError as error:
                if backoff.failures >= self._tries or (not self._patient and isinstance(error, httpx2.ConnectError)):
                    raise self._unreachable(error) from None
            else:
                self._reached = True
                wait_s = max(wait_s, _retry_after_s(response))
                if response.status_code not in _LATER or not self._patient or backoff.failures >= self._tries or wait_s > _LONGEST_WAIT_S:
                    return response
            time.sleep(wait_s)

    def read(self, response: httpx2.Response) -> Any:
        """What an answer says. Raises Refused and NotAnRtServer."""
        if response.status_code == 204:
            return None
        try:
            body = from_json_bytes(response.content)
        except (DecodeError, TooDeep):
            body = None
        if response.status_code < 300 and body is not None:
            return body
        if isinstance(body, dict) and "code" in body:
            raise refused(body)
        raise NotAnRtServer(self.url, response.status_code)

    def frames(self, path: str, cursor: str | None = None, timeout_s: float | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
        """Server-Sent Events as they come: the id behind each, and its frame. Ends when the server says that nothing follows.

        What cuts it is followed by another request with the last id.
        """
        ends = float("inf") if timeout_s is None else time.monotonic() + timeout_s
        backoff = self._backoff()
        while True:
            began, told_s = time.monotonic(), None
            # A deadline need not wait for the next comment.
            timeout = httpx2.Timeout(_CONNECT_S, read=min(_SILENCE_S, max(0.001, ends - began)))
            headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": cursor} if cursor is not None else {})
            problem: Exception
            try:
                with self._http.stream("GET", path, headers=headers | self._authorization(), timeout=timeout) as response:
                    if response.status_code != 200:
                        response.read()
                        self._reached = True
                        if response.status_code not in _LATER:
                            self.read(response)
                        told_s, problem = _retry_after_s(response), NotAnRtServer(self.url, response.status_code)
                    else:
                        self._reached = True
                        for one in httpx2.EventSource(response):
                            backoff.reset()
                            cursor = one.id or cursor
                            if one.data:
                                yield one.id, from_json_bytes(one.data)
                            if one.retry is not None:
                                told_s = one.retry / 1000
                            if time.monotonic() > ends:
                                break
                        problem = Unreachable("the event stream was cut")
                        if told_s == _STAY_AWAY_S:
                            return
            except httpx2.TransportError as error:
                problem = error
            now = time.monotonic()
            if now >= ends:
                raise TimeoutError(f"{path} has not ended within {timeout_s:g} s")
            if now - began > _STOOD_S:
                backoff.reset()
            wait_s = max(backoff.next_s(), told_s or 0.0)
            if not self._reached and (backoff.failures > self._tries or not self._patient):
                raise self._unreachable(problem) from None
            if backoff.failures > self._tries:
                raise Lost(f"lost {self.url} ({problem})") from None
            time.sleep(min(wait_s, ends - now))

    def _unreachable(self, problem: Exception) -> Unreachable:
        return Unreachable(f"no server answers at {self.url} ({problem})")

    def _accepted(self, response: httpx2.Response) -> Accepted:
        told = self.read(response)
        return Accepted(told["job_id"], told["status"], told["stream"], told["events_url"], duplicate=response.status_code == 200)

    def _backoff(self) -> Backoff:
        return Backoff(0.5, 5.0)

    def _authorization(self) -> dict[str, str]:
        token = self._token() if callable(self._token) else self._token
        return {"Authorization": f"Bearer {token}"} if token else {}


def job_path(job_id: str, of: str = "/v1/jobs") -> str:
    return f"{of}/{quote(job_id, safe='')}"


def _stream_path(stream: str) -> str:
    return f"/v1/streams/{quote(stream, safe='')}"


def _events_path(stream: str) -> str:
    return f"{_stream_path(stream)}/events"


def _user_path(subject: str, what: str) -> str:
    return f"/v1/users/{quote(subject, safe='')}/{what}"


def _notification(title: str, message: str, level: Level, metadata: dict[str, Any] | None) -> dict[str, Any]:
    return {"title": title, "message": message, "level": level, "metadata": metadata or {}}


def _unread(found: dict[str, Any]) -> Unread:
    return Unread(found["unread"], found["read"])


def _page(found: dict[str, Any]) -> Page:
    return Page(found["items"], found["next"])


def _item(frame: dict[str, Any]) -> StreamEvent | Gap:
    return gap_of(frame, after=None, top=_ANY) if frame["type"] == "gap" else event_of(frame)


def _retry_after_s(response: httpx2.Response) -> float:
    after = response.headers.get("Retry-After", "")
    return float(after) if after.isdecimal() else 0.0
