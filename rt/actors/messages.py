"""What a session is told, and what it has done: the messages that go in and the effects that come out. Pure data."""

from dataclasses import dataclass
from typing import Any

from rt.actors.frames import Connect, Frame
from rt.actors.router import Handled
from rt.cursor import Cursor
from rt.errors import Refused
from rt.streams.log import Page
from rt.streams.replay import Head
from rt.streams.sessions import Session as StoredSession
from rt.streams.tail import Live
from rt.tokens import Claims

# Messages


@dataclass(frozen=True, slots=True)
class Received:
    """A decoded WebSocket message: a frame or an array of frames."""

    value: Any


@dataclass(frozen=True, slots=True)
class Malformed:
    """A WebSocket message that could not be decoded."""

    error: Refused


@dataclass(frozen=True, slots=True)
class Opened:
    """The answer to `Open`. `heads` has every stream to follow; `missing` those whose log and meta were gone."""

    stored: StoredSession
    claims: Claims
    expires_in_s: float
    given: dict[str, Cursor]
    heads: dict[str, Head]
    missing: frozenset[str]


@dataclass(frozen=True, slots=True)
class News:
    stream: str
    live: Live


@dataclass(frozen=True, slots=True)
class Checked:
    stream: str
    head: Head


@dataclass(frozen=True, slots=True)
class Watched:
    """The answer to `Watch`: announcements are certain to arrive from here on."""

    stream: str


@dataclass(frozen=True, slots=True)
class PageRead:
    """The answer to `Read`."""

    stream: str
    ticket: int
    page: Page


@dataclass(frozen=True, slots=True)
class Drained:
    """The outbox has room again."""


@dataclass(frozen=True, slots=True)
class Tick:
    """The time that `next_tick` asked for has come."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A command's reply; `follow` is the job's stream that the server is to follow because of it."""

    id: str | None
    data: Any
    follow: str | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    id: str | None
    error: Refused


@dataclass(frozen=True, slots=True)
class Subscribed:
    id: str
    stream: str
    cursor: Cursor | None
    head: Head


@dataclass(frozen=True, slots=True)
class Unsubscribed:
    id: str
    stream: str


@dataclass(frozen=True, slots=True)
class Refreshed:
    id: str
    claims: Claims
    expires_in_s: float


@dataclass(frozen=True, slots=True)
class TakenOver:
    generation: int


@dataclass(frozen=True, slots=True)
class Draining:
    """The process ends: the connection is closed in `close_in_s`, and this client comes back `delay_ms` after that."""

    delay_ms: int
    close_in_s: float


Message = (
    Received
    | Malformed
    | Opened
    | News
    | Checked
    | Watched
    | PageRead
    | Drained
    | Tick
    | Answered
    | Failed
    | Subscribed
    | Unsubscribed
    | Refreshed
    | TakenOver
    | Draining
)

# Effects


@dataclass(frozen=True, slots=True)
class Send:
    """A control frame."""

    frame: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Forward:
    """Stored events, as they are."""

    events: list[bytes]
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class Open:
    """Authenticate, open the session, look at its streams; answer with `Opened`, or close."""

    connect: Connect
    cursors: dict[str, Cursor]


@dataclass(frozen=True, slots=True)
class Watch:
    stream: str


@dataclass(frozen=True, slots=True)
class Unwatch:
    stream: str


@dataclass(frozen=True, slots=True)
class Read:
    stream: str
    after: int
    ticket: int


@dataclass(frozen=True, slots=True)
class Store:
    """Fields of the session's hash to be stored with the next flush ("" deletes), and the user stream's acknowledgement."""

    fields: dict[str, str]
    furthest: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """A command, for the connection's lane: one after the other, in order."""

    command: Frame | Handled


@dataclass(frozen=True, slots=True)
class Close:
    code: int
    reason: str


Effect = Send | Forward | Open | Watch | Unwatch | Read | Store | Run | Close
