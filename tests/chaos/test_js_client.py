"""rt.js on real servers, as `test_python_client` has it: what breaks under it; and Server-Sent Events instead of a WebSocket."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from tests.chaos.proxy import Proxy
from tests.chaos.stack import Stack
from tests.chaos.test_main_job import words
from tests.clients.javascript import STATIC, Node, Threw, needs_node
from tests.helpers import eventually

pytestmark = needs_node

#: What every test has: a client that is quick to come back, and readers that notice what is lost or repeated.
WORLD = """
at.states = [];
at.open = (given, over) => connect(given.url, {
  token: given.token, WebSocket, store: new MemoryStore(), config: { backoff_s: 0.05, backoff_cap_s: 0.2, ack_every_s: 0.2 },
  on_state: ({ state }) => at.states.push(state), ...over,
});
at.whole = async (job) => {
  const seqs = [];
  for await (const item of job) seqs.push(item.type === "gap" ? item : item.seq);
  return [seqs, await job.text()];
};
"""


@pytest.fixture
async def js() -> AsyncIterator[Node]:
    async with Node.running() as node:
        await node(WORLD)
        yield node


def given(stack: Stack, subject: str = "alice", web: int = 0) -> dict[str, Any]:
    return {"url": f"http://127.0.0.1:{stack.ports[web]}", "token": stack.token(subject)}


def check(read: tuple[list[int], str], text: str) -> None:
    seqs, said = read
    assert seqs == list(range(1, len(seqs) + 1))
    assert said == text


@pytest.mark.parametrize("transport", ["ws", "sse"])
async def test_jobs_rooms_and_refusals(transport: str, shared: Stack, js: Node) -> None:
    text, room = words(30), f"room:js-{transport}"
    told = await js(
        """
        const { text, room } = given;
        const rt = at.rt = await at.open(given, { transport: given.transport });
        const bob = await at.open({ ...given, token: given.bob });
        const name = (promise) => promise.then(() => "none", ({ name, code, message, details }) => ({ name, code, message, details }));
        const told = { subject: rt.subject, transport: rt.transport };
        told.text = await rt.submit("echo", { text }).text();
        told.pieces = [];
        for await (const piece of rt.submit("echo", { text, delay_ms: 2 }).text()) told.pieces.push([String(piece), piece.start]);
        told.label = (await rt.submit("sentiment", { text: "I love it" }).result()).label;
        const lobby = await rt.subscribe(room).ready();
        told.seqs = [];
        for (const n of [1, 1, 2]) told.seqs.push(await bob.publish(room, { n }, { idempotency_key: room + n }));
        told.seqs.push(await rt.publish(room, { n: 3 }));
        told.came = [];
        for (const _ of "123") told.came.push((await lobby.next()).value);
        const running = rt.submit("echo", { text, delay_ms: 200 });
        await running.next();
        told.status = await running.cancel();
        told.cancelled = await name(running.result());
        told.nothing = await name(rt.submit("nothing").result());
        told.wrong = await name(rt.submit("echo", { text: 7, delay_ms: "x" }).accepted());
        told.theirs = await name(rt.subscribe("user:bob").next());
        const mine = await rt.subscribe(rt.user_stream).ready();
        await rt.publish(rt.user_stream, "to me");
        told.mine = (await mine.next()).value.data.data;
        told.call = await name(rt.call("app.event"));
        told.state = rt.state;
        await Promise.all([rt.close(), bob.close()]);
        return told;
        """,
        **given(shared),
        text=text,
        room=room,
        transport=transport,
        bob=shared.token("bob"),
    )
    assert (told["subject"], told["transport"], told["state"]) == ("alice", transport, "open")
    assert told["text"] == text
    assert "".join(piece for piece, _ in told["pieces"]) == text
    assert len(told["pieces"]) > 2
    assert [start for _, start in told["pieces"]] == [sum(len(one) for one, _ in told["pieces"][:n]) for n in range(len(told["pieces"]))]
    assert told["label"] == "positive"
    assert told["seqs"] == [1, 1, 2, 3]
    assert [(one["seq"], one["data"]["from"], one["data"]["data"]["n"]) for one in told["came"]] == [
        (1, "bob", 1),
        (2, "bob", 2),
        (3, "alice", 3),
    ]
    assert told["status"] in ("running", "cancelled", "queued")
    assert (told["cancelled"]["name"], told["cancelled"]["message"]) == ("JobCancelled", "cancelled by alice")
    assert (told["nothing"]["name"], told["nothing"]["code"]) == ("Refused", "unknown_job")
    assert {tuple(one["loc"]) for one in told["wrong"]["details"]} == {("input", "text"), ("input", "delay_ms")}
    assert (told["theirs"]["name"], told["theirs"]["code"]) == ("Refused", "forbidden")
    assert told["mine"] == "to me"
    assert (told["call"]["name"], told["call"]["code"]) == ("Refused", "unknown_type")
    assert shared.tracebacks() == []


@pytest.mark.parametrize("transport", ["ws", "sse"])
async def test_a_wrong_token_is_said_at_once(transport: str, shared: Stack, js: Node) -> None:
    with pytest.raises(Threw) as threw:
        await js("await at.open({ ...given, token: 'wrong' }, { transport: given.transport })", **given(shared), transport=transport)
    assert (threw.value.name, threw.value.error["code"]) == ("Stopped", 4500)


@pytest.mark.parametrize("transport", ["ws", "sse"])
async def test_cuts_of_the_network_lose_and_repeat_nothing(transport: str, shared: Stack, js: Node) -> None:
    async def one(number: int, proxy: Proxy) -> None:
        text = words(100, number)
        told = await js(
            """
            const { text, room } = given;
            const rt = await at.open(given, { transport: given.transport });
            const lobby = await rt.subscribe(room).ready();
            const jobs = [1, 2].map(() => rt.submit("echo", { text, delay_ms: 10 }));
            const reading = jobs.map(at.whole);
            const told = { seqs: [], came: [] };
            for (let n = 0; n < 20; n++) told.seqs.push(await rt.publish(room, { n }));
            told.read = await Promise.all(reading);
            for (let n = 0; n < 20; n++) told.came.push((await lobby.next()).value);
            await rt.close();
            return told;
            """,
            url=f"http://127.0.0.1:{proxy.port}",
            token=shared.token(f"js{number}"),
            text=text,
            room=f"room:js-cuts-{transport}-{number}",
            transport=transport,
        )
        assert told["seqs"] == list(range(1, 21))
        for read in told["read"]:
            check(read, text)
        assert [(item["seq"], item["data"]["data"]["n"]) for item in told["came"]] == [(n + 1, n) for n in range(20)]

    async with Proxy(shared.ports[0]) as proxy:
        async with asyncio.TaskGroup() as group:
            clients = [group.create_task(one(number, proxy)) for number in range(3)]
            cuts = 0
            while not all(task.done() for task in clients):
                await asyncio.sleep(0.15)
                cuts += proxy.cut()
                proxy.point(shared.ports[cuts % 2])
        assert cuts > 10
    assert shared.tracebacks() == []


async def test_a_killed_server_a_killed_worker_and_a_drain_cost_nothing(stack: Stack, js: Node, tmp_path: Path) -> None:
    """Two clients at once: over a WebSocket, and over Server-Sent Events."""
    stack.start(webs=1, workers=2)
    end = tmp_path / "end"

    async def state() -> list[str]:
        return await js("return at.both.map((rt) => rt.state)")  # type: ignore[no-any-return]

    async def are(wanted: str) -> None:
        async def so() -> bool:
            return set(await state()) == {wanted}

        await eventually(so)

    await js(
        """
        at.both = await Promise.all(["ws", "sse"].map((transport) => at.open(given, { transport })));
        at.jobs = at.both.map((rt) => rt.submit("count", { until: given.until, every_ms: 10 }));
        at.seen = at.jobs.map(() => []);
        at.reading = Promise.all(at.jobs.map(async (job, n) => {
          for await (const { seq, type } of job) at.seen[n].push([seq, type]);
          return [await job.text(), (await job.result()).count];
        }));
        at.reading.catch(() => {});
        while (at.seen.some((seen) => seen.length < 5)) await pause(5);
        """,
        **given(stack),
        until=str(end),
    )
    session = await js("return at.both[0].session")
    stack.webs[0].kill()

    async def none_open() -> bool:
        return "open" not in await state()

    await eventually(none_open)
    stack.web(stack.ports[0]).wait_ready()
    await are("open")
    assert await js("return at.both[0].session") == session
    for worker in stack.workers[:2]:
        worker.kill()
    stack.worker().wait_ready()
    await js("while (!at.seen.every((seen) => seen.some(([, type]) => type === 'job.restarted'))) await pause(5)")
    closing = asyncio.create_task(asyncio.to_thread(stack.webs[1].terminate))
    await eventually(none_open)
    assert await closing == 0
    stack.web(stack.ports[0]).wait_ready()
    await are("open")
    await asyncio.to_thread(end.touch)
    for text, count in await js("return await at.reading"):
        assert text == "".join(f"{n} " for n in range(count))
    for seen in await js("return at.seen"):
        assert [seq for seq, _ in seen] == list(range(1, len(seen) + 1))
    await js("await Promise.all(at.both.map((rt) => rt.close()))")
    assert stack.tracebacks() == []


async def test_a_token_expires_and_is_asked_for_again(shared: Stack, js: Node) -> None:
    with patch("rt.tokens.time.time", return_value=time.time() - 3611):  # leeway is 10 s
        expired = shared.token()
    for transport in ("ws", "sse"):
        told = await js(
            """
            const tokens = [given.expired, given.token];
            let asked = 0;
            const token = async () => tokens[asked++];
            const rt = await at.open(given, { transport: given.transport, token });
            const text = await rt.submit("echo", { text: "a b" }).text();
            await rt.close();
            return [text, asked];
            """,
            **given(shared),
            expired=expired,
            transport=transport,
        )
        assert told == ["a b", 2]


async def test_where_no_websocket_opens_events_come_all_the_same_and_a_websocket_is_taken_once_it_opens(shared: Stack, js: Node) -> None:
    told = await js(
        """
        const { EventSocket } = await import(given.sse);
        EventSocket.upgrade_ms = 100;
        let blocked = true;
        class Gated extends WebSocket {
          constructor(url) { super(blocked ? "ws://127.0.0.1:1" : url); }
        }
        const rt = await at.open(given, { WebSocket: Gated });
        const first = rt.transport;
        const job = rt.submit("echo", { text: given.text, delay_ms: 10 });
        while (!job.said && !(await job.next()).done);
        blocked = false;
        while (rt.transport !== "ws" || rt.state !== "open") await pause(5);
        const seqs = [];
        for await (const { seq } of job) seqs.push(seq);
        const text = await job.text();
        await rt.close();
        return { first, text, repeated: seqs.some((seq, n) => n && seq !== seqs[n - 1] + 1) };
        """,
        **given(shared),
        text=words(60),
        sse=(STATIC / "rt-sse.js").as_uri(),
    )
    assert told == {"first": "sse", "text": words(60), "repeated": False}


async def test_a_dead_network_is_noticed(shared: Stack, js: Node) -> None:
    """Nothing comes and nothing is reset: a page that is seen again need not wait for two heartbeats."""
    async with Proxy(shared.ports[0]) as proxy:
        text = words(60)
        await js(
            """
            at.rt = await at.open(given);
            at.job = at.rt.submit("echo", { text: given.text, delay_ms: 20 });
            await at.job.next();
            """,
            **given(shared) | {"url": f"http://127.0.0.1:{proxy.port}"},
            text=text,
        )
        proxy.set(drop_up=True, drop_down=True)
        await js("dispatchEvent(new Event('pageshow')); while (at.rt.state === 'open') await pause(5)")
        proxy.set()
        assert await js("const text = await at.job.text(); await at.rt.close(); return text") == text


async def test_the_client_is_served(shared: Stack) -> None:
    async with shared.http() as http:
        for path, name in (("/rt.js", "rt.min.js"), ("/rt-sse.js", "rt-sse.js"), ("/rt-react.js", "rt-react.js")):
            got = await http.get(path)
            assert got.status_code == 200
            assert got.headers["content-type"].startswith("text/javascript")
            assert got.headers["content-encoding"] == "gzip"
            assert got.headers["access-control-allow-origin"] == "*"
            assert got.content == (STATIC / name).read_bytes()
            again = await http.get(path, headers={"If-None-Match": got.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
            plain = await http.get(path, headers={"Accept-Encoding": "identity"})
            assert "content-encoding" not in plain.headers
            assert plain.content == got.content
