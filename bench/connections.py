"""The connections' rows: what an idle one weighs, a room's last member, and everybody coming back at once."""

import json
import time
import urllib.request
from collections.abc import Mapping
from typing import Any

from bench.house import PEERS
from bench.main_job import faults, needs
from bench.rows import Metric, Row, Sample
from bench.stage import Command, Stage, python, rss_bytes
from bench.systems import SYSTEMS, Running, start

_PUBLISH = {
    "rt": python("-m", "bench.publish"),
    "sio": Command(["node", str(PEERS / "sio" / "publish.js")]),
}


def weigh(name: str, mode: str, options: Mapping[str, int]) -> tuple[int, dict[str, Any]]:
    """Bytes that the web process gains while the load client's connections are open, and what that client says."""
    system = SYSTEMS[name]
    with Stage() as stage:
        web = start(stage, system, worker=False).pids["web"]
        sizes = [rss_bytes(web)]

        def look(_: str) -> None:
            time.sleep(1)  # what opening them left behind
            sizes.append(rss_bytes(web))

        got = stage.client(mode, system.adapter, options, answer=look)
    return sizes[1] - sizes[0], got


def idle(name: str, *, clients: int = 5000) -> Sample:
    """KiB of the web process per connection that has said one thing, heard one, and is open."""
    gained, got = weigh(name, "idle", {"clients": clients})
    return Sample({"kib": gained / clients / 1024}, faults=faults(got))


def room(name: str, *, clients: int = 5000) -> Sample:
    """Milliseconds from one member's publish until the last one of 5,000 has it."""
    system = SYSTEMS[name]
    with Stage() as stage:
        start(stage, system, worker=False)
        got = stage.client("room", system.adapter, {"clients": clients})
    return Sample(lists={"all_ms": got["all_ms"]}, faults=faults(got))


def resume(name: str, *, clients: int = 500, events: int = 100, killed: bool = False, history: int = 0, others: int = 0) -> Sample:
    """All clients are cut off, events are published to each meanwhile, all come back at once: milliseconds until all have all.

    `history` events had reached each before; `others` events go to streams of nobody here (both for our own growth alone).
    """
    system = SYSTEMS[name]
    with Stage() as stage:
        running = start(stage, system, retention=history + events)

        before = [history] if history else []

        def meanwhile(asked: str) -> None:
            if before:
                before.pop()
                stage.run(_PUBLISH[name], input=asked)
                return
            if others:
                nobody = {"rooms": [f"nobody-{k}" for k in range(100)], "n": others // 100}
                stage.run(_PUBLISH[name], input=json.dumps(nobody))
            if killed:
                running.processes["web"].kill()
            if name in _PUBLISH:
                stage.run(_PUBLISH[name], input=asked)
            elif not killed:
                _publish_within(stage, asked)
            if killed:
                _web_again(stage, name, running)

        options = {"clients": clients, "events": events, "history": history, "cut": "server" if killed else "client"}
        got = stage.client("resume", system.adapter, options, answer=meanwhile)
    known = {name: got[name] for name in ("all_ms", "recovered") if got[name] is not None}
    return Sample(known, faults=faults(got))


def _publish_within(stage: Stage, asked: str) -> None:
    """By the web process itself, where nobody else can."""
    request = urllib.request.Request(f"http://127.0.0.1:{stage.web_port}/gap", asked.encode(), method="POST")
    with urllib.request.urlopen(request, timeout=60):
        pass


def _web_again(stage: Stage, name: str, running: Running) -> None:
    running.processes["web"] = stage.start(f"{name}.web", SYSTEMS[name].web)


def after_kill(name: str) -> Sample:
    """As `resume`; what cuts the clients off is the kill -9 of the web process, which is started again after the events came."""
    return resume(name, killed=True)


_ALL_MS = (Metric("all_ms", "until all have all, ms", 0),)
ROWS = (
    Row(
        "idle",
        "Memory of an idle connection, 5,000 of them, no deflate",
        ("rt", "fastapi", "asgi"),
        (Metric("kib", "RSS per connection KiB", 1),),
        idle,
        needs,
    ),
    Row("room", "A room of 5,000: one publish to the last member", ("rt", "sio", "floor"), (Metric("all_ms.p50", "ms", 1),), room, needs),
    Row("resume", "500 clients come back at once, 100 missed events each", ("rt", "sio-memory", "sio"), _ALL_MS, resume, needs),
    Row("resume-killed", "The same after kill -9 of the web process", ("rt", "sio-memory"), _ALL_MS, after_kill, needs),
)
