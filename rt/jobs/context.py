"""What a job function holds: emit, progress, checkpoint, and what it should know about its own run."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import cached_property
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from rt.codec import from_json_bytes, to_json_bytes
from rt.errors import JobError
from rt.events import MAX_EVENT_BYTES
from rt.jobs.inputs import Inputs, ended
from rt.jobs.job import Past
from rt.jobs.models import LanguageModel
from rt.jobs.outlet import Outlet
from rt.jobs.turns import Turns
from rt.settings import Settings
from rt.telemetry import get_logger

T = TypeVar("T")


class JobContext:
    """The first argument of every job function.

    `id`, `tenant` (whose it is), `attempt` (rises with every run), `tries` (the runs that count), `stream` (the job's own). `past` is what
    earlier attempts left that still stands; a first attempt's is empty. `log` is a structlog logger that carries the
    job's id: never give it a prompt. `model` is the worker's language model.

    The methods are for the worker's event loop; a plain `def` job, which runs in a thread, calls them through `wait()`.
    """

    def __init__(
        self,
        *,
        id: str,
        tenant: str,
        attempt: int,
        tries: int,
        stream: str,
        past: Past,
        outlet: Outlet,
        turns: Turns,
        inputs: Inputs,
        deadline: float,
        touch: Callable[[bool], None],
        settings: Settings,
        model: LanguageModel,
        job: str,
    ) -> None:
        self.id, self.tenant, self.attempt, self.tries, self.stream, self.past = id, tenant, attempt, tries, stream, past
        self.settings, self.model = settings, model
        self._job = job
        self.usage: dict[str, Any] = {}
        self.inputs = inputs
        self._outlet, self._turns, self._turn = outlet, turns, -1
        self._deadline = deadline
        self._touch = touch
        self._loop = asyncio.get_running_loop()
        #: True once the run is to stop, for whatever reason. Code in a thread, which cannot be interrupted, looks at it.
        self.cancelled = False

    @cached_property
    def log(self) -> Any:
        return get_logger("rt.job").bind(job_id=self.id, job=self._job, attempt=self.attempt)

    @property
    def remaining_s(self) -> float:
        """Seconds until the job's deadline; then it ends as `job.failed` with `timeout`."""
        return max(0.0, self._deadline - self._loop.time())

    async def emit(self, piece: Any) -> None:
        """Appends a delta to the job's stream: a `str` as text, anything else that has a JSON form as data.

        Returns when the piece is buffered, and waits while the buffer is full or Redis is away. Pieces keep their order;
        texts that wait together become one event. Cancelling is safe: the piece is buffered or it is not. Raises
        JobError("too_large") for data above 256 KiB, JobError("bad_event") for data without a JSON form.
        """
        if isinstance(piece, str):
            if piece:
                self._outlet.add_text(piece)
        else:
            self._outlet.add("job.delta", {"data": piece})
        await self._step()

    async def progress(self, current: float, total: float | None = None, *, unit: str | None = None, message: str | None = None) -> None:
        """Says how far the job is. Of progress that waits to be written only the newest is kept."""
        given = {"total": total, "unit": unit, "message": message}
        self._outlet.add_progress({"current": current} | {key: value for key, value in given.items() if value is not None})
        await self._step()

    async def checkpoint(self, state: Any) -> None:
        """Stores `state` (anything with a JSON form, up to 256 KiB) together with the seq of what was emitted so far.

        Returns when both are stored. A later attempt finds it in `past.checkpoint` and goes on from there: what was
        emitted after it is discarded. Raises JobError as `emit`.
        """
        try:
            raw = to_json_bytes(state)
            from_json_bytes(raw)
        except ValueError:
            raise JobError("bad_event", "the checkpoint has no JSON form, or is nested too deep") from None
        if len(raw) > MAX_EVENT_BYTES:
            raise JobError("too_large", f"a checkpoint of {len(raw)} bytes; at most {MAX_EVENT_BYTES} are taken")
        self._touch(True)
        await self._outlet.flush(raw)
        await self._step()

    async def input(self) -> Any:
        """The next input that the job is sent (`job.input`), whenever it comes; waiting is not silence for `idle_timeout_s`.

        A later attempt is given them again from the first; one that goes on from a checkpoint keeps `inputs.position` in it
        and sets it. Cancelling is safe. Raises JobError("input_ended") after the last one; `async for data in job.inputs` ends.
        """
        try:
            return await anext(self.inputs)
        except StopAsyncIteration:
            raise ended() from None

    async def ask(self, prompt: str | None = None, schema: Any = None) -> Any:
        """The next input, after `job.input_required {prompt?, schema?}` where there is none yet.

        `schema` is a type that pydantic knows: clients get its JSON schema, the job its value; for an input that is not of it
        they are asked again, with `details`. Raises as `input`, and JobError("bad_event") or JobError("too_large") as `emit`.
        """
        adapter = None if schema is None else TypeAdapter(schema)
        asked: dict[str, Any] = {} if prompt is None else {"prompt": prompt}
        if adapter is not None:
            asked["schema"] = adapter.json_schema()
        while True:
            self._touch(True)  # while it waits for Redis, it is not the job that is silent
            try:
                there, data = await self.inputs.next_now()  # a later attempt does not ask for what was answered
            except StopAsyncIteration:
                raise ended() from None
            finally:
                self._touch(False)
            if not there:
                self._outlet.add("job.input_required", asked)
                await self._step()
                data = await self.input()
            if adapter is None:
                return data
            try:
                return adapter.validate_python(data)
            except ValidationError as error:
                faults = error.errors(include_input=False, include_url=False, include_context=False)[:20]
                asked = asked | {"details": [{"loc": ["data", *map(str, one["loc"])], "msg": one["msg"]} for one in faults]}

    def use(self, counters: dict[str, Any]) -> None:
        """Adds to the usage that ends up in `job.completed` (numbers add up, anything else is replaced)."""
        for key, value in counters.items():
            known = self.usage.get(key)
            self.usage[key] = known + value if isinstance(known, int | float) and isinstance(value, int | float) else value

    def wait(self, call: Coroutine[Any, Any, T]) -> T:
        """From a job that runs in a thread: `job.wait(job.emit("…"))`. Raises what the call raises."""
        return asyncio.run_coroutine_threadsafe(call, self._loop).result()

    async def _step(self) -> None:
        if self._outlet.full:
            self._touch(True)  # while it waits for Redis, it is not the job that is silent
            await self._outlet.wait_room()
        self._touch(False)
        # A loop of emits must let the buffer leave, and a cancel arrive, also when nothing else in it waits: the second one of a turn does.
        if self._turn == (turn := self._turns.look()):
            await asyncio.sleep(0)
        self._turn = turn
