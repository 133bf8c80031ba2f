"""What a publish stores: the event's bytes, checked against what the application registered."""

import time
from typing import Any

from rt import events
from rt.actors.router import check_data
from rt.app import App
from rt.errors import Refused
from rt.keys import Stream
from rt.streams.commands import request_hash
from rt.tokens import Claims


def stored_event(stream: Stream, type: str, data: Any) -> bytes:
    """An event for `StreamLog.publish`. Raises Refused("too_large") above 256 KiB."""
    event = events.encode(type, str(stream), data, int(time.time() * 1000))
    if len(event) > events.MAX_EVENT_BYTES:
        raise Refused("too_large", f"an event of {len(event)} bytes; at most {events.MAX_EVENT_BYTES} are taken")
    return event


def published_event(app: App, who: Claims, stream: Stream, type: str, data: Any, *, loc: str = "event") -> bytes:
    """What a client's `publish` stores; `loc` is the field that names the type.

    Raises Refused: "invalid_frame" for types that only the server writes, "unknown_type", "invalid_input", "too_large".
    """
    if type == "message":
        return stored_event(stream, type, {"from": who.subject, "data": data})
    if events.reserved(type):
        raise Refused.field("invalid_frame", loc, "this type is written by the server alone")
    if type not in app.handlers:
        raise Refused("unknown_type", f"no event is named {type[:64]!r}", details=[{"loc": [loc], "msg": "unknown"}])
    return stored_event(stream, type, check_data(app.handlers[type][0], data).model_dump(mode="json"))


def publish_hash(stream: str, type: str, data: Any) -> str:
    """What makes two publishes the same, over HTTP and WebSocket alike."""
    return request_hash(["publish", stream, type, data])
