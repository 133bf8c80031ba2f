"""Our client as the queue rows drive it: `python -m bench.enqueue samples N | fill N | hold N`, and `check N` after a fill."""

import sys

from bench.jobs_app import app
from bench.marks import drive, run
from rt.jobs.queue import JobQueue, NewJob
from rt.keys import DEFAULT_TENANT, job_stream
from rt.redis import Store
from rt.settings import load_settings
from rt.streams.log import StreamLog

_LIFE = [b"job.queued", b"job.started", b"job.completed"]


async def main() -> None:
    settings = load_settings()
    store = Store.of(settings)
    streams = StreamLog(store, settings)
    queue = JobQueue(store, streams, settings)
    if sys.argv[1] == "check":
        print(await count_whole(streams, int(sys.argv[2])))
    else:
        await drive(lambda name, id: queue.accept(NewJob(app.jobs[name], {"id": id}, DEFAULT_TENANT, "bench"), job_id=id))
    await store.close()


async def count_whole(streams: StreamLog, count: int) -> int:
    """Jobs of a fill whose stream holds their whole life, each part once and in order."""
    whole = 0
    for k in range(count):
        page = await streams.read(DEFAULT_TENANT, job_stream(f"f{k}"), 0)
        whole += len(page.events) == len(_LIFE) and all(word in event for word, event in zip(_LIFE, page.events, strict=True))
    return whole


if __name__ == "__main__":
    run(main())
