"""The client of services, against a server that is told what to answer."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from rt.client import EventsLost, Gap, JobFailed, Refused, StreamEvent, Unreachable
from rt.client.backoff import Backoff
from rt.client.http import HttpClient, Lost, NotAnRtServer
from tests.fakeserver import FakeServer, sse

ACCEPTED = (202, {"job_id": "1", "status": "queued", "stream": "job:1", "events_url": "/v1/jobs/1/events"})
DONE = sse(3, "job.completed", result=7)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rt.client.http.Backoff", lambda base_s, cap_s: Backoff(0, 0))


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as fake:
        yield fake


@pytest.fixture
def rt(server: FakeServer) -> Iterator[HttpClient]:
    with HttpClient(server.url, token="a.b.c", tries=4) as client:
        yield client


def later(status: int, **headers: str) -> tuple[int, Any, dict[str, str]]:
    return (
        status,
        {"code": "unavailable", "detail": "later", "temporary": True},
        {name.replace("_", "-"): one for name, one in headers.items()},
    )


def headers(server: FakeServer, name: str) -> list[str | None]:
    return [one[2].get(name) for one in server.requests]


def test_a_call_that_is_not_answered_or_not_now_is_sent_again_with_the_same_key(rt: HttpClient, server: FakeServer) -> None:
    server.answers = [None, later(503), later(502), ACCEPTED]
    assert rt.submit("echo", {"text": "a"}).job_id == "1"
    assert len(set(headers(server, "Idempotency-Key"))) == 1
    assert {one[3] for one in server.requests} == {b'{"job":"echo","input":{"text":"a"}}'}
    server.answers = [None, (201, {"stream": "room:a", "seq": 1, "epoch": "e"})]
    assert rt.publish("room:a", 1, idempotency_key="k")["seq"] == 1
    assert headers(server, "Idempotency-Key")[-2:] == ["k", "k"]
    assert server.requests[-1][:2] == ("POST", "/v1/streams/room%3Aa/events")
    server.answers = [None, (202, {"job_id": "1", "seq": 1}), None, (201, {"stream": "user:a", "muted": False, "seq": 1, "epoch": "e"})]
    assert rt.input("1", "more")["seq"] == 1
    assert rt.notify("a", "Ready")["seq"] == 1
    first, again, third, fourth = headers(server, "Idempotency-Key")[-4:]
    assert first is not None
    assert first == again != third == fourth
    assert third is not None


def test_two_submissions_have_keys_of_their_own(rt: HttpClient, server: FakeServer) -> None:
    server.answers = [ACCEPTED, ACCEPTED]
    rt.submit("echo")
    rt.submit("echo")
    assert len(set(headers(server, "Idempotency-Key"))) == 2


def test_the_server_s_retry_after_is_waited_for(rt: HttpClient, server: FakeServer) -> None:
    server.answers = [later(429, Retry_After="1"), ACCEPTED]
    began = time.monotonic()
    rt.submit("echo")
    assert 1 <= time.monotonic() - began < 3


def test_what_asks_for_too_long_a_wait_and_what_stays_so_is_said(rt: HttpClient, server: FakeServer) -> None:
    server.answers = [later(503, Retry_After="3600"), *[later(503)] * 4]
    for requests in (1, 5):
        with pytest.raises(Refused) as refused:
            rt.submit("echo")
        assert (refused.value.code, refused.value.temporary) == ("unavailable", True)
        assert len(server.requests) == requests


def test_what_is_refused_for_good_is_said_at_once_with_its_fields(rt: HttpClient, server: FakeServer) -> None:
    details = [{"loc": ["input", "text"], "msg": "Field required"}]
    server.answers = [(422, {"code": "invalid_input", "detail": "input.text: Field required", "details": details})]
    with pytest.raises(Refused, match=r"input\.text") as refused:
        rt.submit("echo")
    assert (refused.value.code, refused.value.details) == ("invalid_input", details)


def test_a_server_that_is_not_there_or_another_one_is_told_apart(rt: HttpClient, server: FakeServer) -> None:
    server.answers = [(204, None), (404, ["not", "here"])]
    assert rt.call("GET", "/v1/x") is None
    with pytest.raises(NotAnRtServer, match="404"):
        rt.job("1")
    server.answers = [None] * 4
    with pytest.raises(Unreachable, match=server.url):
        rt.job("1")
    with HttpClient("http://127.0.0.1:1", tries=2) as nobody, pytest.raises(Unreachable, match="no server answers"):
        nobody.job("1")


def test_a_token_is_asked_for_before_each_call(server: FakeServer) -> None:
    tokens = iter(["one", "two"])
    server.answers = [ACCEPTED, [DONE]]
    with HttpClient(server.url, token=lambda: next(tokens)) as rt:
        rt.submit("echo")
        list(rt.follow("1"))
    assert headers(server, "Authorization") == ["Bearer one", "Bearer two"]


def test_a_cut_stream_is_taken_up_after_its_last_event_and_nothing_comes_twice(rt: HttpClient, server: FakeServer) -> None:
    first, second = sse(1, "job.queued"), sse(2, "job.delta", text="hi")
    server.answers = [[first], None, later(503), ["retry: 1\n\n"], [second, second[:20]], [DONE]]
    events = list(rt.follow("a/b"))
    assert [one.type for one in events] == ["job.queued", "job.delta", "job.completed"]
    assert [isinstance(one, StreamEvent) and one.seq for one in events] == [1, 2, 3]
    assert headers(server, "Last-Event-ID") == [None, "e:1", "e:1", "e:1", "e:1", "e:2"]
    assert {one[1] for one in server.requests} == {"/v1/jobs/a%2Fb/events"}


def test_a_stream_that_stays_cut_is_given_up(rt: HttpClient, server: FakeServer) -> None:
    server.answers = [[sse(1, "job.queued")], *[None] * 30]
    with pytest.raises(Lost, match=server.url):
        list(rt.follow("1"))
    assert len(server.requests) == 5


def test_each_event_is_a_new_beginning_for_the_patience(rt: HttpClient, server: FakeServer) -> None:
    for seq in range(1, 9):
        server.answers += [[sse(seq, "job.delta", text="x")], None, None]
    server.answers.append([sse(9, "job.completed", result=1)])
    assert len(list(rt.follow("1"))) == 9


def test_waiting_shows_how_far_it_is_and_ends_as_the_job_does(rt: HttpClient, server: FakeServer) -> None:
    seen: list[Any] = []
    server.answers = [[sse(1, "job.progress", current=1, total=2), DONE]]
    assert rt.wait("1", on_event=seen.append) == 7
    assert [one.type for one in seen] == ["job.progress", "job.completed"]
    server.answers = [[sse(1, "job.failed", error={"code": "boom", "message": "it broke", "temporary": False})]]
    with pytest.raises(JobFailed, match="boom: it broke"):
        rt.wait("1")


def test_waiting_has_an_end_of_its_own(rt: HttpClient, server: FakeServer) -> None:
    server.answers = [[sse(1, "job.queued"), "hold"]]
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"0\.2 s"):
        rt.wait("1", timeout_s=0.2)
    assert 0.2 <= time.monotonic() - began < 3


def test_a_job_whose_end_is_lost_is_looked_up(rt: HttpClient, server: FakeServer) -> None:
    gap = {"type": "gap", "stream": "job:1", "epoch": "e", "reason": "trimmed", "from": 1, "to": 9}
    lost = f"id: e:9\nevent: gap\ndata: {json.dumps(gap)}\n\nretry: 3600000\n\n"
    server.answers = [[lost], [lost], (200, {"job_id": "1", "status": "completed", "result": 8}), [lost], (200, {"status": "running"})]
    assert list(rt.follow("1")) == [Gap("job:1", "e", "trimmed", 1, 9)]
    assert rt.wait("1") == 8
    with pytest.raises(EventsLost):
        rt.wait("1")


def test_a_stream_is_followed_with_the_cursor_behind_each_event(rt: HttpClient, server: FakeServer) -> None:
    server.answers = [["id: e:4\n\n"], [sse(5, "message")]]
    cursor, event = next(iter(rt.events("room:a")))
    assert (cursor, event.type) == ("e:5", "message")
    assert headers(server, "Last-Event-ID") == [None, "e:4"]


def test_pages_lead_from_one_to_the_next(rt: HttpClient, server: FakeServer) -> None:
    server.answers = [
        (200, {"items": [{"job_id": "1"}], "next": "c"}),
        (200, {"items": [], "next": None}),
        (200, {"items": [{"seq": 4}], "next": None}),
    ]
    page = rt.jobs(status="failed", limit=1)
    assert rt.jobs(status="failed", limit=1, cursor=page.next).next is None
    assert rt.history("room:a", after="e:3").items == [{"seq": 4}]
    assert [one[1] for one in server.requests] == [
        "/v1/jobs?status=failed&limit=1",
        "/v1/jobs?status=failed&limit=1&cursor=c",
        "/v1/streams/room%3Aa/events?after=e%3A3",
    ]
    assert headers(server, "Accept")[-1] == "application/json"


def test_a_person_at_a_terminal_is_not_made_to_wait(server: FakeServer) -> None:
    with HttpClient(server.url, patient=False) as rt:
        server.answers = [later(503), None, ACCEPTED]
        with pytest.raises(Refused):
            rt.submit("echo")
        assert rt.submit("echo").job_id == "1"
    with HttpClient("http://127.0.0.1:1", patient=False) as nobody, pytest.raises(Unreachable):
        list(nobody.follow("1"))
