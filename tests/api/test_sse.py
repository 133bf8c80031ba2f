"""Server-Sent Events: every event once and in order, whatever happens in between, or a gap that names what is missing."""

import asyncio
import socket
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest

from rt import events
from rt.api import sse
from rt.api.sse import told
from rt.cursor import START, Cursor
from rt.keys import parse_stream
from rt.localredis import PrivateRedis, find_server
from rt.redis import Store
from rt.streams.log import Page
from rt.streams.replay import Gap, Head
from rt.tokens import DEFAULT_SCOPES, mint
from tests.api.conftest import Serve, Web, code, read_events, read_sse
from tests.conftest import SECRET
from tests.helpers import eventually

JOB_STREAM = "/v1/jobs/{}/events"
ROOM = "/v1/streams/room:x/events"


def seqs(blocks: list[dict[str, Any]]) -> list[int]:
    return [one["data"]["seq"] for one in blocks]


async def publish(web: Web, stream: str, count: int, size: int = 0) -> None:
    """Straight into the log, as fast as it takes them."""
    for number in range(count):
        event = events.encode("message", stream, {"from": "test", "data": [number, "x" * size]}, int(time.time() * 1000))
        await web.services.streams.publish("-", parse_stream(stream), event)


async def test_a_job_is_told_from_its_first_event_to_its_last(web: Web) -> None:
    alice = web.client()
    job_id = await web.submit(alice, "gated", gate="g", before=3, after=2)
    async with alice.stream("GET", JOB_STREAM.format(job_id)) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["x-accel-buffering"] == "no"
        blocks = []
        async for block in read_sse(response):
            blocks.append(block)
            if len(blocks) == 5:
                web.gates["g"].set()
    *told_blocks, goodbye = blocks
    assert seqs(told_blocks) == list(range(1, len(told_blocks) + 1))
    assert [one["event"] for one in told_blocks][-2:] == ["job.delta", "job.completed"]
    for block in told_blocks:
        epoch, _, seq = block["id"].partition(":")
        assert (int(seq), block["event"]) == (block["data"]["seq"], block["data"]["type"])
        assert epoch == told_blocks[0]["id"].partition(":")[0]
    assert "retry" in goodbye


async def test_what_was_read_is_not_told_again_and_nothing_is_left_out(web: Web) -> None:
    alice = web.client()
    job_id = await web.submit(alice, "gated", gate="g", before=6, after=6)
    path = JOB_STREAM.format(job_id)
    first = await read_events(alice, path, stop_after=4)
    middle = await read_events(alice, path, stop_after=2, headers={"Last-Event-ID": first[-1]["id"]})
    web.gates["g"].set()
    rest = await read_events(alice, path, params={"cursor": middle[-1]["id"]})
    whole = await read_events(alice, path)
    assert first + middle + rest == whole
    assert seqs(whole) == list(range(1, 16))


async def test_a_job_that_has_ended_and_was_read_to_its_end_ends_at_once(web: Web) -> None:
    alice = web.client()
    job_id = await web.finish(alice, "echo", text="x")
    whole = await read_events(alice, JOB_STREAM.format(job_id))
    assert await read_events(alice, JOB_STREAM.format(job_id), headers={"Last-Event-ID": whole[-1]["id"]}) == []
    last = await read_events(alice, f"/v1/streams/job:{job_id}/events", headers={"Last-Event-ID": whole[-2]["id"]})
    assert last == whole[-1:]


async def test_a_position_that_cannot_be_read_is_refused_by_name(web: Web) -> None:
    alice = web.client()
    job_id = await web.submit(alice, "gated", gate="g")
    for path in (JOB_STREAM.format(job_id), ROOM):
        for garbage in ("x", "1", "a:b", ":1", "a:-1", "a:1:2:x", "a:99999999999999999", "x" * 5000):
            response = await alice.get(path, headers={"Last-Event-ID": garbage})
            assert (response.status_code, code(response)) == (422, "invalid_frame")
            assert response.json()["details"][0]["loc"][-1] == "Last-Event-ID"
            response = await alice.get(path, params={"cursor": garbage})
            assert (response.status_code, response.json()["details"][0]["loc"][-1]) == (422, "cursor")


