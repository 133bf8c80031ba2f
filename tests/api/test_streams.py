"""Streams over HTTP: published once, read in pages, and nothing lost in silence."""

import asyncio
from typing import Any

import httpx2

from rt import keys
from rt.redis import Store
from tests.api.conftest import Serve, Web, code

JSON = {"Accept": "application/json"}


async def publish(client: httpx2.AsyncClient, stream: str, count: int) -> None:
    for number in range(1, count + 1):
        response = await client.post(f"/v1/streams/{stream}/events", json={"data": number})
        assert response.status_code == 201


async def page(client: httpx2.AsyncClient, stream: str, **params: Any) -> dict[str, Any]:
    response = await client.get(f"/v1/streams/{stream}/events", params=params, headers=JSON)
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def seqs(body: dict[str, Any]) -> list[int]:
    return [one["seq"] for one in body["items"]]


async def test_a_message_says_who_it_is_from(web: Web) -> None:
    alice = web.client()
    response = await alice.post("/v1/streams/room:lobby/events", json={"data": {"text": "hi"}})
    body = response.json()
    assert (response.status_code, body) == (201, {"stream": "room:lobby", "seq": 1, "epoch": body["epoch"]})
    (event,) = (await page(alice, "room:lobby"))["items"]
    assert (event["type"], event["data"], event["seq"]) == ("message", {"from": "alice", "data": {"text": "hi"}}, 1)


async def test_a_registered_event_is_checked_and_stored_as_it_is(web: Web) -> None:
    alice = web.client()
    assert (await alice.post("/v1/streams/room:x/events", json={"type": "note", "data": {"text": "hi"}})).status_code == 201
    (event,) = (await page(alice, "room:x"))["items"]
    assert (event["type"], event["data"]) == ("note", {"text": "hi"})
    bad = await alice.post("/v1/streams/room:x/events", json={"type": "note", "data": {"text": 7}})
    assert (bad.status_code, code(bad), bad.json()["details"][0]["loc"]) == (422, "invalid_input", ["data", "text"])


async def test_types_of_the_server_and_types_of_nobody_are_refused(web: Web) -> None:
    alice = web.client()
    for type, word in [
        ("job.completed", "invalid_frame"),
        ("presence.joined", "invalid_frame"),
        ("notification", "invalid_frame"),
        ("nope", "unknown_type"),
        ("", "invalid_frame"),
    ]:
        response = await alice.post("/v1/streams/room:x/events", json={"type": type, "data": {}})
        assert (response.status_code, code(response)) == (422, word)


async def test_an_event_above_256_kib_is_too_large(serve: Serve) -> None:
    async with serve(max_message_bytes=1024 * 1024) as web:
        response = await web.client().post("/v1/streams/room:x/events", json={"data": "x" * 256 * 1024})
        assert (response.status_code, code(response)) == (413, "too_large")


async def test_a_publish_with_a_key_happens_once(web: Web) -> None:
    alice = web.client()
    call: dict[str, Any] = {"json": {"data": "once"}, "headers": {"Idempotency-Key": "k"}}
    answers = await asyncio.gather(*(alice.post("/v1/streams/room:x/events", **call) for _ in range(20)))
    assert sorted(one.status_code for one in answers) == [200] * 19 + [201]
    assert len({one.text for one in answers}) == 1
    assert seqs(await page(alice, "room:x")) == [1]
    other = await alice.post("/v1/streams/room:x/events", json={"data": "other"}, headers={"Idempotency-Key": "k"})
    assert (other.status_code, code(other)) == (409, "conflict")


async def test_what_is_somebody_elses_is_neither_read_nor_written(web: Web) -> None:
    alice, bob = web.client("alice"), web.client("bob")
    job_id = await web.finish(alice, "echo", text="x")
    for stream in ("user:alice", "session:nobody"):
        for response in (
            await bob.get(f"/v1/streams/{stream}/events"),
            await bob.get(f"/v1/streams/{stream}/events", headers=JSON),
            await bob.post(f"/v1/streams/{stream}/events", json={"data": 1}),
        ):
            assert (response.status_code, code(response)) == (403, "forbidden")
    for headers in ({}, JSON):
        foreign = await bob.get(f"/v1/streams/job:{job_id}/events", headers=headers)
        assert (foreign.status_code, code(foreign)) == (404, "not_found")
    own = await alice.post(f"/v1/streams/job:{job_id}/events", json={"data": 1})
    assert (own.status_code, code(own)) == (403, "forbidden")


async def test_a_name_that_is_none_is_422(web: Web) -> None:
    alice = web.client()
    for name in ("lobby", "room:", "place:x", "room:a b", "room:a%2Fb", "room:" + "x" * 129, "room:%C3%BC"):
        for response in (
            await alice.get(f"/v1/streams/{name}/events", headers=JSON),
            await alice.post(f"/v1/streams/{name}/events", json={"data": 1}),
        ):
            assert (response.status_code, code(response)) == (422, "invalid_frame"), name


