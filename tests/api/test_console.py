"""The console over HTTP: one message's whole path, who may look, and how much an answer holds."""

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import pytest
from arq.connections import ArqRedis
from pydantic import BaseModel

from rt.api import console
from rt.client import Client, Config, connect
from rt.redis import Store
from rt.tokens import DEFAULT_SCOPES, mint
from tests.api.conftest import Serve, Web, code, read_events
from tests.chaos.stack import Stack
from tests.conftest import SECRET
from tests.helpers import eventually

CALLS = ("overview", "connections", "sessions", "queue", "workers", "jobs")


@pytest.fixture
def redis_kind(request: pytest.FixtureRequest) -> str:
    """The real server; a test that asks for it has the other one as well."""
    return str(getattr(request, "param", "real"))


@pytest.fixture
async def web(serve: Serve) -> Any:
    async with serve(console="full") as running:
        # Both listen: a process that is not yet subscribed hears no question.
        await eventually(lambda: _everybody(running))
        yield running


async def _everybody(web: Web) -> bool:
    return len((await web.services.inspector.ask("processes", "-")).all) == 2


def browser(web: Web, subject: str = "alice") -> Client:
    return connect(web.url, token=mint(SECRET, subject, DEFAULT_SCOPES, 600), config=Config(ack_every_s=0.02))


async def get(client: httpx2.AsyncClient, call: str, shape: type[BaseModel], **params: Any) -> dict[str, Any]:
    """An answer, which has the shape that the document says, and nothing else."""
    response = await client.get(f"/v1/console/{call}", params=params)
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    shape.model_validate(body, extra="forbid")
    return body


@pytest.mark.parametrize("redis_kind", ["fake", "real"], indirect=True)
async def test_a_job_is_followed_from_its_session_to_its_last_acknowledgement(web: Web) -> None:
    admin = web.client("root", "admin")
    async with browser(web) as alice:
        job = alice.submit("gated", {"gate": "g", "before": 3, "after": 2})
        job_id = await job.accepted()
        result = asyncio.ensure_future(job.result())
        told = await eventually(lambda: _acked(admin, job_id, 5))
        (run, stream) = (told["run"], told["stream"])
        assert (told["connection"]["session"], told["connection"]["client"]) == (alice.session, "rt-python")
        assert (told["status"], told["owner"], told["session"], told["reports"]) == (
            "running",
            "alice",
            alice.session,
            [f"session:{alice.session}"],
        )
        assert (run["job"], run["attempt"], told["tries"], told["max_attempts"]) == ("gated", 1, 1, 3)
        assert 0 < told["lease_s"] <= 1
        assert told["stream"]["cursors"][0]["session"] == alice.session
        assert [(one["type"], one["seq"], one.get("to")) for one in stream["lines"]] == [
            ("job.queued", 1, None),
            ("job.started", 2, None),
            ("job.delta", 3, 5),
        ]
        assert stream["lines"][2]["data"]["text"] == '{"number":0}\n{"number":1}\n{"number":2}\n'
        (reader,) = stream["readers"]
        assert (reader["by"], reader["subject"], reader["session"], reader["sent"], reader["acked"]) == (
            "websocket",
            "alice",
            alice.session,
            5,
            5,
        )

        session = await get(admin, f"sessions/{alice.session}", console.SessionDetail)
        assert (session["owner"], session["connection"]["connection"]) == ("alice", reader["connection"])
        followed = {one["stream"]: one for one in session["streams"]}
        assert set(followed) == {f"job:{job_id}", "user:alice", f"session:{alice.session}"}
        assert followed[f"job:{job_id}"]["acked"] == 5
        own = await get(admin, f"streams/session:{alice.session}", console.StreamDetail)
        assert [one["type"] for one in own["lines"]] == ["job.created"]

        (worker,) = [one for one in (await get(admin, "workers", console.Workers))["items"] if one["state"] == "live"]
        assert ([one["job_id"] for one in worker["runs"]], worker["running"]) == ([job_id], 1)
        assert worker["worker"] == run["process"]
        queue = await get(admin, "queue", console.Queue)
        assert ([one["job_id"] for one in queue["leases"]], queue["running"], queue["waiting"]) == ([job_id], 1, 0)
        assert queue["later"] == [], "a job that runs is parked in the queue, and is not put off"

        web.gates["g"].set()
        await result

        async def stored() -> dict[str, Any] | None:
            body = await get(admin, f"jobs/{job_id}", console.JobDetail)
            return body if body["stream"]["cursors"][0]["cursor"] is None else None

        over = await eventually(stored)
        assert (over["status"], over["run"], over["lease_s"]) == ("completed", None, None)
        assert over["stream"]["cursors"] == [{"session": alice.session, "owner": "alice", "cursor": None, "done": False}]
        assert over["stream"]["lines"][-1]["type"] == "job.completed"