async def test_the_header_wins_over_the_query(web: Web) -> None:
    alice = web.client()
    job_id = await web.finish(alice, "echo", text="one two three")
    whole = await read_events(alice, JOB_STREAM.format(job_id))
    after = await read_events(alice, JOB_STREAM.format(job_id), headers={"Last-Event-ID": whole[-2]["id"]}, params={"cursor": "0"})
    assert after == whole[-1:]


async def test_a_room_is_told_from_now_on_and_can_be_resumed_before_its_first_event(web: Web) -> None:
    alice = web.client()
    await publish(web, "room:x", 2)
    async with alice.stream("GET", ROOM) as response:
        start = await anext(read_sse(response))
    assert list(start) == ["id"]
    await publish(web, "room:x", 1)
    async with alice.stream("GET", ROOM, headers={"Last-Event-ID": start["id"]}) as response:
        blocks = read_sse(response)
        assert (await anext(blocks))["data"]["seq"] == 3
        await publish(web, "room:x", 1)
        assert (await anext(blocks))["data"]["seq"] == 4
    assert seqs(await read_events(alice, ROOM, params={"cursor": "0"}, stop_after=4)) == [1, 2, 3, 4]


async def test_a_flood_comes_whole_and_in_order_whatever_its_size(serve: Serve) -> None:
    """Bursts, events too large for an announcement, and a bound on what waits that each of them breaks."""
    async with serve(worker=False, outbox_bytes=4096) as web, web.client().stream("GET", ROOM) as response:
        blocks = read_sse(response)
        await anext(blocks)
        await publish(web, "room:x", 150)
        await publish(web, "room:x", 3, size=40_000)
        await publish(web, "room:x", 100, size=200)
        assert [(await anext(blocks))["data"]["seq"] for _ in range(253)] == list(range(1, 254))


async def test_many_readers_of_one_stream_each_get_all_of_it(serve: Serve) -> None:
    async with serve(worker=False) as web:
        readers = [read_events(web.client(), ROOM, params={"cursor": "0"}, stop_after=200) for _ in range(10)]
        reading = [asyncio.ensure_future(one) for one in readers]
        await publish(web, "room:x", 200)
        for blocks in await asyncio.gather(*reading):
            assert seqs(blocks) == list(range(1, 201))


async def test_what_was_trimmed_is_named_and_its_id_leads_on(web: Web) -> None:
    alice = web.client()
    await publish(web, "room:x", 20)
    assert await web.services.streams.trim("-", "room:x", 2**53, look_at=5) == 5
    gap, *more = await read_events(alice, ROOM, params={"cursor": "0"}, stop_after=4)
    epoch = more[0]["id"].partition(":")[0]
    assert gap["event"] == "gap"
    assert gap["data"] == {"type": "gap", "stream": "room:x", "epoch": epoch, "reason": "trimmed", "from": 1, "to": 5}
    assert (gap["id"], seqs(more)) == (f"{epoch}:5", [6, 7, 8])
    assert seqs(await read_events(alice, ROOM, headers={"Last-Event-ID": gap["id"]}, stop_after=2)) == [6, 7]


async def test_a_cursor_above_the_top_is_told_so_and_gets_what_is_there(web: Web) -> None:
    await publish(web, "room:x", 3)
    epoch = (await web.services.streams.heads("-", ["room:x"]))["room:x"].epoch
    for cursor in (f"{epoch}:99", "elsewhere:1"):
        gap, *more = await read_events(web.client(), ROOM, params={"cursor": cursor}, stop_after=4)
        assert (gap["data"]["reason"], gap["id"], seqs(more)) == ("epoch_changed", f"{epoch}:0", [1, 2, 3])


