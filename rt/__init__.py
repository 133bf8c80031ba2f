"""`rt`: real-time AI over durable streams.

The public names are handed out lazily, so that importing one of them loads only what it needs: a client never
loads the server, and the command line answers `--help` without loading a web framework.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from rt.actors.caller import Connection
    from rt.app import App
    from rt.errors import JobError, Refused, RtError, TemporaryJobError, Unavailable
    from rt.events import Event
    from rt.jobs.context import JobContext
    from rt.jobs.job import Past, Retry
    from rt.jobs.policy import StreamRequest

_HOMES = {
    "App": "rt.app",
    "Connection": "rt.actors.caller",
    "Event": "rt.events",
    "JobContext": "rt.jobs.context",
    "JobError": "rt.errors",
    "Past": "rt.jobs.job",
    "Refused": "rt.errors",
    "Retry": "rt.jobs.job",
    "RtError": "rt.errors",
    "StreamRequest": "rt.jobs.policy",
    "TemporaryJobError": "rt.errors",
    "Unavailable": "rt.errors",
}

__all__ = [
    "App",
    "Connection",
    "Event",
    "JobContext",
    "JobError",
    "Past",
    "Refused",
    "Retry",
    "RtError",
    "StreamRequest",
    "TemporaryJobError",
    "Unavailable",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'rt' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
