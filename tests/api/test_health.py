"""Alive, ready, counted."""

from pathlib import Path

import pytest

from rt.localredis import PrivateRedis, find_server
from tests.api.conftest import Serve, Web, code
from tests.helpers import eventually


async def test_a_web_process_is_alive_and_ready(web: Web) -> None:
    anyone = web.anonymous()
    assert (await anyone.get("/livez")).status_code == 200
    ready = await anyone.get("/readyz")
    assert ready.status_code == 200
    assert ready.json() == {"ready": True, "checks": [{"name": "redis", "ok": True}, {"name": "not draining", "ok": True}]}


async def test_one_that_is_about_to_end_is_not_ready_but_alive(web: Web) -> None:
    web.services.draining.set()
    ready = await web.anonymous().get("/readyz")
    assert (ready.status_code, ready.json()["ready"]) == (503, False)
    assert (await web.anonymous().get("/livez")).status_code == 200


async def test_metrics_count_calls_by_route_and_hold_no_id(web: Web) -> None:
    alice = web.client()
    job_id = await web.finish(alice, "echo", text="x")
    await alice.get(f"/v1/jobs/{job_id}")
    await alice.get("/a/path/of/a/stranger")
    response = await web.anonymous().get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    assert 'rt_http_requests_total{route="/v1/jobs/{id}",status="200"}' in response.text
    assert 'rt_http_requests_total{route="_none",status="404"}' in response.text
    assert 'rt_http_seconds_count{route="/v1/jobs"}' in response.text
    assert job_id not in response.text
    assert "stranger" not in response.text


@pytest.mark.skipif(find_server() is None, reason="no Redis server here")
@pytest.mark.parametrize("redis_kind", ["fake"])
async def test_a_redis_that_dies_shows_within_two_seconds_and_calls_say_try_again(serve: Serve, tmp_path: Path) -> None:
    with PrivateRedis(tmp_path, aof=False) as redis:
        async with serve(worker=False, redis_url=redis.url) as web:
            alice = web.client()
            assert (await alice.get("/readyz")).status_code == 200
            redis.kill()

            async def not_ready() -> bool:
                return (await alice.get("/readyz")).status_code == 503

            await eventually(not_ready, within_s=2)
            for response in (
                await alice.get("/v1/jobs"),
                await alice.post("/v1/jobs", json={"job": "echo", "input": {"text": "x"}}),
                await alice.post("/v1/streams/room:x/events", json={"data": 1}),
                await alice.get("/v1/streams/room:x/events"),
            ):
                assert (response.status_code, code(response)) == (503, "unavailable")
                assert int(response.headers["retry-after"]) >= 1
            assert (await alice.get("/livez")).status_code == 200
            redis.start()

            async def ready() -> bool:
                return (await alice.get("/readyz")).status_code == 200

            await eventually(ready)
