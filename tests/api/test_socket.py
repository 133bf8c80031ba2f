"""The WebSocket of real processes against the protocol page, line by line, as somebody who reads only that page would do it."""

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import jwt
import ormsgpack
import pytest
import redis.asyncio as aioredis
from pydantic import Field

from rt import builtin
from rt.app import App
from rt.events import Event
from rt.jobs.context import JobContext
from tests.api.rawsocket import BINARY, CLOSE, CONTINUATION, MSGPACK, TEXT, Ended, RawSocket, bearer, wire
from tests.chaos.stack import SECRET, Process, Stack, free_port

MAX = 262_144

# The application that the processes load: this module is named on their command lines.

app = App()
app.job(name="echo")(builtin.echo)


@app.job(name="hold")
async def hold(job: JobContext) -> None:
    """Runs until it is cancelled."""
    await job.emit("held")
    await asyncio.Event().wait()


@app.job(name="flood")
async def flood(job: JobContext, events: int, size: int) -> None:
    for number in range(events):
        await job.emit({"number": number, "x": "x" * size})


class Note(Event, type="note"):
    text: str = Field(max_length=100)


class Broken(Event, type="broken"):
    pass


@app.on(Note)
async def on_note(conn: Any, event: Note) -> dict[str, Any]:
    published = await conn.publish("room:notes", event)
    return {"seq": published.seq, "subject": conn.subject}


@app.on(Broken)
async def on_broken(conn: Any, event: Broken) -> None:
    raise RuntimeError("as the test wants it")


class Served(Stack):
    """A stack whose web processes have the application above."""

    def web(self, port: int | None = None, **env: str) -> Process:
        port = port or free_port()
        one = Process("web", f"{__name__}:app", env=self.env | env | {"PORT": str(port)})
        self.webs.append(one)
        self.ports.append(port)
        return one

    def worker(self, app: str = f"{__name__}:app") -> Process:
        return super().worker(app)


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Two servers and a worker with the usual settings, for all tests that break nothing."""
    with Served(tmp_path_factory.mktemp("calm")) as stack:
        stack.start(webs=2)
        yield stack
        assert stack.tracebacks() == []


@pytest.fixture(scope="module")
def brisk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Small settings, so that what takes its time takes little, and what is large is small."""
    small = {
        "RT_HEARTBEAT_S": "0.4",
        "RT_CONNECT_TIMEOUT_S": "0.4",
        "RT_SEND_TIMEOUT_S": "1",
        "RT_JOB_LENGTH": "100",
        "RT_ROOM_LENGTH": "100",
        "RT_ALLOWED_ORIGINS": "https://app.example, https://two.example:8443",
    }
    with Served(tmp_path_factory.mktemp("brisk"), **small) as stack:
        yield stack.start()


Dial = Callable[..., Awaitable[RawSocket]]


@pytest.fixture
async def dial() -> AsyncIterator[Dial]:
    """`await dial(stack, "bob", web=1, session=…)`: a connected socket; with `connect=False` one that has said nothing yet."""
    opened: list[RawSocket] = []

    async def dialling(
        stack: Stack,
        subject: str = "alice",
        *scopes: str,
        web: int = 0,
        connect: bool = True,
        protocols: tuple[str, ...] = (),
        headers: dict[str, str] | None = None,
        receive_buffer: int = 0,
        path: str = "/v1/ws",
        **fields: Any,
    ) -> RawSocket:
        ws = await RawSocket.open(stack.ws(web), protocols=protocols, headers=headers, receive_buffer=receive_buffer, path=path)
        opened.append(ws)
        return await ws.join(**{"token": stack.token(subject, *scopes)} | fields) if connect else ws

    yield dialling
    for one in opened:
        one.cut()


def token(subject: str = "alice", expires_in_s: float = 600, scope: str = "jobs:write jobs:read streams:read streams:publish") -> str:
    """A token that expires when a test wants it, also in the past."""
    return jwt.encode({"sub": subject, "scope": scope, "exp": time.time() + expires_in_s}, SECRET, "HS256")


def data(frames: list[dict[str, Any]]) -> list[Any]:
    """What was published in `message` events."""
    return [one["data"]["data"] for one in frames]


async def echo(ws: RawSocket, text: str = "one two", id: str = "echo", **more: Any) -> str:
    """The stream of an accepted `echo`."""
    answer = await ws.ask("job.submit", id, job="echo", input={"text": text}, **more)
    assert answer["type"] == "reply", answer
    return str(answer["data"]["stream"])


# Who is let in


@pytest.mark.parametrize("place", ["frame", "header", "subprotocol", "ticket"])
async def test_a_token_is_taken_in_four_places(calm: Served, dial: Dial, place: str) -> None:
    how: dict[str, Any] = {"connect": False}
    frame: dict[str, Any] = {}
    if place == "frame":
        frame = {"token": token("tina")}
    elif place == "header":
        how["headers"] = {"Authorization": f"Bearer {token('tina')}"}
    elif place == "subprotocol":
        how["protocols"] = (bearer(token("tina")), "rt.v1.json")
    else:
        async with calm.http("tina") as http:
            frame = {"ticket": (await http.post("/v1/tickets")).json()["ticket"]}
    ws = await dial(calm, **how)
    await ws.join(**frame)
    assert ws.hello["subject"] == "tina"
    assert ws.protocol == ("rt.v1.json" if place == "subprotocol" else None)


async def test_a_subprotocol_with_a_token_alone_speaks_json(calm: Served, dial: Dial) -> None:
    ws = await dial(calm, connect=False, protocols=(bearer(token("tina")),))
    assert ws.protocol is None
    assert (await ws.join()).hello["subject"] == "tina"


async def test_a_ticket_opens_one_connection(calm: Served, dial: Dial) -> None:
    async with calm.http("tina") as http:
        ticket = (await http.post("/v1/tickets")).json()["ticket"]
    await dial(calm, token=None, ticket=ticket)
    again = await dial(calm, connect=False)
    await again.send({"type": "connect", "ticket": ticket})
    assert await again.end() == 4500
    assert again.codes() == ["unauthorized"]


@pytest.mark.parametrize(
    ("fields", "code", "close"),
    [
        ({}, "unauthorized", 4500),
        ({"token": "nonsense"}, "unauthorized", 4500),
        ({"token": token("a\nb")}, "unauthorized", 4500),
        ({"ticket": "nonsense"}, "unauthorized", 4500),
        ({"token": token(expires_in_s=-30)}, "token_expired", 4004),
    ],
)
async def test_who_cannot_prove_a_subject_is_told_and_closed(
    calm: Served, dial: Dial, fields: dict[str, Any], code: str, close: int
) -> None:
    ws = await dial(calm, connect=False)
    await ws.send({"type": "connect", **fields})
    assert await ws.end() == close
    assert ws.codes() == [code]


async def test_a_token_in_the_url_is_not_read(calm: Served, dial: Dial) -> None:
    ws = await dial(calm, connect=False, path=f"/v1/ws?token={token()}&access_token={token()}")
    await ws.send({"type": "connect"})
    assert await ws.end() == 4500


@pytest.mark.parametrize(
    "how", [{"headers": {"Authorization": "Bearer no"}}, {"headers": {"Authorization": "Basic YTpi"}}, {"protocols": (bearer("no"),)}]
)
async def test_a_handshake_s_credential_that_is_not_valid_is_refused(calm: Served, dial: Dial, how: dict[str, Any]) -> None:
    ws = await dial(calm, connect=False, **how)
    await ws.send({"type": "connect"})
    assert await ws.end() == 4500
    assert ws.codes() == ["unauthorized"]


async def test_a_foreign_origin_gets_403_before_the_upgrade(calm: Served, dial: Dial) -> None:
    own = calm.ws()[len("ws://") :].partition("/")[0]
    asked = ["http://evil.example", "null", "", f"http://{own}", f"https://{own}", f"http://{own}.evil.example"]
    statuses = [(await dial(calm, connect=False, headers={"Origin": one})).status for one in asked]
    assert statuses == [403, 403, 403, 101, 101, 403]
    assert [line for line in calm.webs[0].lines if "handshake" in line] == []


