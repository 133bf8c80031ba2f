"""Jobs of the system itself: a notification to everybody. Run by any worker, whatever its application."""

from typing import Any

from rt.events import Level
from rt.jobs.context import JobContext
from rt.jobs.job import JobDef, define
from rt.redis import insist
from rt.streams.notifications import Notification, Notifications

BROADCAST = "rt.broadcast"

#: Subjects of one call, and bytes, about, of what is written for them: a script holds the whole server while it runs.
PART = 100
PART_BYTES = 1024 * 1024

TIMEOUT_S = 6 * 3600


def system_jobs(notifications: Notifications) -> dict[str, JobDef]:
    """By name. No client can submit them, and no application can take their names, which begin with `rt.`."""

    async def broadcast(
        job: JobContext, id: str, title: str, message: str, level: Level, metadata: dict[str, Any], exclude: list[str]
    ) -> dict[str, int]:
        """Notifies every subject that was seen within the retention. Result: `{sent, muted}`.

        Whom the broadcast `id` has reached stands in Redis: another attempt, or the same job run again from its dead letter,
        goes on and repeats nobody.
        """
        one = Notification(title, message, level, metadata)
        left_out = set(exclude)
        # Two at least: a page begins with the last one's last subject.
        part = max(2, min(PART, PART_BYTES // len(one.encode("user:"))))
        since: float = job.past.checkpoint or 0
        sent = muted = 0
        while page := await insist("broadcast", notifications.seen, job.tenant, since, part):
            subjects = [subject for subject, _ in page if subject not in left_out]
            sent, muted = await insist("broadcast", notifications.send_part, job.tenant, id, subjects, one)
            last = page[-1][1]
            if len(page) < part:
                break
            since = last
            await job.checkpoint(since)
            await job.progress(sent + muted, unit="subjects")
        await insist("broadcast", notifications.sent_all, job.tenant, id)
        return {"sent": sent, "muted": muted}

    return {BROADCAST: define(BROADCAST, broadcast, timeout_s=TIMEOUT_S)}