async def test_a_cursor_that_counts_no_more_gets_the_whole_of_a_job_that_has_ended(web: Web) -> None:
    alice = web.client()
    job_id = await web.finish(alice, "echo", text="one two three")
    whole = await read_events(alice, JOB_STREAM.format(job_id))
    gap, *again = await read_events(alice, JOB_STREAM.format(job_id), params={"cursor": "elsewhere:1"})
    assert (gap["data"]["reason"], again) == ("epoch_changed", whole)


async def test_a_log_that_vanishes_under_a_reader_is_said_and_it_goes_on_in_the_new_epoch(web: Web, store: Store) -> None:
    await publish(web, "room:x", 3)
    async with web.client().stream("GET", ROOM, params={"cursor": "0"}) as response:
        blocks = read_sse(response)
        old = [await anext(blocks) for _ in range(3)][-1]
        await store.call("FLUSHALL")
        await web.services.tail.check()
        gap = await anext(blocks)
        assert gap["data"]["reason"] == "epoch_changed"
        assert gap["id"].partition(":")[0] != old["id"].partition(":")[0]
        await publish(web, "room:x", 1)
        event = await anext(blocks)
        assert (event["data"]["seq"], event["id"]) == (1, gap["id"].replace(":0", ":1"))


async def test_a_job_that_redis_has_lost_ends_with_a_gap(serve: Serve, store: Store) -> None:
    async with serve(worker=False) as web:
        alice = web.client()
        job_id = await web.submit(alice, "echo", text="x")
        async with alice.stream("GET", JOB_STREAM.format(job_id)) as response:
            blocks = read_sse(response)
            await anext(blocks)
            await store.call("FLUSHALL")
            await web.services.tail.check()
            assert [one.get("event") async for one in blocks] == ["gap", None]