async def _acked(admin: httpx2.AsyncClient, job_id: str, seq: int) -> dict[str, Any] | None:
    body = await get(admin, f"jobs/{job_id}", console.JobDetail)
    readers = body["stream"]["readers"]
    return body if readers and readers[0]["acked"] == seq and body["run"] else None


async def test_connections_are_counted_sorted_and_told_of_by_every_process_once(web: Web) -> None:
    admin = web.client("root", "admin")
    async with browser(web) as first, browser(web, "bob") as second:
        found = await get(admin, "connections", console.Connections)
        assert (found["total"], found["answered"], found["asked"]) == (2, 2, 2)
        assert [one["session"] for one in found["items"]] == [first.session, second.session], "the oldest first"
        assert found["items"][0]["client"].startswith("rt")
        assert found["items"][0]["age_s"] >= found["items"][1]["age_s"]
        assert [one["follows"] for one in found["items"]] == [2, 2]
        short = await get(admin, "connections", console.Connections, limit=1, sort="silence")
        assert (short["total"], len(short["items"])) == (2, 1)
        each = await web.services.inspector.ask("connections", "-", sort="age", subject=None, limit=1)
        assert len(each.items("web")) == 1, "no process sends more than was asked for"
        bobs = await get(admin, "connections", console.Connections, subject="bob")
        assert [one["subject"] for one in bobs["items"]] == ["bob"]
        sessions = await get(admin, "sessions", console.Sessions)
        assert [(one["session"], one["stored"]) for one in sessions["items"]] == [(first.session, True), (second.session, True)]
        mine = web.client("alice")
        job_id = await web.submit(mine, "gated", gate="g")
        async with mine.stream("GET", f"/v1/jobs/{job_id}/events") as response:
            lines = response.aiter_lines()
            await anext(lines)
            (reader,) = (await get(admin, f"jobs/{job_id}", console.JobDetail))["stream"]["readers"]
            assert (reader["by"], reader["subject"]) == ("sse", "alice")
        web.gates["g"].set()
    await eventually(lambda: _none_connected(admin))


async def _none_connected(admin: httpx2.AsyncClient) -> bool:
    return int((await get(admin, "connections", console.Connections))["total"]) == 0