async def test_allowed_origins_are_those_that_are_named_and_the_server_s_own(brisk: Served, dial: Dial) -> None:
    own = brisk.ws()[len("ws://") :].partition("/")[0]
    asked = ["https://app.example", "https://two.example:8443", "http://app.example", "https://app.example.evil", None, f"http://{own}"]
    statuses = [(await dial(brisk, connect=False, headers={"Origin": one} if one else {})).status for one in asked]
    assert statuses == [101, 101, 403, 403, 101, 101]


@pytest.mark.parametrize(
    ("asked", "spoken"),
    [
        ((), None),
        (("rt.v1.json",), "rt.v1.json"),
        (("rt.v2.json", "rt.v1.msgpack", "rt.v1.json"), "rt.v1.msgpack"),
    ],
)
async def test_the_first_subprotocol_that_is_known_is_spoken(calm: Served, dial: Dial, asked: tuple[str, ...], spoken: str | None) -> None:
    ws = await dial(calm, protocols=asked)
    assert ws.protocol == spoken
    assert ws.kinds == {BINARY if spoken == MSGPACK else TEXT}


async def test_a_subprotocol_that_is_not_known_is_closed_with_4503(calm: Served, dial: Dial) -> None:
    assert await (await dial(calm, connect=False, protocols=("rt.v2.json",))).end() == 4503


async def test_a_websocket_elsewhere_is_not_upgraded(calm: Served, dial: Dial) -> None:
    assert (await dial(calm, connect=False, path="/v1/other")).status == 404


# Connecting


async def test_connected_says_what_a_client_needs(calm: Served, dial: Dial) -> None:
    hello = (await dial(calm, "hana", client={"name": "test", "version": "1"})).hello
    assert len(hello["session"]) >= 43  # 256 bits
    assert (hello["resumed"], hello["subject"], hello["heartbeat_s"], hello["max_message_bytes"]) == (False, "hana", 20, MAX)
    assert abs(hello["expires_at"] / 1000 - time.time() - 3600) < 30
    assert set(hello["streams"]) == {f"session:{hello['session']}", "user:hana"}
    assert all(set(at) == {"epoch", "seq", "recovered"} and at["recovered"] for at in hello["streams"].values())


async def test_a_subject_with_odd_characters_has_a_stream(calm: Served, dial: Dial) -> None:
    ws = await dial(calm, token=token("ä b/c"))
    assert ws.hello["subject"] == "ä b/c"
    assert "user:%C3%A4%20b%2Fc" in ws.hello["streams"]


async def test_what_comes_before_connect_is_refused_and_a_wrong_connect_may_be_corrected(calm: Served, dial: Dial) -> None:
    ws = await dial(calm, connect=False)
    await ws.send({"type": "ping"}, {"type": "job.submit", "id": "1", "job": "echo", "input": {"text": "a"}})
    assert (await ws.wait("error"))["code"] == "not_connected"
    assert (await ws.answer("1"))["code"] == "not_connected"
    for wrong in ({"nope": 1}, {"cursors": {"room:a": "b"}}, {"cursors": {"b": "0"}}, {"batch": "yes"}, {"session": 5}):
        await ws.send({"type": "connect", "token": token(), **wrong})
        assert (await ws.wait("error"))["code"] == "invalid_frame"
    await ws.join(token=token())
    await ws.send({"type": "connect", "token": token()})
    assert (await ws.wait("error"))["code"] == "invalid_frame"
    await ws.settle()


@pytest.mark.parametrize("array", [False, True])
async def test_commands_may_stand_right_behind_connect(calm: Served, dial: Dial, array: bool) -> None:
    ws = await dial(calm, connect=False)
    frames = [
        {"type": "connect", "token": token("pia")},
        {"type": "subscribe", "id": "s", "stream": "room:behind"},
        {"type": "publish", "id": "p", "stream": "room:behind", "data": "first"},
        {"type": "connect", "token": token("pia")},
        {"type": "ping"},
    ]
    await ws.send(*([frames] if array else frames))
    assert (await ws.wait())["type"] == "connected"
    assert (await ws.wait("error"))["code"] == "invalid_frame"
    assert (await ws.answer("s"))["type"] == "subscribed"
    assert (await ws.answer("p"))["type"] == "reply"
    assert data([await ws.wait("message")]) == ["first"]
    await ws.wait("pong")


async def test_frames_behind_a_connect_that_fails_are_not_looked_at(calm: Served, dial: Dial) -> None:
    ws = await dial(calm, connect=False)
    await ws.send([{"type": "connect", "token": "nonsense"}, {"type": "ping"}, {"type": "connect", "token": token()}])
    assert await ws.end() == 4500
    assert [one["type"] for one in ws.frames] == ["error"]


# Malformed input


def command(**fields: Any) -> str:
    return json.dumps({"type": "publish", "id": "x", "stream": "room:x", "data": 1} | fields)


def submitted(**options: Any) -> str:
    return json.dumps({"type": "job.submit", "id": "x", "job": "echo", "input": {"text": "a"}, "options": options})


WRONG = {
    "not json": ("{", "invalid_json"),
    "nothing": ("", "invalid_json"),
    "two values": ("{} {}", "invalid_json"),
    "nan": ('{"type":"publish","id":"x","stream":"room:x","data":NaN}', "invalid_json"),
    "infinity": ('{"type":"publish","id":"x","stream":"room:x","data":-Infinity}', "invalid_json"),
    "lone surrogate": ('{"type":"publish","id":"x","stream":"room:x","data":"\\ud800"}', "invalid_json"),
    "a number of 5,000 digits": ('{"type":"ping","x":' + "9" * 5000 + "}", "invalid_json"),
    "a string": ('"x"', "invalid_frame"),
    "null": ("null", "invalid_frame"),
    "no type": ("{}", "invalid_frame"),
    "type is a number": ('{"type":1}', "invalid_frame"),
    "type is a list": ('{"type":["ping"]}', "invalid_frame"),
    "unknown type": ('{"type":"nope"}', "unknown_type"),
    "a frame of the server": ('{"type":"connected"}', "unknown_type"),
    "an event of the server": ('{"type":"job.completed","data":{}}', "unknown_type"),
    "unknown field": ('{"type":"ping","x":1}', "invalid_frame"),
    "no id": ('{"type":"publish","stream":"room:x","data":1}', "invalid_frame"),
    "id is a number": (command(id=1), "invalid_frame"),
    "id is empty": (command(id=""), "invalid_frame"),
    "id is too long": (command(id="x" * 129), "invalid_frame"),
    "no data": ('{"type":"publish","id":"x","stream":"room:x"}', "invalid_frame"),
    "stream is a number": (command(stream=1), "invalid_frame"),
    "stream is no stream": (command(stream="x"), "invalid_frame"),
    "stream of another kind": (command(stream="channel:x"), "invalid_frame"),
    "stream with a space": (command(stream="room:a b"), "invalid_frame"),
    "stream with a slash": (command(stream="room:a/b"), "invalid_frame"),
    "stream without a name": (command(stream="room:"), "invalid_frame"),
    "stream with a name of 129": (command(stream="room:" + "x" * 129), "invalid_frame"),
    "stream with lower-case hex": (command(stream="room:%c3"), "invalid_frame"),
    "stream with a line end": (command(stream="room:x\n"), "invalid_frame"),
    "event of a job": (command(event="job.delta"), "invalid_frame"),
    "event of presence": (command(event="presence.joined"), "invalid_frame"),
    "event notification": (command(event="notification"), "invalid_frame"),
    "event is not registered": (command(event="nope"), "unknown_type"),
    "event with data that its model refuses": (command(event="note", data={"text": 5}), "invalid_input"),
    "key with a space": (command(idempotency_key="a b"), "invalid_frame"),
    "delay is a bool": (submitted(delay_s=True), "invalid_frame"),
    "delay is a string": (submitted(delay_s="1"), "invalid_frame"),
    "delay is negative": (submitted(delay_s=-1), "invalid_frame"),
    "delay is a year": (submitted(delay_s=32e6), "invalid_frame"),
    "delay is huge": (submitted(delay_s=10**400), "invalid_frame"),
    "timeout is zero": (submitted(timeout_s=0), "invalid_frame"),
    "a lane that does not exist yet": (submitted(priority="interactive"), "invalid_frame"),
    "an option that does not exist": (submitted(nope=1), "invalid_frame"),
    "options are a list": (json.dumps({"type": "job.submit", "id": "x", "job": "echo", "options": []}), "invalid_frame"),
    "a job that reports to a job": (submitted(stream="job:x"), "invalid_frame"),
    "input is a list": (json.dumps({"type": "job.submit", "id": "x", "job": "echo", "input": []}), "invalid_frame"),
    "input lacks a field": (json.dumps({"type": "job.submit", "id": "x", "job": "echo", "input": {}}), "invalid_input"),
    "input with a huge number": (
        json.dumps({"type": "job.submit", "id": "x", "job": "echo", "input": {"text": "a", "delay_ms": 10**400}}),
        "invalid_input",
    ),
    "input with a field too many": (
        json.dumps({"type": "job.submit", "id": "x", "job": "echo", "input": {"text": "a", "b": 1}}),
        "invalid_input",
    ),
    "unknown job": (json.dumps({"type": "job.submit", "id": "x", "job": "nope", "input": {}}), "unknown_job"),
    "cursor is a number": ('{"type":"subscribe","id":"x","stream":"room:x","cursor":0}', "invalid_frame"),
    "cursor is no cursor": ('{"type":"subscribe","id":"x","stream":"room:x","cursor":"5"}', "invalid_frame"),
    "cursor is too large": ('{"type":"subscribe","id":"x","stream":"room:x","cursor":"abc:99999999999999999"}', "invalid_frame"),
    "ack is a bool": ('{"type":"ack","cursors":{"user:alice":true}}', "invalid_frame"),
    "ack is a float": ('{"type":"ack","cursors":{"user:alice":1.0}}', "invalid_frame"),
    "ack is negative": ('{"type":"ack","cursors":{"user:alice":-1}}', "invalid_frame"),
    "ack is above the top": ('{"type":"ack","cursors":{"user:alice":1000000}}', "invalid_frame"),
    "ack is huge": ('{"type":"ack","cursors":{"user:alice":' + "9" * 300 + "}}", "invalid_frame"),
    "ack of no stream": ('{"type":"ack","cursors":{"x":1}}', "invalid_frame"),
    "a message above the limit": (command(data="x" * MAX), "too_large"),
    "an event above the limit": (command(data="x" * (MAX - 80)), "too_large"),
    "an event of the application without data that fits": ('{"type":"note","id":"x","data":{"text":5}}', "invalid_input"),
    "an event of the application with another field": ('{"type":"note","id":"x","data":{"text":"a"},"more":1}', "invalid_frame"),
    "an array in an array": ('[[{"type":"ping"}]]', "invalid_frame"),
}


