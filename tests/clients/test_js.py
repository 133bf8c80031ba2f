"""rt.js plays the table of scripted sessions, and what is JavaScript's own: tabs, sleep, signals, types, the package."""

import asyncio
import gzip
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.clients.javascript import HOME, ROOT, STATIC, Node, Threw, needs_node, node
from tests.clients.scripted import FOLDER, Play, Scripted, load

pytestmark = needs_node

#: How a handshake was answered is not shown to a browser's page.
SCRIPTS = {key: script for key, script in load().items() if not any("refuse" in step for steps in script["server"] for step in steps)}
CONNECT: list[dict[str, Any]] = [{"connect": {}}, {"connected": {}}]
RESUME: list[dict[str, Any]] = [{"connect": {"session": "s1", "cursors": {"session:s1": "s:0"}}}, {"connected": {"resumed": True}}]
ROOM: list[dict[str, Any]] = [
    *CONNECT,
    {"expect": {"type": "subscribe", "id": "$s", "stream": "room:a"}},
    {"subscribed": {"id": "$s", "stream": "room:a", "epoch": "e", "seq": 0}},
]
LEAVE: list[dict[str, Any]] = [
    {"expect": {"type": "unsubscribe", "id": "$u", "stream": "room:a"}},
    {"send": {"type": "reply", "id": "$u", "data": {}}},
]
#: A client of the script's server, quick to come back.
OPEN = """
at.states = [];
at.open = (url, over) => connect(url, {
  token: "t", WebSocket, transport: "ws", config: { backoff_s: 0.02, backoff_cap_s: 0.05, ack_every_s: 0.05 }, store: new MemoryStore(),
  on_state: ({ state, problem }) => at.states.push([state, problem]), ...over,
});
"""


@pytest.fixture(scope="module")
def js_env() -> Iterator[None]:
    """Node's own settings are not the machine's."""
    saved = os.environ.pop("NODE_OPTIONS", None)
    yield
    if saved is not None:
        os.environ["NODE_OPTIONS"] = saved


