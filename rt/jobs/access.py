"""Who may do what. Authority comes from the credential alone; every stream name and job id is checked here. Default deny.

A subject reads and writes what is its own, and any room. A job is read by its submitter and by whoever may read a
stream it reports to; it is cancelled by its submitter and by the subject whose session or user stream it reports to.
A dead letter is its submitter's. What is nobody's (a plain arq client's job) is `admin`'s. Foreign things that exist
and things that do not exist get the same answer.

An application's policy (`App.policy`) may say otherwise of streams: more than these rules and less. A scope that a credential
lacks is lacking whatever it says, and what a job's own subject may do with the job is not asked of it.
"""

from collections.abc import Iterable

from rt import keys
from rt.errors import Refused, Unavailable
from rt.jobs.letters import DeadLetter
from rt.jobs.policy import Action, Policy, StreamRequest, decide
from rt.jobs.queue import JobQueue, JobRecord
from rt.keys import Stream, parse_stream
from rt.redis import Store
from rt.tokens import Claims


class Access:
    """All checks raise Refused("forbidden" or "not_found"), or Unavailable when they had to ask Redis."""

    def __init__(self, store: Store, queue: JobQueue, policy: Policy | None = None) -> None:
        self._store = store
        self._policy = policy
        self._queue = queue

    async def read_stream(self, who: Claims, stream: Stream) -> None:
        """Subscribe, SSE and history of a stream."""
        if stream.kind == "job":
            await self.read_job(who, stream.subject)
            return
        who.need("streams:read")
        if not await self._may(who, "read", stream):
            raise Refused("forbidden", f"{stream} is not yours to read")

    async def publish(self, who: Claims, stream: Stream) -> None:
        who.need("streams:publish")
        if stream.kind == "job":
            raise Refused("forbidden", "a job's stream is written by its job alone")
        if not await self._may(who, "publish", stream):
            raise Refused("forbidden", f"{stream} is not yours to write")

    async def report_to(self, who: Claims, stream: Stream) -> None:
        """A job may be announced in one's own stream; elsewhere it needs the right to publish there."""
        if stream.kind == "job":
            raise Refused.field("invalid_frame", "stream", "a job reports to a session:, user: or room: stream")
        if stream.kind == "room" or not await self.owns(who, stream):
            who.need("streams:publish")
            if stream.kind == "session" and await self._owner_of(who, stream) is None:
                raise Refused("not_found", "there is no such session")
        if self._policy and not await decide(self._policy, _request(who, "report", stream, allowed=True)):
            raise Refused("forbidden", f"{stream} is not yours to report to")

    async def read_job(self, who: Claims, job_id: str) -> JobRecord:
        """The job's record, when `who` may read it."""
        who.need("jobs:read")
        record = await self._record(who, job_id)
        if not await self._reads(who, record):
            raise _no_job()
        return record

    async def control_job(self, who: Claims, job_id: str) -> JobRecord:
        """Cancel and input."""
        who.need("jobs:write")
        record = await self._record(who, job_id)
        if await self._is_theirs(who, record):
            return record
        # Who may read it is told that it may not do this; to others it does not exist.
        await self.read_job(who, job_id)
        raise Refused("forbidden", "this job is not yours to change")

    def letter(self, who: Claims, letter: DeadLetter | None) -> DeadLetter:
        """The letter, when `who` submitted the job: it holds the input, which readers of a stream that it reported to never saw."""
        if letter and (who.has("admin") or (letter.owner and letter.owner == who.subject)):
            return letter
        raise Refused("not_found", "there is no such dead letter")

    async def no_longer_reads(self, who: Claims, streams: Iterable[str]) -> dict[str, Refused]:
        """Of streams that a session follows, those that it may not read any more, and why. Without a policy nobody asks: what one was
        once allowed to follow one still is."""
        refused: dict[str, Refused] = {}
        for stream in map(parse_stream, streams if self._policy else ()):
            try:
                if stream.kind != "job":
                    await self.read_stream(who, stream)
                # A job that nobody knows any more is the session's to tell of.
                elif (record := await self._queue.get(who.tenant, stream.subject)) and not await self._reads(who, record):
                    raise _no_job()
            except Unavailable:
                raise
            except Refused as error:
                refused[str(stream)] = error
        return refused

    async def _may(self, who: Claims, action: Action, stream: Stream) -> bool:
        return await self._allows(who, action, stream, await self.owns(who, stream))

    async def _allows(self, who: Claims, action: Action, stream: Stream, owned: bool) -> bool:
        return owned if self._policy is None else await decide(self._policy, _request(who, action, stream, allowed=owned))

    async def owns(self, who: Claims, stream: Stream) -> bool:
        """Whether a session:, user: or room: stream is the subject's own; rooms are everybody's."""
        match stream.kind:
            case "room":
                return True
            case "user":
                return stream.id == keys.escape(who.subject) or who.has("admin")
            case "session":
                return await self._owner_of(who, stream) == who.subject or who.has("admin")
            case _:
                return False

    async def _reads(self, who: Claims, record: JobRecord) -> bool:
        """Whether a job is theirs, or reports to a stream that they may read."""
        if self._submitted(who, record):
            return True
        reports = [(stream, await self.owns(who, stream)) for stream in map(parse_stream, record.reports)]
        if any(owned and stream.kind != "room" for stream, owned in reports):
            return True
        for stream, owned in reports if who.has("streams:read") else ():
            if await self._allows(who, "read", stream, owned):
                return True
        return False

    async def _is_theirs(self, who: Claims, record: JobRecord) -> bool:
        """Whether somebody has submitted a job, or it reports to a session or user stream of theirs."""
        if self._submitted(who, record):
            return True
        for stream in map(parse_stream, record.reports):
            if stream.kind != "room" and await self.owns(who, stream):
                return True
        return False

    def _submitted(self, who: Claims, record: JobRecord) -> bool:
        return who.has("admin") or bool(record.owner and record.owner == who.subject)

    async def _owner_of(self, who: Claims, stream: Stream) -> str | None:
        owner = await self._store.call("HGET", keys.cursors(who.tenant, stream.id), "owner")
        return owner.decode() if owner is not None else None

    async def _record(self, who: Claims, job_id: str) -> JobRecord:
        record = await self._queue.get(who.tenant, job_id)
        if record is None:
            raise _no_job()
        return record


def _request(who: Claims, action: Action, stream: Stream, *, allowed: bool) -> StreamRequest:
    return StreamRequest(action, stream.kind, stream.subject, who.subject, who.tenant, who.scopes, allowed)


def _no_job() -> Refused:
    return Refused("not_found", "there is no such job")