@pytest.mark.parametrize("name", WRONG)
async def test_wrong_input_is_refused_by_name_and_the_connection_stays(calm: Served, dial: Dial, name: str) -> None:
    text, code = WRONG[name]
    ws = await dial(calm)
    await ws.text(text)
    error = await ws.wait("error")
    assert error["code"] == code
    assert error["temporary"] is False
    assert isinstance(error["message"], str)
    if code == "invalid_input":
        assert error["id"] == "x"
        assert error["details"]
        assert all(set(one) == {"loc", "msg"} for one in error["details"])
    await ws.settle()
    assert ws.codes() == [code]


async def test_an_error_is_never_much_larger_than_what_it_answers(calm: Served, dial: Dial) -> None:
    ws = await dial(calm)
    await ws.send({"type": "ping", **{f"k{number}": number for number in range(5000)}}, {"type": "ping", "k" * 100_000: 1})
    for _ in range(2):
        assert len(json.dumps(await ws.wait("error"))) < 5000


async def test_good_frames_of_an_array_are_handled_beside_wrong_ones(calm: Served, dial: Dial) -> None:
    ws = await dial(calm)
    await ws.send([], [{"type": "nope", "id": "a"}, {"type": "publish", "id": "b", "stream": "room:mixed", "data": 1}, 3])
    assert (await ws.answer("a"))["code"] == "unknown_type"
    assert (await ws.answer("b"))["type"] == "reply"
    assert ws.codes() == ["unknown_type", "invalid_frame"]


async def test_malformed_input_is_borne_up_to_twenty_in_a_row(calm: Served, dial: Dial) -> None:
    ws = await dial(calm)
    for _ in range(2):  # a good frame begins the count anew
        for _ in range(19):
            await ws.text("{")
        await ws.settle()
    for _ in range(21):
        with contextlib.suppress(OSError):
            await ws.text("{")
    assert await ws.end() == 4502
    assert set(ws.codes()) == {"invalid_json"}
    assert len(ws.codes()) == 38 + 20


async def test_refusals_of_what_is_well_formed_are_not_counted(calm: Served, dial: Dial) -> None:
    ws = await dial(calm)
    for number in range(25):
        assert (await ws.ask("job.submit", str(number), job="nope", input={}))["code"] == "unknown_job"
    await ws.settle()


@pytest.mark.parametrize(("depth", "type"), [(64, "reply"), (65, "error"), (100_000, "error")])
@pytest.mark.parametrize("array", [False, True])
async def test_a_message_may_be_nested_64_deep(calm: Served, dial: Dial, depth: int, type: str, array: bool) -> None:
    ws = await dial(calm)
    inner = depth - 2 if array else depth - 1  # the frame counts, and so does an array of frames
    text = '{"type":"publish","id":"x","stream":"room:deep","data":' + "[" * inner + "]" * inner + "}"
    await ws.text(f"[{text}]" if array else text)
    answer = await ws.wait()
    assert answer["type"] == type
    assert answer.get("code") in (None, "invalid_frame")
    await ws.settle()


@pytest.mark.parametrize("pieces", [1, 3])
async def test_a_message_above_the_limit_is_refused_and_one_above_four_times_that_closes_with_4502(
    calm: Served, dial: Dial, pieces: int
) -> None:
    ws = await dial(calm)

    async def send(size: int) -> None:
        text = b'{"type":"ping"}'.ljust(size)
        step = -(-size // pieces)
        for at in range(0, size, step):
            await ws.write(wire(CONTINUATION if at else TEXT, text[at : at + step], fin=at + step >= size))

    await send(MAX)
    await ws.wait("pong")
    for size in (MAX + 1, 4 * MAX):
        await send(size)
        assert (await ws.wait("error"))["code"] == "too_large"
    with contextlib.suppress(OSError):
        await send(4 * MAX + 1)
    assert await ws.end() == 4502


async def test_a_message_in_endless_fragments_closes_with_4502(calm: Served, dial: Dial) -> None:
    ws = await dial(calm)
    await ws.write(wire(TEXT, b'{"type":', fin=False) + wire(CONTINUATION, b'"ping"}'))
    await ws.wait("pong")
    with contextlib.suppress(OSError):
        await ws.write(wire(TEXT, b"", fin=False) + wire(CONTINUATION, b"", fin=False) * 5000)
    assert await ws.end() == 4502


# MessagePack and arrays


async def test_json_takes_text_and_msgpack_takes_binary(calm: Served, dial: Dial) -> None:
    text, packed = await dial(calm), await dial(calm, protocols=(MSGPACK,))
    await text.binary(b'{"type":"ping"}')
    assert (await text.wait("error"))["code"] == "invalid_frame"
    await packed.text('{"type":"ping"}')
    assert (await packed.wait("error"))["code"] == "invalid_frame"
    await text.settle()
    await packed.settle()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xc1",
        b"\x81\x01\x02",
        b"\x92\x81",
        ormsgpack.packb({"type": "publish", "id": "x", "stream": "room:x", "data": b"bytes"}),
        ormsgpack.packb({"type": "publish", "id": "x", "stream": "room:x", "data": float("nan")}),
        ormsgpack.packb({"type": "publish", "id": "x", "stream": "room:x", "data": float("inf")}),
        ormsgpack.packb({"type": "publish", "id": "x", "stream": "room:x", "data": ormsgpack.Ext(5, b"x")}),
        b"\x81\xa4type\xa2\xff\xfe",
        b"\x91" * 200_000,
    ],
)
async def test_msgpack_that_json_could_not_say_is_an_invalid_frame(calm: Served, dial: Dial, raw: bytes) -> None:
    ws = await dial(calm, protocols=(MSGPACK,))
    await ws.binary(raw)
    assert (await ws.wait("error"))["code"] == "invalid_frame"
    await ws.settle()