async def test_the_overview_has_every_process_with_its_metrics_and_the_queue_in_numbers(web: Web) -> None:
    admin = web.client("root", "admin")
    before = await get(admin, "overview", console.Overview)
    await web.finish(web.client(), "echo", text="one two")
    await web.client().post("/v1/jobs", json={"job": "echo", "input": {"text": "x"}, "options": {"delay_s": 60}})
    after = await get(admin, "overview", console.Overview)
    assert after["mode"] == "full"
    assert {one["kind"] for one in after["processes"]} == {"web", "worker"}
    counts = after["counts"]
    assert (counts["waiting"], counts["due"], counts["deferred"], counts["jobs"], counts["oldest_s"]) == (1, 0, 1, 2, 0)

    def numbers(body: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = next(one["told"]["numbers"] for one in body["processes"] if one["kind"] == "web")
        return found

    assert numbers(after)["counts"]["rt_jobs_accepted"] - numbers(before)["counts"]["rt_jobs_accepted"] == 2
    completed = "rt_jobs_finished:Completed"
    assert numbers(after)["counts"][completed] - numbers(before)["counts"].get(completed, 0) == 1
    waits = numbers(after)["times"]["rt_queue_wait_seconds"]
    assert len(waits["counts"]) == len(waits["le"]) + 1
    assert waits["counts"][-1] - numbers(before)["times"]["rt_queue_wait_seconds"]["counts"][-1] == 1


@pytest.mark.parametrize("redis_kind", ["fake", "real"], indirect=True)
async def test_the_queue_names_what_waits_and_what_is_put_off(serve: Serve) -> None:
    async with serve(console="full", worker=False) as web:
        alice, admin = web.client(), web.client("root", "admin")
        waits = [await web.submit(alice, "echo", text="x") for _ in range(2)]
        later = (await alice.post("/v1/jobs", json={"job": "gated", "input": {"gate": "g"}, "options": {"delay_s": 60}})).json()["job_id"]
        queue = await get(admin, "queue", console.Queue)
        assert {one["job_id"] for one in queue["next"]} == set(waits)
        assert [(one["job_id"], one["job"]) for one in queue["later"]] == [(later, "gated")]
        assert queue["oldest_s"] == pytest.approx(max(one["waits_s"] for one in queue["next"]), abs=1)
        told = await get(admin, f"jobs/{later}", console.JobDetail)
        assert (told["place"], told["lease_s"], told["run"], told["stream"]["asked"]) == (3, None, None, 1)
        assert (await get(admin, "workers", console.Workers))["items"] == []


async def test_jobs_are_listed_newest_first_in_pages_and_by_owner(web: Web) -> None:
    alice, bob, admin = web.client("alice"), web.client("bob"), web.client("root", "admin")
    mine = [await web.finish(alice, "echo", text="x") for _ in range(3)]
    other = await web.finish(bob, "echo", text="x")
    first = await get(admin, "jobs", console.ConsoleJobs, limit=2)
    rest = await get(admin, "jobs", console.ConsoleJobs, limit=2, cursor=first["next"])
    assert [one["job_id"] for one in (*first["items"], *rest["items"])] == [other, *mine[::-1]]
    assert [one["owner"] for one in first["items"]] == ["bob", "alice"]
    assert [one["job_id"] for one in (await get(admin, "jobs", console.ConsoleJobs, owner="alice"))["items"]] == mine[::-1]
    assert (await get(admin, "jobs", console.ConsoleJobs, status="failed"))["items"] == []


async def test_a_long_stream_is_shown_from_both_ends_and_in_pages(web: Web) -> None:
    alice, admin = web.client(), web.client("root", "admin")
    web.gates["g"].set()
    job_id = await web.finish(alice, "gated", gate="g", before=1000)
    told = await get(admin, f"jobs/{job_id}", console.JobDetail)
    lines = told["stream"]["lines"]
    assert [one["type"] for one in lines] == ["job.queued", "job.started", "job.delta", "job.delta", "job.completed"]
    assert (lines[2]["seq"], lines[2]["to"]) == (3, 200)
    assert (lines[3]["seq"], lines[3]["to"], told["stream"]["top"]) == (901, 1002, 1003)
    assert len(lines[2]["data"]["text"]) == 2048 < lines[2]["data"]["bytes"]
    page = await get(admin, f"streams/job:{job_id}", console.StreamDetail, after=200)
    assert [(one["seq"], one["to"]) for one in page["lines"]] == [(201, 400)]


async def test_what_a_job_was_given_is_shown_while_it_is_kept_and_run_again(web: Web) -> None:
    alice, admin = web.client(), web.client("root", "admin")
    text = "word " * 1000
    job_id = await web.finish(alice, "echo", text=text)
    kept = await get(admin, f"jobs/{job_id}/input", console.JobInput)
    assert (kept["place"], kept["lost"], kept["input"]["bytes"]) == ("result", None, len(text) + len('{"text":""}'))
    assert kept["input"]["text"] == ('{"text":"' + text)[:2048]
    again = await admin.post(f"/v1/console/jobs/{job_id}/run-again", headers={"Idempotency-Key": "k"})
    assert again.status_code == 202
    repeat = await admin.post(f"/v1/console/jobs/{job_id}/run-again", headers={"Idempotency-Key": "k"})
    assert (repeat.status_code, repeat.json()["job_id"]) == (200, again.json()["job_id"])
    events = await read_events(alice, again.json()["events_url"])
    assert events[-1]["data"]["data"]["result"] == {"text": text}
    assert (await alice.get(f"/v1/jobs/{again.json()['job_id']}")).status_code == 200, "it is still its owner's"

    running = await web.submit(alice, "gated", gate="g")
    await read_events(alice, f"/v1/jobs/{running}/events", stop_after=2)
    refused = await admin.post(f"/v1/console/jobs/{running}/run-again")
    assert (refused.status_code, code(refused), refused.json()["job_status"]) == (409, "conflict", "running")
    assert (await get(admin, f"jobs/{running}/input", console.JobInput))["place"] == "queue"
    await admin.post(f"/v1/jobs/{running}/cancel")
    await read_events(alice, f"/v1/jobs/{running}/events")
    web.gates["g"].set()
    cancelled = await admin.post(f"/v1/console/jobs/{running}/run-again")
    assert (await read_events(alice, cancelled.json()["events_url"]))[-1]["event"] == "job.completed"


async def test_a_failed_job_shows_its_errors_and_is_run_again_once_with_the_input_of_its_letter(web: Web) -> None:
    alice, admin = web.client(), web.client("root", "admin")
    job_id = (await alice.post("/v1/jobs", json={"job": "gated", "input": {"gate": "g"}, "options": {"timeout_s": 0.05}})).json()["job_id"]
    await read_events(alice, f"/v1/jobs/{job_id}/events")
    told = await get(admin, f"jobs/{job_id}", console.JobDetail)
    assert [(one["attempt"], one["code"]) for one in told["errors"]] == [(1, "timeout")]
    assert (await get(admin, f"jobs/{job_id}/input", console.JobInput))["place"] == "dead letter"
    web.gates["g"].set()
    again = [await admin.post(f"/v1/console/jobs/{job_id}/run-again") for _ in range(2)]
    assert [one.status_code for one in again] == [202, 200]
    assert again[0].json()["job_id"] == again[1].json()["job_id"]
    await admin.delete(f"/v1/dead-letters/{job_id}")
    gone = await admin.post(f"/v1/console/jobs/{job_id}/run-again")
    assert (gone.status_code, code(gone)) == (409, "conflict")
    assert "its input is not kept" in gone.json()["detail"]


async def test_a_job_that_was_cancelled_while_it_waited_says_that_its_input_is_gone(serve: Serve) -> None:
    async with serve(console="full", worker=False) as web:
        alice, admin = web.client(), web.client("root", "admin")
        job_id = await web.submit(alice, "echo", text="x")
        await alice.post(f"/v1/jobs/{job_id}/cancel")
        lost = await get(admin, f"jobs/{job_id}/input", console.JobInput)
        assert (lost["place"], lost["input"]) == (None, None)
        assert "before anybody read" in lost["lost"]
        gone = await admin.post(f"/v1/console/jobs/{job_id}/run-again")
        assert (gone.status_code, code(gone)) == (409, "conflict")


async def test_a_plain_arq_clients_job_is_shown_before_and_after_it_was_claimed(web: Web, store: Store) -> None:
    await ArqRedis(store.pool).enqueue_job("echo", "by position", _job_id="a/b", _defer_by=60)
    admin = web.client("root", "admin")
    told = await get(admin, "jobs/a%2Fb", console.JobDetail)
    assert (told["job"], told["status"], told["owner"], told["stream"]["lines"]) == ("echo", "queued", None, [])
    assert (await get(admin, "jobs/a%2Fb/input", console.JobInput))["input"]["text"] == '{"text":"by position"}'


async def test_it_is_for_admins_alone_and_there_only_where_it_is_switched_on(serve: Serve) -> None:
    async with serve(console="full", worker=False) as web:
        every = [*DEFAULT_SCOPES, "notifications:send"]
        for path in (*CALLS, "jobs/x", "jobs/x/input", "sessions/x", "streams/room:x"):
            refused = await web.client("alice", *every).get(f"/v1/console/{path}")
            assert (refused.status_code, code(refused)) == (403, "forbidden"), path
            assert "admin" in refused.json()["detail"]
            assert (await web.anonymous().get(f"/v1/console/{path}")).status_code == 401
        refused = await web.client("alice", *every).post("/v1/console/jobs/x/run-again")
        assert (refused.status_code, code(refused)) == (403, "forbidden")
    async with serve(worker=False) as web:
        for path in CALLS:
            assert (await web.client("root", "admin").get(f"/v1/console/{path}")).status_code == 404


async def test_a_read_only_console_shows_everything_and_runs_nothing(serve: Serve) -> None:
    async with serve(console="read") as web:
        admin = web.client("root", "admin")
        job_id = await web.finish(web.client(), "echo", text="x")
        assert (await get(admin, "overview", console.Overview))["mode"] == "read"
        assert (await get(admin, f"jobs/{job_id}", console.JobDetail))["status"] == "completed"
        refused = await admin.post(f"/v1/console/jobs/{job_id}/run-again")
        assert (refused.status_code, code(refused)) == (403, "forbidden")
        assert [one["job_id"] for one in (await get(admin, "jobs", console.ConsoleJobs))["items"]] == [job_id]


async def test_another_tenants_admin_sees_nothing_of_it_but_numbers(web: Web) -> None:
    alice = web.client()
    job_id = await web.submit(alice, "gated", gate="g")
    foreign = web.anonymous()
    foreign.headers["Authorization"] = f"Bearer {mint(SECRET, 'root', ['admin'], 600, 'other')}"
    async with browser(web) as browsing:
        assert (await get(foreign, "connections", console.Connections))["items"] == []
        assert (await get(foreign, "sessions", console.Sessions))["items"] == []
        for path in (f"sessions/{browsing.session}", f"jobs/{job_id}", f"jobs/{job_id}/input", f"streams/job:{job_id}"):
            assert (await foreign.get(f"/v1/console/{path}")).status_code == 404, path
    queue = await get(foreign, "queue", console.Queue)
    assert (queue["running"], queue["leases"], queue["jobs"]) == (1, [], 0)
    assert [one["runs"] for one in (await get(foreign, "workers", console.Workers))["items"]] == [[]]
    assert (await get(foreign, "jobs", console.ConsoleJobs))["items"] == []
    assert (await foreign.post(f"/v1/console/jobs/{job_id}/run-again")).status_code == 404
    web.gates["g"].set()


async def test_what_does_not_exist_is_not_found_and_wrong_parameters_are_named(serve: Serve) -> None:
    async with serve(console="full", worker=False) as web:
        admin = web.client("root", "admin")
        for path in ("jobs/nobody", "jobs/nobody/input", "sessions/nobody", f"sessions/{'A' * 43}", "streams/room:nobody"):
            missing = await admin.get(f"/v1/console/{path}")
            assert (missing.status_code, code(missing)) == (404, "not_found"), path
        assert (await admin.post("/v1/console/jobs/nobody/run-again")).status_code == 404
        wrong = [
            ("connections", "limit", "201"),
            ("connections", "limit", "0"),
            ("connections", "sort", "name"),
            ("sessions", "limit", "101"),
            ("jobs", "limit", "x"),
            ("jobs", "status", "done"),
            ("jobs", "cursor", "x"),
            ("streams/room:x", "after", "-1"),
        ]
        for path, name, value in wrong:
            refused = await admin.get(f"/v1/console/{path}", params={name: value})
            assert (refused.status_code, code(refused)) == (422, "invalid_frame"), (path, name, value)
            assert refused.json()["details"][0]["loc"][-1] == name
        assert (await admin.get("/v1/console/streams/nothing")).status_code == 422


async def test_no_answer_holds_a_token(web: Web) -> None:
    admin = web.client("root", "admin")
    token = admin.headers["Authorization"].removeprefix("Bearer ")
    async with browser(web) as alice:
        job = alice.submit("gated", {"gate": "g"})
        paths = [*CALLS, f"jobs/{await job.accepted()}", f"sessions/{alice.session}"]
        for text in [(await admin.get(f"/v1/console/{path}")).text for path in paths]:
            assert token not in text
            assert token.rpartition(".")[2] not in text
            assert "fence" not in text
        web.gates["g"].set()


async def test_killed_processes_vanish_and_the_rest_is_still_answered(tmp_path: Path) -> None:
    with Stack(tmp_path, RT_CONSOLE="read") as stack:
        stack.start(webs=2)
        async with stack.http("root", scopes=("admin",)) as admin:
            await eventually(lambda: _workers(admin, {"live": 1}))
            async with connect(f"http://127.0.0.1:{stack.ports[1]}", token=stack.token()) as client:
                found = await get(admin, "connections", console.Connections)
                assert [one["session"] for one in found["items"]] == [client.session], "of another process"
                assert found["asked"] == found["answered"] == 3
                stack.webs[1].kill()
                gone = await eventually(lambda: _asked(admin, 2))
                assert (gone["total"], gone["answered"]) == (0, 2)
            (worker,) = stack.workers
            worker.freeze()
            hung = await get(admin, "connections", console.Connections)
            assert (hung["asked"], hung["answered"]) == (2, 1), "one that hangs shows by its silence"
            assert await _workers(admin, {"silent": 1})
            worker.kill()
            await eventually(lambda: _asked(admin, 1))
            assert await _workers(admin, {"silent": 1}), "until its last heartbeat is over"


async def _asked(admin: httpx2.AsyncClient, processes: int) -> dict[str, Any] | None:
    found = await get(admin, "connections", console.Connections)
    return found if found["asked"] == processes else None


async def _workers(admin: httpx2.AsyncClient, states: dict[str, int]) -> list[dict[str, Any]] | None:
    items: list[dict[str, Any]] = (await get(admin, "workers", console.Workers))["items"]
    found: dict[str, int] = {}
    for one in items:
        found[one["state"]] = found.get(one["state"], 0) + 1
    return items if found == states else None
