"""A job that kills its worker every time: it fails, is kept with all that is known of it, and runs again once it is mended."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx2

from tests.chaos.stack import Stack

ATTEMPTS = 3


async def _until_final(http: httpx2.AsyncClient, job_id: str) -> dict[str, Any]:
    """The terminal event, from a stream that waits for it."""
    async with asyncio.timeout(30), http.stream("GET", f"/v1/jobs/{job_id}/events") as response:
        async for line in response.aiter_lines():
            if line.startswith("data: ") and (event := json.loads(line[6:])).get("final"):
                return dict(event)
    raise AssertionError("the event stream ended before the job did")


async def test_a_job_that_kills_every_worker_is_kept_and_run_again(stack: Stack, tmp_path: Path) -> None:
    stack.env["RT_LEASE_S"] = "1"
    stack.start(webs=1, workers=ATTEMPTS)
    mended = tmp_path / "mended"
    async with stack.http() as http:
        body = {"job": "deadly", "input": {"mended": str(mended)}, "stream": "user:alice", "options": {"timeout_s": 60}}
        job_id = (await http.post("/v1/jobs", json=body)).json()["job_id"]
        final = await _until_final(http, job_id)
        assert (final["type"], final["data"]["error"]["code"]) == ("job.failed", "lease_lost")
        assert [one.popen.wait(10) for one in stack.workers] == [1] * ATTEMPTS

        (item,) = (await http.get("/v1/dead-letters")).json()["items"]
        assert (item["job_id"], item["attempts"], item["error"]) == (job_id, ATTEMPTS, final["data"]["error"])
        letter = (await http.get(f"/v1/dead-letters/{job_id}")).json()
        assert letter["input"] == {"mended": str(mended)}
        assert [(one["attempt"], one["code"]) for one in letter["errors"]] == [(n, "lease_lost") for n in (1, 2, 3)]
        assert (letter["reports"], letter["timeout_s"], letter["max_attempts"]) == (["user:alice"], 60, 3)

        mended.touch()
        stack.worker().wait_ready()
        again = await http.post(f"/v1/dead-letters/{job_id}/retry")
        assert again.status_code == 202
        final = await _until_final(http, again.json()["job_id"])
        assert (final["type"], final["data"]["result"]) == ("job.completed", {"attempt": 1})
        repeat = await http.post(f"/v1/dead-letters/{job_id}/retry")
        assert (repeat.status_code, repeat.json()["job_id"]) == (200, again.json()["job_id"])
        history = await http.get("/v1/streams/user:alice/events", headers={"Accept": "application/json"})
        created = [one["data"]["job_id"] for one in history.json()["items"] if one["type"] == "job.created"]
        assert created == [job_id, again.json()["job_id"]]
    assert str(mended) not in "".join(line for one in (*stack.webs, *stack.workers) for line in one.lines), "an input in a log"
    assert stack.tracebacks() == []
