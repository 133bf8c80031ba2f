"""The frames that clients send: one model each, and errors that name the field. Pure."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from rt.errors import Refused
from rt.jobs.submit import MAX_DELAY_S, MAX_TIMEOUT_S

Id = Annotated[str, StringConstraints(min_length=1, max_length=128)]
Key = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=r"^[\x21-\x7e]+$")]


#: Wrong fields that an error lists, and the characters of a field's name that it repeats.
MAX_FAULTS = 20
MAX_NAME = 200


class Frame(BaseModel):
    """Fields that the protocol does not name are refused; so are strings where it says numbers."""

    model_config = ConfigDict(extra="forbid", strict=True)

    word: ClassVar[str]
    type: str


class ClientInfo(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    name: str = Field(max_length=100)
    version: str = Field("", max_length=100)


class Connect(Frame):
    word = "connect"
    token: str | None = Field(None, max_length=8192)
    ticket: str | None = Field(None, max_length=256)
    session: str | None = Field(None, max_length=128)
    cursors: dict[str, str] | None = None
    batch: bool = False
    client: ClientInfo | None = None


class Ack(Frame):
    word = "ack"
    cursors: dict[str, int | str]


class Ping(Frame):
    word = "ping"


class Pong(Frame):
    word = "pong"


class Command(Frame):
    id: Id


class Subscribe(Command):
    word = "subscribe"
    stream: str
    cursor: str | None = None


class Unsubscribe(Command):
    word = "unsubscribe"
    stream: str


class Publish(Command):
    word = "publish"
    stream: str
    data: Any
    event: str = "message"
    idempotency_key: Key | None = None


class Options(BaseModel):
    """How a job is to be run."""

    model_config = ConfigDict(extra="forbid", strict=True)

    # Lanes come later: until then the other two words are known and refused.
    priority: Literal["default"] = "default"
    delay_s: float = Field(0, ge=0, le=MAX_DELAY_S, allow_inf_nan=False)
    timeout_s: float | None = Field(None, gt=0, le=MAX_TIMEOUT_S, allow_inf_nan=False)
    stream: str | None = None
    idempotency_key: Key | None = None


class Submit(Command):
    word = "job.submit"
    job: str = Field(max_length=200)
    input: dict[str, Any] = Field(default_factory=dict)
    options: Options = Field(default_factory=Options)


class Cancel(Command):
    word = "job.cancel"
    job_id: str = Field(min_length=1, max_length=512)


class Input(Command):
    word = "job.input"
    job_id: str = Field(min_length=1, max_length=512)
    data: Any
    final: bool = False


class Refresh(Command):
    word = "refresh"
    token: str = Field(max_length=8192)


class AppEvent(BaseModel):
    """The envelope of an application's own event; its `data` is checked against the registered model."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: str
    id: Id | None = None
    data: dict[str, Any] = Field(default_factory=dict)


BUILT_IN: dict[str, type[Frame]] = {
    one.word: one for one in (Connect, Ack, Ping, Pong, Subscribe, Unsubscribe, Publish, Submit, Cancel, Input, Refresh)
}


def command_id(frame: Any) -> str | None:
    """The id to answer with, when the frame has a usable one, whatever else is wrong with it."""
    id = frame.get("id") if isinstance(frame, dict) else None
    return id if isinstance(id, str) and 0 < len(id) <= 128 else None


def check(model: type[BaseModel], value: Any) -> Any:
    """The validated frame. Raises Refused("invalid_frame") that names the first wrong field, and lists it and others."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise refusal(error) from None


def refusal(error: ValidationError) -> Refused:
    details = faults(error)
    first = details[0]
    return Refused("invalid_frame", f"{'.'.join(first['loc']) or 'frame'}: {first['msg']}", details=details)


def faults(error: ValidationError, *within: str) -> list[dict[str, Any]]:
    """The `details` of an error: the first wrong fields, by their place in what was sent, quoting no value.

    Names of unknown fields are the client's: an error must not become larger than the frame that it answers.
    """
    return [
        {"loc": [*within, *(str(part)[:MAX_NAME] for part in one["loc"])], "msg": one["msg"]}
        for one in error.errors(include_input=False, include_url=False)[:MAX_FAULTS]
    ]