async def test_a_subject_of_any_characters_reaches_its_stream_however_its_name_is_put_into_the_url(web: Web) -> None:
    anne = web.client("anne/ünï x")
    name = keys.user_stream("anne/ünï x")
    for path in (name, name.replace("%", "%25"), name.replace(":", "%3A").replace("%", "%25").replace("%253A", "%3A")):
        response = await anne.post(f"/v1/streams/{path}/events", json={"data": 1})
        assert response.json().get("stream") == name, response.text
    assert seqs(await page(anne, name)) == [1, 2, 3]


async def test_history_comes_in_pages_that_hold_every_event_once(web: Web) -> None:
    alice = web.client()
    await publish(alice, "room:x", 25)
    seen, after = [], "0"
    while True:
        body = await page(alice, "room:x", after=after, limit=10)
        seen += seqs(body)
        assert (body["top"], "gap" in body) == (25, False)
        if body["next"] is None:
            break
        after = body["next"]
    assert seen == list(range(1, 26))
    assert seqs(await page(alice, "room:x", after=20)) == [21, 22, 23, 24, 25]
    assert seqs(await page(alice, "room:x", after=f"{body['epoch']}:24")) == [25]
    at_the_top = await page(alice, "room:x", after=25)
    assert (at_the_top["items"], at_the_top["next"]) == ([], None)


async def test_a_page_is_bounded_in_bytes_and_says_where_it_goes_on(web: Web) -> None:
    alice = web.client()
    for _ in range(6):
        await alice.post("/v1/streams/room:x/events", json={"data": "x" * 250_000})
    first = await page(alice, "room:x")
    assert seqs(first) == [1, 2, 3, 4]
    assert seqs(await page(alice, "room:x", after=first["next"])) == [5, 6]


async def test_a_stream_that_does_not_exist_has_an_epoch_to_begin_from(web: Web) -> None:
    alice = web.client()
    empty = await page(alice, "room:new")
    assert (empty["items"], empty["next"], empty["top"], bool(empty["epoch"])) == ([], None, 0, True)
    await publish(alice, "room:new", 1)
    assert seqs(await page(alice, "room:new", after=f"{empty['epoch']}:0")) == [1]


async def test_what_was_trimmed_is_named(web: Web) -> None:
    alice = web.client()
    await publish(alice, "room:x", 20)
    assert await web.services.streams.trim("-", "room:x", 2**53, look_at=5) == 5
    body = await page(alice, "room:x", limit=10)
    assert body["gap"] == {
        "type": "gap",
        "stream": "room:x",
        "epoch": body["epoch"],
        "reason": "trimmed",
        "from": 1,
        "to": 5,
    }
    assert seqs(body) == list(range(6, 16))
    assert "gap" not in await page(alice, "room:x", after=body["next"])
    assert (await page(alice, "room:x", after=3))["gap"]["from"] == 4


async def test_a_cursor_of_another_epoch_or_above_the_top_is_told_of_the_gap_and_gets_what_is_there(web: Web) -> None:
    alice = web.client()
    await publish(alice, "room:x", 3)
    epoch = (await page(alice, "room:x"))["epoch"]
    for after in ("elsewhere:1", "elsewhere:99", f"{epoch}:99", "99"):
        body = await page(alice, "room:x", after=after)
        assert (body["gap"]["reason"], "from" in body["gap"], seqs(body)) == ("epoch_changed", False, [1, 2, 3])


async def test_a_hole_that_somebody_cut_by_hand_ends_a_page_and_begins_the_next(web: Web, store: Store) -> None:
    alice = web.client()
    await publish(alice, "room:x", 6)
    await store.call("XDEL", keys.log("-", "room:x"), "3-0", "4-0")
    first = await page(alice, "room:x")
    assert (seqs(first), "gap" in first) == ([1, 2], False)
    second = await page(alice, "room:x", after=first["next"])
    assert ((second["gap"]["from"], second["gap"]["to"]), seqs(second)) == ((3, 4), [5, 6])


async def test_a_pages_parameters_are_checked_by_name(web: Web) -> None:
    alice = web.client()
    for name, value in [("limit", "0"), ("limit", "1001"), ("after", "x"), ("after", "-1"), ("after", "a:b"), ("after", "")]:
        response = await alice.get("/v1/streams/room:x/events", params={name: value}, headers=JSON)
        assert (response.status_code, code(response)) == (422, "invalid_frame")
        assert response.json()["details"][0]["loc"][-1] == name


async def test_json_comes_to_those_who_prefer_it(web: Web) -> None:
    alice = web.client()
    for accept, json in [
        ("application/json", True),
        ("application/json, text/plain, */*", True),
        ("application/json;q=0.9, text/event-stream;q=0.1", True),
        ("*/*", False),
        ("text/event-stream", False),
        ("application/json;q=0.5, text/event-stream", False),
        ("application/json;q=x", False),
    ]:
        async with alice.stream("GET", "/v1/streams/room:x/events", headers={"Accept": accept}) as response:
            assert response.headers["content-type"].startswith("application/json" if json else "text/event-stream"), accept
