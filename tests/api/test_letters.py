"""Dead letters over HTTP: whose they are, what they show, and how they are run again."""

import asyncio
import json
import os
import subprocess
import sys
from typing import Any

import httpx2
import pytest
from arq.connections import ArqRedis

from rt.redis import Store
from rt.tokens import DEFAULT_SCOPES, mint
from tests.api.conftest import Serve, Web, code, read_events
from tests.conftest import SECRET


async def fail(web: Web, client: httpx2.AsyncClient, gate: str = "g") -> str:
    """A job of `gated` that has failed: its worker was told that it takes too long."""
    body = {"job": "gated", "input": {"gate": gate}, "options": {"timeout_s": 0.05}}
    response = await client.post("/v1/jobs", json=body)
    job_id = str(response.json()["job_id"])
    await read_events(client, f"/v1/jobs/{job_id}/events")
    return job_id


async def items(client: httpx2.AsyncClient, **params: Any) -> list[str]:
    return [one["job_id"] for one in (await client.get("/v1/dead-letters", params=params)).json()["items"]]


async def test_a_failed_job_is_listed_without_its_input_and_shown_with_it(web: Web) -> None:
    alice = web.client()
    body = {"job": "gated", "input": {"gate": "a canary"}, "options": {"timeout_s": 0.05}, "stream": "user:alice"}
    job_id = (await alice.post("/v1/jobs", json=body)).json()["job_id"]
    await read_events(alice, f"/v1/jobs/{job_id}/events")
    page = await alice.get("/v1/dead-letters")
    assert page.json()["next"] is None
    (item,) = page.json()["items"]
    job = (await alice.get(f"/v1/jobs/{job_id}")).json()
    assert item == {
        "job_id": job_id,
        "job": "gated",
        "error": job["error"],
        "attempts": 1,
        "owner": "alice",
        "created_at": job["created_at"],
        "started_at": job["started_at"],
        "failed_at": job["finished_at"],
    }
    assert "canary" not in page.text
    letter = (await alice.get(f"/v1/dead-letters/{job_id}")).json()
    assert letter == item | {
        "input": {"gate": "a canary", "before": 0, "after": 0},
        "errors": [{"attempt": 1, "at": job["finished_at"]} | job["error"]],
        "reports": ["user:alice"],
        "timeout_s": 0.05,
        "max_attempts": 3,
    }


async def test_a_list_is_ones_own_newest_first_in_pages_and_an_admins_is_everybodys(web: Web) -> None:
    alice, bob, admin = web.client("alice"), web.client("bob"), web.client("root", "admin")
    mine = [await fail(web, alice) for _ in range(3)]
    foreign = await fail(web, bob)
    await web.finish(alice, "echo", text="no failure")
    assert await items(alice) == mine[::-1]
    assert await items(admin) == [foreign, *mine[::-1]]
    assert await items(admin, job="gated") == [foreign, *mine[::-1]]
    assert await items(admin, job="echo") == []
    first = (await alice.get("/v1/dead-letters", params={"limit": 2})).json()
    rest = (await alice.get("/v1/dead-letters", params={"limit": 2, "cursor": first["next"]})).json()
    assert [one["job_id"] for one in (*first["items"], *rest["items"])] == mine[::-1]


async def test_a_lists_parameters_are_checked_by_name(web: Web) -> None:
    alice = web.client()
    for name, value in [("limit", "0"), ("limit", "101"), ("limit", "x"), ("cursor", "x")]:
        response = await alice.get("/v1/dead-letters", params={name: value})
        assert (response.status_code, code(response)) == (422, "invalid_frame")
        assert response.json()["details"][0]["loc"][-1] == name


async def test_somebody_elses_letter_is_answered_like_one_that_does_not_exist(web: Web) -> None:
    alice, bob, admin = web.client("alice"), web.client("bob"), web.client("root", "admin")
    body = {"job": "gated", "input": {"gate": "g"}, "options": {"timeout_s": 0.05}, "stream": "room:shared"}
    job_id = (await alice.post("/v1/jobs", json=body)).json()["job_id"]
    await read_events(alice, f"/v1/jobs/{job_id}/events")
    assert (await bob.get(f"/v1/jobs/{job_id}")).status_code == 200, "who reads the room may read the job"
    for method, path in [("GET", ""), ("POST", "/retry"), ("DELETE", "")]:
        foreign = await bob.request(method, f"/v1/dead-letters/{job_id}{path}")
        missing = await bob.request(method, f"/v1/dead-letters/{'0' * 24}{path}")
        assert (foreign.status_code, code(foreign)) == (404, "not_found")
        assert foreign.text == missing.text
    assert (await admin.get(f"/v1/dead-letters/{job_id}")).json()["owner"] == "alice"
    # What an admin runs again is still its owner's.
    again = (await admin.post(f"/v1/dead-letters/{job_id}/retry")).json()["job_id"]
    assert (await alice.get(f"/v1/jobs/{again}")).status_code == 200


async def test_a_letter_is_run_again_once_and_a_repeat_says_how_it_is_doing(web: Web) -> None:
    alice = web.client()
    job_id = await fail(web, alice, "opens")
    web.gates["opens"].set()
    path = f"/v1/dead-letters/{job_id}"
    answers = await asyncio.gather(*(alice.post(f"{path}/retry") for _ in range(20)))
    assert sorted(one.status_code for one in answers) == [200] * 19 + [202]
    first = next(one for one in answers if one.status_code == 202)
    again = first.json()["job_id"]
    assert {one.json()["job_id"] for one in answers} == {again}
    assert again != job_id
    assert first.headers["location"] == f"/v1/jobs/{again}"
    assert (first.json()["stream"], first.json()["events_url"]) == (f"job:{again}", f"/v1/jobs/{again}/events")
    assert (await alice.get(path)).json()["retried_as"] == again
    events = await read_events(alice, first.json()["events_url"])
    assert events[-1]["event"] == "job.completed"
    repeat = await alice.post(f"{path}/retry")
    assert (repeat.status_code, repeat.json()) == (200, first.json() | {"status": "completed"})


