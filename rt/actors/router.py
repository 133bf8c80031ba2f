"""From a frame's type to what handles it. Pure; made once at start, and refuses then what it could not route."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from rt.actors.frames import BUILT_IN, AppEvent, Frame, check, faults
from rt.app import App
from rt.errors import Refused, RtError
from rt.events import Event


class Unroutable(RtError):
    """The application has something that could never be reached, or that could not be called; the text names it."""


@dataclass(frozen=True, slots=True)
class Handled:
    """An application's event, validated, with the handler to call."""

    id: str | None
    event: Event
    handler: Callable[..., Any]
    raw: dict[str, Any]


class Router:
    """Routes decoded frames. Raises Unroutable when the application cannot be routed to."""

    def __init__(self, app: App) -> None:
        self.app = app
        self._handlers = dict(app.handlers)
        for type, (_, handler) in self._handlers.items():
            if type in BUILT_IN:
                raise Unroutable(f"{type!r} is a frame of the protocol; name the event otherwise")
            if not inspect.iscoroutinefunction(handler):
                raise Unroutable(f"the handler of {type!r} must be `async def`")
            required = [
                one
                for one in inspect.signature(handler).parameters.values()
                if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD) and one.default is one.empty
            ]
            if len(required) != 2:
                raise Unroutable(f"the handler of {type!r} must take (connection, event)")
        for name in app.jobs:
            if not name or len(name) > 200:
                raise Unroutable(f"the job name {name[:50]!r} must have 1 to 200 characters")

    def knows(self, type: str) -> bool:
        return type in BUILT_IN or type in self._handlers

    def route(self, value: Any) -> Frame | Handled:
        """A checked frame of the protocol, or an application's event with its handler.

        Raises Refused: "invalid_frame", "unknown_type", and "invalid_input" for data that the event's model refuses.
        """
        if not isinstance(value, dict) or not isinstance(type := value.get("type"), str):
            raise Refused.field("invalid_frame", "type", "a frame is an object with a string `type`")
        if model := BUILT_IN.get(type):
            frame: Frame = check(model, value)
            return frame
        if known := self._handlers.get(type):
            event_model, handler = known
            envelope: AppEvent = check(AppEvent, value)
            return Handled(envelope.id, check_data(event_model, envelope.data), handler, value)
        raise Refused("unknown_type", f"no frame or event is named {type[:64]!r}", details=[{"loc": ["type"], "msg": "unknown"}])


def check_data(model: type[Event], data: Any) -> Event:
    """An event's data against its model. Raises Refused("invalid_input") with the fields under `data`."""
    try:
        checked: BaseModel = model.model_validate(data)
    except ValidationError as error:
        details = faults(error, "data")
        raise Refused("invalid_input", f"{'.'.join(details[0]['loc'])}: {details[0]['msg']}", details=details) from None
    assert isinstance(checked, Event)
    return checked