async def test_two_values_in_one_msgpack_message_are_an_invalid_frame(calm: Served, dial: Dial) -> None:
    ws = await dial(calm, protocols=(MSGPACK,))
    await ws.binary(ormsgpack.packb({"type": "ping"}) + ormsgpack.packb({"type": "ping"}))
    assert (await ws.wait()).get("code") == "invalid_frame"


async def test_both_formats_carry_the_same_objects(calm: Served, dial: Dial) -> None:
    text, packed = await dial(calm), await dial(calm, protocols=(MSGPACK,), web=1)
    sent = {"text": "ünï 🎈", "numbers": [0, -1, 1.5, 2**53, 2**63], "nothing": None, "yes": True, "": {"deep": [[]]}}
    for ws in (text, packed):
        await ws.ask("subscribe", "s", stream="room:both")
    for ws in (text, packed):
        await ws.ask("publish", "p", stream="room:both", data=sent)
    for ws in (text, packed):
        await ws.until(lambda ws=ws: len(ws.events("room:both")) == 2)
        assert data(ws.events("room:both")) == [sent, sent]
    assert text.kinds == {TEXT}
    assert packed.kinds == {BINARY}


async def test_a_number_that_msgpack_cannot_hold_arrives_as_a_float(calm: Served, dial: Dial) -> None:
    text, packed = await dial(calm), await dial(calm, protocols=(MSGPACK,))
    await packed.ask("subscribe", "s", stream="room:large")
    await text.ask("publish", "p", stream="room:large", data=2**70)
    assert data([await packed.wait("message")]) == [2.0**70]


async def test_a_number_that_no_float_can_hold_does_not_end_others_connections(calm: Served, dial: Dial) -> None:
    text, packed = await dial(calm), await dial(calm, protocols=(MSGPACK,))
    await packed.ask("subscribe", "s", stream="room:huge")
    await text.ask("publish", "p", stream="room:huge", data=10**400)
    with contextlib.suppress(Ended):
        await packed.until(lambda: packed.events("room:huge"))
    assert packed.closed is None


async def test_a_float_that_overflows_is_not_json(calm: Served, dial: Dial) -> None:
    ws = await dial(calm)
    await ws.text('{"type":"publish","id":"x","stream":"room:x","data":1e999}')
    assert (await ws.wait())["code"] == "invalid_json"


@pytest.mark.parametrize("protocols", [(), (MSGPACK,)])
async def test_arrays_are_sent_to_those_who_asked_for_them_and_taken_from_all(calm: Served, dial: Dial, protocols: tuple[str, ...]) -> None:
    plain, batch = await dial(calm, protocols=protocols), await dial(calm, protocols=protocols, batch=True)
    for ws in (plain, batch):
        room = f"room:arrays-{len(protocols)}-{ws is batch}"
        await ws.send([{"type": "publish", "id": str(number), "stream": room, "data": number} for number in range(200)])
        await ws.answer("199")
        await ws.ask("subscribe", "s", stream=room, cursor="0")
        await ws.until(lambda ws=ws, room=room: len(ws.events(room)) == 200)
        assert ws.seqs(room) == list(range(1, 201))
        assert data(ws.events(room)) == list(range(200))
    assert plain.arrays == 0
    assert batch.arrays > 0


# Commands


async def test_a_command_that_is_sent_again_takes_effect_once_and_gets_the_same_answer(calm: Served, dial: Dial) -> None:
    ws = await dial(calm)
    for again in range(3):
        reply = await ws.ask("publish", "p", stream="room:once", data={"a": 1, "b": 2})
        assert reply["data"] == {"stream": "room:once", "seq": 1}, again
    ids = {(await ws.ask("job.submit", "j", job="echo", input={"text": "a"}))["data"]["job_id"] for _ in range(3)}
    assert len(ids) == 1
    for body in ({"type": "publish", "stream": "room:once", "data": 2}, {"type": "job.submit", "job": "echo", "input": {"text": "a"}}):
        await ws.send({"id": "p", **body})
        assert (await ws.answer("p"))["code"] == "conflict"
    await ws.send({"type": "job.cancel", "id": "j", "job_id": ids.pop()})
    assert (await ws.answer("j"))["code"] == "conflict"


async def test_one_id_many_times_at_once_is_one_command(calm: Served, dial: Dial) -> None:
    ws = await dial(calm)
    frame = {"type": "job.submit", "id": "many", "job": "echo", "input": {"text": "a"}}
    await ws.send(*[frame] * 10, [frame] * 10)
    answers = [(await ws.answer("many"))["data"] for _ in range(20)]
    assert answers == answers[:1] * 20
    assert answers[0]["duplicate"] is False


async def test_one_id_on_the_next_connection_is_the_same_command_and_in_another_session_another_one(calm: Served, dial: Dial) -> None:
    first = await dial(calm, "olga")
    frame = {"type": "job.submit", "id": "again", "job": "echo", "input": {"text": "a"}}
    await first.send(frame)
    second = await dial(calm, "olga", web=1, session=first.session)  # whether the first one got through or not
    await second.send(frame)
    reply = (await second.answer("again"))["data"]
    with contextlib.suppress(TimeoutError, Ended):
        assert (await first.answer("again", 0.1))["data"] == reply
    created = await second.until(lambda: [one for one in second.events(second.own) if one["type"] == "job.created"])
    assert [one["data"] for one in created] == [{"job_id": reply["job_id"], "job": "echo", "request_id": "again"}]
    other = await dial(calm, "olga")
    await other.send(frame)
    assert (await other.answer("again"))["data"]["job_id"] != reply["job_id"]


async def test_an_idempotency_key_is_the_subject_s_over_websocket_and_http(calm: Served, dial: Dial) -> None:
    first, second, stranger = await dial(calm, "kai"), await dial(calm, "kai", web=1), await dial(calm, "stranger")
    one = (await first.ask("job.submit", "1", job="echo", input={"text": "a"}, options={"idempotency_key": "K"}))["data"]
    two = (await second.ask("job.submit", "2", job="echo", input={"text": "a"}, options={"idempotency_key": "K"}))["data"]
    assert (one["duplicate"], two["duplicate"]) == (False, True)
    assert one["job_id"] == two["job_id"]
    other = await stranger.ask("job.submit", "3", job="echo", input={"text": "a"}, options={"idempotency_key": "K"})
    assert other["data"]["job_id"] != one["job_id"]
    assert (await second.ask("job.submit", "4", job="echo", input={"text": "b"}, options={"idempotency_key": "K"}))["code"] == "conflict"
    async with calm.http("kai") as http:
        answer = await http.post("/v1/jobs", json={"job": "echo", "input": {"text": "a"}}, headers={"Idempotency-Key": "K"})
        assert (answer.status_code, answer.json()["job_id"]) == (200, one["job_id"])
    for ws, id in ((first, "5"), (second, "6")):
        reply = await ws.ask("publish", id, stream="room:keyed", data=1, idempotency_key="P")
        assert reply["data"] == {"stream": "room:keyed", "seq": 1}


async def test_an_id_whose_key_was_known_is_remembered_too(calm: Served, dial: Dial) -> None:
    ws = await dial(calm)
    for id in ("1", "2"):
        await ws.ask("publish", id, stream="room:keyed2", data=1, idempotency_key="P2")
    assert (await ws.ask("publish", "2", stream="room:keyed2", data=2))["code"] == "conflict"


async def test_an_application_s_event_reaches_its_handler_once(calm: Served, dial: Dial) -> None:
    ws, reader = await dial(calm, "nora"), await dial(calm, "rita", web=1)
    await reader.ask("subscribe", "s", stream="room:notes")
    for _ in range(2):
        assert (await ws.ask("note", "n", data={"text": "hi"}))["data"] == {"seq": 1, "subject": "nora"}
    assert (await ws.ask("note", "n", data={"text": "other"}))["code"] == "conflict"
    await ws.send({"type": "note", "data": {"text": "without an id"}})
    assert (await ws.ask("publish", "p", stream="room:notes", event="note", data={"text": "published"}))["type"] == "reply"
    await reader.until(lambda: len(reader.events("room:notes")) == 3)
    seen = {(one["type"], one["data"]["text"]) for one in reader.events("room:notes")}
    assert seen == {("note", "hi"), ("note", "without an id"), ("note", "published")}
    assert all("id" in one for one in ws.frames if one["type"] in ("reply", "error"))


