"""Everything that `rt` raises on purpose.

    RtError
    ├── Refused            a command, frame or call is answered with one of the protocol's error words
    │   ├── Unavailable    Redis (or all of it that is needed) cannot be reached now: the same call may work later
    │   └── TakenOver      a newer connection of the session exists: this one ends with 4003
    └── JobError           a job ends as `job.failed` with this code
        └── TemporaryJobError   the same, but worth another attempt

A `Refused` carries facts (word, field, delay); the text is for people. Both travel to clients, so neither may
ever hold another user's words, a token or a prompt.
"""

from typing import Any, Literal

Word = Literal[
    "invalid_json",
    "invalid_frame",
    "unknown_type",
    "unknown_job",
    "invalid_input",
    "not_connected",
    "unauthorized",
    "token_expired",
    "forbidden",
    "not_found",
    "too_large",
    "rate_limited",
    "queue_full",
    "conflict",
    "unavailable",
    "internal",
]

#: The error words that say "the same call may work later"; every other answer to the same call stays the same.
TEMPORARY: frozenset[str] = frozenset({"rate_limited", "queue_full", "unavailable", "internal"})


class RtError(Exception):
    """The root: catch it to catch everything that `rt` raises on purpose."""


class Refused(RtError):
    """A command, a frame or a call was refused; the connection stays open.

    `code` is one of the protocol's error words. `details` is a list of `{"loc": [...], "msg": "..."}` that names the
    fields. `temporary` follows from the code. `retry_after_ms` is set where a delay is known.
    """

    def __init__(
        self,
        code: Word,
        message: str,
        *,
        details: list[dict[str, Any]] | None = None,
        retry_after_ms: int | None = None,
        facts: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.code: Word = code
        self.message = message
        self.details = details
        self.retry_after_ms = retry_after_ms
        #: Members that HTTP adds to its problem document and a WebSocket to the error's details (a job's status, say).
        self.facts = facts or {}

    @property
    def temporary(self) -> bool:
        return self.code in TEMPORARY

    @classmethod
    def field(cls, code: Word, loc: str, msg: str) -> "Refused":
        """One field is wrong: `loc` is its name, or "outer.name" (which may hold dots); `msg` says what would be right."""
        return cls(code, f"{loc}: {msg}", details=[{"loc": loc.split(".", 1), "msg": msg}])

    def frame(self, id: str | None = None) -> dict[str, Any]:
        """The `error` frame of the protocol."""
        out: dict[str, Any] = {"type": "error"}
        if id is not None:
            out["id"] = id
        out |= {"code": self.code, "message": self.message, "temporary": self.temporary}
        if self.retry_after_ms is not None:
            out["retry_after_ms"] = self.retry_after_ms
        if self.details is not None:
            out["details"] = self.details
        elif self.facts:
            out["details"] = self.facts
        return out


class Unavailable(Refused):
    """Redis did not answer. Whether the call took effect is unknown: repeat it with the same id."""

    def __init__(self, message: str = "the store cannot be reached now, try again", *, retry_after_ms: int = 1000) -> None:
        super().__init__("unavailable", message, retry_after_ms=retry_after_ms)


class TakenOver(Refused):
    """A newer connection has resumed the session; nothing was done on behalf of this one."""

    def __init__(self) -> None:
        super().__init__("conflict", "a newer connection has taken this session over")


class JobError(RtError):
    """Raise it in a job to end the job as `job.failed` with this code and message; no other attempt is made.

    The message is shown to whoever may read the job.
    """

    temporary = False

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def __reduce__(self) -> tuple[Any, ...]:
        # The default would call the class with the message alone.
        return type(self), (self.code, self.message), self.__dict__

    def data(self) -> dict[str, Any]:
        """The `error` member of `job.failed` and `job.retrying`."""
        return {"code": self.code, "message": self.message, "temporary": self.temporary}


class TemporaryJobError(JobError):
    """As `JobError`, but the default retry policy makes another attempt. `retry_after_s` overrides the backoff."""

    temporary = True

    def __init__(self, code: str, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(code, message)
        self.retry_after_s = retry_after_s
