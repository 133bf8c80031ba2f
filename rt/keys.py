"""Every name that `rt` writes in Redis, and the grammar of stream names. Nothing else builds a key.

`{}` is the hash tag: a stream's log and its meta share a slot. `<t>` is the tenant. The Lua scripts that must find a
job's keys from its id alone (claim, sweep) build the same names; `tests/test_keys.py` holds the two together.
"""

import re
from typing import Literal, NamedTuple
from urllib.parse import quote, unquote

from rt.errors import Refused

Kind = Literal["session", "user", "room", "job"]
KINDS: tuple[Kind, ...] = ("session", "user", "room", "job")

DEFAULT_TENANT = "-"

#: The server's `run_id` as it was when somebody last connected: another value means that Redis may have lost something.
INCARNATION = "rt:incarnation"
PROBE = "rt:probe"
#: The lease of the one janitor.
JANITOR = "rt:janitor"
#: When any process last reached Redis (ms); and, for a while after nobody could, that lapsed leases are left to their holders.
PULSE = "rt:pulse"
GRACE = "rt:grace"

#: The processes that hold connections: score = when the lease ends (ms). Who is away from a room: "<tenant> <room> <session>", score =
#: when it has left. When any process last renewed its lease; and, for a while after none could, that nobody leaves.
PROCESSES = "rt:processes"
AWAY = "rt:away"
ATTENDED = "rt:attended"
ABSENCE_GRACE = "rt:away-grace"

#: How many dead letters were kept, and dropped for newer ones, since the janitor last counted them.
LETTERS_KEPT = "rt:dead-kept"
LETTERS_DROPPED = "rt:dead-dropped"

# What stands in a name after `kind:`; a percent sign only as part of an escape in upper-case hex.
_ID = re.compile(r"(?:[A-Za-z0-9._~@+=-]|%[0-9A-F]{2})+")
#: Its length, as it stands in the name.
MAX_ID_CHARS = 128
_PLAIN = "._~@+=-"
_IS_PLAIN = re.compile(r"[A-Za-z0-9._~@+=-]*")


class Stream(NamedTuple):
    """A parsed stream name. `id` is as it stands in the name (escaped); `subject` unescapes it."""

    kind: Kind
    id: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.id}"

    @property
    def subject(self) -> str:
        return unquote(self.id)


def parse_stream(name: object, loc: str = "stream") -> Stream:
    """Raises Refused("invalid_frame") that names `loc` when `name` is not a stream's name."""
    if isinstance(name, str):
        kind, colon, id = name.partition(":")
        if colon and kind in KINDS and len(id) <= MAX_ID_CHARS and _ID.fullmatch(id):
            return Stream(kind, id)
    raise Refused.field(
        "invalid_frame",
        loc,
        "a stream is session:<id>, user:<subject>, room:<name> or job:<id>, 1 to 128 of A-Z a-z 0-9 . _ ~ @ + = - "
        "(other characters percent-encoded, upper-case hex)",
    )


def escape(text: str) -> str:
    """A subject, or a plain arq job's id, as it stands in a stream name."""
    return text if _IS_PLAIN.fullmatch(text) else quote(text, safe=_PLAIN)


def session_stream(session: str) -> str:
    return f"session:{session}"


def user_stream(subject: str) -> str:
    return f"user:{escape(subject)}"


def job_stream(job_id: str) -> str:
    return f"job:{escape(job_id)}"


def log(tenant: str, stream: str) -> str:
    return f"rt:{tenant}:{{{stream}}}:log"


def meta(tenant: str, stream: str) -> str:
    return f"rt:{tenant}:{{{stream}}}:meta"


def text(tenant: str, stream: str) -> str:
    """What a job has said in deltas that were trimmed from its log."""
    return f"rt:{tenant}:{{{stream}}}:text"


def inputs(tenant: str, stream: str) -> str:
    """What an unfinished job was sent while it runs: a list of JSON values."""
    return f"rt:{tenant}:{{{stream}}}:input"


