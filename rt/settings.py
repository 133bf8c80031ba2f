"""Every setting, its default and what zero or None means; read from the environment once, at start.

`REDIS_URL` and `PORT` are what hosts set; everything else is `RT_<NAME>`. An unknown `RT_…` is an error: a setting
that silently does nothing is worse than a process that does not start.
"""

import difflib
import os
from typing import Literal, NamedTuple

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from rt.errors import RtError
from rt.keys import Kind

DAY_S = 86_400


class BadSettings(RtError):
    """A setting is unknown or has a value that cannot be used; the text names it and says what to write."""


class Retention(NamedTuple):
    """About `length` events, none older than `age_s`; the log expires that long after its last append, or a minute later."""

    length: int
    age_s: int


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="RT_", extra="ignore", frozen=True, use_attribute_docstrings=True)

    redis_url: str = Field("", validation_alias=AliasChoices("RT_REDIS_URL", "REDIS_TLS_URL", "REDIS_URL"))
    """redis://, rediss://, unix://, redis+sentinel:// (see "Deploy"), or memory:// (fakeredis). Empty: only `rt dev` starts."""

    host: str = "0.0.0.0"  # noqa: S104 - a Procfile host routes to every interface
    """The interface to listen on."""
    port: int = Field(8000, ge=0, le=65535, validation_alias=AliasChoices("RT_PORT", "PORT"))
    """0 takes a free port; the ready line names it."""
    secret: SecretStr | None = None
    """Signs and checks HS256 tokens; at least 32 bytes. Without it `rt web` refuses to start; `rt dev` makes one."""
    allowed_origins: str = ""
    """Origins, separated by commas, whose pages may open a WebSocket besides the server's own; "*" allows all."""
    console: Literal["off", "read", "full"] = "off"
    """The page `/console` and its calls, for the scope `admin`; "read": without running jobs again. `rt dev`: full."""
    log: Literal["auto", "console", "json"] = "auto"
    """auto: console on a terminal, json elsewhere."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severity that is logged."""
    dev: bool = False
    """Set by `rt dev` for the processes that it starts: they serve what belongs on a developer's machine alone."""
    demo: bool = False
    """Serve the page `/demo`; under `rt dev` it is always there."""

    heartbeat_s: float = Field(20, gt=0)
    """A ping to each client this often; one that says nothing for twice as long is closed with 4001."""
    connect_timeout_s: float = Field(10, gt=0)
    """Time for the first frame, which must be `connect`; then close 4506."""
    max_connections: int = Field(10_000, ge=1)
    """WebSockets and SSE responses of this process; above it 503 with Retry-After."""
    max_message_bytes: int = Field(256 * 1024, ge=1024)
    """A message above it is `too_large`; one above four times that closes with 4502."""
    outbox_bytes: int = Field(128 * 1024, ge=4096)
    """Bytes that wait for a slow client; above it the connection falls back to reading the log."""
    send_timeout_s: float = Field(20, gt=0)
    """A client that takes nothing for this long is closed with 4002; it resumes later."""
    mailbox: int = Field(64, ge=4)
    """Messages that wait for one connection's actor; above it the socket is not read."""
    deflate: bool = False
    """Offer permessage-deflate: about 40 KiB more per connection, and more CPU per event."""
    drain_s: float = Field(15, ge=0, le=20)
    """How long SIGTERM gives clients to leave, and jobs to end, before they are closed and handed back. Under `rt dev` 0.5."""
    accept_rate: float = Field(200, gt=0)
    """Reconnects per second that a deploy should cause: clients' `reconnect` delays are spread over clients / rate seconds."""

    session_ttl_s: int = Field(DAY_S, ge=60)
    """How long a session without a connection can be resumed."""
    meta_ttl_s: int = Field(7 * DAY_S, ge=60)
    """How long a stream's epoch, top and first kept seq, and a job's status and result, outlive its last write."""
    session_length: int = Field(1_000, ge=1)
    """Events that a session's own stream keeps, about."""
    session_age_s: int = Field(DAY_S, ge=1)
    """How long it keeps them."""
    user_length: int = Field(1_000, ge=1)
    """Events that a user's stream keeps, about."""
    user_age_s: int = Field(7 * DAY_S, ge=1)
    """How long it keeps them."""
    room_length: int = Field(5_000, ge=1)
    """Events that a room keeps, about."""
    room_age_s: int = Field(7 * DAY_S, ge=1)
    """How long it keeps them."""
    job_length: int = Field(20_000, ge=1)
    """Events that a job's stream keeps, about."""
    job_age_s: int = Field(DAY_S, ge=1)
    """How long it keeps them."""

    presence_events: int = Field(100, ge=0)
    """Sessions in a room, about, up to which `presence.joined` is written of who comes; above it only the list tells. 0: never."""

    queue: str = "arq:queue"
    """The sorted set that is the queue; arq's own name, so that plain arq clients find it."""
    queue_limit: int = Field(10_000, ge=1)
    """Jobs that may wait; above it `queue_full`."""
    queue_wait_s: int = Field(DAY_S, ge=1)
    """A job that no worker starts for this long ends as `job.failed` with `expired`."""
    max_jobs: int = Field(100, ge=1)
    """Jobs that one worker process runs at a time."""
    job_timeout_s: float = Field(300, gt=0)
    """From a job's first start, over all its attempts, where the job or its submitter says nothing else."""
    lease_s: float = Field(10, ge=1)
    """A worker that does not renew for this long has lost its jobs: another one starts them."""
    stall_limit_s: float = Field(30, ge=1)
    """A worker whose event loop has not turned for this long stops renewing."""
    poll_s: float = Field(1, gt=0)
    """The worker's safety net when no wake-up arrives; 0.05 where Redis has no keyspace notifications."""
    keep_result_s: int = Field(3600, ge=0)
    """How long arq's own result key is kept for arq's clients. 0: none is written."""
    dead_letter_length: int = Field(10_000, ge=1)
    """Failed jobs that a tenant's dead-letter list keeps; above it the oldest is dropped."""
    dead_letter_age_s: int = Field(30 * DAY_S, ge=60)
    """How long it keeps them."""

    openai_base_url: str = ""
    """An OpenAI-compatible endpoint ("http://…/v1") for `generate`. Empty: the embedded language model."""
    openai_api_key: SecretStr | None = None
    """Sent to that endpoint as a bearer token."""
    openai_model: str = "gpt-4o-mini"
    """The model where a job names none."""
    openai_timeout_s: float = Field(30, gt=0)
    """Longest wait for the endpoint's next bytes."""

    @field_validator("secret")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        # RFC 7518, 3.2: a key for HS256 has at least as many bits as the hash.
        if value is not None and len(value.get_secret_value().encode()) < 32:
            raise ValueError("needs at least 32 bytes; `python -c 'import secrets; print(secrets.token_hex(32))'` makes one")
        return value

    def retention(self, kind: Kind) -> Retention:
        return Retention(getattr(self, f"{kind}_length"), getattr(self, f"{kind}_age_s"))


