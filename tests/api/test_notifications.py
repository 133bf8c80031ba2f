"""Notifications over HTTP: to one, to everybody, muted, unread."""

import asyncio
from typing import Any

import pytest

from rt import keys
from rt.client.http import HttpClient, Page, Unread
from rt.jobs.worker import Worker
from rt.redis import Store
from rt.settings import Settings
from rt.streams.notifications import Notifications
from rt.streams.sessions import open_session
from rt.tokens import DEFAULT_SCOPES, mint
from tests.api.conftest import Serve, Web, code, read_events
from tests.conftest import SECRET
from tests.helpers import TENANT, eventually, read_all

SENDER = ("notifications:send", "jobs:read", "jobs:write")


async def titles(store: Store, settings: Settings, subject: str) -> list[str]:
    return [one["data"]["title"] for one in await read_all(store, settings, keys.user_stream(subject)) if one["type"] == "notification"]


async def test_a_service_notifies_a_user_who_reads_it_later(web: Web) -> None:
    service, ann = web.client("svc", *SENDER), web.client("ann")
    new = {"user": "ann", "title": "Ready", "message": "Your report", "level": "success", "metadata": {"report": 7}}
    sent = await service.post("/v1/notifications", json=new, headers={"Idempotency-Key": "k"})
    assert (sent.status_code, sent.json()["stream"], sent.json()["seq"], sent.json()["muted"]) == (201, "user:ann", 1, False)
    again = await service.post("/v1/notifications", json=new, headers={"Idempotency-Key": "k"})
    assert (again.status_code, again.json()) == (200, sent.json())
    other = await service.post("/v1/notifications", json=new | {"title": "x"}, headers={"Idempotency-Key": "k"})
    assert (other.status_code, code(other)) == (409, "conflict")
    page = (await ann.get("/v1/streams/user:ann/events", headers={"Accept": "application/json"})).json()
    assert [one["data"] for one in page["items"]] == [{name: value for name, value in new.items() if name != "user"}]


async def test_unread_is_counted_and_marked(web: Web) -> None:
    service, ann = web.client("svc", *SENDER), web.client("ann")
    sent = [(await service.post("/v1/notifications", json={"user": "ann", "title": "x"})).json() for _ in range(2)]
    epoch = sent[0]["epoch"]
    assert (await ann.get("/v1/users/ann/unread")).json() == {"unread": 2, "read": f"{epoch}:0"}
    marked = await ann.post("/v1/users/ann/read", json={"cursor": f"{epoch}:1"})
    assert (marked.status_code, marked.json()) == (200, {"unread": 1, "read": f"{epoch}:1"})
    assert (await ann.get("/v1/users/ann/unread")).json() == marked.json()
    above = await ann.post("/v1/users/ann/read", json={"cursor": f"{epoch}:9"})
    assert (above.status_code, code(above)) == (409, "conflict")
    wrong = await ann.post("/v1/users/ann/read", json={"cursor": "x"})
    assert (wrong.status_code, code(wrong)) == (422, "invalid_frame")


async def test_a_muted_level_is_not_sent(web: Web) -> None:
    service, ann = web.client("svc", *SENDER), web.client("ann")
    assert (await ann.get("/v1/users/ann/preferences")).json() == {"muted_levels": []}
    put = await ann.put("/v1/users/ann/preferences", json={"muted_levels": ["info", "info", "warning"]})
    assert put.json() == {"muted_levels": ["info", "warning"]} == (await ann.get("/v1/users/ann/preferences")).json()
    muted = await service.post("/v1/notifications", json={"user": "ann", "title": "x"})
    assert (muted.status_code, muted.json()) == (200, {"stream": "user:ann", "muted": True})
    assert (await service.post("/v1/notifications", json={"user": "ann", "title": "x", "level": "error"})).status_code == 201
    wrong = await ann.put("/v1/users/ann/preferences", json={"muted_levels": ["loud"]})
    assert (wrong.status_code, code(wrong)) == (422, "invalid_frame")


@pytest.mark.parametrize("new", [{"title": ""}, {"title": "x" * 201}, {"level": "loud"}, {"user": ""}, {"user": "ü" * 50}, {"x": 1}])
async def test_a_wrong_field_is_named(web: Web, new: dict[str, Any]) -> None:
    response = await web.client("svc", *SENDER).post("/v1/notifications", json={"user": "ann", "title": "x"} | new)
    assert (response.status_code, code(response)) == (422, "invalid_frame")
    assert response.json()["details"][0]["loc"] == list(new)


async def test_the_python_client_says_and_asks_it_all(web: Web) -> None:
    def service() -> None:
        every = mint(SECRET, "svc", [*SENDER, "admin"], 600)
        with HttpClient(web.url, token=every) as rt:
            first = rt.notify("ann", "Ready", "Your report", level="success", metadata={"report": 7}, idempotency_key="k")
            assert rt.notify("ann", "Ready", "Your report", level="success", metadata={"report": 7}, idempotency_key="k") == first
            assert rt.unread("ann") == Unread(1, f"{first['epoch']}:0")
            read = f"{first['epoch']}:{first['seq']}"
            assert rt.mark_read("ann", read) == Unread(0, read) == rt.unread("ann")
            rt.mute("ann", ["info"])
            assert rt.muted("ann") == ["info"]
            assert rt.notify("ann", "x") == {"stream": "user:ann", "muted": True}
            rt.mute("ann", [])
            assert rt.muted("ann") == []
            sent = rt.broadcast("to all", exclude=["bob"], idempotency_key="b")
            assert rt.broadcast("to all", exclude=["bob"], idempotency_key="b").duplicate
            assert rt.wait(sent.job_id, timeout_s=20) == {"sent": 0, "muted": 0}
            assert rt.presence("room:a", limit=1) == Page([], None)

    await asyncio.to_thread(service)


