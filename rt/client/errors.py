"""Everything that the client raises on purpose, beside `rt.errors.Refused`: the server's answer to one command.

RtError
└── ClientError
    ├── Disconnected          the connection is over; nothing more comes of what waits
    │   ├── Stopped           the server said not to come back (close codes 4500 to 4999), or there is no such server
    │   ├── SessionTaken      a newer connection has this session (4003); `Client.reconnect` takes it back
    │   ├── Unreachable       nobody has answered in time
    │   └── Closed            this side has closed it
    ├── OutboxFull            too many commands wait for their answers: nothing was sent
    ├── OutcomeUnknown        the session was lost before a command was answered: it may have taken effect, or not
    ├── EventsLost            what was asked for cannot be whole: the server has lost some of its events
    ├── JobFailed             the job ended as `job.failed`
    └── JobCancelled          the job ended as `job.cancelled`
"""

from typing import Any

from rt.errors import RtError


class ClientError(RtError):
    """The root of what the client raises itself."""


class Disconnected(ClientError):
    """There is no connection, and none is being made. The state of jobs and streams on the server is untouched by that."""


class Stopped(Disconnected):
    """Not to be tried again as it is. `code` is the close code, or the HTTP status of a refused handshake; `reason` the server's words."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(": ".join(filter(None, (f"{code} {_MEANINGS.get(code, '')}".strip(), reason))))
        self.code = code
        self.reason = reason


class SessionTaken(Disconnected):
    """Another connection resumed this session, from a second process perhaps. `Client.reconnect()` takes it back."""

    def __init__(self) -> None:
        super().__init__("a newer connection has taken this session over; reconnect() takes it back")


class Unreachable(Disconnected):
    """No server has answered in time; the text holds what the last try met."""


class Closed(Disconnected):
    """The client was closed by its owner while this waited."""

    def __init__(self) -> None:
        super().__init__("the client is closed")


class OutboxFull(ClientError):
    """As many commands wait for their answers as may wait: nothing was sent. Wait for some of them, then call again."""

    def __init__(self, commands: int, size_bytes: int) -> None:
        super().__init__(f"{commands} commands ({size_bytes} bytes) wait for their answers: wait for some of them first")
        self.commands = commands
        self.size_bytes = size_bytes


class OutcomeUnknown(ClientError):
    """The session expired, or was lost by the server, before this command was answered. With an idempotency key it would be sent again."""

    def __init__(self) -> None:
        super().__init__("the session was lost before this command was answered: whether it took effect is unknown")


class EventsLost(ClientError):
    """Text that cannot be told whole. `first` and `last` are the missing seqs, None when they are not known."""

    def __init__(self, stream: str, first: int | None, last: int | None) -> None:
        super().__init__(f"{stream} has lost events" + ("" if first is None else f" {first} to {last}"))
        self.stream = stream
        self.first = first
        self.last = last


class JobFailed(ClientError):
    """`code` and `message` are the job's own; `temporary` says whether the same job may succeed later."""

    def __init__(self, job_id: str, error: dict[str, Any]) -> None:
        self.job_id = job_id
        self.code = str(error.get("code", "internal"))
        self.message = str(error.get("message", ""))
        self.temporary = bool(error.get("temporary"))
        super().__init__(f"{self.code}: {self.message}")


class JobCancelled(ClientError):
    """`by` is the subject that cancelled it."""

    def __init__(self, job_id: str, by: str | None) -> None:
        super().__init__(f"cancelled by {by}")
        self.job_id = job_id
        self.by = by


#: What the protocol page says of close codes.
_MEANINGS = {
    4004: "token expired",
    4500: "not authenticated",
    4501: "forbidden",
    4502: "malformed or oversize frames",
    4503: "protocol version",
    4504: "revoked",
    4505: "too many connections",
    4506: "no connect frame in time",
}
