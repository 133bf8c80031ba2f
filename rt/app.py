"""What a user writes against: register jobs and event handlers, then `rt dev module:app`."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

from rt.events import Event
from rt.jobs.job import JobDef, Past, Retry, define
from rt.jobs.policy import Policy

F = TypeVar("F", bound=Callable[..., Any])
E = TypeVar("E", bound=Event)
P = TypeVar("P", bound=Policy)
Hook = Callable[[], Any]


class App:
    """Jobs, event handlers and start-up hooks of one application.

        app = App()

        @app.job(timeout_s=60, max_attempts=3)
        async def answer(job: JobContext, question: str) -> dict: ...

        class Ask(Event, type="ask"):
            question: str

        @app.on(Ask)
        async def ask(conn: Connection, event: Ask) -> None:
            await conn.enqueue(answer, question=event.question)

    Web and worker processes load the same object; nothing is connected or started by making one.
    """

    def __init__(self, *, policy: Policy | None = None) -> None:
        self.jobs: dict[str, JobDef] = {}
        self.handlers: dict[str, tuple[type[Event], Callable[..., Any]]] = {}
        self.worker_start: list[Hook] = []
        self.stream_policy = policy

    @overload
    def job(self, function: F) -> F: ...
    @overload
    def job(
        self,
        *,
        name: str | None = None,
        timeout_s: float | None = None,
        idle_timeout_s: float | None = None,
        max_attempts: int = 3,
        retry: Retry | None = None,
        keep: Callable[[Past], bool] | None = None,
    ) -> Callable[[F], F]: ...
    def job(
        self,
        function: Any = None,
        *,
        name: str | None = None,
        retry: Retry | None = None,
        keep: Callable[[Past], bool] | None = None,
        **options: Any,
    ) -> Any:
        """Registers `async def job(job: JobContext, …)` or a plain `def` (run in a thread) under its name.

        The options are those of `rt.jobs.job.JobDef`. Raises TypeError for a signature that cannot be validated, and
        ValueError for a name that is taken.
        """

        def register(one: F) -> F:
            known = name or one.__name__
            if known.startswith("rt."):
                raise ValueError(f"a job cannot be named {known!r}: what begins with `rt.` is the system's own")
            if known in self.jobs:
                raise ValueError(f"a job named {known!r} is registered already")
            more = options | ({"retry": retry} if retry else {}) | ({"keep": keep} if keep else {})
            self.jobs[known] = define(known, one, **more)
            return one

        return register if function is None else register(function)

    def on(self, event: type[E]) -> Callable[[Callable[[Any, E], Awaitable[Any]]], Callable[[Any, E], Awaitable[Any]]]:
        """Registers `async def handler(conn: Connection, event: E)` for an event type; what it returns is the reply's data.

        Raises TypeError for an event class without a type, and ValueError for a type that has a handler.
        """
        if not event.type:
            raise TypeError(f'{event.__name__} has no type: class {event.__name__}(Event, type="…")')
        if event.type in self.handlers:
            raise ValueError(f"{event.type!r} has a handler already")

        def register(handler: Callable[[Any, E], Awaitable[Any]]) -> Callable[[Any, E], Awaitable[Any]]:
            self.handlers[event.type] = (event, handler)
            return handler

        return register

    def policy(self, policy: P) -> P:
        """Registers the function that says who may do what with a stream: `(StreamRequest) -> bool`, plain or async.

            @app.policy
            async def may(request: StreamRequest) -> bool:
                if request.kind == "room":
                    return await is_member(request.subject, request.name)
                return request.allowed

        It is asked at every subscribe, resume, publish, history, SSE and announcement, and not again while a stream is followed.
        What is not True is answered with `forbidden`; so is an exception, unless it is a Refused. Raises ValueError for a second one.
        """
        if self.stream_policy is not None:
            raise ValueError("the application has a policy already")
        self.stream_policy = policy
        return policy

    def on_worker_start(self, hook: Hook) -> Hook:
        """Registers a function, plain or async, that a worker runs before it is ready: load models here."""
        self.worker_start.append(hook)
        return hook

    def job_named(self, function: Callable[..., Any] | str) -> JobDef | None:
        """The definition of a registered function, or of a name."""
        if isinstance(function, str):
            return self.jobs.get(function)
        return next((one for one in self.jobs.values() if one.function is function), None)
