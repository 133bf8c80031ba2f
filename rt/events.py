"""Typed events: what applications register, and the one encoding of what stands in a stream.

An event is encoded once, without its `seq`; `append.lua` splices the number in as the first member. The order of the
members is fixed, so that two questions can be asked of stored bytes without parsing them: is it a terminal event
(`final` comes last), and which job does a `job.created` announce (its `type` comes second).
"""

import re
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from rt.codec import from_json_bytes, to_json_bytes

#: An event, and a job's result, above this many bytes is refused with `too_large`.
MAX_EVENT_BYTES = 256 * 1024

#: Of a notification.
Level = Literal["info", "success", "warning", "error"]

TERMINAL = ("job.completed", "job.failed", "job.cancelled")

#: Types that only the server writes.
_RESERVED = ("job.", "presence.", "notification.")
_FRAMES = frozenset(
    {
        "connect",
        "ack",
        "ping",
        "pong",
        "subscribe",
        "unsubscribe",
        "publish",
        "refresh",
        "connected",
        "subscribed",
        "reply",
        "error",
        "gap",
        "token_expiring",
        "reconnect",
        "notification",
        "message",
    }
)
_CREATED = b',"type":"job.created",'
_TYPE = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")


class Event(BaseModel):
    """What an application sends and handles: a pydantic model with a name on the wire.

        class Ask(Event, type="ask"):
            question: str

    A frame `{"type": "ask", "id": "1", "data": {"question": "…"}}` reaches the handler that `App.on(Ask)` registered.
    Unknown members are refused. A type is 1 to 64 of `A-Z a-z 0-9 . _ -`, begins with a letter, and is none of the
    protocol's own words; otherwise the class statement raises TypeError.
    """

    model_config = ConfigDict(extra="forbid")

    type: ClassVar[str] = ""

    @classmethod
    def __pydantic_init_subclass__(cls, type: str | None = None, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if type is None:
            return
        if not _TYPE.fullmatch(type) or type in _FRAMES or type.startswith(_RESERVED):
            raise TypeError(
                f"{cls.__name__}: {type!r} cannot be an event's type (a letter, then letters, digits, . _ -; not a word of the protocol)"
            )
        cls.type = type

    def __init_subclass__(cls, type: str | None = None, **kwargs: Any) -> None:
        # Taken here so that it does not end in pydantic's configuration; `__pydantic_init_subclass__` reads it.
        super().__init_subclass__(**kwargs)


def reserved(type: str) -> bool:
    """Whether clients may not publish this type: the server alone writes it."""
    return type.startswith(_RESERVED) or type == "notification"


def encode(type: str, stream: str, data: Any, ts: int, *, attempt: int | None = None) -> bytes:
    """The bytes that `append.lua` takes: compact JSON without `seq`. `ts` is Unix milliseconds.

    Raises ValueError when `data` has no JSON form.
    """
    event: dict[str, Any] = {"type": type, "stream": stream, "ts": ts}
    if attempt is not None:
        event["attempt"] = attempt
    event["data"] = data
    if type in TERMINAL:
        event["final"] = True
    return to_json_bytes(event)


def is_final(raw: bytes) -> bool:
    """Whether stored bytes are a terminal event. Within `data` the same letters would end with one more brace."""
    return raw.endswith(b',"final":true}')


def created_job(raw: bytes) -> str | None:
    """The id of the job that stored bytes announce, or None when they are no `job.created`."""
    if raw.find(_CREATED, 0, 48) < 0:
        return None
    job_id = from_json_bytes(raw)["data"]["job_id"]
    return job_id if isinstance(job_id, str) else None


def is_plain(raw: bytes) -> bool:
    """Whether nothing follows from stored bytes but that they are forwarded: neither a terminal event nor a `job.created`."""
    return not is_final(raw) and raw.find(_CREATED, 0, 48) < 0


def seq_of(raw: bytes) -> int:
    """The number that `append.lua` spliced in: `{"seq":12,…`."""
    return int(raw[7 : raw.index(b",", 7)])