async def test_an_announcement_that_was_lost_is_made_up_for(web: Web, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    async with web.client().stream("GET", ROOM) as response:
        blocks = read_sse(response)
        await anext(blocks)
        with monkeypatch.context() as deaf:
            deaf.setattr(type(web.services.tail), "_announce", lambda *_: None)
            await publish(web, "room:x", 2)
            await web.services.tail.check()
        assert [(await anext(blocks))["data"]["seq"] for _ in range(2)] == [1, 2]
        await publish(web, "room:x", 1)
        assert (await anext(blocks))["data"]["seq"] == 3


@pytest.mark.skipif(find_server() is None, reason="no Redis server here")
async def test_a_redis_that_dies_and_comes_back_is_survived_without_a_hole(serve: Serve, tmp_path: Path, redis_kind: str) -> None:
    if redis_kind == "fake":
        pytest.skip("it cannot die")
    with PrivateRedis(tmp_path) as redis:
        async with serve(worker=False, redis_url=redis.url) as web, web.client().stream("GET", ROOM, params={"cursor": "0"}) as response:
            # Comments may come while the log cannot be read.
            blocks = (block async for block in read_sse(response) if "comment" not in block)
            await publish(web, "room:x", 3)
            before = [await anext(blocks) for _ in range(3)]
            redis.kill()
            redis.start()
            await eventually(web.services.store.takes_writes)
            await publish(web, "room:x", 2)
            after = [await anext(blocks) for _ in range(2)]
    assert seqs(before + after) == [1, 2, 3, 4, 5]
    # Another run of the server could have lost something; it has not, so there is another epoch and no gap.
    assert before[-1]["id"].partition(":")[0] != after[-1]["id"].partition(":")[0]


async def test_a_reader_who_leaves_is_forgotten(web: Web) -> None:
    async with web.client().stream("GET", ROOM) as response:
        await anext(read_sse(response))
        assert (web.services.sse_open, web.services.tail.statistics()["sinks"]) == (1, 1)
    await web.clients[-1].aclose()
    await eventually(lambda: web.services.sse_open == 0)
    assert web.services.tail.statistics() == {"streams": 0, "sinks": 0}


async def test_a_drain_ends_responses_and_says_when_to_come_back(web: Web) -> None:
    async with web.client().stream("GET", ROOM) as response:
        blocks = read_sse(response)
        await anext(blocks)
        web.services.draining.set()
        assert [list(one) async for one in blocks] == [["retry"]]
    refused = await web.client().get(ROOM)
    assert (refused.status_code, code(refused), "retry-after" in refused.headers) == (503, "unavailable", True)


async def test_no_more_readers_than_connections_are_allowed(serve: Serve) -> None:
    async with serve(max_connections=2) as web:
        alice = web.client()
        async with alice.stream("GET", ROOM) as one, alice.stream("GET", ROOM) as two:
            assert (one.status_code, two.status_code) == (200, 200)
            refused = await web.client().get(ROOM)
            assert (refused.status_code, code(refused), "retry-after" in refused.headers) == (503, "unavailable", True)
            assert web.services.sse_open == 2


async def test_silence_is_broken_by_comments(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "KEEP_ALIVE_S", 0.02)
    async with web.client().stream("GET", ROOM) as response:
        blocks = read_sse(response)
        await anext(blocks)
        assert [await anext(blocks) for _ in range(2)] == [{"comment": ""}] * 2


async def test_a_response_ends_with_its_token(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "LEEWAY_S", 0)
    async with web.client(ttl_s=1).stream("GET", ROOM) as response:
        assert [list(one) async for one in read_sse(response)] == [["id"], ["retry"]]


async def test_a_client_that_reads_nothing_is_given_up_and_slows_nobody(serve: Serve) -> None:
    async with serve(worker=False, send_timeout_s=0.3) as web:
        deaf = socket.create_connection(("127.0.0.1", web.server.port))
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        token = mint(SECRET, "alice", DEFAULT_SCOPES, 60)
        deaf.sendall(f"GET {ROOM} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
        await eventually(lambda: web.services.sse_open == 1)
        reading = asyncio.ensure_future(read_events(web.client("bob"), ROOM, params={"cursor": "0"}, stop_after=100))
        await publish(web, "room:x", 100, size=100_000)
        assert seqs(await reading) == list(range(1, 101))
        await eventually(lambda: web.services.sse_open == 0)
        deaf.close()


async def test_a_reader_of_a_job_that_is_somebody_elses_learns_nothing(web: Web) -> None:
    job_id = await web.finish(web.client("alice"), "echo", text="x")
    response: httpx2.Response = await web.client("bob").get(JOB_STREAM.format(job_id))
    assert (response.status_code, code(response)) == (404, "not_found")


# What a page tells, without a server


def raw(*numbers: int) -> list[bytes]:
    return [b'{"seq":%d,"type":"message"}' % number for number in numbers]


def page(top: int, first: int, *numbers: int) -> Page:
    return Page(Head("e", top, first, first), raw(*numbers))


def test_a_page_tells_its_events_with_their_positions() -> None:
    assert list(told(START, page(2, 1, 1, 2))) == [(Cursor("e", 1), raw(1)[0]), (Cursor("e", 2), raw(2)[0])]
    assert list(told(Cursor("e", 2), page(2, 1))) == []


def test_a_loss_is_told_before_between_and_after_events() -> None:
    assert next(told(START, page(4, 3, 3, 4))) == (Cursor("e", 2), Gap("trimmed", 1, 2))
    assert list(told(Cursor("e", 1), page(5, 1, 2, 5)))[1] == (Cursor("e", 4), Gap("expired", 3, 4))
    assert list(told(Cursor("e", 3), page(5, 1))) == [(Cursor("e", 5), Gap("expired", 4, 5))]


def test_after_a_gap_that_leads_back_the_pages_events_are_not_told() -> None:
    assert list(told(Cursor("other", 5), page(9, 1, 6, 7, 8, 9))) == [(Cursor("e", 0), Gap("epoch_changed"))]