@pytest.fixture(scope="module")
def played(js_env: None) -> dict[str, str | None]:
    """The whole table, played in one process against what is served: each script's problem."""
    command = [sys.executable, "-m", "tests.clients.scripted"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin
        assert server.stdout
        url = server.stdout.readline().removeprefix("ready ").strip()
        try:
            return json.loads(node("test/table.mjs", url, *sorted(FOLDER.glob("*.json"))))  # type: ignore[no-any-return]
        finally:
            server.stdin.close()


@pytest.mark.parametrize("key", SCRIPTS, ids=[f"{key} {script['name']}" for key, script in SCRIPTS.items()])
def test_script(key: str, played: dict[str, str | None]) -> None:
    assert played[key] is None, played[key]


@pytest.fixture(scope="module")
def built() -> Iterator[Path]:
    """Everything that is made of the modules, made anew; raises where the compiler finds a fault in them."""
    name = f"build/test-{os.getpid()}"
    try:
        node("build.mjs", name)
        yield HOME / name
    finally:
        shutil.rmtree(HOME / name, ignore_errors=True)


@pytest.mark.parametrize("name", ["rt.min.js", "rt.d.ts", "rt-react.d.ts"])
def test_what_is_made_of_the_modules_is_what_is_checked_in(name: str, built: Path) -> None:
    assert (STATIC / name).read_text() == (built / name).read_text(), f"{name} is stale: cd clients/js && npm run build"


def test_what_is_served_is_under_8_kb(record_property: Callable[[str, object], None]) -> None:
    sizes = {name: len(gzip.compress((STATIC / name).read_bytes())) for name in ("rt.min.js", "rt-sse.js", "rt-react.js")}
    record_property("told", ", ".join(f"{name}: {size:,} bytes gzipped" for name, size in sizes.items()))
    assert sizes["rt.min.js"] < 8 * 1024


def test_the_package_is_whole_and_its_types_are_found(tmp_path: Path, built: Path) -> None:
    npm = ["npm", "pack", "--pack-destination", str(tmp_path), "--json", "--loglevel", "error"]
    subprocess.run(npm, cwd=HOME, check=True, capture_output=True, timeout=60)
    (archive,) = tmp_path.glob("*.tgz")
    home = tmp_path / "node_modules" / "rt-engine"
    shutil.unpack_archive(archive, tmp_path, "gztar", filter="data")
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "package").rename(home)
    assert sorted(one.name for one in home.iterdir()) == sorted(
        [
            *("README.md", "package.json"),
            *("rt.js", "rt.min.js", "rt.d.ts", "rt-sse.js", "rt-react.js", "rt-react.d.ts"),
        ]
    )
    assert (home / "rt.js").read_bytes() == (STATIC / "rt.js").read_bytes()
    (tmp_path / "use.mts").write_text("""
import { connect, type Gap, type StreamEvent } from "rt-engine";
const rt = await connect("/", { token: async () => "t" });
const job = rt.submit("echo", { text: "a" }, { timeout_s: 3 });
for await (const item of job) { const one: StreamEvent | Gap = item; console.log(one.type); }
const text: string = await job.text();
for await (const piece of job.text()) console.log(text.slice(0, piece.start) + piece);
// @ts-expect-error a number is no stream
rt.subscribe(7);
""")
    tsc = HOME / "node_modules" / "typescript" / "bin" / "tsc"
    options = ["--strict", "--noEmit", "--module", "nodenext", "--lib", "es2022,dom", "--target", "es2022", "--types", ""]
    done = subprocess.run(["node", tsc, *options, "use.mts"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


# Against a server of one script


@asynccontextmanager
async def playing(*connections: list[dict[str, Any]]) -> AsyncIterator[tuple[str, Play]]:
    async with Scripted.running({"s": {"server": list(connections)}}) as scripted:
        play = scripted.begin("s")
        yield scripted.url("s"), play
        async with asyncio.timeout(8):
            while play.busy:
                await asyncio.sleep(0.005)
        assert play.problems == []
        assert play.done


@pytest.fixture
async def js() -> AsyncIterator[Node]:
    async with Node.running() as node:
        await node(OPEN)
        yield node


@pytest.mark.parametrize("how", ["seen", "clock"])
async def test_a_dead_socket_is_left_within_3_s_of_a_wake(how: str, js: Node) -> None:
    asleep = [*CONNECT, {"expect": {"type": "ping"}}, {"gone": None}]
    async with playing(asleep, RESUME) as (url, _):
        await js("at.rt = await at.open(given.url)", url=url)
        began = time.monotonic()
        wake = {
            "seen": "globalThis.document.dispatchEvent(new Event('visibilitychange'))",
            # The machine has slept for an hour, and nothing else tells of it.
            "clock": "const { now } = Date; Date.now = () => now() + 3600e3",
        }
        await js(wake[how] + "; while (!at.states.some(([state]) => state === 'waiting')) await pause(5)")
        assert time.monotonic() - began < 3.3
        await js("while (at.rt.state !== 'open') await pause(5); await at.rt.close()")


async def test_a_socket_that_answers_after_a_wake_is_kept(js: Node) -> None:
    kept = [*CONNECT, {"expect": {"type": "ping"}}, {"send": {"type": "pong"}}, {"quiet_ms": 2300}]
    async with playing(kept) as (url, _):
        await js("at.rt = await at.open(given.url); dispatchEvent(new Event('online')); await pause(2400); await at.rt.close()", url=url)
        assert [state for state, _ in await js("return at.states")] == ["connecting", "open", "closed"]


async def test_a_network_that_is_back_is_tried_at_once_and_a_server_s_delay_is_kept(js: Node) -> None:
    away = [*CONNECT, {"close": 1013}]
    told = [*RESUME, {"send": {"type": "reconnect", "delay_ms": 400, "reason": "deploy"}}, {"close": 4000}]
    late: list[dict[str, Any]] = [{"after_ms": [390, 5000]}, *RESUME]
    async with playing(away, told, late) as (url, _):
        await js(
            """
            const online = async (n) => {
              while (at.states.filter(([state]) => state === "waiting").length < n) await pause(5);
              dispatchEvent(new Event("online"));
            };
            at.rt = await at.open(given.url, { config: { backoff_s: 1e6, backoff_cap_s: 1e6 } });
            await online(1);
            await online(2);
            while (at.rt.state !== "open") await pause(5);
            await at.rt.close();
            """,
            url=url,
        )


async def test_what_was_processed_is_told_before_a_page_is_left(js: Node) -> None:
    leaving = [*ROOM, {"events": [["room:a", 1, "message", 1]]}, {"acked": {"room:a": "e:1"}}]
    async with playing(leaving) as (url, _):
        saved = await js(
            """
            at.store = new MemoryStore();
            at.rt = await at.open(given.url, { store: at.store, config: { ack_every_s: 60 } });
            const room = at.rt.subscribe("room:a");
            await room.next();
            room.next().catch(() => {});
            dispatchEvent(new Event("pagehide"));
            const { saved } = at.store;
            await pause(50);
            await at.rt.close();
            return saved;
            """,
            url=url,
        )
        assert saved == {"session": "s1", "cursors": {"session:s1": "s:0", "room:a": "e:1"}}


async def test_a_reload_goes_on_and_a_duplicated_tab_begins_anew(js: Node) -> None:
    other = [{"connect": {}}, {"connected": {"session": "s2"}}]
    async with playing(CONNECT, other, RESUME) as (url, _):
        sessions = await js(
            """
            Object.defineProperty(globalThis, "navigator", { value: { locks: new Locks() }, configurable: true });
            const tab = (items) => {
              globalThis.sessionStorage = new Storage(items);
              return at.open(given.url, { store: undefined });
            };
            const one = await tab();
            while (!Object.keys(sessionStorage.items).length) await pause(5);
            const items = sessionStorage.items;
            const two = await tab(items);
            // Whoever is closed lets go of the lock, as a page that goes does; the tab's storage stays.
            await one.close();
            const three = await tab(items);
            const sessions = [one.session, two.session, three.session];
            await Promise.all([two.close(), three.close()]);
            return sessions;
            """,
            url=url,
        )
        assert sessions == ["s1", "s2", "s1"]


async def test_cursors_without_a_session_outlive_a_reload(js: Node) -> None:
    """As of a page whose WebSockets are blocked: no session is kept for it on the server."""
    saved = {"session": None, "cursors": {"room:a": "e:1"}}
    told = await js(
        "globalThis.sessionStorage = new Storage({ rt: JSON.stringify(given.saved) }); return new SessionStore('rt').load();", saved=saved
    )
    assert told == saved


async def test_listeners_are_told_in_order_and_what_they_were_told_is_processed(js: Node) -> None:
    events = [["room:a", 1, "message", 1], ["room:a", 2, "other", 2], ["room:a", 3, "message", 3]]
    gap = {"send": {"type": "gap", "stream": "room:a", "epoch": "e", "reason": "trimmed", "from": 4, "to": 6}}
    async with playing([*ROOM, {"events": events}, gap, {"acked": {"room:a": "e:6"}}, *LEAVE]) as (url, _):
        told = await js(
            """
            at.rt = await at.open(given.url);
            const told = [];
            const room = at.rt.subscribe("room:a");
            room.on("message", (event) => told.push(event.seq)).on("gap", ({ first, last }) => told.push([first, last]));
            room.on("*", ({ type }) => told.push(type)).on("end", () => told.push("end"));
            while (told.length < 7) await pause(5);
            await pause(120);
            room.close();
            await pause(0);
            await at.rt.close();
            return told;
            """,
            url=url,
        )
        assert told == [1, "message", "other", 3, "message", [4, 6], "gap", "end"]


async def test_a_signal_ends_a_wait_a_reader_and_a_client(js: Node) -> None:
    ask = [{"expect": {"type": "ask", "id": "$a", "data": {}}}]
    async with playing([*ROOM, *LEAVE, *ask, {"gone": 1000}]) as (url, _):
        told = await js(
            """
            const told = [];
            const stops = [new AbortController(), new AbortController(), new AbortController()];
            const note = (error) => told.push(error.name);
            at.rt = await at.open(given.url, { signal: stops[2].signal });
            const room = at.rt.subscribe("room:a", { signal: stops[0].signal });
            await room.ready();
            const next = room.next();
            stops[0].abort();
            await next.catch(note);
            const call = at.rt.call("ask", {}, { signal: stops[1].signal });
            stops[1].abort();
            await call.catch(note);
            stops[2].abort();
            await at.rt.call("ask").catch(note);
            told.push(at.rt.state);
            return told;
            """,
            url=url,
        )
        assert told == ["AbortError", "AbortError", "AbortError", "closed"]


async def test_a_signal_that_aborts_before_the_store_has_loaded_is_heeded_at_once(js: Node) -> None:
    told = await js(
        """
        const stop = new AbortController();
        const store = { load: async () => (stop.abort(), { session: null, cursors: {} }), save() {} };
        const late = pause(2000).then(() => "late");
        return Promise.race([late, at.open("ws://127.0.0.1:1", { store, signal: stop.signal }).catch((error) => error.name)]);
        """
    )
    assert told == "AbortError"


async def test_nobody_there_is_said_in_time(js: Node) -> None:
    with pytest.raises(Threw) as threw:
        await js("await at.open('http://127.0.0.1:1', { open_timeout_s: 0.3 })")
    assert threw.value.name == "Unreachable"
    assert [state for state, _ in await js("return at.states")][:3] == ["connecting", "waiting", "connecting"]


async def test_a_store_that_fails_ends_the_client_with_its_error(js: Node) -> None:
    async with playing(CONNECT) as (url, _):
        told = await js(
            """
            const full = { load: () => ({ session: null, cursors: {} }), save: () => { throw new Error("the disk is full"); } };
            at.rt = await at.open(given.url, { store: full });
            while (at.rt.state !== "closed") await pause(5);
            return await at.rt.call("ask").catch(String);
            """,
            url=url,
        )
        assert told == "ClientError: the client has failed: Error: the disk is full"


async def test_hooks_show_a_job_and_a_room(js: Node, built: Path) -> None:
    job = [
        {"expect": {"type": "job.submit", "id": "$j", "job": "echo", "input": {"text": "hi"}}},
        {"send": {"type": "reply", "id": "$j", "data": {"job_id": "1", "stream": "job:1", "duplicate": False}}},
        {"subscribed": {"stream": "job:1", "epoch": "e", "seq": 0}},
        {
            "events": [
                ["job:1", 1, "job.started", {}],
                ["job:1", 2, "job.delta", {"text": "<b>"}],
                ["job:1", 3, "job.progress", {"current": 1}],
            ]
        },
        {"expect": {"type": "ask", "id": "$q", "data": {}}},
        {"send": {"type": "reply", "id": "$q", "data": 1}},
        {"events": [["job:1", 4, "job.delta", {"text": "i"}], ["job:1", 5, "job.completed", {"result": 7}]]},
        {"events": [["room:a", 1, "message", 1], ["room:a", 2, "message", 2], ["room:a", 3, "message", 3]]},
        {"acked": {"job:1": "e:5"}},
        *LEAVE,
    ]
    async with playing([*ROOM, *job]) as (url, _):
        shown = await js(
            """
            globalThis.IS_REACT_ACT_ENVIRONMENT = true;
            const { useJob, useStream } = await import(given.hooks);
            const home = new URL("../../", given.hooks);
            const { createElement } = (await import(new URL("node_modules/react/index.js", home))).default;
            const { act, create } = (await import(new URL("node_modules/react-test-renderer/index.js", home))).default;
            let answer, room;
            const Page = ({ rt }) => {
              answer = useJob(rt, "echo");
              room = useStream(rt, "room:a", { limit: 2 });
              return createElement("p", null, answer.status, " ", answer.text);
            };
            const rt = await at.open(given.url);
            let root;
            await act(async () => { root = create(createElement(Page, { rt: null })); });
            const until = async (done) => { while (!done()) await act(() => pause(5)); };
            await act(async () => root.update(createElement(Page, { rt })));
            await until(() => room.ready);
            const shown = [root.toJSON().children];
            await act(async () => { answer.submit({ text: "hi" }); });
            await until(() => answer.progress);
            shown.push(root.toJSON().children, answer.progress, answer.id);
            await act(() => rt.call("ask"));
            await until(() => answer.status === "completed" && room.items.length === 2);
            shown.push(root.toJSON().children, answer.result, room.items.map((event) => event.seq));
            await act(() => pause(100));
            await act(async () => root.unmount());
            await pause(50);
            await rt.close();
            return shown;
            """,
            url=url,
            hooks=(built / "rt-react.js").as_uri(),
        )
    assert shown == [
        ["idle", " "],
        *(["running", " ", "<b>"], {"current": 1}, "1"),
        *(["completed", " ", "<b>i"], 7, [2, 3]),
    ]
