"""What a job was given, as far as it is still kept, and running it again with that.

It stands in three places, one after the other: in the queue until the job ends; in the dead letter of a job that
failed; and, of one that completed or was cancelled while it ran, in the result that is kept for arq's clients.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rt.errors import Refused
from rt.jobs.job import TERMINAL_STATUSES, JobDef
from rt.jobs.letters import DeadLetters, as_input
from rt.jobs.payload import BadPayload, decode_job, decode_result
from rt.jobs.queue import Accepted, JobQueue, JobRecord, NewJob
from rt.streams.commands import request_hash, until_not_busy


@dataclass(frozen=True, slots=True)
class Kept:
    """`value` is the input by the names that the job has for it, `place` where it was found."""

    place: Literal["queue", "dead letter", "result"]
    value: dict[str, Any]


class Reruns:
    """All calls raise Unavailable when Redis does not answer."""

    def __init__(self, queue: JobQueue, letters: DeadLetters, jobs: Mapping[str, JobDef]) -> None:
        self._queue, self._letters, self._jobs = queue, letters, jobs

    async def input(self, tenant: str, record: JobRecord) -> Kept:
        """Raises BadPayload, which says why it cannot be had."""
        job = self._jobs.get(record.job)
        match record.status:
            case "failed":
                letter = await self._letters.get(tenant, record.id)
                if letter is None:
                    raise BadPayload("the dead letter, which had it, was deleted or is too old")
                return Kept("dead letter", letter.input(job))
            case "completed" | "cancelled":
                raw = await self._queue.arq_result(record.id)
                if raw is None:
                    raise BadPayload("a job's input is kept until RT_KEEP_RESULT_S after its end")
                return Kept("result", as_input(decode_result(raw), job))
            case _:
                raw = await self._queue.payload(record.id)
                if raw is None:
                    raise BadPayload("it has expired")
                return Kept("queue", as_input(decode_job(raw), job))

    async def run_again(self, tenant: str, record: JobRecord, records: list[str]) -> tuple[Accepted, str]:
        """Submits a job that has ended once more, with its input, owner and reports, and says the new one's status.

        Of a job that failed, its letter is run again, which happens once; of another one this happens once for each of
        `records`. Raises Refused: "conflict" for a job that has not ended or whose input is gone, "unknown_job" and
        "invalid_input" where the application no longer takes it, "queue_full".
        """
        if record.status not in TERMINAL_STATUSES:
            raise Refused("conflict", "the job has not ended", facts={"job_id": record.id, "status": record.status})
        if record.status == "failed" and (letter := await self._letters.get(tenant, record.id)):
            return await self._letters.retry(tenant, letter, self._jobs)
        job = self._jobs.get(record.job)
        if job is None:
            raise Refused("unknown_job", f"no job is named {record.job[:64]!r} any more")
        try:
            kept = await self.input(tenant, record)
        except BadPayload as error:
            raise Refused("conflict", f"its input is not kept: {error}", facts={"job_id": record.id, "status": record.status}) from None
        new = NewJob(
            job=job,
            input=job.check(kept.value).model_dump(mode="json"),
            tenant=tenant,
            owner=record.owner,
            reports=record.reports,
            timeout_s=record.timeout_ms / 1000 or None,
        )
        hash = request_hash(["run again", record.id])
        accepted: Accepted = await until_not_busy(lambda: self._queue.accept(new, hash=hash, records=records))
        found = await self._queue.get(tenant, accepted.job_id)
        return accepted, found.status if found else "queued"