#: Environment variables with our prefix that are not settings of a server.
_NOT_SETTINGS = frozenset({"RT_REDIS_URL", "RT_PORT", "RT_URL", "RT_TOKEN"})


def load_settings(**over: object) -> Settings:
    """Reads the environment; `over` wins over it.

    Raises BadSettings that names every wrong variable, for an unknown one with the nearest known name.
    """
    known = {f"RT_{name.upper()}" for name in Settings.model_fields} | _NOT_SETTINGS
    unknown = sorted(name for name in os.environ if name.startswith("RT_") and name not in known)
    if unknown:
        hints = []
        for name in unknown:
            near = difflib.get_close_matches(name, known, 1)
            hints.append(f"{name} is no setting" + (f"; did you mean {near[0]}?" if near else ""))
        raise BadSettings("; ".join(hints))
    try:
        return Settings(**over)  # type: ignore[arg-type]
    except ValidationError as error:
        # The input is left out: it may be a secret.
        lines = [f"{_variable(one['loc'])}: {one['msg']}" for one in error.errors(include_input=False, include_url=False)]
        raise BadSettings("; ".join(lines)) from None


def _variable(loc: tuple[int | str, ...]) -> str:
    name = str(loc[0]) if loc else "?"
    return name if name.isupper() else f"RT_{name.upper()}"


def sources() -> dict[str, str]:
    """Where each setting comes from: the environment variable's name, or "default". For `rt doctor`."""
    out = {}
    for name, field in Settings.model_fields.items():
        alias = field.validation_alias
        names = [str(one) for one in alias.choices] if isinstance(alias, AliasChoices) else [f"RT_{name.upper()}"]
        out[name] = next((one for one in names if one in os.environ), "default")
    return out
