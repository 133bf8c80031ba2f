"""The Python client: `connect` for a session that loses nothing, `rt.client.http` for services that call and are done.

It needs no server library: of the package only the vocabulary, and `websockets` (here) or `httpx2` (`rt.client.http`).
"""

from rt.client.connection import Client, connect
from rt.client.errors import (
    ClientError,
    Closed,
    Disconnected,
    EventsLost,
    JobCancelled,
    JobFailed,
    OutboxFull,
    OutcomeUnknown,
    SessionTaken,
    Stopped,
    Unreachable,
)
from rt.client.events import Gap, StreamEvent
from rt.client.feed import Job, Subscription, Text
from rt.client.messages import Changed, Saved
from rt.client.session import Config
from rt.client.store import CursorStore, FileStore, MemoryStore
from rt.client.transcript import Piece
from rt.errors import Refused

__all__ = [
    "Changed",
    "Client",
    "ClientError",
    "Closed",
    "Config",
    "CursorStore",
    "Disconnected",
    "EventsLost",
    "FileStore",
    "Gap",
    "Job",
    "JobCancelled",
    "JobFailed",
    "MemoryStore",
    "OutboxFull",
    "OutcomeUnknown",
    "Piece",
    "Refused",
    "Saved",
    "SessionTaken",
    "Stopped",
    "StreamEvent",
    "Subscription",
    "Text",
    "Unreachable",
    "connect",
]
