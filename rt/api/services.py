"""What one web process is made of; opened in this order, closed in the reverse one."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from rt.actors.supervisor import Supervisor
from rt.app import App
from rt.inspect import Inspector, Look
from rt.jobs.access import Access
from rt.jobs.broadcast import system_jobs
from rt.jobs.inputs import Inbox
from rt.jobs.janitor import Janitor
from rt.jobs.job import JobDef
from rt.jobs.letters import DeadLetters
from rt.jobs.queue import JobQueue
from rt.jobs.rerun import Reruns
from rt.jobs.survey import Survey
from rt.redis import Store
from rt.settings import Settings
from rt.streams.commands import Commands
from rt.streams.log import StreamLog
from rt.streams.notifications import Notifications
from rt.streams.presence import Presence
from rt.streams.sessions import Cursors
from rt.streams.tail import Tail


@dataclass(slots=True)
class Services:
    """One process's parts. `draining` is set by SIGTERM: not ready, and nobody new is let in."""

    app: App
    settings: Settings
    store: Store
    streams: StreamLog
    queue: JobQueue
    access: Access
    inbox: Inbox
    letters: DeadLetters
    notifications: Notifications
    #: Jobs that no client submits by name.
    system_jobs: dict[str, JobDef]
    reruns: Reruns
    survey: Survey
    commands: Commands
    tail: Tail
    cursors: Cursors
    presence: Presence
    supervisor: Supervisor
    inspector: Inspector = field(init=False)
    draining: asyncio.Event = field(default_factory=asyncio.Event)
    #: SSE responses that are open; with the WebSockets they are what `max_connections` bounds.
    sse_open: int = 0

    @property
    def full(self) -> bool:
        """Whether nobody new is let in."""
        return self.draining.is_set() or len(self.supervisor) + self.sse_open >= self.settings.max_connections


@asynccontextmanager
async def open_services(app: App, settings: Settings, looks: Callable[["Services"], Mapping[str, Look]]) -> AsyncIterator[Services]:
    """Raises BadSettings. Redis may be away: the process then starts, is not ready, and becomes so by itself.

    `looks`: what the process answers when somebody asks what it is doing.
    """
    store = Store.of(settings)
    streams = StreamLog(store, settings)
    queue = JobQueue(store, streams, settings)
    notifications = Notifications(store, streams, settings)
    letters, own_jobs = DeadLetters(store, queue), system_jobs(notifications)
    services = Services(
        app=app,
        settings=settings,
        store=store,
        streams=streams,
        queue=queue,
        access=Access(store, queue, app.stream_policy),
        inbox=Inbox(store, queue),
        letters=letters,
        notifications=notifications,
        system_jobs=own_jobs,
        reruns=Reruns(queue, letters, app.jobs | own_jobs),
        survey=Survey(store, queue, settings),
        commands=Commands(store),
        tail=Tail(store, streams),
        cursors=Cursors(store, settings),
        presence=Presence(store, streams, settings),
        supervisor=Supervisor(),
    )
    services.inspector = Inspector(store, "web", looks(services))
    services.tail.hear(services.inspector.channels)
    try:
        async with asyncio.TaskGroup() as group:
            chores = [
                group.create_task(services.inspector.run(), name="inspector"),
                group.create_task(services.tail.run(), name="tail"),
                group.create_task(services.cursors.run(), name="cursors"),
                group.create_task(services.presence.run(), name="presence"),
                group.create_task(Janitor(store, streams, queue, settings).run(), name="janitor"),
            ]
            try:
                async with services.supervisor:
                    yield services
            finally:
                for chore in chores:
                    chore.cancel()
    finally:
        await store.close()
