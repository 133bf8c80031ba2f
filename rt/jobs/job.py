"""What a job is: its definition, its past, how one run may end, and whether another run follows. Pure.

A run ends in one of five outcomes; `settle.lua` writes each of them down together with everything that must happen
at the same instant. `Lost` is the sixth: somebody else owns the job now, and nothing may be written.
"""

import inspect
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from rt.errors import JobError, Refused, TemporaryJobError

#: A job's status on the wire. The last three are terminal.
STATUSES = ("queued", "running", "retrying", "completed", "failed", "cancelled")
TERMINAL_STATUSES = frozenset(STATUSES[3:])


@dataclass(frozen=True, slots=True)
class Retry:
    """When another attempt follows an error, and after how long.

    `on` are the exception types that are worth another attempt; an error whose `temporary` is True always is. The
    delay before attempt n+1 is drawn uniformly from 0 to min(`cap_s`, `base_s` · 2^(n-1)): full jitter, so that many
    jobs that failed together do not come back together.
    """

    on: tuple[type[BaseException], ...] = (TemporaryJobError, ConnectionError)
    base_s: float = 1.0
    cap_s: float = 60.0

    def covers(self, error: BaseException) -> bool:
        return isinstance(error, self.on) or getattr(error, "temporary", False) is True

    def delay_s(self, tries: int, error: BaseException | None = None, draw: Callable[[], float] = random.random) -> float:
        """`tries` is how many counted runs there were, at least 1. An error's own `retry_after_s` wins."""
        told = getattr(error, "retry_after_s", None)
        if isinstance(told, int | float) and isfinite(told):
            return max(0.0, float(told))
        return draw() * min(self.cap_s, self.base_s * 2.0 ** min(tries - 1, 30))


@dataclass(frozen=True, slots=True)
class Past:
    """What earlier attempts of a job left behind.

    `checkpoint` is what `JobContext.checkpoint` stored last, or None. `text` is every delta's text that still stands,
    joined, and `deltas` the data of every data delta that still stands, in order.
    """

    checkpoint: Any = None
    text: str = ""
    deltas: tuple[Any, ...] = ()

    def __bool__(self) -> bool:
        return self.checkpoint is not None or bool(self.text) or bool(self.deltas)


def _from_checkpoint(past: Past) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class JobDef:
    """A registered job function.

    `model` is a pydantic model made from the function's parameters after the context: it validates every input.
    `timeout_s` counts from the first start, over all attempts (None: the setting `job_timeout_s`); `idle_timeout_s`
    is the longest silence (no emit, progress or checkpoint; None: no limit). `max_attempts` counts runs that ended by
    themselves or were lost, not those that a deploy handed back. `keep(past)` is asked before a later attempt begins:
    True means "this attempt goes on from everything that was streamed", False "from the checkpoint, or from nothing".
    """

    name: str
    function: Callable[..., Any]
    model: type[BaseModel]
    timeout_s: float | None = None
    idle_timeout_s: float | None = None
    max_attempts: int = 3
    retry: Retry = field(default_factory=Retry)
    keep: Callable[[Past], bool] = _from_checkpoint

    def check(self, input: dict[str, Any], loc: str = "input") -> BaseModel:
        """The validated input. Raises Refused("invalid_input") with `details` for each field; never quotes a value."""
        try:
            return self.model.model_validate(input)
        except ValidationError as error:
            details = [
                {"loc": [loc, *map(str, one["loc"])], "msg": one["msg"]} for one in error.errors(include_input=False, include_url=False)
            ]
            first = details[0]
            raise Refused("invalid_input", f"{'.'.join(first['loc'])}: {first['msg']}", details=details) from None

    def named(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Positional arguments of a plain arq client under their names; too many of them become a name that no job has."""
        names = list(self.model.model_fields)
        return {names[i] if i < len(names) else f"argument {i + 1}": value for i, value in enumerate(args)} | kwargs


def define(name: str, function: Callable[..., Any], **options: Any) -> JobDef:
    """Reads a job function's signature: `(job: JobContext, **inputs)`, each input with a type that pydantic knows.

    Raises TypeError when the function has no context parameter, takes `*args` or positional-only inputs, or an input has no type.
    """
    parameters = list(inspect.signature(function).parameters.values())
    if not parameters or parameters[0].kind not in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD):
        raise TypeError(f"job {name!r}: the first parameter is the JobContext")
    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {}
    for one in parameters[1:]:
        if one.kind not in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY):
            raise TypeError(f"job {name!r}: the input {one.name!r} must be an ordinary parameter")
        if one.name not in hints:
            raise TypeError(f"job {name!r}: the input {one.name!r} needs a type")
        fields[one.name] = (hints[one.name], ... if one.default is inspect.Parameter.empty else one.default)
    model = create_model(f"{name}_input", __config__=ConfigDict(extra="forbid"), **fields)
    return JobDef(name, function, model, **options)


# How one run may end.


@dataclass(frozen=True, slots=True)
class Completed:
    result: Any
    usage: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    error: dict[str, Any]
    """`{code, message, temporary}`."""
    exception: BaseException | None = None
    """For plain arq clients, whose `Job.result()` raises it."""


@dataclass(frozen=True, slots=True)
class Retrying:
    error: dict[str, Any]
    delay_s: float


@dataclass(frozen=True, slots=True)
class Cancelled:
    by: str
    usage: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class HandedBack:
    """A deploy interrupted the run, or Redis lost some of its output: it goes back to the head of the queue and does not count."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The lease went to another attempt, or the job has ended already: nothing is written."""


Outcome = Completed | Failed | Retrying | Cancelled | HandedBack | Lost


def failure(error: BaseException) -> dict[str, Any]:
    """The `error` member for an exception that a job raised.

    Only a JobError's text was meant for clients. Any other exception is named by its type: its text may hold what
    nobody should read (a connection string, another user's words).
    """
    if isinstance(error, JobError):
        return error.data()
    return {"code": "internal", "message": f"the job raised {type(error).__name__}", "temporary": False}


def brief(error: dict[str, Any]) -> dict[str, Any]:
    """An `error` member as a dead letter keeps it: a job may fail with a long text, and many times."""
    return {"code": str(error.get("code"))[:64], "message": str(error.get("message"))[:1000], "temporary": bool(error.get("temporary"))}


def outcome_of(error: BaseException, job: JobDef, tries: int) -> Failed | Retrying:
    """Whether an exception ends the job or only this run. `tries` counts this run."""
    told = failure(error)
    if job.retry.covers(error) and tries < job.max_attempts:
        return Retrying(told, job.retry.delay_s(tries, error))
    return Failed(told, error if isinstance(error, Exception) else None)