async def test_a_handler_that_breaks_is_an_internal_error_and_not_remembered(brisk: Served, dial: Dial) -> None:
    ws = await dial(brisk)
    for _ in range(2):
        error = await ws.ask("broken", "b")
        assert (error["code"], error["temporary"]) == ("internal", True)
        assert "as the test wants it" not in error["message"]
    assert (await ws.ask("broken", "b", data={}))["code"] == "internal"


async def test_each_frame_needs_its_scope(calm: Served, dial: Dial) -> None:
    ws = await dial(calm, "bare", "jobs:read")
    job = (await echo(await dial(calm, "bare"), "a")).partition(":")[2]
    assert (await ws.ask("job.submit", "1", job="echo", input={"text": "a"}))["code"] == "forbidden"
    assert (await ws.ask("job.cancel", "2", job_id=job))["code"] == "forbidden"
    assert (await ws.ask("publish", "3", stream="room:x", data=1))["code"] == "forbidden"
    assert (await ws.ask("subscribe", "4", stream="room:x"))["code"] == "forbidden"
    assert (await ws.ask("subscribe", "5", stream=f"job:{job}"))["type"] == "subscribed"
    more = await ws.ask("refresh", "6", token=token("bare", scope="streams:read"))
    assert abs(more["data"]["expires_at"] / 1000 - time.time() - 600) < 30
    assert (await ws.ask("subscribe", "7", stream="room:x"))["type"] == "subscribed"
    for id, text, code in (("8", token("other"), "forbidden"), ("9", "x", "unauthorized"), ("10", token("bare", -60), "token_expired")):
        assert (await ws.ask("refresh", id, token=text))["code"] == code


async def test_what_is_another_s_is_not_read_and_not_written(calm: Served, dial: Dial) -> None:
    mine, theirs = await dial(calm, "anna"), await dial(calm, "bert")
    job = await echo(theirs, "secret")
    for number, stream in enumerate(("user:bert", theirs.own, f"session:{'a' * 43}")):
        assert (await mine.ask("subscribe", f"s{number}", stream=stream, cursor="0"))["code"] == "forbidden"
        assert (await mine.ask("publish", f"p{number}", stream=stream, data=1))["code"] == "forbidden"
    assert (await mine.ask("subscribe", "job", stream=job, cursor="0"))["code"] == "not_found"
    assert (await mine.ask("subscribe", "none", stream="job:none", cursor="0"))["code"] == "not_found"
    for id, stream in (("wj", job), ("wn", "job:none")):
        assert (await mine.ask("publish", id, stream=stream, data=1))["code"] == "forbidden"
    second = await dial(calm, "anna", web=1)
    for id, stream in (("own", mine.own), ("user", "user:anna")):
        assert (await second.ask("publish", id, stream=stream, data=id))["type"] == "reply"
        assert (await mine.wait("message", stream=stream))["data"] == {"from": "anna", "data": id}
    assert (await mine.ask("unsubscribe", "u", stream=mine.own))["code"] == "forbidden"


# Streams


async def test_a_room_reaches_all_who_follow_it_on_every_server_in_order(calm: Served, dial: Dial) -> None:
    people = [await dial(calm, name, web=web) for name, web in (("ann", 0), ("ben", 1), ("cy", 0))]
    for ws in people:
        assert (await ws.ask("subscribe", "s", stream="room:all"))["recovered"] is True
    for number in range(30):
        await people[number % 3].send({"type": "publish", "id": f"p{number}", "stream": "room:all", "data": number})
    for ws in people:
        await ws.until(lambda ws=ws: len(ws.events("room:all")) == 30)
        assert ws.seqs("room:all") == list(range(1, 31))
        assert {one["data"]["from"] for one in ws.events("room:all")} == {"ann", "ben", "cy"}
        assert all(abs(one["ts"] / 1000 - time.time()) < 60 for one in ws.events("room:all"))
    assert data(people[0].events("room:all")) == data(people[1].events("room:all"))


async def test_a_subscription_begins_where_its_cursor_says(calm: Served, dial: Dial) -> None:
    ws, room = await dial(calm), "room:cursors"
    for number in range(5):
        await ws.ask("publish", f"p{number}", stream=room, data=number)
    now = await ws.ask("subscribe", "now", stream=room)
    assert (now["stream"], now["seq"], now["recovered"]) == (room, 5, True)
    await ws.ask("publish", "p5", stream=room, data=5)
    await ws.until(lambda: ws.events(room))
    assert ws.seqs(room) == [6]
    for cursor, first in (("0", 1), (f"{now['epoch']}:0", 1), (f"{now['epoch']}:4", 5), (f"{now['epoch']}:6", 7)):
        before = len(ws.frames)
        told = await ws.ask("subscribe", cursor, stream=room, cursor=cursor)  # it is followed already: replays after the cursor
        assert (told["seq"], told["recovered"]) == (6, True)
        await ws.until(lambda before=before, first=first: len([1 for one in ws.frames[before:] if "ts" in one]) == 7 - first)
        assert [one["seq"] for one in ws.frames[before:] if "ts" in one] == list(range(first, 7))
    assert (await ws.ask("subscribe", "again", stream=room))["type"] == "subscribed"
    assert (await ws.ask("unsubscribe", "u", stream=room))["type"] == "reply"
    before = len(ws.frames)
    await ws.ask("publish", "p6", stream=room, data=6)
    await ws.ask("publish", "own", stream=ws.own, data="after it")
    await ws.wait("message", stream=ws.own)
    assert [one for one in ws.frames[before:] if one.get("stream") == room] == []


@pytest.mark.parametrize("cursor", ["above", "foreign"])
async def test_a_cursor_that_this_log_does_not_have_is_answered_with_a_gap(calm: Served, dial: Dial, cursor: str) -> None:
    ws, room = await dial(calm, "gina"), f"room:gap-{cursor}"
    for number in range(3):
        await ws.ask("publish", f"p{number}", stream=room, data=number)
    epoch = (await ws.ask("subscribe", "s", stream=room))["epoch"]
    asked = f"{epoch}:4" if cursor == "above" else "deadbeef:2"
    told = await ws.ask("subscribe", "s2", stream=room, cursor=asked)
    assert told["recovered"] is False
    for _ in range(2):
        gap = await ws.wait("gap")
        assert {"stream": room, "epoch": epoch, "reason": "epoch_changed"}.items() <= gap.items()
        assert "from" not in gap
        await ws.until(lambda ws=ws: len(ws.events(room)) == 3)
        assert ws.seqs(room) == [1, 2, 3]
        ws = await dial(calm, "gina", session=ws.session, cursors={room: asked})
        assert ws.hello["streams"][room] == {"epoch": epoch, "seq": 3, "recovered": False}


async def test_acknowledgements_count_as_the_page_says(calm: Served, dial: Dial) -> None:
    ws, room = await dial(calm, "acker"), "room:acks"
    epoch = (await ws.ask("subscribe", "s", stream=room, cursor="0"))["epoch"]
    for number in range(5):
        await ws.ask("publish", f"p{number}", stream=room, data=number)
    await ws.until(lambda: len(ws.events(room)) == 5)
    await ws.send({"type": "ack", "cursors": {room: 3}})
    for ignored in ({room: 2}, {room: "deadbeef:5"}, {"room:never": 7}, {"job:never": 7}, {room: f"{epoch}:1"}, {}):
        await ws.send({"type": "ack", "cursors": ignored})
    await ws.settle()
    assert ws.codes() == []
    await ws.send({"type": "ack", "cursors": {room: 6}})
    assert (await ws.wait("error"))["code"] == "invalid_frame"
    await ws.send({"type": "ack", "cursors": {"room:never": 1, room: f"{epoch}:4"}})
    await ws.settle()
    await leave(ws)
    again = await dial(calm, "acker", web=1, session=ws.session)
    await again.until(lambda: again.events(room))
    assert again.seqs(room) == [5]


