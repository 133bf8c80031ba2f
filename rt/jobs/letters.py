"""Dead letters: jobs that failed, kept with their input and errors, to be seen and run again.

A letter is written by the script that writes the job's terminal event, whichever script that is (`letter_keep` in
`job.lua`), so that no job fails without one. Running it again makes another job, once for each letter: the stream of
the one that failed has ended, and stays so.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rt import keys
from rt.codec import from_json_bytes, to_json_bytes
from rt.errors import Refused
from rt.jobs.job import JobDef
from rt.jobs.payload import BadPayload, Payload, decode_job
from rt.jobs.queue import Accepted, JobQueue, NewJob, hash_fields, newest, rfc3339
from rt.redis import Store, load_script

DROP = load_script("streams/stream", "jobs/job", "jobs/drop")

_UNREADABLE = "<unreadable>"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """What is known of a job that failed. Times are Unix ms, 0 where it has not happened.

    `attempts` is how often it was started. `errors` are the newest 20, oldest first: one for each attempt that failed or
    lost its worker, and last what ended the job (`attempt` is 0 where none had begun). `payload` is as it stood in the
    queue, None where it was not kept; a list leaves it out.
    """

    id: str
    job: str
    owner: str
    reports: tuple[str, ...]
    request_id: str
    retry_of: str
    retried_as: str
    timeout_ms: int
    max_attempts: int
    attempts: int
    created_ms: int
    started_ms: int
    failed_ms: int
    errors: tuple[dict[str, Any], ...]
    payload: bytes | None = None
    payload_bytes: int = 0

    def input(self, job: JobDef | None) -> dict[str, Any]:
        """What the job was given, as JSON has it; positional arguments of a plain arq client under the names that `job` has for them.

        Raises BadPayload, which says why it cannot be had.
        """
        if self.payload is None:
            raise BadPayload(f"its {self.payload_bytes} bytes were too many to keep" if self.payload_bytes else "it had expired")
        return as_input(decode_job(self.payload), job)

    def public(self) -> dict[str, Any]:
        """An item of `GET /v1/dead-letters`: nothing of the input."""
        out: dict[str, Any] = {"job_id": self.id, "job": self.job, "error": _error(self.errors[-1]), "attempts": self.attempts}
        if self.owner:
            out["owner"] = self.owner
        out["created_at"] = rfc3339(self.created_ms or self.failed_ms)
        if self.started_ms:
            out["started_at"] = rfc3339(self.started_ms)
        out["failed_at"] = rfc3339(self.failed_ms)
        for name in ("retry_of", "retried_as"):
            if value := getattr(self, name):
                out[name] = value
        return out

    def detail(self, job: JobDef | None) -> dict[str, Any]:
        """The answer of `GET /v1/dead-letters/{id}`; `job` is the function of that name, None where none is registered."""
        out = self.public()
        try:
            out["input"] = self.input(job)
        except BadPayload as error:
            out |= {"input": None, "input_lost": str(error)}
        out["errors"] = [{"attempt": one["attempt"], "at": rfc3339(one["at"]), **_error(one)} for one in self.errors]
        out["reports"] = list(self.reports)
        if self.request_id:
            out["request_id"] = self.request_id
        if self.timeout_ms:
            out["timeout_s"] = self.timeout_ms / 1000
        if self.max_attempts:
            out["max_attempts"] = self.max_attempts
        return out


def as_input(read: Payload, job: JobDef | None) -> dict[str, Any]:
    """A payload's arguments as JSON has them, by name. Raises BadPayload."""
    named = job.named(read.args, read.kwargs) if job else {f"argument {i + 1}": one for i, one in enumerate(read.args)} | read.kwargs
    try:
        value: dict[str, Any] = from_json_bytes(to_json_bytes(named))
    except ValueError:
        raise BadPayload("it has no JSON form, or is nested too deep") from None
    return value


def _error(one: dict[str, Any]) -> dict[str, Any]:
    return {name: one[name] for name in ("code", "message", "temporary")}