async def test_a_job_that_fails_again_has_a_letter_of_its_own_and_the_first_one_says_so(web: Web) -> None:
    alice = web.client()
    job_id = await fail(web, alice)
    again = (await alice.post(f"/v1/dead-letters/{job_id}/retry")).json()
    await read_events(alice, again["events_url"])
    response = await alice.post(f"/v1/dead-letters/{job_id}/retry")
    assert (response.status_code, code(response)) == (409, "conflict")
    assert (response.json()["job_id"], response.json()["retried_as"]) == (job_id, again["job_id"])
    assert (await alice.get(f"/v1/dead-letters/{again['job_id']}")).json()["retry_of"] == job_id


async def test_a_deleted_letter_is_gone_and_its_job_is_not(web: Web) -> None:
    alice = web.client()
    job_id = await fail(web, alice)
    response = await alice.delete(f"/v1/dead-letters/{job_id}")
    assert (response.status_code, response.content) == (204, b"")
    for method, path in [("GET", ""), ("POST", "/retry"), ("DELETE", "")]:
        assert (await alice.request(method, f"/v1/dead-letters/{job_id}{path}")).status_code == 404
    assert await items(alice) == []
    assert (await alice.get(f"/v1/jobs/{job_id}")).json()["status"] == "failed"


async def test_a_full_queue_says_when_to_come_back(serve: Serve) -> None:
    async with serve(queue_limit=1) as web:
        alice = web.client()
        job_id = await fail(web, alice)
        await alice.post("/v1/jobs", json={"job": "echo", "input": {"text": "x"}, "options": {"delay_s": 60}})
        full = await alice.post(f"/v1/dead-letters/{job_id}/retry")
        assert (full.status_code, code(full), full.headers["retry-after"]) == (503, "queue_full", "1")


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("GET", "", "jobs:read"),
        ("GET", "/x", "jobs:read"),
        ("POST", "/x/retry", "jobs:write"),
        ("DELETE", "/x", "jobs:write"),
    ],
)
async def test_a_call_without_its_scope_is_forbidden_and_names_it(web: Web, method: str, path: str, scope: str) -> None:
    others = [one for one in DEFAULT_SCOPES if one != scope]
    response = await web.client("alice", *others).request(method, f"/v1/dead-letters{path}")
    assert (response.status_code, code(response)) == (403, "forbidden")
    assert scope in response.json()["detail"]
    assert (await web.anonymous().request(method, f"/v1/dead-letters{path}")).status_code == 401


async def test_a_plain_arq_clients_letter_may_have_any_id_and_is_an_admins(web: Web, store: Store) -> None:
    job_id = "a/b c?%2F#ü"
    await ArqRedis(store.pool).enqueue_job("nobody_knows_it", "first", _job_id=job_id, n=1)
    path = "/v1/dead-letters/a%2Fb%20c%3F%252F%23%C3%BC"
    admin = web.client("root", "admin")
    await read_events(admin, "/v1/jobs/a%2Fb%20c%3F%252F%23%C3%BC/events")
    letter = (await admin.get(path)).json()
    assert (letter["job_id"], letter["job"], letter["error"]["code"]) == (job_id, "nobody_knows_it", "unknown_job")
    assert letter["input"] == {"argument 1": "first", "n": 1}
    assert "owner" not in letter
    assert (await web.client("alice").get(path)).status_code == 404
    refused = await admin.post(f"{path}/retry")
    assert (refused.status_code, code(refused)) == (422, "unknown_job")
    assert (await admin.delete(path)).status_code == 204


@pytest.mark.parametrize("redis_kind", ["real"])
async def test_the_command_line_shows_them_and_runs_them_again(web: Web) -> None:
    environment = os.environ | {"RT_URL": web.url, "RT_TOKEN": mint(SECRET, "alice", DEFAULT_SCOPES, 600)}

    async def rt(*args: str) -> tuple[int | None, str]:
        command = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "rt.cli", "job", *args), env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        out, _ = await command.communicate()
        return command.returncode, out.decode()

    alice = web.client()
    ids = [await fail(web, alice, "opens") for _ in range(3)]
    assert [line.split("\t")[0] for line in (await rt("dead"))[1].splitlines()] == ids[::-1]
    shown = json.loads((await rt("dead", ids[0], "--json"))[1])
    assert shown == (await alice.get(f"/v1/dead-letters/{ids[0]}")).json()
    web.gates["opens"].set()
    status, out = await rt("retry", ids[1])
    assert (status, out.split("\t")[0]) == (0, ids[1])
    status, out = await rt("retry", "--all", "--json")
    assert status == 0
    told = [json.loads(line) for line in out.splitlines()]
    assert [one["retried"] for one in told] == [ids[0], ids[2]]
    for one in told:
        assert (await read_events(alice, one["events_url"]))[-1]["event"] == "job.completed"
    assert await rt("retry", "--all") == (0, "")
    assert (await rt("retry", ids[0]))[1] == f"{ids[0]}\t{told[0]['job_id']}\tcompleted\n"
