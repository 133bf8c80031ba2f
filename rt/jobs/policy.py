"""The application's own word on who may do what with a stream."""

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from rt.errors import Refused
from rt.keys import Kind
from rt.telemetry import get_logger

log = get_logger("rt.policy")

Action = Literal["read", "publish", "report"]


@dataclass(frozen=True, slots=True)
class StreamRequest:
    """Somebody wants something of a `session:`, `user:` or `room:` stream.

    `action`: "read" (subscribe, resume, history, SSE, presence; also a job that reports to it), "publish", or "report" (a job is
    to be announced in it). `subject`, `tenant` and `scopes` are the credential's, which has the scope for it. `name` is what
    stands behind the kind, unescaped. `allowed` is what the rules say that hold where an application has no policy.
    """

    action: Action
    kind: Kind
    name: str
    subject: str
    tenant: str
    scopes: frozenset[str]
    allowed: bool


Policy = Callable[[StreamRequest], bool | Awaitable[bool]]


async def decide(policy: Policy, request: StreamRequest) -> bool:
    """Whether it is granted. A policy that raises grants nothing; Refused is handed on, so that it can say why."""
    try:
        said = policy(request)
        if inspect.isawaitable(said):
            said = await said
    except Refused:
        raise
    except Exception as error:
        log.error("the policy raised", action=request.action, exc_info=error)
        return False
    return said is True