async def leave(ws: RawSocket) -> None:
    """Closes as a browser does, once what was acknowledged is certain to be stored: an unsubscribe stores all that waits."""
    assert (await ws.ask("unsubscribe", f"leave {time.monotonic()}", stream="room:never"))["type"] == "reply"
    assert await goodbye(ws) == 1000


async def goodbye(ws: RawSocket) -> int | None:
    await ws.write(wire(CLOSE, (1000).to_bytes(2, "big")))
    return await ws.end()


# Sessions


async def test_a_session_alone_brings_back_what_was_not_acknowledged(calm: Served, dial: Dial) -> None:
    ws = await dial(calm, "sue")
    await ws.ask("subscribe", "s", stream="room:back", cursor="0")
    job = await echo(ws, "a b c")
    for number in range(3):
        await ws.ask("publish", f"p{number}", stream="room:back", data=number)
    last = await ws.final(job)
    await ws.until(lambda: len(ws.events("room:back")) == 3)
    await ws.send({"type": "ack", "cursors": {"room:back": 2, job: 2}})
    await leave(ws)
    again = await dial(calm, "sue", web=1, session=ws.session)
    assert (again.hello["resumed"], again.session) == (True, ws.session)
    assert set(again.hello["streams"]) == {ws.own, "user:sue", "room:back", job}
    await again.final(job)
    await again.until(lambda: again.events("room:back"))
    assert again.seqs(job) == list(range(3, last["seq"] + 1))
    assert again.seqs("room:back") == [3]
    cursors = {name: f"{at['epoch']}:0" for name, at in again.hello["streams"].items()}
    third = await dial(calm, "sue", session=ws.session, cursors=cursors)
    await third.final(job)
    await third.until(lambda: len(third.events("room:back")) == 3)
    assert third.seqs(job) == list(range(1, last["seq"] + 1))
    assert third.seqs("room:back") == [1, 2, 3]


async def announced(ws: RawSocket, job: str) -> None:
    await ws.until(lambda: any(job == f"job:{one['data'].get('job_id')}" for one in ws.events(ws.own)))


@pytest.mark.parametrize("acknowledged", ["the job alone", "its announcement as well", "both, and asked for again"])
async def test_a_job_whose_end_was_acknowledged_is_not_replayed_again(calm: Served, dial: Dial, acknowledged: str) -> None:
    ws = await dial(calm, "dora")
    job = await echo(ws, "a b c")
    last = (await ws.final(job))["seq"]
    await ws.until(lambda: ws.events(ws.own))
    await ws.send({"type": "ack", "cursors": {job: last}})
    if acknowledged != "the job alone":
        await ws.send({"type": "ack", "cursors": {ws.own: 1}})
    await leave(ws)
    cursors = {ws.own: f"{ws.hello['streams'][ws.own]['epoch']}:0"} if acknowledged.endswith("again") else {}
    for _ in range(2):
        again = await dial(calm, "dora", web=1, session=ws.session, cursors=cursors)
        assert set(again.hello["streams"]) == {ws.own, "user:dora"}
        # Whatever the announcement would have caused comes before what the next job causes, in two streams without an order.
        following = await echo(again, "d", id=os.urandom(4).hex())
        await again.final(following)
        await announced(again, following)
        assert ("job.created" in {one["type"] for one in again.events(ws.own) if one["seq"] == 1}) == (
            acknowledged != "its announcement as well"
        )
        assert [one for one in again.frames if one.get("stream") == job] == []
        await again.send({"type": "ack", "cursors": {one["stream"]: one["seq"] for one in again.frames if one.get("final")}})
        await leave(again)


async def test_a_session_of_another_subject_is_closed_with_4501_and_an_unknown_one_is_a_new_one(calm: Served, dial: Dial) -> None:
    mine = await dial(calm, "owner")
    thief = await dial(calm, connect=False)
    await thief.send({"type": "connect", "token": token("thief"), "session": mine.session})
    assert await thief.end() == 4501
    assert thief.codes() == ["forbidden"]
    await mine.settle()
    for unknown in ("x" * 43, "x", ""):
        hello = (await dial(calm, "owner", session=unknown, cursors={"room:a": "abc:5"})).hello
        assert hello["resumed"] is False
        assert hello["session"] not in (unknown, mine.session)
        assert set(hello["streams"]) == {f"session:{hello['session']}", "user:owner"}


async def test_a_new_device_gets_what_came_while_nobody_was_there(calm: Served, dial: Dial) -> None:
    sender, first = await dial(calm, "boss", "admin"), await dial(calm, "away")
    for number in range(4):
        await sender.ask("publish", f"p{number}", stream="user:away", data=number)
    await first.until(lambda: len(first.events("user:away")) == 4)
    await first.send({"type": "ack", "cursors": {"user:away": 3}})
    await leave(first)
    device = await dial(calm, "away", web=1)
    await device.until(lambda: device.events("user:away"))
    assert device.seqs("user:away") == [4]


async def test_the_newest_connection_of_a_session_takes_it_over(calm: Served, dial: Dial) -> None:
    first = await dial(calm, "twin")
    second = await dial(calm, "twin", web=1, session=first.session)
    assert await first.end() == 4003
    third = await dial(calm, "twin", web=1, session=first.session)
    assert await second.end() == 4003
    await third.settle()


async def test_an_old_connection_can_neither_acknowledge_nor_submit(calm: Served, dial: Dial) -> None:
    """What it sent reaches its server only after the session was resumed elsewhere."""
    old, room = await dial(calm, "ghost"), "room:ghost"
    await old.ask("subscribe", "s", stream=room, cursor="0")
    for number in range(3):
        await old.ask("publish", f"p{number}", stream=room, data=number)
    await old.until(lambda: len(old.events(room)) == 3)
    calm.webs[0].freeze()
    try:
        await old.send({"type": "ack", "cursors": {room: 3}})
        await old.send({"type": "job.submit", "id": "late", "job": "echo", "input": {"text": "a"}})
        await old.send({"type": "publish", "id": "late too", "stream": room, "data": "late"})
        new = await dial(calm, "ghost", web=1, session=old.session)
    finally:
        calm.webs[0].thaw()
    assert await old.end() == 4003
    assert old.codes() == []
    assert [one for one in old.frames if str(one.get("id")).startswith("late")] == []
    await new.until(lambda: len(new.events(room)) == 3)
    await leave(new)
    last = await dial(calm, "ghost", session=old.session)
    await last.ask("publish", "p9", stream=room, data=9)
    await last.until(lambda: len(last.events(room)) == 4)
    assert data(last.events(room)) == [0, 1, 2, 9]
    assert last.events(last.own) == []


# Jobs


async def test_a_job_s_events_are_as_the_page_says(calm: Served, dial: Dial) -> None:
    ws = await dial(calm, "joe")
    answer = await ws.ask("job.submit", "mine", job="echo", input={"text": "a b c"})
    job_id, job = answer["data"]["job_id"], answer["data"]["stream"]
    assert answer["data"] == {"job_id": job_id, "stream": f"job:{job_id}", "duplicate": False}
    told = await ws.wait("subscribed", stream=job)
    assert "id" not in told
    final = await ws.final(job)
    assert [one["seq"] for one in ws.events(job)] == list(range(1, final["seq"] + 1))
    types = [one["type"] for one in ws.events(job)]
    assert types[:2] == ["job.queued", "job.started"]
    assert set(types[2:-1]) == {"job.delta"}
    assert final["type"] == "job.completed"
    assert final["data"]["result"] == {"text": "a b c"}
    assert "".join(one["data"]["text"] for one in ws.events(job) if one["type"] == "job.delta") == "a b c"
    assert {one.get("attempt") for one in ws.events(job)[1:]} == {1}
    assert [one["data"] for one in ws.events(ws.own)] == [{"job_id": job_id, "job": "echo", "request_id": "mine"}]


@pytest.mark.parametrize("stream", ["room:jobs", "user:rob"])
async def test_a_job_that_is_sent_to_others_is_followed_by_them(calm: Served, dial: Dial, stream: str) -> None:
    """A room's members are of other subjects; a user's sessions are on other servers."""
    submitter = await dial(calm, "sam")
    others = [await dial(calm, "rob", web=web) for web in (0, 1)]
    if stream.startswith("room:"):
        for ws in others:
            await ws.ask("subscribe", "s", stream=stream)
    job = await echo(submitter, "a b c", options={"stream": stream})
    for ws in (submitter, *others):
        final = await ws.final(job)
        assert ws.seqs(job) == list(range(1, final["seq"] + 1))
    for ws in others:
        created = [one for one in ws.events(stream) if one["type"] == "job.created"]
        assert [one["data"]["job_id"] for one in created] == [job.partition(":")[2]]
        assert "id" not in await ws.wait("subscribed", stream=job)
    # Also on a resume, from the session alone.
    await leave(others[0])
    again = await dial(calm, "rob", web=1, session=others[0].session)
    await again.final(job)


