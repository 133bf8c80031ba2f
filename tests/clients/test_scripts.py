"""The Python client plays the table of scripted sessions: README.md says how it is written. `rt.js` plays the same one."""

import asyncio
from dataclasses import fields
from typing import Any

import pytest

from rt.client import Changed, Client, Config, Gap, Job, MemoryStore, StreamEvent, Subscription, connect
from rt.errors import RtError
from tests.clients.scripted import Script, Scripted, load

SCRIPTS = load()
#: How long a step may take.
PATIENCE_S = 8.0


class Player:
    """One script's application."""

    def __init__(self, url: str, script: Script) -> None:
        self.url, self.script = url, script
        self.store = MemoryStore()
        self.tokens = iter(script["token"]) if isinstance(script.get("token"), list) else None
        self.client: Client | None = None
        self.readers: dict[str, Any] = {}
        self.later: dict[str, asyncio.Task[Any]] = {}
        self.states: list[Changed] = []
        self.seen = 0
        self.changed = asyncio.Event()

    async def play(self) -> None:
        try:
            for number, step in enumerate(self.script["app"]):
                try:
                    async with asyncio.timeout(PATIENCE_S):
                        await self.step(step)
                except TimeoutError:
                    raise AssertionError(f"step {number} {step}: it does not end; states {[one.state for one in self.states]}") from None
                except AssertionError as error:
                    raise AssertionError(f"step {number} {step}: {error}") from error
        finally:
            for task in self.later.values():
                task.cancel()
            if self.client is not None:
                await self.client.close()
        if "states" in self.script:
            assert [one.state for one in self.states] == self.script["states"]

    async def step(self, step: dict[str, Any]) -> None:
        if "later" in step:
            self.later[step["later"]] = asyncio.create_task(self.do(step))
            await asyncio.sleep(0)
            return
        gave: Any = None
        raised: RtError | None = None
        try:
            gave = await self.do(step)
        except RtError as error:
            raised = error
        assert (raised is not None) == ("fails" in step), f"it raises {raised!r}" if raised else f"it gives {gave!r}"
        for name, wanted in step.get("fails", {}).items():
            assert (type(raised).__name__ if name == "error" else getattr(raised, name)) == wanted, repr(raised)
        if "gives" in step:
            compare(step["gives"], gave)

    async def do(self, step: dict[str, Any]) -> Any:
        reader = self.readers.get(step.get("of", ""))
        match step["do"]:
            case "open":
                known = {one.name for one in fields(Config)}
                given = {"backoff_s": 0.02, "backoff_cap_s": 0.05, "ack_every_s": 0.05, "connect_timeout_s": 2.0} | self.script.get(
                    "config", {}
                )
                assert set(given) <= known
                token = (lambda: next(self.tokens)) if self.tokens is not None else self.script.get("token", "t")
                client = connect(self.url, token=token, store=self.store, on_state=self.on_state, open_timeout_s=5, config=Config(**given))
                self.client = await client.__aenter__()
            case "close":
                await self.rt.__aexit__(None, None, None)
                self.client = None
            case "reconnect":
                self.rt.reconnect()
            case "state":
                return await self.state(step)
            case "submit":
                self.readers[step["as"]] = self.rt.submit(step["job"], step.get("input", {}), **step.get("options", {}))
            case "job":
                self.readers[step["as"]] = self.rt.job(step["job_id"], cursor=step.get("cursor"))
            case "subscribe":
                self.readers[step["as"]] = self.rt.subscribe(step["stream"], cursor=step.get("cursor"))
            case "publish":
                more = {"idempotency_key": step["idempotency_key"]} if "idempotency_key" in step else {}
                return await self.rt.publish(step["stream"], step["data"], **more)
            case "call":
                return await self.rt.call(step["type"], step["data"])
            case "cancel":
                return await (reader.cancel() if reader else self.rt.cancel(step["job_id"]))
            case "input":
                return await self.rt.input(step["job_id"], step["data"], final=step.get("final", False))
            case "accepted":
                return await reader.accepted()
            case "ready":
                await reader.ready()
            case "next":
                return await one(reader)
            case "events":
                return [brief(await one(reader)) for _ in step["gives"]]
            case "skip":
                for _ in range(step["count"]):
                    await one(reader)
            case "text":
                return await reader.text()
            case "pieces":
                return [[str(piece), piece.start] async for piece in reader.text()]
            case "result":
                return await reader.result()
            case "drop":
                reader.close()
            case "outcome":
                return await self.later.pop(step["of"])
            case "pause":
                await asyncio.sleep(step["ms"] / 1000)
            case _:
                raise AssertionError("there is no such step")
        return None

    @property
    def rt(self) -> Client:
        assert self.client is not None
        return self.client

    def on_state(self, changed: Changed) -> None:
        self.states.append(changed)
        self.changed.set()

    async def state(self, step: dict[str, Any]) -> None:
        while True:
            while self.seen < len(self.states):
                now = self.states[self.seen]
                self.seen += 1
                if now.state == step["is"]:
                    low, high = step.get("delay_ms", [0, float("inf")])
                    assert low <= now.delay_s * 1000 <= high, now
                    return
            self.changed.clear()
            await self.changed.wait()


async def one(reader: Subscription | Job) -> StreamEvent | Gap | str:
    try:
        return await anext(reader)
    except StopAsyncIteration:
        return "end"


def brief(item: StreamEvent | Gap | str) -> Any:
    if isinstance(item, str):
        return item
    if isinstance(item, Gap):
        return ["gap", item.reason, item.first, item.last]
    return [item.type, item.seq]


def compare(wanted: Any, gave: Any) -> None:
    """Of an event or a gap only the members that the script names count."""
    if isinstance(gave, StreamEvent | Gap):
        assert isinstance(wanted, dict), f"it gives {gave}"
        gave = {name: getattr(gave, name) for name in wanted}
    assert gave == wanted, f"it gives {gave!r}"


@pytest.mark.parametrize("key", SCRIPTS, ids=[f"{key} {script['name']}" for key, script in SCRIPTS.items()])
async def test_script(key: str) -> None:
    async with Scripted.running(SCRIPTS) as scripted:
        play = scripted.begin(key)
        problem: Exception | None = None
        try:
            await Player(scripted.url(key), play.script).play()
        except (AssertionError, RtError) as error:
            problem = error
        async with asyncio.timeout(PATIENCE_S):
            while play.busy:
                await asyncio.sleep(0.005)
        # What the server saw says more than what came of it.
        assert play.problems == [], problem
        if problem is not None:
            raise problem
        assert play.done, f"{play.connections} connections of {len(play.script['server'])}"
