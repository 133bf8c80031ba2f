"""Jobs over HTTP: accepted once, seen by whom they concern, cancelled."""

import asyncio
from typing import Any

import pytest
from arq.connections import ArqRedis
from fastapi import FastAPI

from rt.api.jobs import Submissions
from rt.redis import Store
from rt.tokens import DEFAULT_SCOPES
from tests.api.conftest import Serve, Web, code, read_events


async def test_a_job_is_accepted_and_then_found_where_the_answer_says(web: Web) -> None:
    alice = web.client()
    response = await alice.post("/v1/jobs", json={"job": "echo", "input": {"text": "one two"}})
    assert response.status_code == 202
    body = response.json()
    assert body == {
        "job_id": body["job_id"],
        "status": "queued",
        "stream": f"job:{body['job_id']}",
        "events_url": f"/v1/jobs/{body['job_id']}/events",
    }
    assert response.headers["location"] == f"/v1/jobs/{body['job_id']}"
    await read_events(alice, body["events_url"])
    job = (await alice.get(response.headers["location"])).json()
    assert (job["status"], job["attempt"], job["result"], job["job"]) == ("completed", 1, {"text": "one two"}, "echo")
    assert job["created_at"] <= job["started_at"] <= job["finished_at"]
    assert job["created_at"].endswith("Z")


async def test_a_hundred_calls_with_one_key_at_once_make_one_job(web: Web) -> None:
    alice = web.client()
    body = {"job": "echo", "input": {"text": "once"}}
    answers = await asyncio.gather(*(alice.post("/v1/jobs", json=body, headers={"Idempotency-Key": "k1"}) for _ in range(100)))
    assert sorted(one.status_code for one in answers) == [200] * 99 + [202]
    assert len({one.json()["job_id"] for one in answers}) == 1
    assert len((await alice.get("/v1/jobs")).json()["items"]) == 1


async def test_a_repeat_says_how_the_job_is_doing_now(web: Web) -> None:
    alice = web.client()
    call: dict[str, Any] = {"json": {"job": "echo", "input": {"text": "x"}}, "headers": {"Idempotency-Key": "k"}}
    first = await alice.post("/v1/jobs", **call)
    await read_events(alice, first.json()["events_url"])
    again = await alice.post("/v1/jobs", **call)
    assert (again.status_code, again.json()["status"]) == (200, "completed")
    assert again.headers["location"] == first.headers["location"]


@pytest.mark.parametrize(
    "call",
    [
        {"json": {"job": "echo", "input": {"text": "x"}}},
        {"json": {"job": "echo", "input": {"text": "x"}}, "headers": {"Idempotency-Key": "k"}},
        {"json": {"job": "echo", "input": {"text": "x"}}, "headers": [(b"Idempotency-Key", b"\xe9")]},
        {"json": {"job": "echo", "input": {"text": "x"}}, "headers": [(b"Idempotency-Key", b"a b")]},
        {"json": {"job": "echo", "input": {"text": "x"}}, "headers": {"Authorization": "Bearer  two"}},
        {"json": {"job": "echo", "input": {"text": "x"}}, "headers": {"Authorization": "Bearer nonsense"}},
        {"json": {"job": "echo", "input": {"text": 5}}},
        {"json": {"job": "none", "input": {}}},
        {"json": {"job": "echo", "more": 1}},
        {"json": {"job": "echo", "input": {"text": "x"}, "stream": "job:x"}},
        {"content": b"{"},
        {"content": b"[" * 100 + b"]" * 100},
        {"content": b'{"job": "echo", "input": {"text": "%s"}}' % (b"x" * 300_000)},
    ],
)
async def test_the_short_way_in_answers_as_the_long_one(web: Web, monkeypatch: pytest.MonkeyPatch, call: dict[str, Any]) -> None:
    """What FastAPI would have said is said, to the letter but for the job's id."""
    answers = []
    for short in (True, False):
        if not short:
            monkeypatch.setattr(Submissions, "takes", lambda _: False)
            if isinstance(headers := call.get("headers"), dict) and headers.get("Idempotency-Key") == "k":
                call = call | {"headers": {"Idempotency-Key": "another"}}
        response = await web.client().post("/v1/jobs", **call)
        body = response.json()
        id = body.get("job_id", "none")
        headers = {name: value.replace(id, "ID") for name, value in response.headers.items() if name != "content-length"}
        answers.append((response.status_code, response.text.replace(id, "ID"), headers))
    assert answers[0] == answers[1]