async def test_a_job_is_announced_over_http_to_the_stream_that_is_named(calm: Served, dial: Dial) -> None:
    ws = await dial(calm, "hal", web=1)
    async with calm.http("hal") as http:
        answer = await http.post("/v1/jobs", json={"job": "echo", "input": {"text": "a b"}, "stream": ws.own})
    await ws.final(answer.json()["stream"])
    assert [one["data"]["job_id"] for one in ws.events(ws.own)] == [answer.json()["job_id"]]


async def test_reporting_to_what_is_not_one_s_own_needs_the_right_to_publish(calm: Served, dial: Dial) -> None:
    ws = await dial(calm, "meek", "jobs:write", "jobs:read")
    for number, stream in enumerate(("room:x", "user:bert", f"session:{'a' * 43}")):
        answer = await ws.ask("job.submit", f"j{number}", job="echo", input={"text": "a"}, options={"stream": stream})
        assert answer["code"] == "forbidden"
    for number, stream in enumerate(("user:meek", ws.own)):
        await ws.final(await echo(ws, "a", id=f"k{number}", options={"stream": stream}))
    assert [one["type"] for one in ws.events(ws.own)] == ["job.created", "job.created"]


async def test_a_job_s_options_count(calm: Served, dial: Dial) -> None:
    ws = await dial(calm, "opal")
    late = await echo(ws, "late", id="late", options={"delay_s": 0.7, "priority": "default"})
    timed = await ws.ask("job.submit", "timed", job="hold", input={}, options={"timeout_s": 0.5})
    soon = await echo(ws, "soon", id="soon", options={"delay_s": 0})
    await ws.final(soon)
    assert (await ws.final(late))["type"] == "job.completed"
    started = next(one for one in ws.events(late) if one["type"] == "job.started")
    assert started["ts"] - ws.events(late)[0]["ts"] >= 690
    failed = await ws.final(timed["data"]["stream"])
    assert (failed["type"], failed["data"]["error"]["code"]) == ("job.failed", "timeout")


async def test_a_job_is_cancelled_by_its_subject_from_any_session_and_by_nobody_else(calm: Served, dial: Dial) -> None:
    ws, other, stranger = await dial(calm, "cora"), await dial(calm, "cora", web=1), await dial(calm, "stranger")
    answer = (await ws.ask("job.submit", "j", job="hold", input={}))["data"]
    job_id, job = answer["job_id"], answer["stream"]
    await ws.until(lambda: any(one["type"] == "job.delta" for one in ws.events(job)))
    assert (await stranger.ask("job.cancel", "c", job_id=job_id))["code"] == "not_found"
    assert (await stranger.ask("job.cancel", "d", job_id="none"))["code"] == "not_found"
    told = await other.ask("job.cancel", "c", job_id=job_id)
    assert told["data"]["job_id"] == job_id
    assert told["data"]["status"] in ("running", "cancelled")
    final = await ws.final(job)
    assert (final["type"], final["data"]) == ("job.cancelled", {"by": "cora"})
    assert (await other.ask("job.cancel", "c", job_id=job_id))["data"] == told["data"]  # the same command: the same answer
    assert (await ws.ask("job.cancel", "e", job_id=job_id))["data"] == {"job_id": job_id, "status": "cancelled"}
    waiting = (await ws.ask("job.submit", "w", job="echo", input={"text": "a"}, options={"delay_s": 60}))["data"]
    assert (await ws.ask("job.cancel", "f", job_id=waiting["job_id"]))["data"]["status"] == "cancelled"
    assert (await ws.final(waiting["stream"]))["type"] == "job.cancelled"
    done = await echo(ws, "a", id="done")
    await ws.final(done)
    refused = await ws.ask("job.cancel", "g", job_id=done.partition(":")[2])
    assert (refused["code"], refused["details"]["status"]) == ("conflict", "completed")


async def test_a_member_of_a_room_may_read_its_jobs_but_not_cancel_them(calm: Served, dial: Dial) -> None:
    ws, member, stranger = await dial(calm, "host"), await dial(calm, "guest"), await dial(calm, "deaf", "jobs:read", "jobs:write")
    answer = (await ws.ask("job.submit", "j", job="hold", input={}, options={"stream": "room:shared"}))["data"]
    assert (await member.ask("subscribe", "s", stream=answer["stream"], cursor="0"))["type"] == "subscribed"
    assert (await member.ask("job.cancel", "c", job_id=answer["job_id"]))["code"] == "forbidden"
    assert (await stranger.ask("subscribe", "s", stream=answer["stream"], cursor="0"))["code"] == "not_found"
    assert (await ws.ask("job.cancel", "c", job_id=answer["job_id"]))["type"] == "reply"
    assert (await member.final(answer["stream"]))["type"] == "job.cancelled"


# Time, size and loss: small settings


async def test_a_connection_that_never_says_connect_is_closed_with_4506(brisk: Served, dial: Dial) -> None:
    quiet, noisy = await dial(brisk, connect=False), await dial(brisk, connect=False)
    await noisy.text("{}")
    assert (await noisy.end(2), await quiet.end(2)) == (4506, 4506)


async def test_pings_come_with_what_moved_and_silence_is_closed_with_4001(brisk: Served, dial: Dial) -> None:
    ws = await dial(brisk, "pip")
    await ws.ask("subscribe", "s", stream="room:pings")
    await ws.ask("publish", "p", stream="room:pings", data=1)
    assert (await ws.wait("ping"))["positions"] == {"room:pings": 1}
    assert "positions" not in await ws.wait("ping")
    ws.answers = False
    began = time.monotonic()
    assert await ws.end(3) == 4001
    assert 0.5 < time.monotonic() - began < 2


async def test_a_half_open_connection_is_given_up(brisk: Served, dial: Dial) -> None:
    """The peer is gone without a word, as a phone in a tunnel: nothing is read and nothing is sent any more."""
    ws = await dial(brisk, "tunnel")
    job = await echo(ws, "a b c")
    await ws.final(job)
    async with brisk.http("tunnel") as http:
        known = metric((await http.get("/metrics")).text, 'rt_disconnects_total{code="4001"}')
        await until_metric(http, 'rt_disconnects_total{code="4001"}', known + 1, 4)
    again = await dial(brisk, "tunnel", session=ws.session)
    assert again.hello["resumed"] is True
    await again.final(job)


async def until_metric(http: Any, name: str, least: float, limit_s: float = 10) -> None:
    async with asyncio.timeout(limit_s):
        while metric((await http.get("/metrics")).text, name) < least:
            await asyncio.sleep(0.05)


def metric(text: str, name: str) -> float:
    return next((float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name)), 0.0)


async def test_a_token_s_end_is_announced_and_kept(brisk: Served, dial: Dial) -> None:
    ws = await dial(brisk, token=token("exp", -8))  # within the leeway, for a second or two
    assert await ws.end(4) == 4004
    assert ws.codes() == ["token_expired"]
    fresh = await dial(brisk, token=token("exp", 30))
    assert 25 <= (await fresh.wait("token_expiring"))["expires_in_s"] <= 30
    saved = await dial(brisk, token=token("exp", -8))
    assert (await saved.ask("refresh", "r", token=token("exp", 600)))["type"] == "reply"
    for _ in range(6):  # beyond the end of the first token
        await saved.wait("ping")
    assert saved.closed is None