async def test_who_may(web: Web) -> None:
    ann, bob, admin = web.client("ann"), web.client("bob"), web.client("root", "admin")
    for path in ("/v1/notifications", "/v1/notifications/broadcast"):
        user = {} if path.endswith("broadcast") else {"user": "ann"}
        response = await ann.post(path, json={"title": "x"} | user)
        assert (response.status_code, code(response)) == (403, "forbidden")
        assert "notifications:send" in response.json()["detail"]
    blind = web.client("ann", *[one for one in DEFAULT_SCOPES if one != "streams:read"])
    calls: list[tuple[str, str, Any]] = [
        ("GET", "preferences", None),
        ("PUT", "preferences", {"muted_levels": ["info"]}),
        ("GET", "unread", None),
        ("POST", "read", {"cursor": "0"}),
    ]
    for method, what, json in calls:
        for client in (bob, blind):
            response = await client.request(method, f"/v1/users/ann/{what}", json=json)
            assert (response.status_code, code(response)) == (403, "forbidden"), (method, what)
        for client in (ann, admin):
            assert (await client.request(method, f"/v1/users/ann/{what}", json=json)).status_code == 200, (method, what)


async def test_a_broadcast_reaches_everybody_who_was_seen_but_those_left_out(web: Web, store: Store, settings: Settings) -> None:
    service = web.client("svc", *SENDER)
    for name in ("ann", "bob", "cid", "dan"):
        await open_session(store, settings, TENANT, name, None)
    await open_session(store, settings, "other", "eve", None)
    await web.client("dan").put("/v1/users/dan/preferences", json={"muted_levels": ["warning"]})
    new = {"title": "Soon", "message": "closing", "level": "warning", "exclude": ["bob"]}
    accepted = await service.post("/v1/notifications/broadcast", json=new, headers={"Idempotency-Key": "k"})
    assert accepted.status_code == 202
    job_id = accepted.json()["job_id"]
    assert (await read_events(service, accepted.json()["events_url"]))[-1]["event"] == "job.completed"
    assert (await service.get(f"/v1/jobs/{job_id}")).json()["result"] == {"sent": 2, "muted": 1}
    again = await service.post("/v1/notifications/broadcast", json=new, headers={"Idempotency-Key": "k"})
    assert (again.status_code, again.json()["job_id"], again.json()["status"]) == (200, job_id, "completed")
    got = {name: await titles(store, settings, name) for name in ("ann", "bob", "cid", "dan")}
    assert got == {"ann": ["Soon"], "bob": [], "cid": ["Soon"], "dan": []}
    assert await read_all(store, settings, "user:eve", tenant="other") == []


async def test_nobody_submits_a_broadcast_by_its_name(web: Web) -> None:
    input = {"id": "x", "title": "x", "message": "", "level": "info", "metadata": {}, "exclude": []}
    response = await web.client("root", "admin").post("/v1/jobs", json={"job": "rt.broadcast", "input": input})
    assert (response.status_code, code(response)) == (422, "unknown_job")


async def test_a_worker_that_dies_in_the_middle_of_a_broadcast_repeats_nobody(
    serve: Serve, store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rt.jobs.broadcast.PART", 10)
    names = [f"u{number}" for number in range(25)]
    for name in names:
        await open_session(store, settings, TENANT, name, None)
    reached, part = asyncio.Event(), Notifications.send_part

    async def dying(self: Notifications, *args: Any) -> Any:
        told = await part(self, *args)
        if told[0] > 10:  # the second part is written, and its worker never hears of it
            reached.set()
            await asyncio.Event().wait()
        return told

    monkeypatch.setattr(Notifications, "send_part", dying)
    async with serve(worker=False) as web:
        first, second = Worker(web.services.app, settings, store), Worker(web.services.app, settings, store)
        life = asyncio.create_task(first.main())
        service = web.client("svc", *SENDER)
        job_id = (await service.post("/v1/notifications/broadcast", json={"title": "x"})).json()["job_id"]
        async with asyncio.timeout(20):
            await reached.wait()
        monkeypatch.setattr(Notifications, "send_part", part)
        life.cancel()
        await asyncio.wait({life})
        # Those who have it come back meanwhile: they move to the end of the list.
        for name in names[:10]:
            await open_session(store, settings, TENANT, name, None)
        life = asyncio.create_task(second.main())

        async def done() -> bool:
            return bool((await service.get(f"/v1/jobs/{job_id}")).json()["status"] == "completed")

        await eventually(done)
        second.stop()
        await life
        job = (await service.get(f"/v1/jobs/{job_id}")).json()
        assert (job["attempt"], job["result"]) == (2, {"sent": 25, "muted": 0})
        for name in names:
            assert await titles(store, settings, name) == ["x"]
