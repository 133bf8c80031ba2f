"""Rooms as their members see them: who is here, and an answer that everybody follows. Real sockets, real worker."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from rt import keys
from rt.app import App
from rt.events import Event
from rt.jobs.context import JobContext
from rt.jobs.policy import StreamRequest
from rt.redis import Store
from tests.api.rawsocket import RawSocket
from tests.chaos.stack import Process, Stack, free_port
from tests.helpers import eventually

# The application that the processes load: this module is named on their command lines.

app = App()


@app.job
async def answer(job: JobContext, question: str) -> dict[str, str]:
    for word in question.split():
        await job.emit(word.upper())
    return {"said": question.upper()}


@app.policy
def may(request: StreamRequest) -> bool:
    if request.kind == "user" and request.action == "publish":
        return True  # anybody writes to anybody
    return request.allowed and not (request.name.startswith("staff") and request.subject != "ann")


@app.job
async def survey(job: JobContext) -> int:
    number: int = await job.ask("How many?", int)
    return number


@app.job
async def collect(job: JobContext) -> list[Any]:
    return [one async for one in job.inputs]


class Ask(Event, type="ask"):
    room: str
    question: str


@app.on(Ask)
async def ask(conn: Any, event: Ask) -> dict[str, Any]:
    await conn.publish(event.room, event)
    return {"job": await conn.enqueue(answer, question=event.question, stream=event.room)}


class Served(Stack):
    def web(self, port: int | None = None, **env: str) -> Process:
        port = port or free_port()
        one = Process("web", f"{__name__}:app", env=self.env | env | {"PORT": str(port)})
        self.webs.append(one)
        self.ports.append(port)
        return one

    async def redis_call(self, *command: Any) -> Any:
        store = Store(self.env["REDIS_URL"])
        try:
            return await store.call(*command)
        finally:
            await store.close()

    def worker(self, app: str = f"{__name__}:app") -> Process:
        return super().worker(app)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("rooms"), RT_PRESENCE_EVENTS="100") as stack:
        stack.start(webs=2)
        yield stack
        assert stack.tracebacks() == []


Join = Any


@pytest.fixture
async def join(served: Served) -> AsyncIterator[Join]:
    """`await join("ann", "room:x", web=1)`: a connected socket that follows the room."""
    opened: list[RawSocket] = []

    async def joining(subject: str, *rooms: str, web: int = 0, **fields: Any) -> RawSocket:
        ws = await RawSocket.open(served.ws(web))
        opened.append(ws)
        await ws.join(token=served.token(subject), **fields)
        for room in rooms:
            assert (await ws.ask("subscribe", f"in {room}", stream=room, cursor="0"))["type"] == "subscribed"
        return ws

    yield joining
    for one in opened:
        one.cut()


async def here(served: Served, room: str, web: int = 0) -> dict[str, int]:
    async with served.http("looker", web=web) as http:
        response = await http.get(f"/v1/streams/{room}/presence")
        assert response.status_code == 200, response.text
        assert response.json()["next"] is None
        return {one["subject"]: one["sessions"] for one in response.json()["items"]}


async def hear(ws: RawSocket, stream: str, type: str, count: int) -> list[dict[str, Any]]:
    """The events of a type, once there are so many."""

    def heard() -> list[dict[str, Any]]:
        return [one for one in ws.events(stream) if one["type"] == type]

    await ws.until(lambda: len(heard()) >= count)
    return heard()


def said(ws: RawSocket, room: str) -> list[tuple[str, str]]:
    return [(one["type"], one["data"]["subject"]) for one in ws.events(room) if one["type"].startswith("presence.")]


async def test_members_see_who_comes_and_who_goes(served: Served, join: Join) -> None:
    ann = await join("ann", "room:a")
    bob = await join("bob", "room:a", web=1)
    await join("bob", "room:a", web=0)
    await ann.until(lambda: len(said(ann, "room:a")) == 2)

    async def listed() -> bool:
        return await here(served, "room:a", web=1) == {"ann": 1, "bob": 2}

    await eventually(listed)
    await bob.ask("unsubscribe", "out", stream="room:a")

    async def fewer() -> bool:
        return await here(served, "room:a") == {"ann": 1, "bob": 1}

    await eventually(fewer)
    carl = await join("carl", "room:a")
    await carl.ask("unsubscribe", "out", stream="room:a")
    await ann.until(lambda: len(said(ann, "room:a")) == 4)
    assert said(ann, "room:a") == [
        ("presence.joined", "ann"),
        ("presence.joined", "bob"),
        ("presence.joined", "carl"),
        ("presence.left", "carl"),
    ]


async def test_a_reload_tells_nobody_anything(served: Served, join: Join) -> None:
    ann = await join("ann", "room:b")
    bob = await join("bob", "room:b")
    bob.cut()

    async def alone() -> bool:
        return await here(served, "room:b") == {"ann": 1}

    await eventually(alone)
    await join("bob", web=1, session=bob.session)

    async def both() -> bool:
        return await here(served, "room:b") == {"ann": 1, "bob": 1}

    await eventually(both)
    await ann.ask("publish", "p", stream="room:b", data="still here?")
    await hear(ann, "room:b", "message", 1)
    assert said(ann, "room:b") == [("presence.joined", "ann"), ("presence.joined", "bob")]


async def test_only_a_room_has_somebody_in_it(served: Served) -> None:
    async with served.http("ann") as http:
        assert (await http.get("/v1/streams/user:ann/presence")).status_code == 422
        assert (await http.get("/v1/streams/room:a/presence", params={"limit": 0})).status_code == 422
    async with served.http("ann", scopes=("jobs:read",)) as http:
        assert (await http.get("/v1/streams/room:a/presence")).status_code == 403


async def test_a_long_list_comes_in_pages(served: Served, join: Join) -> None:
    for name in ("ann", "bob", "carl"):
        await join(name, "room:p")
    async with served.http("ann") as http:

        async def whole() -> bool:
            return len((await http.get("/v1/streams/room:p/presence")).json()["items"]) == 3

        await eventually(whole)
        first = (await http.get("/v1/streams/room:p/presence", params={"limit": 2})).json()
        rest = (await http.get("/v1/streams/room:p/presence", params={"limit": 2, "cursor": first["next"]})).json()
    assert [[one["subject"] for one in page["items"]] for page in (first, rest)] == [["ann", "bob"], ["carl"]]
    assert rest["next"] is None


async def test_a_whole_room_follows_a_job_that_a_handler_started(served: Served, join: Join) -> None:
    ann, bob = await join("ann", "room:ai"), await join("bob", "room:ai", web=1)
    reply = await ann.ask("ask", "q", data={"room": "room:ai", "question": "why is it so"})
    stream = f"job:{reply['data']['job']}"
    for member in (ann, bob):
        end = await member.final(stream)
        assert end["data"]["result"] == {"said": "WHY IS IT SO"}
        heard = "".join(one["data"].get("text", "") for one in member.events(stream) if one["type"] == "job.delta")
        assert heard == "WHYISITSO"
        room = [one["type"] for one in member.events("room:ai") if not one["type"].startswith("presence.")]
        assert room == ["ask", "job.created"]
    # Who comes later reads it from the start.
    late = await join("carl", "room:ai")
    assert (await late.final(stream))["data"]["result"] == {"said": "WHY IS IT SO"}


async def test_the_list_is_true_within_five_seconds_after_a_process_was_killed(served: Served, join: Join) -> None:
    doomed = served.web()
    doomed.wait_ready()
    ann, bob = await join("ann", "room:k"), await join("bob", "room:k", web=len(served.webs) - 1)

    async def both() -> bool:
        return await here(served, "room:k") == {"ann": 1, "bob": 1}

    await eventually(both)
    doomed.kill()
    killed = asyncio.get_running_loop().time()

    async def alone() -> bool:
        return await here(served, "room:k") == {"ann": 1}

    await eventually(alone, within_s=10)
    assert asyncio.get_running_loop().time() - killed < 5
    # Whose client comes back was never gone.
    await join("bob", web=1, session=bob.session)
    await eventually(both)
    await ann.ask("publish", "p", stream="room:k", data="all here")
    await hear(ann, "room:k", "message", 1)
    assert said(ann, "room:k") == [("presence.joined", "ann"), ("presence.joined", "bob")]


async def test_what_a_room_is_told_costs_redis_the_same_however_many_are_there(served: Served, join: Join) -> None:
    members = [await join(f"m{i}", "room:f", web=i % 2) for i in range(20)]
    for one in members:
        await hear(one, "room:f", "presence.joined", 20)
    assert await served.redis_call("PUBSUB", "NUMSUB", keys.live("-", "room:f")) == [keys.live("-", "room:f").encode(), 2]
    await served.redis_call("CONFIG", "RESETSTAT")
    await members[0].ask("publish", "p", stream="room:f", data="all")
    for one in members:
        await hear(one, "room:f", "message", 1)
    stats = (await served.redis_call("INFO", "commandstats")).decode()
    calls = dict(re.findall(r"cmdstat_(xadd|publish):calls=(\d+)", stats))
    assert calls == {"xadd": "1", "publish": "1"}


async def test_a_personal_message_reaches_every_device_and_who_is_away(served: Served, join: Join) -> None:
    ann, phone, laptop = await join("ann"), await join("dave"), await join("dave", web=1)
    laptop.cut()
    for number in range(2):
        assert (await ann.ask("publish", str(number), stream="user:dave", data=number))["type"] == "reply"
    again = await join("dave", web=1, session=laptop.session)
    for device in (phone, again):
        assert [one["data"] for one in await hear(device, "user:dave", "message", 2)] == [{"from": "ann", "data": n} for n in range(2)]
    assert ann.events("user:dave") == []


async def test_everybody_reads_a_room_in_one_order_and_who_was_away_catches_up(served: Served, join: Join) -> None:
    ann, bob, carl = await join("ann", "room:o"), await join("bob", "room:o", web=1), await join("carl", "room:o")
    carl.cut()

    async def speak(one: RawSocket) -> list[int]:
        return [(await one.ask("publish", str(i), stream="room:o", data=i))["data"]["seq"] for i in range(10)]

    mine, theirs = await asyncio.gather(speak(ann), speak(bob))
    back = await join("carl", web=1, session=carl.session)
    read = [[(one["seq"], one["data"]) for one in await hear(member, "room:o", "message", 20)] for member in (ann, bob, back)]
    assert read[0] == read[1] == read[2]
    assert [seq for seq, _ in read[0]] == sorted([*mine, *theirs])
    assert [data["data"] for _, data in read[0] if data["from"] == "ann"] == list(range(10))


async def test_a_member_answers_what_the_job_asks(served: Served, join: Join) -> None:
    ann = await join("ann")
    submitted = await ann.ask("job.submit", "s", job="survey")
    job_id, stream = submitted["data"]["job_id"], submitted["data"]["stream"]
    asked = await ann.wait("job.input_required", stream=stream)
    assert asked["data"]["prompt"] == "How many?"
    assert asked["data"]["schema"]["type"] == "integer"
    first = await ann.ask("job.input", "i1", job_id=job_id, data="many")
    assert first["data"] == {"seq": 1}
    again = await ann.until(lambda: next((one for one in ann.events(stream) if "details" in one["data"]), None))
    assert again["data"]["details"][0]["loc"] == ["data"]
    assert (await ann.ask("job.input", "i1", job_id=job_id, data="many"))["data"] == {"seq": 1}, "the same command"
    assert (await ann.ask("job.input", "i1", job_id=job_id, data="other"))["code"] == "conflict"
    assert (await ann.ask("job.input", "i2", job_id=job_id, data=3))["data"] == {"seq": 2}
    assert (await ann.final(stream))["data"]["result"] == 3
    late = await ann.ask("job.input", "i3", job_id=job_id, data=4)
    assert (late["code"], late["details"]["status"]) == ("conflict", "completed")


async def test_input_over_http_is_for_whoever_may_cancel_the_job(served: Served, join: Join) -> None:
    ann, bob = served.http("ann"), served.http("bob")
    async with ann, bob:
        job_id = (await ann.post("/v1/jobs", json={"job": "collect", "stream": "room:in"})).json()["job_id"]
        path = f"/v1/jobs/{job_id}/input"
        key = {"Idempotency-Key": "k"}
        answers = [await ann.post(path, json={"data": {"n": 1}}, headers=key) for _ in range(2)]
        assert [(one.status_code, one.json()) for one in answers] == [(202, {"job_id": job_id, "seq": 1})] * 2
        assert (await bob.post(path, json={"data": 2})).status_code == 403
        assert (await ann.post("/v1/jobs/nobody/input", json={"data": 2})).status_code == 404
        assert (await ann.post(path, json={})).status_code == 422
        assert (await ann.post(path, json={"data": "end", "final": True})).json()["seq"] == 2
        closed = await ann.post(path, json={"data": 3})
        assert (closed.status_code, closed.json()["code"]) == (409, "conflict")

        async def result() -> Any:
            return (await ann.get(f"/v1/jobs/{job_id}")).json().get("result")

        assert await eventually(result) == [{"n": 1}, "end"]


async def test_the_application_s_policy_holds_at_every_door(served: Served, join: Join) -> None:
    ann, bob = await join("ann", "room:staff"), await join("bob")
    assert (await bob.ask("subscribe", "1", stream="room:staff"))["code"] == "forbidden"
    assert (await bob.ask("publish", "2", stream="room:staff", data=1))["code"] == "forbidden"
    assert (await bob.ask("job.submit", "3", job="survey", options={"stream": "room:staff"}))["code"] == "forbidden"
    assert (await bob.ask("ask", "4", data={"room": "room:staff", "question": "?"}))["code"] == "forbidden"
    async with served.http("bob") as http:
        for path in ("events", "presence"):
            assert (await http.get(f"/v1/streams/room:staff/{path}")).status_code == 403
        assert (await http.post("/v1/streams/room:staff/events", json={"data": 1})).status_code == 403
        assert (await http.post("/v1/jobs", json={"job": "survey", "stream": "room:staff"})).status_code == 403
    assert (await ann.ask("publish", "1", stream="room:staff", data="us"))["type"] == "reply"


async def test_a_resume_ends_what_the_policy_no_longer_allows(served: Served, join: Join) -> None:
    bob = await join("bob", "room:open")
    cursors = keys.cursors("-", bob.session)
    await served.redis_call("HSET", cursors, "c:room:staff", "0")  # as when he was still a member
    bob.cut()
    again = await join("bob", session=bob.session)
    assert set(again.hello["streams"]) == {again.own, "user:bob", "room:open"}
    error = await again.wait("error")
    assert (error["code"], error["details"]) == ("forbidden", {"stream": "room:staff"})
    again.cut()

    async def forgotten() -> bool:
        return not await served.redis_call("HEXISTS", cursors, "c:room:staff")

    await eventually(forgotten)
    third = await join("bob", session=bob.session)
    await third.settle()
    assert third.codes() == []
