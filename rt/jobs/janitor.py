"""The janitor: one process at a time ends what nobody else can end and keeps what must not expire.

It runs in every web and worker process and works in the one that holds the lease. Each step is repeatable, so that a
janitor that dies in the middle costs nothing but the time until the next one.
"""

import asyncio
import secrets

from rt import keys
from rt.errors import Unavailable
from rt.jobs.queue import PAYLOAD_TTL_MS, JobQueue
from rt.keys import KINDS
from rt.redis import Store, load_script
from rt.settings import Settings
from rt.streams.log import StreamLog
from rt.telemetry import get_logger, metrics

LEAD = load_script("streams/stream", "jobs/job", "jobs/lead")
SWEEP = load_script("streams/stream", "jobs/job", "jobs/sweep")

log = get_logger("rt.janitor")

EVERY_S = 1.0
LEASE_S = 5.0
#: Payloads of unfinished jobs, and streams' ages, are looked at in pages of this many keys a round.
PAGE = 500


class Janitor:
    """Run `run()` in a task of its own."""

    def __init__(self, store: Store, streams: StreamLog, queue: JobQueue, settings: Settings) -> None:
        self._store, self._streams, self._queue, self._settings = store, streams, queue, settings
        self._token = secrets.token_hex(8)
        self._payloads_from = 0
        self._trim_from = b"0"

    async def run(self) -> None:
        """Works until cancelled; survives the loss of Redis."""
        while True:
            try:
                if await self._leads():
                    await self.round()
            except Unavailable:
                metrics.redis_errors.labels("janitor").inc()
            except Exception as error:
                # Something in Redis that no version of ours wrote: the process that looks at it must live on.
                log.error("a round of the janitor failed", exc_info=error)
            await asyncio.sleep(EVERY_S)

    async def _leads(self) -> bool:
        return bool(await self._store.run(LEAD, [keys.JANITOR], [self._token, int(LEASE_S * 1000)]))

    async def round(self) -> None:
        """Every step once. Raises Unavailable."""
        ended = int(await self._store.run(SWEEP, [self._queue.name], [100, *self._queue.ends()]))
        if ended:
            log.info("ended jobs that nobody could end", count=ended)
        await self._keep_payloads()
        await self._trim()
        await self._count_letters()
        metrics.queue_depth.set((await self._queue.depth())["waiting"])

    async def _count_letters(self) -> None:
        """The scripts that end jobs run in any process, also for jobs that no worker had: they count in Redis."""
        for key, counter in ((keys.LETTERS_KEPT, metrics.dead_letters), (keys.LETTERS_DROPPED, metrics.dead_letters_dropped)):
            counter.inc(int(await self._store.call("GETDEL", key) or 0))

    async def _keep_payloads(self) -> None:
        """A backlog, or a chain of retries, may be older than arq's lifetime of a payload: a page of it a round."""
        ids = await self._store.call("ZRANGE", self._queue.name, self._payloads_from, self._payloads_from + PAGE - 1)
        self._payloads_from = self._payloads_from + PAGE if len(ids) == PAGE else 0
        await asyncio.gather(*(self._store.call("PEXPIRE", b"arq:job:" + id, PAYLOAD_TTL_MS, "GT") for id in ids))

    async def _trim(self) -> None:
        """Trims streams that are still written to by age; the others expire whole. A page of the keyspace a round."""
        self._trim_from, found = await self._store.call("SCAN", self._trim_from, "MATCH", "rt:*:{*}:log", "COUNT", PAGE)
        now = await self._store.now_ms() if found else 0
        for key in found:
            tenant, _, rest = key.decode().removeprefix("rt:").partition(":{")
            stream = rest.removesuffix("}:log")
            kind = next((one for one in KINDS if stream.startswith(f"{one}:")), None)
            # A job's stream ends by itself, and keeps all of it until it expires.
            if kind is None or kind == "job":
                continue
            await self._streams.trim(tenant, stream, now - self._settings.retention(kind).age_s * 1000)
