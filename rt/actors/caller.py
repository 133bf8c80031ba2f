"""What an application's handler holds of the connection that called it: enqueue, publish, and who is there."""

from collections.abc import Callable
from typing import Any

from rt import keys
from rt.actors.publish import stored_event
from rt.app import App
from rt.errors import Refused
from rt.events import Event
from rt.jobs.access import Access
from rt.jobs.queue import JobQueue
from rt.jobs.submit import submit
from rt.keys import Stream, parse_stream
from rt.streams.log import Authorship, Published, StreamLog
from rt.tokens import Claims


class Connection:
    """The first argument of an `App.on` handler.

    `subject`, `tenant`, `scopes` and `session` come from the credential and the server, never from a message. Calls of
    a handler whose event carried an `id` take effect once, also when the event is sent again and the handler runs again,
    as long as it makes the same calls in the same order.
    """

    def __init__(
        self,
        *,
        app: App,
        claims: Claims,
        by: Authorship,
        streams: StreamLog,
        queue: JobQueue,
        access: Access,
        command_id: str | None,
        followed: Callable[[str], None],
    ) -> None:
        self._app, self._claims, self._by = app, claims, by
        self._streams, self._queue, self._access = streams, queue, access
        self._command_id = command_id
        self._followed = followed
        self._calls = 0

    @property
    def subject(self) -> str:
        return self._claims.subject

    @property
    def tenant(self) -> str:
        return self._claims.tenant

    @property
    def scopes(self) -> frozenset[str]:
        return self._claims.scopes

    @property
    def session(self) -> str:
        return self._by.session

    async def enqueue(
        self,
        job: Callable[..., Any] | str,
        *,
        stream: str | None = None,
        delay_s: float = 0.0,
        timeout_s: float | None = None,
        **input: Any,
    ) -> str:
        """Accepts a job on behalf of this session, which follows it, and returns the job's id.

        `stream` names who else is told. Raises Refused: "unknown_job", "invalid_input", "queue_full", "forbidden".
        """
        known = self._app.job_named(job)
        if known is None:
            raise Refused("unknown_job", f"no job named {getattr(job, '__name__', job)!r} is registered")
        accepted = await submit(
            self._queue,
            self._access,
            self._claims,
            self._by,
            known,
            input,
            stream=stream,
            delay_s=delay_s,
            timeout_s=timeout_s,
            records=self._record(),
        )
        self._followed(accepted.stream)
        return accepted.job_id

    async def publish(self, stream: str, event: Event | Any) -> Published:
        """Appends an event of a registered type, or any JSON value as a `message`, to a session:, user: or room: stream."""
        target = parse_stream(stream)
        await self._access.publish(self._claims, target)
        type, data = (
            (event.type, event.model_dump(mode="json")) if isinstance(event, Event) else ("message", {"from": self.subject, "data": event})
        )
        return await self._append(target, type, data)

    async def send(self, event: Event | Any) -> Published:
        """Appends to this session's own stream: what the client gets also when it is away now."""
        target = Stream("session", self.session)
        type, data = (event.type, event.model_dump(mode="json")) if isinstance(event, Event) else ("message", {"from": "", "data": event})
        return await self._append(target, type, data)

    async def _append(self, stream: Stream, type: str, data: Any) -> Published:
        return await self._streams.publish(
            self.tenant, stream, stored_event(stream, type, data), hash="call", records=self._record(), by=self._by
        )

    def _record(self) -> list[str]:
        self._calls += 1
        if self._command_id is None:
            return []
        return [f"{keys.command(self.tenant, self.session, self._command_id)}/{self._calls}"]