async def test_a_usual_call_goes_the_short_way(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_fastapi(*_: Any) -> None:
        raise AssertionError("the long way")

    monkeypatch.setattr(FastAPI, "__call__", no_fastapi)
    call = {"job": "echo", "input": {"text": "x"}}
    for headers in ({}, {"Idempotency-Key": "k"}):
        assert (await web.client().post("/v1/jobs", json=call, headers=headers)).status_code == 202


async def test_a_key_belongs_to_its_body_and_to_its_subject(web: Web) -> None:
    alice, bob = web.client("alice"), web.client("bob")
    headers = {"Idempotency-Key": "k"}
    first = await alice.post("/v1/jobs", json={"job": "echo", "input": {"text": "x"}}, headers=headers)
    other = await alice.post("/v1/jobs", json={"job": "echo", "input": {"text": "y"}}, headers=headers)
    assert (other.status_code, code(other)) == (409, "conflict")
    of_bob = await bob.post("/v1/jobs", json={"job": "echo", "input": {"text": "x"}}, headers=headers)
    assert of_bob.status_code == 202
    assert of_bob.json()["job_id"] != first.json()["job_id"]


async def test_the_key_may_stand_in_the_options_and_the_order_of_members_does_not_count(web: Web) -> None:
    alice = web.client()
    one = await alice.post("/v1/jobs", json={"job": "echo", "input": {"text": "x"}}, headers={"Idempotency-Key": "k"})
    two = await alice.post("/v1/jobs", json={"options": {"idempotency_key": "k"}, "input": {"text": "x"}, "job": "echo"})
    assert (two.status_code, two.json()["job_id"]) == (200, one.json()["job_id"])


async def test_a_key_is_1_to_255_visible_ascii_characters(web: Web) -> None:
    alice = web.client()
    keys: list[str | bytes] = ["", "x" * 256, "two words", "ü".encode()]
    for key in keys:
        response = await alice.post("/v1/jobs", json={"job": "echo", "input": {"text": "x"}}, headers={"Idempotency-Key": key})
        assert (response.status_code, code(response)) == (422, "invalid_frame")
        assert response.json()["details"][0]["loc"] == ["header", "Idempotency-Key"]


async def test_what_is_wrong_with_a_submission_is_named(web: Web) -> None:
    alice = web.client()
    wrong: list[tuple[dict[str, Any], list[str]]] = [
        ({"stream": "user:alice", "options": {"stream": "room:x"}}, ["options", "stream"]),
        ({"options": {"priority": "interactive"}}, ["options", "priority"]),
        ({"options": {"priority": "none such"}}, ["options", "priority"]),
        ({"options": {"delay_s": -1}}, ["options", "delay_s"]),
        ({"options": {"delay_s": 1e12}}, ["options", "delay_s"]),
        ({"options": {"delay_s": "1"}}, ["options", "delay_s"]),
        ({"options": {"timeout_s": 0}}, ["options", "timeout_s"]),
        ({"options": {"timeout_s": 86_401}}, ["options", "timeout_s"]),
        ({"options": {"colour": "red"}}, ["options", "colour"]),
        ({"stream": "nowhere"}, ["stream"]),
        ({"stream": "job:1"}, ["stream"]),
        ({"input": []}, ["input"]),
        ({"job": 7}, ["job"]),
    ]
    for body, named in wrong:
        response = await alice.post("/v1/jobs", json={"job": "echo", "input": {"text": "x"}} | body)
        assert (response.status_code, code(response)) == (422, "invalid_frame"), body
        assert response.json()["details"][0]["loc"] == named


async def test_two_keys_that_differ_are_refused(web: Web) -> None:
    body = {"job": "echo", "input": {"text": "x"}, "options": {"idempotency_key": "a"}}
    response = await web.client().post("/v1/jobs", json=body, headers={"Idempotency-Key": "b"})
    assert response.json()["details"][0]["loc"] == ["options", "idempotency_key"]


async def test_an_unknown_job_and_a_bad_input_are_told_apart(web: Web) -> None:
    alice = web.client()
    unknown = await alice.post("/v1/jobs", json={"job": "nope", "input": {}})
    assert (unknown.status_code, code(unknown)) == (422, "unknown_job")
    bad = await alice.post("/v1/jobs", json={"job": "gated", "input": {"gate": "g", "before": "a canary", "more": 1}})
    assert (bad.status_code, code(bad)) == (422, "invalid_input")
    assert {tuple(one["loc"]) for one in bad.json()["details"]} == {("input", "before"), ("input", "more")}
    assert "canary" not in bad.text


async def test_a_delayed_job_waits(web: Web) -> None:
    alice = web.client()
    response = await alice.post("/v1/jobs", json={"job": "echo", "input": {"text": "x"}, "options": {"delay_s": 3600}})
    job = (await alice.get(response.headers["location"])).json()
    assert (job["status"], job["attempt"], "started_at" in job) == ("queued", 0, False)


async def test_a_job_is_announced_where_it_reports_to(web: Web) -> None:
    alice = web.client()
    response = await alice.post("/v1/jobs", json={"job": "echo", "input": {"text": "x"}, "stream": "user:alice"})
    page = await alice.get("/v1/streams/user:alice/events", headers={"Accept": "application/json"})
    (created,) = page.json()["items"]
    assert (created["type"], created["data"]) == ("job.created", {"job_id": response.json()["job_id"], "job": "echo"})


async def test_a_job_may_not_report_to_somebody_else_without_the_right_to_publish_there(web: Web) -> None:
    alice = web.client("alice", "jobs:write", "jobs:read")
    response = await alice.post("/v1/jobs", json={"job": "echo", "input": {"text": "x"}, "stream": "user:bob"})
    assert (response.status_code, code(response)) == (403, "forbidden")


async def test_somebody_elses_job_is_answered_like_one_that_does_not_exist(web: Web) -> None:
    job_id = await web.submit(web.client("alice"), "gated", gate="g")
    bob = web.client("bob")
    for method, path in [("GET", ""), ("GET", "/events"), ("POST", "/cancel")]:
        foreign = await bob.request(method, f"/v1/jobs/{job_id}{path}")
        missing = await bob.request(method, f"/v1/jobs/{'0' * 24}{path}")
        assert (foreign.status_code, code(foreign)) == (404, "not_found")
        assert foreign.text == missing.text


async def test_a_list_holds_ones_own_jobs_newest_first_and_an_admins_all(web: Web) -> None:
    alice, bob, admin = web.client("alice"), web.client("bob"), web.client("root", "admin")
    mine = [await web.finish(alice, "echo", text=str(number)) for number in range(3)]
    foreign = await web.finish(bob, "echo", text="x")
    assert [one["job_id"] for one in (await alice.get("/v1/jobs")).json()["items"]] == mine[::-1]
    assert [one["job_id"] for one in (await admin.get("/v1/jobs")).json()["items"]] == [foreign, *mine[::-1]]


async def test_a_list_is_read_in_pages_and_filtered(web: Web) -> None:
    alice = web.client()
    mine = [await web.submit(alice, "gated", gate="never") for _ in range(5)]
    await web.finish(alice, "echo", text="x")
    seen, cursor = [], None
    while True:
        params = {"job": "gated", "limit": 2} | ({"cursor": cursor} if cursor else {})
        page = (await alice.get("/v1/jobs", params=params)).json()
        assert len(page["items"]) <= 2
        seen += [one["job_id"] for one in page["items"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert seen == mine[::-1]
    done = (await alice.get("/v1/jobs", params={"status": "completed"})).json()["items"]
    assert [one["job"] for one in done] == ["echo"]


async def test_a_lists_parameters_are_checked_by_name(web: Web) -> None:
    alice = web.client()
    for name, value in [("limit", "0"), ("limit", "101"), ("limit", "x"), ("status", "done"), ("cursor", "x")]:
        response = await alice.get("/v1/jobs", params={name: value})
        assert (response.status_code, code(response)) == (422, "invalid_frame")
        assert response.json()["details"][0]["loc"][-1] == name


async def test_a_waiting_job_is_cancelled_at_once_and_once(serve: Serve) -> None:
    async with serve(worker=False) as web:
        alice = web.client()
        job_id = await web.submit(alice, "echo", text="x")
        first = await alice.post(f"/v1/jobs/{job_id}/cancel")
        assert (first.status_code, first.json()) == (202, {"job_id": job_id, "status": "cancelled"})
        again = await alice.post(f"/v1/jobs/{job_id}/cancel")
        assert (again.status_code, again.json()) == (200, {"job_id": job_id, "status": "cancelled"})
        events = await read_events(alice, f"/v1/jobs/{job_id}/events")
        assert (events[-1]["event"], events[-1]["data"]["data"]) == ("job.cancelled", {"by": "alice"})


async def test_a_running_job_is_cancelled_soon(web: Web) -> None:
    alice = web.client()
    job_id = await web.submit(alice, "gated", gate="never", before=1)
    await read_events(alice, f"/v1/jobs/{job_id}/events", stop_after=3)
    response = await alice.post(f"/v1/jobs/{job_id}/cancel")
    assert (response.status_code, response.json()["status"]) == (202, "running")
    events = await read_events(alice, f"/v1/jobs/{job_id}/events")
    assert events[-1]["event"] == "job.cancelled"


async def test_a_job_that_has_ended_is_not_cancelled_and_its_status_is_told(web: Web) -> None:
    alice = web.client()
    job_id = await web.finish(alice, "echo", text="x")
    response = await alice.post(f"/v1/jobs/{job_id}/cancel")
    assert (response.status_code, code(response), response.json()["job_status"]) == (409, "conflict", "completed")


async def test_a_full_queue_says_when_to_come_back(serve: Serve) -> None:
    async with serve(worker=False, queue_limit=2) as web:
        alice = web.client()
        answers = [await alice.post("/v1/jobs", json={"job": "echo", "input": {"text": "x"}}) for _ in range(3)]
        assert [one.status_code for one in answers] == [202, 202, 503]
        full = answers[-1]
        assert (code(full), full.json()["temporary"], full.headers["retry-after"]) == ("queue_full", True, "1")


async def test_a_call_without_its_scope_is_forbidden_and_names_it(web: Web) -> None:
    for method, path, scope in [
        ("POST", "/v1/jobs", "jobs:write"),
        ("POST", "/v1/jobs/x/cancel", "jobs:write"),
        ("GET", "/v1/jobs", "jobs:read"),
        ("GET", "/v1/jobs/x", "jobs:read"),
        ("GET", "/v1/jobs/x/events", "jobs:read"),
        ("GET", "/v1/streams/room:x/events", "streams:read"),
        ("POST", "/v1/streams/room:x/events", "streams:publish"),
    ]:
        others = [one for one in DEFAULT_SCOPES if one != scope]
        body = {"job": "echo"} if path == "/v1/jobs" else {"data": 1}
        response = await web.client("alice", *others).request(method, path, json=body if method == "POST" else None)
        assert (response.status_code, code(response)) == (403, "forbidden")
        assert scope in response.json()["detail"]


async def test_a_plain_arq_clients_job_may_have_any_id_and_is_an_admins(web: Web, store: Store) -> None:
    job_id = "a/b c?%2F#ü"
    await ArqRedis(store.pool).enqueue_job("echo", _job_id=job_id, text="plain")
    path = "/v1/jobs/a%2Fb%20c%3F%252F%23%C3%BC"
    admin = web.client("root", "admin")
    events = await read_events(admin, f"{path}/events")
    assert events[-1]["event"] == "job.completed"
    assert (await admin.get(path)).json()["job_id"] == job_id
    assert (await web.client("alice").get(path)).status_code == 404