class DeadLetters:
    """All calls raise Unavailable when Redis does not answer, and may then be repeated."""

    def __init__(self, store: Store, queue: JobQueue) -> None:
        self._store, self._queue = store, queue

    async def get(self, tenant: str, job_id: str) -> DeadLetter | None:
        fields = hash_fields(await self._store.call("HGETALL", keys.letter(tenant, job_id)))
        return _letter(job_id, fields) if fields else None

    async def list(
        self, tenant: str, owner: str | None, *, job: str | None = None, limit: int = 50, after: str | None = None
    ) -> tuple[list[DeadLetter], str | None]:
        """Letters without payloads, newest first, of one owner (None: of all), and the cursor of the next page or None.

        `after` is such a cursor: raises Refused("invalid_frame") for anything else. At most 2,000 letters are looked at.
        """

        async def wanted(id: str) -> DeadLetter | None:
            key = keys.letter(tenant, id)
            values = await self._store.call("HMGET", key, *_FIELDS)
            fields = {name: value for name, value in zip(_FIELDS, values, strict=True) if value is not None}
            if not fields:
                return None  # older than its list knows
            if "job" not in fields and (payload := await self._store.call("HGET", key, "payload")):
                fields["job"] = _name(payload).encode()
            letter = _letter(id, fields)
            return letter if job is None or letter.job == job else None

        return await newest(self._store, keys.letters(tenant) if owner is None else keys.letters_of(tenant, owner), wanted, limit, after)

    async def delete(self, tenant: str, job_id: str) -> bool:
        """Whether there was such a letter."""
        return bool(await self._store.run(DROP, [], [tenant, job_id]))

    async def retry(self, tenant: str, letter: DeadLetter, jobs: Mapping[str, JobDef]) -> tuple[Accepted, str]:
        """Runs a letter's job again, as another job of the same owner, and says its status; the same one however often it is called.

        Raises Refused: "unknown_job" and "invalid_input" (the letter stays) when the application no longer takes it, "queue_full",
        "not_found" when the letter is gone, and "conflict" when its other job failed too (then that one's letter is what is run
        again) or is forgotten.
        """
        accepted = Accepted(letter.retried_as, True) if letter.retried_as else await self._queue.accept(_again(tenant, letter, jobs))
        record = await self._queue.get(tenant, accepted.job_id)
        if accepted.duplicate and (record is None or record.status == "failed"):
            became = "failed as well: run that one's letter again" if record else "is forgotten"
            text = f"it was run again as {accepted.job_id}, which {became}"
            raise Refused("conflict", text, facts={"job_id": letter.id, "retried_as": accepted.job_id})
        return accepted, record.status if record else "queued"


def _again(tenant: str, letter: DeadLetter, jobs: Mapping[str, JobDef]) -> NewJob:
    job = jobs.get(letter.job)
    if job is None:
        raise Refused("unknown_job", f"no job is named {letter.job[:64]!r} any more")
    try:
        input = job.check(letter.input(job)).model_dump(mode="json")
    except BadPayload as error:
        raise Refused("invalid_input", f"its input cannot be had: {error}") from None
    return NewJob(
        job=job,
        input=input,
        tenant=tenant,
        owner=letter.owner,
        reports=letter.reports,
        timeout_s=letter.timeout_ms / 1000 or None,
        retry_of=letter.id,
    )


_FIELDS = (
    *("job", "owner", "reports", "request_id", "retry_of", "retried_as", "timeout_ms", "max", "attempt"),
    *("created", "started", "finished", "errors", "payload_bytes"),
)


def _letter(job_id: str, fields: dict[str, bytes]) -> DeadLetter:
    def text(name: str) -> str:
        return fields.get(name, b"").decode()

    def number(name: str) -> int:
        return int(float(fields.get(name) or 0))

    payload = fields.get("payload")
    return DeadLetter(
        id=job_id,
        # A plain arq client's job that failed before anybody wrote its name down.
        job=text("job") or (_name(payload) if payload else _UNREADABLE),
        owner=text("owner"),
        reports=tuple(text("reports").split()),
        request_id=text("request_id"),
        retry_of=text("retry_of"),
        retried_as=text("retried_as"),
        timeout_ms=number("timeout_ms"),
        max_attempts=number("max"),
        attempts=number("attempt"),
        created_ms=number("created"),
        started_ms=number("started"),
        failed_ms=number("finished"),
        errors=tuple(from_json_bytes(line) for line in fields["errors"].split(b"\n")),
        payload=payload,
        payload_bytes=number("payload_bytes"),
    )


def _name(payload: bytes) -> str:
    try:
        return decode_job(payload).function
    except BadPayload:
        return _UNREADABLE
