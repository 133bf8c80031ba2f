"""What one would write first: a FastAPI endpoint that validates and enqueues with arq, and does nothing else."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from arq import create_pool
from arq.connections import RedisSettings
from fastapi import FastAPI
from pydantic import BaseModel


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.arq = await create_pool(RedisSettings(port=int(os.environ["REDIS_PORT"])))
    yield
    await app.state.arq.aclose()


app = FastAPI(lifespan=lifespan)


class NewJob(BaseModel):
    job: str
    input: dict[str, Any]


@app.post("/jobs", status_code=202)
async def submit(new: NewJob) -> dict[str, str]:
    job = await app.state.arq.enqueue_job(new.job, **new.input)
    return {"job_id": job.job_id}
