"""A service that knows arq and nothing of rt: it enqueues a job by its name, and waits for the result.

    rt dev                                                                        # prints which Redis it uses
    REDIS_URL=unix://$PWD/.rt/redis.sock python examples/plain_arq.py "I love this day."

The job is a full one: it streams, is retried, may be followed at /v1/jobs/<id>/events with a token of the scope admin.
"""

import asyncio
import os
import sys

from arq import create_pool
from arq.connections import RedisSettings
from redis.exceptions import RedisError


async def main(text: str) -> int:
    settings = RedisSettings.from_dsn(os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0"))
    settings.conn_retries = 1
    redis = await create_pool(settings)
    try:
        job = await redis.enqueue_job("sentiment", text=text)
        assert job is not None  # that is arq's word for an id of one's own that is taken
        print(f"job {job.job_id}", file=sys.stderr)
        score = await job.result(timeout=30, poll_delay=0.05)
        print(f"{score['label']} ({score['compound']:+.2f})")
        return 0
    finally:
        await redis.aclose()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} TEXT")
    try:
        sys.exit(asyncio.run(main(sys.argv[1])))
    except KeyboardInterrupt:
        sys.exit("interrupted; the job goes on")
    except TimeoutError:
        sys.exit("error: no worker has run it within 30 s; the job waits")
    except (RuntimeError, RedisError, OSError) as error:  # RuntimeError is what arq says of a URL that is none
        sys.exit(f"error: {os.environ.get('REDIS_URL', 'REDIS_URL')}: {error}")
