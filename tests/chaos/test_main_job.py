"""The main job, end to end, as somebody who knows only the protocol page would do it."""

import asyncio
import json
import random
from typing import Any

from tests.chaos.client import Client, Journal
from tests.chaos.stack import Stack

#: The processes of these tests are not forks.
FRESH = True


def words(count: int, seed: int = 0) -> str:
    """Different words, so that a lost, doubled or moved one shows."""
    draw = random.Random(seed)
    return " ".join(f"{draw.choice('bdfgklmnprst')}{draw.choice('aeiou')}{i}" for i in range(count))


def check(journal: Journal, text: str | None = None, end: str = "job.completed") -> None:
    """Every seq once and in order, one terminal event at the end."""
    assert journal.faults == []
    assert [event["seq"] for event in journal.events] == list(range(1, len(journal.events) + 1))
    assert [one for one in journal.types() if one in ("job.completed", "job.failed", "job.cancelled")] == [end]
    assert text is None or journal.text() == text


async def test_echo_sentiment_and_generate_over_a_websocket(shared: Stack) -> None:
    client = Client(shared.ws(), shared.token())
    hello = await client.open()
    assert hello["resumed"] is False
    assert len(hello["session"]) >= 43  # 256 bits
    text = words(100) + "  \n ünï «end» "
    echo = await client.finished(await client.submit("echo", text=text, delay_ms=2))
    check(echo, text)
    assert echo.types().count("job.delta") > 1
    assert echo.final["data"]["result"] == {"text": text}  # type: ignore[index]
    sentiment = await client.finished(await client.submit("sentiment", text="I love this, it is absolutely wonderful!"))
    check(sentiment)
    assert sentiment.final["data"]["result"]["label"] == "positive"  # type: ignore[index]
    generate = await client.finished(await client.submit("generate", prompt="Once upon a time", max_tokens=24, seed=1))
    check(generate)
    assert generate.text() == generate.final["data"]["result"]["text"] != ""  # type: ignore[index]
    own = client.journal(f"session:{client.session}")
    assert [event["type"] for event in own.events] == ["job.created"] * 3
    told = [frame for frame in client.control if frame["type"] == "subscribed"]
    assert [frame["stream"] for frame in told] == [echo.stream, sentiment.stream, generate.stream]
    assert all("id" not in frame for frame in told)
    assert client.faults() == []
    await client.close()


async def test_two_servers_serve_one_another_s_sessions(shared: Stack) -> None:
    client = Client(shared.ws(0), shared.token())
    await client.open()
    text = words(120, 3)
    echo = await client.submit("echo", text=text, delay_ms=5)
    for turn in range(8):
        await client.until(lambda turn=turn: len(echo.text()) > turn * 20)  # type: ignore[misc]
        await client.cut()
        client.url = shared.ws((turn + 1) % 2)
        assert (await client.reopen())["resumed"] is True
    check(await client.finished(echo), text)
    assert client.faults() == []
    await client.close()


async def test_a_session_alone_brings_its_jobs_back(shared: Stack) -> None:
    """What the client forgot, the server knows: the session follows its jobs, and replays after what was acknowledged."""
    first = Client(shared.ws(), shared.token())
    await first.open()
    text = words(60, 5)
    echo = await first.submit("echo", text=text, delay_ms=5)
    await first.until(lambda: echo.text())
    await first.cut()
    second = Client(shared.ws(1), shared.token(), keeps_cursors=False)
    second.session = first.session
    assert (await second.reopen())["resumed"] is True
    again = second.journal(echo.stream)
    await second.finished(again)
    have = {event["seq"]: event for event in [*echo.events, *again.events]}
    assert sorted(have) == list(range(1, max(have) + 1))
    await second.close()


async def test_a_hundred_posts_with_one_key_make_one_job(shared: Stack) -> None:
    async with shared.http() as http:

        async def post() -> Any:
            body = {"job": "echo", "input": {"text": "once"}}
            return await http.post("/v1/jobs", json=body, headers={"Idempotency-Key": "hundred"})

        answers = await asyncio.gather(*(post() for _ in range(100)))
        assert sorted({answer.status_code for answer in answers}) == [200, 202]
        assert [answer.status_code for answer in answers].count(202) == 1
        assert len({answer.json()["job_id"] for answer in answers}) == 1
        listed = await http.get("/v1/jobs", params={"job": "echo", "limit": 100})
        assert [one["job_id"] for one in listed.json()["items"]].count(answers[0].json()["job_id"]) == 1
        other = await http.post("/v1/jobs", json={"job": "echo", "input": {"text": "other"}}, headers={"Idempotency-Key": "hundred"})
        assert (other.status_code, other.json()["code"]) == (409, "conflict")


async def test_a_service_follows_by_sse_and_resumes(shared: Stack) -> None:
    text = words(40, 7)
    async with shared.http(web=0) as http, shared.http(web=1) as elsewhere:
        answer = await http.post("/v1/jobs", json={"job": "echo", "input": {"text": text, "delay_ms": 5}})
        url = answer.json()["events_url"]
        first = await _sse(http, url, most=4)
        rest = await _sse(elsewhere, url, last=first[-1][0])
        journal = Journal(answer.json()["stream"])
        for _, event in first + rest:
            journal.add(event)
        check(journal, text)


async def _sse(http: Any, url: str, *, last: str | None = None, most: int | None = None) -> list[tuple[str, dict[str, Any]]]:
    """The events of a response, each with its id; ends with the response, or after `most`."""
    out: list[tuple[str, dict[str, Any]]] = []
    headers = {"Last-Event-ID": last} if last else {}
    async with http.stream("GET", url, headers=headers) as response:
        assert response.status_code == 200
        id = ""
        async for line in response.aiter_lines():
            if line.startswith("id: "):
                id = line[4:]
            elif line.startswith("data: "):
                out.append((id, json.loads(line[6:])))
                if most is not None and len(out) >= most:
                    break
    return out