def live(tenant: str, stream: str) -> str:
    """The pub/sub channel on which appends to the stream are announced."""
    return f"rt:{tenant}:{{{stream}}}:live"


def cursors(tenant: str, session: str) -> str:
    return f"rt:{tenant}:{{session:{session}}}:cursors"


def furthest(tenant: str, subject: str) -> str:
    """The furthest acknowledgement of `user:<subject>` by any of the subject's sessions."""
    return f"rt:{tenant}:{{{user_stream(subject)}}}:furthest"


def unread(tenant: str, subject: str) -> str:
    """The notifications of a subject's stream that are not marked as read: member and score = seq."""
    return f"rt:{tenant}:{{{user_stream(subject)}}}:unread"


def muted(tenant: str, subject: str) -> str:
    """The levels of notifications that a subject does not want, with spaces between."""
    return f"rt:{tenant}:{{{user_stream(subject)}}}:muted"


def seen(tenant: str) -> str:
    """Every subject that had a session within the retention of `user:` streams: score = when that was last noted (µs)."""
    return f"rt:{tenant}:seen"


def broadcast(tenant: str, id: str) -> str:
    """Whom a broadcast has reached, so that a worker that dies in the middle repeats nobody."""
    return f"rt:{tenant}:broadcast:{id}"


def presence(tenant: str, room: str) -> str:
    """Who is in a room: `s:<session>` → "<process> <generation> <subject>" (process "-": away), `n:<subject>` → twice how many
    that are, and one more when its coming was told."""
    return f"rt:{tenant}:{{{room}}}:presence"


def attended(process: str) -> str:
    """The rooms in which a process has sessions: "<tenant> <room>"."""
    return f"rt:presence:{process}"


def command(tenant: str, session: str, id: str) -> str:
    return f"rt:{tenant}:idem:c:{session}:{id}"


def idempotency(tenant: str, subject: str, key: str) -> str:
    return f"rt:{tenant}:idem:k:{escape(subject)}:{key}"


def ticket(tenant_free_word: str) -> str:
    return f"rt:-:ticket:{tenant_free_word}"


def jobs(tenant: str) -> str:
    """Every job of a tenant: member = id, score = when it was accepted (ms)."""
    return f"rt:{tenant}:jobs"


def jobs_of(tenant: str, subject: str) -> str:
    return f"rt:{tenant}:jobs:{escape(subject)}"


def letter(tenant: str, job_id: str) -> str:
    """The dead letter of a job that failed: a hash beside its stream."""
    return f"rt:{tenant}:{{{job_stream(job_id)}}}:dead"


def letters(tenant: str) -> str:
    """Every dead letter of a tenant: member = the job's id, score = when it failed (ms)."""
    return f"rt:{tenant}:dead"


def letters_of(tenant: str, subject: str) -> str:
    return f"rt:{tenant}:dead:{escape(subject)}"


def leases(queue: str) -> str:
    """The running jobs of a queue: member = id, score = when the lease ends (ms)."""
    return f"rt:leases:{queue}"


def deadlines(queue: str) -> str:
    """The unfinished jobs of a queue: member "<tenant> <id>", score = when they are ended if nobody ends them before (ms)."""
    return f"rt:deadlines:{queue}"


def tenants(queue: str) -> str:
    """Whose the unfinished jobs of a queue are: id → tenant, but for those of the default tenant."""
    return f"rt:tenants:{queue}"


def doorbell(queue: str) -> str:
    """The pub/sub channel that wakes the queue's workers: "job", or "cancel <id>"."""
    return f"rt:doorbell:{queue}"


def claimer(token: str) -> str:
    """The number of a worker's last claim."""
    return f"rt:claimer:{token}"


def worker(name: str) -> str:
    return f"rt:worker:{name}"


WORKERS = "rt:workers"

#: The pub/sub channel on which every process is asked what it is doing (`rt.inspect`).
QUESTIONS = "rt:questions"


def answers(process: str) -> str:
    """The pub/sub channel on which a process hears the answers to its own questions."""
    return f"rt:answers:{process}"