async def test_what_was_trimmed_is_said(brisk: Served, dial: Dial) -> None:
    ws = await dial(brisk, "trim")
    answer = (await ws.ask("job.submit", "j", job="flood", input={"events": 700, "size": 10}))["data"]
    job = answer["stream"]
    last = (await ws.final(job))["seq"]
    before = len(ws.frames)
    ws.unread.clear()  # the log may have been trimmed while it was followed
    told = await ws.ask("subscribe", "s", stream=job, cursor="0")
    gap = await ws.wait("gap", stream=job)
    assert (told["recovered"], told["seq"]) == (False, last)
    assert (gap["reason"], gap["from"], gap["epoch"]) == ("trimmed", 1, told["epoch"])
    assert 1 <= gap["to"] <= last - 100
    assert (gap["snapshot"]["seq"], gap["snapshot"]["data"]["status"]) == (gap["to"], "completed")
    await ws.until(lambda: any(one.get("final") for one in ws.frames[before:]))
    assert [one["seq"] for one in ws.frames[before:] if "ts" in one] == list(range(gap["to"] + 1, last + 1))
    await leave(ws)
    again = await dial(brisk, "trim", session=ws.session, cursors={job: f"{told['epoch']}:5"})
    assert again.hello["streams"][job]["recovered"] is False
    gap = await again.wait("gap", stream=job)
    assert (gap["reason"], gap["from"]) == ("trimmed", 6)
    assert gap["snapshot"]["seq"] == gap["to"]
    await again.final(job)
    assert again.seqs(job) == list(range(gap["to"] + 1, last + 1))


async def test_a_client_that_stops_reading_is_closed_with_4002_and_resumes_with_everything(brisk: Served, dial: Dial) -> None:
    # Heartbeats of their own: one that does not read does not answer pings either, and is not to be closed for that first.
    patient = brisk.web(RT_HEARTBEAT_S="20")
    patient.wait_ready()
    pid = patient.popen.pid
    slow, sender = await dial(brisk, "slow", web=-1, receive_buffer=4096), await dial(brisk, "sender", web=-1)
    epoch = (await slow.ask("subscribe", "s", stream="room:slow"))["epoch"]
    async with brisk.http("slow", web=-1) as http:
        small = rss_mib(pid)
        for number in range(90):
            reply = await sender.ask("publish", f"p{number}", stream="room:slow", data="x" * 200_000)
            assert reply["data"]["seq"] == number + 1
        await until_metric(http, 'rt_disconnects_total{code="4002"}', 1, 20)
    assert rss_mib(pid) - small < 30
    again = await dial(brisk, "slow", session=slow.session, cursors={"room:slow": f"{epoch}:0"})
    await again.until(lambda: again.seqs("room:slow")[-1:] == [90], 20)
    assert again.seqs("room:slow") == list(range(1, 91))
    brisk.ports.pop()
    brisk.webs.pop().end()


def rss_mib(pid: int) -> float:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


async def test_a_full_server_answers_503_with_retry_after(brisk: Served, dial: Dial) -> None:
    brisk.web(RT_MAX_CONNECTIONS="2", RT_HEARTBEAT_S="20").wait_ready()
    one, _ = await dial(brisk, web=-1), await dial(brisk, web=-1)
    full = await dial(brisk, web=-1, connect=False)
    assert (full.status, int(full.headers["retry-after"]) > 0) == (503, True)
    await goodbye(one)
    async with asyncio.timeout(5):
        while (await dial(brisk, web=-1, connect=False)).status != 101:
            await asyncio.sleep(0.02)
    brisk.ports.pop()
    brisk.webs.pop().end()


async def test_a_server_that_is_stopped_tells_its_clients_when_to_come_back(brisk: Served, dial: Dial) -> None:
    leaving = brisk.web(RT_HEARTBEAT_S="20")
    leaving.wait_ready()
    ws, polite, silent = await dial(brisk, "dee", web=-1), await dial(brisk, "dee", web=-1), await dial(brisk, web=-1, connect=False)
    job = await echo(ws, "a b c")
    await ws.until(lambda: ws.events(job))
    leaving.popen.terminate()
    for one in (ws, polite):
        told = await one.wait("reconnect")
        assert isinstance(told["delay_ms"], int)
        assert told["reason"]
    await goodbye(polite)  # it may leave at once
    assert await silent.end() == 1012
    assert await ws.end() == 4000
    assert await asyncio.to_thread(leaving.popen.wait, 10) == 0
    brisk.ports.pop()
    brisk.webs.pop().end()
    again = await dial(brisk, "dee", session=ws.session)
    assert again.hello["resumed"] is True
    await again.final(job)
    assert again.seqs(job) == list(range(1, again.seqs(job)[-1] + 1))


@pytest.fixture
async def broken(brisk: Served) -> AsyncIterator[aioredis.Redis]:
    """The store, for a test that takes something out of it behind everybody's back."""
    client = aioredis.Redis.from_url(brisk.redis.url)
    yield client
    await client.aclose()


async def test_a_log_that_vanished_under_a_living_connection_is_said(brisk: Served, dial: Dial, broken: aioredis.Redis) -> None:
    ws, room = await dial(brisk, "lost"), "room:lost"
    old = (await ws.ask("subscribe", "s", stream=room))["epoch"]
    for number in range(3):
        await ws.ask("publish", f"p{number}", stream=room, data=number)
    await ws.until(lambda: len(ws.events(room)) == 3)
    await broken.delete(f"rt:-:{{{room}}}:log", f"rt:-:{{{room}}}:meta")
    await ws.ask("publish", "after", stream=room, data="after")
    told, gap = await ws.wait("subscribed", stream=room), await ws.wait("gap", stream=room)
    assert (told["recovered"], told["epoch"]) == (False, gap["epoch"])
    assert gap["epoch"] != old
    assert gap["reason"] == "epoch_changed"
    await ws.until(lambda: len(ws.events(room)) == 4)
    assert (ws.seqs(room)[-1], data(ws.events(room))[-1]) == (1, "after")
    # The log alone is gone: what this client has it has, and others are told what they cannot have.
    await broken.delete(f"rt:-:{{{room}}}:log")
    await ws.ask("publish", "more", stream=room, data="more")
    await ws.until(lambda: len(ws.events(room)) == 5)
    late = await dial(brisk, "late")
    assert (await late.ask("subscribe", "s", stream=room, cursor="0"))["recovered"] is False
    gap = await late.wait("gap")
    assert (gap["reason"], gap["from"], gap["to"]) == ("expired", 1, 1)


async def test_a_running_job_s_log_that_vanished_is_said_within_5_s(brisk: Served, dial: Dial, broken: aioredis.Redis) -> None:
    ws = await dial(brisk, "lost")
    job = (await ws.ask("job.submit", "j", job="hold", input={}))["data"]["stream"]
    await ws.until(lambda: len(ws.events(job)) == 3)
    await broken.delete(f"rt:-:{{{job}}}:log", f"rt:-:{{{job}}}:meta")
    assert (await ws.wait("gap", stream=job, limit_s=5))["reason"] == "epoch_changed"


async def test_a_redis_that_lost_everything_costs_a_living_connection_nothing_but_a_gap(
    brisk: Served, dial: Dial, broken: aioredis.Redis
) -> None:
    ws, room = await dial(brisk, "phoenix"), "room:ashes"
    await ws.ask("subscribe", "s", stream=room)
    await ws.ask("publish", "p", stream=room, data="before")
    await ws.until(lambda: ws.events(room))
    await broken.flushall()
    assert (await ws.ask("publish", "q", stream=room, data="after"))["data"]["seq"] == 1
    assert (await ws.wait("gap", stream=room, limit_s=5))["reason"] == "epoch_changed"
    await ws.until(lambda: len(ws.events(room)) == 2)
    await ws.send({"type": "ack", "cursors": {room: 1}})
    await ws.final(await echo(ws, "a b"))
    await leave(ws)
    again = await dial(brisk, "phoenix", session=ws.session)
    assert again.hello["resumed"] is True
    assert room in again.hello["streams"]
    await again.ask("publish", "r", stream=room, data="later")
    await again.until(lambda: again.events(room))
    assert data(again.events(room)) == ["later"]


async def test_a_session_that_was_lost_is_still_taken_over(brisk: Served, dial: Dial, broken: aioredis.Redis) -> None:
    ws = await dial(brisk, "phoenix")
    await broken.flushall()
    await ws.ask("publish", "p", stream="room:ashes", data=1)  # the session is known again
    again = await dial(brisk, "phoenix", session=ws.session)
    assert again.hello["resumed"] is True
    assert await ws.end() == 4003
