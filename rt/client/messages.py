"""What a client's session is told, and what it wants done. Pure values; the JavaScript client has the same words.

Times are seconds of any steady clock.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from rt.client.errors import ClientError
from rt.client.events import Gap, StreamEvent
from rt.cursor import Cursor
from rt.errors import RtError

#: connecting: a connection is being made, or a token asked for. open: `connected` has come. waiting: until the next try.
#: taken: a newer connection has the session. closed: for good.
State = Literal["connecting", "open", "waiting", "taken", "closed"]


@dataclass(frozen=True, slots=True)
class Saved:
    """What survives a process: the session, and the cursor up to which each of its streams was processed."""

    session: str | None = None
    cursors: dict[str, str] = field(default_factory=dict)


# What a session is told


@dataclass(frozen=True, slots=True)
class Start:
    """The first one: connect."""


@dataclass(frozen=True, slots=True)
class Token:
    """The answer to `Renew`: a token, or the words of what went wrong."""

    text: str | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Opened:
    """The socket that `Dial` asked for is open."""


@dataclass(frozen=True, slots=True)
class NotOpened:
    """It could not be. `status` is of an HTTP answer; `retry_after_s` what that answer asked for."""

    problem: str
    status: int | None = None
    retry_after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Received:
    """One message of the socket: the frames in it. `size` is what it was long."""

    frames: list[dict[str, Any]]
    size: int


@dataclass(frozen=True, slots=True)
class Dropped:
    """The socket has ended. Not told after a `Hangup`. 1006: without a close frame."""

    code: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Tick:
    """It is `next_tick()` or later."""


@dataclass(frozen=True, slots=True)
class Command:
    """The application wants this sent until it is answered. `frame` has no id yet; `reads`: what comes of the job that it submits.

    `keyed`: safe to send again also in another session.
    """

    id: str
    frame: dict[str, Any]
    reads: bool = False
    keyed: bool = False


@dataclass(frozen=True, slots=True)
class Attach:
    """The application reads this stream from now on: after `cursor`, or else after what it has processed, or else from now on."""

    stream: str
    cursor: Cursor | None = None


@dataclass(frozen=True, slots=True)
class Detach:
    """The application reads it no more. What it was given and has not processed is not acknowledged."""

    stream: str


@dataclass(frozen=True, slots=True)
class Abandon:
    """The application has lost interest in the job that this command submits."""

    id: str


@dataclass(frozen=True, slots=True)
class Processed:
    """The application is done with the oldest item that this stream was given."""

    stream: str


@dataclass(frozen=True, slots=True)
class Reconnect:
    """Asked for by the application: takes a session back, or does not wait any longer."""


@dataclass(frozen=True, slots=True)
class Leave:
    """The application closes the client."""


Message = (
    Start | Token | Opened | NotOpened | Received | Dropped | Tick | Command | Attach | Detach | Abandon | Processed | Reconnect | Leave
)


# What a session wants done


@dataclass(frozen=True, slots=True)
class Renew:
    """Ask the application for a token; answered with `Token`."""


@dataclass(frozen=True, slots=True)
class Dial:
    """Open a socket; answered with `Opened` or `NotOpened`."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send this text as one message."""

    text: str


@dataclass(frozen=True, slots=True)
class Hangup:
    """Close the socket. `code` 1000: properly, after what was sent; otherwise at once, the other side may be dead."""

    code: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Answered:
    id: str
    data: Any


@dataclass(frozen=True, slots=True)
class Failed:
    """A command will not be answered otherwise."""

    id: str
    error: RtError


@dataclass(frozen=True, slots=True)
class Accepted:
    """The job of a command that `reads` is known; its events come as this stream's."""

    id: str
    stream: str


@dataclass(frozen=True, slots=True)
class Ready:
    """The server follows this stream for a reader."""

    stream: str


@dataclass(frozen=True, slots=True)
class Deliver:
    stream: str
    item: StreamEvent | Gap


@dataclass(frozen=True, slots=True)
class Broken:
    """The reader of this stream gets no more, because of this."""

    stream: str
    error: RtError


@dataclass(frozen=True, slots=True)
class Changed:
    """Another state. `delay_s` until the next try; `problem` is why the last one ended, `error` why there is none."""

    state: State
    delay_s: float = 0.0
    problem: str = ""
    error: ClientError | None = None


@dataclass(frozen=True, slots=True)
class Save:
    """Keep this where it survives the process, if such a place was given."""

    saved: Saved


Action = Renew | Dial | Send | Hangup | Answered | Failed | Accepted | Ready | Deliver | Broken | Changed | Save
